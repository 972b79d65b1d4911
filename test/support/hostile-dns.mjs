// A name server that does what none should. Usage: hostile-dns.mjs ADDRESS OTHER_ADDRESS GOOD BAD; it listens on port 53 of ADDRESS, answers from
// OTHER_ADDRESS and other ports where the name says so, and gives GOOD where an answer is right and BAD where nobody may believe it.
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'

const [address, otherAddress, good, bad] = process.argv.slice(2)
const LARGE_RECORDS = 250
const HUGE_RECORDS = 4000

const uint16 = (...values) => Buffer.concat(values.map((value) => Buffer.from([value >> 8, value & 0xff])))
const record = (owner, ip, ttl = 60) =>
  Buffer.concat([owner, uint16(1, 1, ttl >> 16, ttl & 0xffff, 4), Buffer.from(ip.split('.').map(Number))])
const POINTER = uint16(0xc00c)

/** The question ends behind its name, type and class; additional records are not looked at. */
function questionOf(query) {
  let end = 12
  while (query[end] !== 0) end += 1 + query[end]
  return query.subarray(12, end + 5)
}

function reply(query, records, { id = query.readUInt16BE(0), flags = 0x8180, question = questionOf(query), count = records.length } = {}) {
  return Buffer.concat([uint16(id, flags, 1, count, 0, 0), question, ...records])
}

const renamed = (query, change) => {
  const question = Buffer.from(questionOf(query))
  change(question)
  return question
}

/** By the first label of the name: replies one after the other, each a message or, with where it comes from, one over UDP. */
const BEHAVIOURS = {
  good: (query) => [reply(query, [record(POINTER, good)])],
  'wrong-id': (query) => [reply(query, [record(POINTER, bad)], { id: query.readUInt16BE(0) ^ 1 }), reply(query, [record(POINTER, good)])],
  'wrong-name': (query) => [
    reply(query, [record(POINTER, bad)], { question: renamed(query, (question) => (question[1] ^= 1)) }),
    reply(query, [record(POINTER, good)]),
  ],
  'wrong-type': (query) => [
    reply(query, [record(POINTER, bad)], { question: renamed(query, (question) => question.writeUInt16BE(28, question.length - 4)) }),
    reply(query, [record(POINTER, good)]),
  ],
  'wrong-case': (query) => [
    reply(query, [record(POINTER, bad)], { question: renamed(query, (question) => (question[1] ^= 0x20)) }),
    reply(query, [record(POINTER, good)]),
  ],
  'wrong-port': (query) => [{ from: 'port', message: reply(query, [record(POINTER, bad)]) }, reply(query, [record(POINTER, good)])],
  'wrong-address': (query) => [{ from: 'address', message: reply(query, [record(POINTER, bad)]) }, reply(query, [record(POINTER, good)])],
  'not-a-reply': (query) => [query, reply(query, [record(POINTER, good)])],
  // A name that points at itself, one that points forward, a count of records that are not there, and half a header.
  broken: (query) => [
    reply(query, [record(uint16(0xc000 | (12 + questionOf(query).length)), bad)]),
    reply(query, [record(uint16(0xc0ff), bad)]),
    reply(query, [record(POINTER, bad)], { count: 9 }),
    query.subarray(0, 7),
    reply(query, [record(POINTER, good)]),
  ],
  trailing: (query) => [Buffer.concat([reply(query, [record(POINTER, good)]), Buffer.from('more')])],
  beside: (query) => [reply(query, [record(POINTER, good), record(Buffer.from('\x05other\x04test\0', 'latin1'), bad)])],
  twice: (query) => [reply(query, [record(POINTER, good)]), reply(query, [record(POINTER, bad)])],
  truncated: (query, isTcp) => [isTcp ? reply(query, [record(POINTER, good)]) : reply(query, [record(POINTER, bad)], { flags: 0x8380 })],
  large: (query, isTcp) => [reply(query, Array(isTcp ? LARGE_RECORDS : 1).fill(record(POINTER, good)), isTcp ? {} : { flags: 0x8380 })],
  huge: (query, isTcp) => [reply(query, Array(isTcp ? HUGE_RECORDS : 0).fill(record(POINTER, good)), isTcp ? {} : { flags: 0x8380 })],
  drip: (query, isTcp) => [reply(query, isTcp ? [record(POINTER, good)] : [], isTcp ? {} : { flags: 0x8380 })],
  silent: () => [],
}

const repliesTo = (query, isTcp) => {
  const label = query.toString('latin1', 13, 13 + query[12]).toLowerCase()
  return BEHAVIOURS[label]?.(query, isTcp) ?? [reply(query, [], { flags: 0x8183 })]
}

const sockets = { server: createSocket('udp4'), port: createSocket('udp4'), address: createSocket('udp4') }
sockets.server.on('message', (query, peer) => {
  for (const each of repliesTo(query, false)) {
    const { from, message } = Buffer.isBuffer(each) ? { from: 'server', message: each } : each
    sockets[from].send(message, peer.port, peer.address)
  }
})

const tcp = createServer((socket) => {
  socket.on('error', () => {})
  let rest = Buffer.alloc(0)
  socket.on('data', async (chunk) => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
      const query = Buffer.from(rest.subarray(2, 2 + rest.readUInt16BE(0)))
      rest = rest.subarray(2 + query.length)
      for (const each of repliesTo(query, true)) {
        const message = Buffer.isBuffer(each) ? each : each.message
        const frame = Buffer.concat([uint16(message.length), message])
        if (!query.includes('\x04drip')) socket.write(frame)
        else for (const byte of frame) await new Promise((resolve) => socket.write(Buffer.from([byte]), () => setTimeout(resolve, 5)))
      }
    }
  })
})

const bound = [
  [sockets.server, 53, address],
  [sockets.port, 5300, address],
  [sockets.address, 53, otherAddress],
].map(([socket, port, host]) => new Promise((resolve) => socket.bind(port, host, resolve)))
bound.push(new Promise((resolve) => tcp.listen(53, address, resolve)))
await Promise.all(bound)
process.stdout.write('listening\n')
