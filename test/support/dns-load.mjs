// Queries over UDP at a fixed rate, each for a name of its own and each sent once: dns-load.mjs SERVER SUFFIX SECONDS RATE. Names below
// yes.SUFFIX are to be answered; every tenth is below no.SUFFIX and is to be refused. Prints "started", then one line of JSON.
import { createSocket } from 'node:dgram'
import { encode } from 'dns-packet'

const [server, suffix, seconds, rate] = process.argv.slice(2)
const count = Number(seconds) * Number(rate)
const PATIENCE_MS = 5000
const RCODES = { NOERROR: 0, REFUSED: 5 }

const open = new Map()
const result = { sent: 0, answered: 0, refused: 0, wrong: 0, lost: 0, slowestMs: 0, samples: [] }
const note = (text) => {
  if (result.samples.length < 20) result.samples.push(text)
}
// The ids of one socket do not suffice for all that may be on their way.
const sockets = Array.from({ length: 8 }, (_, index) => {
  const socket = createSocket('udp4')
  socket.on('message', (message) => {
    const key = (index << 16) | message.readUInt16BE(0)
    const query = open.get(key)
    if (query === undefined) return
    open.delete(key)
    const tookMs = performance.now() - query.sentMs
    result.slowestMs = Math.max(result.slowestMs, tookMs)
    const rcode = message.readUInt16BE(2) & 15
    if (rcode !== query.rcode) {
      result.wrong++
      note(`${query.name}: rcode ${rcode} after ${tookMs.toFixed(0)} ms`)
    } else if (rcode === 0) result.answered++
    else result.refused++
  })
  return socket
})

const startedMs = performance.now()
console.log('started')
const timer = setInterval(() => {
  const due = Math.min(count, Math.floor(((performance.now() - startedMs) * Number(rate)) / 1000))
  for (; result.sent < due; result.sent++) {
    const index = result.sent
    const isDenied = index % 10 === 9
    const name = `${index}.${isDenied ? 'no' : 'yes'}.${suffix}`
    const id = (index >> 3) & 0xffff
    open.set(((index & 7) << 16) | id, { name, rcode: isDenied ? RCODES.REFUSED : RCODES.NOERROR, sentMs: performance.now() })
    sockets[index & 7].send(encode({ type: 'query', id, flags: 256, questions: [{ type: 'A', name }] }), 53, server)
  }
  if (result.sent < count) return
  clearInterval(timer)
  setTimeout(end, PATIENCE_MS)
}, 2)

function end() {
  for (const socket of sockets) socket.close()
  result.lost = open.size
  for (const { name, sentMs } of open.values()) note(`${name}: no answer, sent at ${(sentMs - startedMs).toFixed(0)} ms`)
  console.log(JSON.stringify({ ...result, slowestMs: Math.round(result.slowestMs) }))
}
