// DNS by bytes. Usage: dns-peer.mjs listen ADDRESS ANSWERS.json | ask HOST udp|tcp MESSAGE_HEX. The listener prints each query as
// `udp HOST:PORT HEX` and answers by the first label of its name: ANSWERS has for it what stands before and behind the question, in hex,
// whatever transport and size the client wants. The asker prints what comes back within a second.
import { createSocket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'

const [role, address, argument, hex] = process.argv.slice(2)
const framed = (message) => Buffer.concat([Buffer.from([message.length >> 8, message.length & 0xff]), message])

/** Calls back with each message of a stream. */
function onMessages(socket, onMessage) {
  let rest = Buffer.alloc(0)
  socket.on('error', () => {})
  socket.on('data', (chunk) => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
      const end = 2 + rest.readUInt16BE(0)
      onMessage(rest.subarray(2, end))
      rest = rest.subarray(end)
    }
  })
}

if (role === 'listen') {
  const answers = JSON.parse(readFileSync(argument, 'utf8'))
  const replyTo = (transport, host, port, query) => {
    process.stdout.write(`${transport} ${host}:${port} ${query.toString('hex')}\n`)
    let end = 12
    while (query[end] !== 0) end += 1 + query[end]
    const { before, behind } = answers[query.toString('latin1', 13, 13 + query[12]).toLowerCase()]
    return Buffer.concat([query.subarray(0, 2), Buffer.from(before, 'hex'), query.subarray(12, end + 5), Buffer.from(behind, 'hex')])
  }
  const udp = createSocket('udp4')
  udp.on('message', (query, { address: host, port }) => udp.send(replyTo('udp', host, port, query), port, host))
  const tcp = createServer((socket) =>
    onMessages(socket, (query) => socket.write(framed(replyTo('tcp', socket.remoteAddress, socket.remotePort, query)))),
  )
  udp.bind(53, address, () => tcp.listen(53, address, () => process.stdout.write('listening\n')))
} else {
  const query = Buffer.from(hex, 'hex')
  const onReply = (message) => process.stdout.write(`${message.toString('hex')}\n`, () => process.exit(0))
  if (argument === 'tcp') {
    const socket = connect(53, address, () => socket.write(framed(query)))
    onMessages(socket, onReply)
  } else {
    const socket = createSocket('udp4')
    socket.on('message', onReply)
    socket.send(query, 53, address)
  }
  setTimeout(() => process.exit(1), 1000)
}
