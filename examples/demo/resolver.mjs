// A name server that knows a few names, over UDP. Usage: resolver.mjs ADDRESS NAME=ADDRESS…
import { createSocket } from 'node:dgram'

const [address, ...records] = process.argv.slice(2)
const known = new Map(records.map((record) => record.split('=')))
const HEADER_BYTES = 12
const [TYPE_A, CLASS_IN, TTL_SECONDS] = [1, 1, 60]

function answer(query) {
  const labels = []
  let offset = HEADER_BYTES
  while (query[offset] !== 0) {
    labels.push(query.toString('latin1', offset + 1, offset + 1 + query[offset]))
    offset += 1 + query[offset]
  }
  const end = offset + 5
  const found = known.get(labels.join('.').toLowerCase())
  const isAddress = found !== undefined && query.readUInt16BE(offset + 1) === TYPE_A
  const header = Buffer.from(query.subarray(0, HEADER_BYTES))
  // An answer, recursion available; NXDOMAIN for names that it does not know.
  header.writeUInt16BE(0x8180 | (found === undefined ? 3 : 0), 2)
  header.writeUInt16BE(isAddress ? 1 : 0, 6)
  header.fill(0, 8)
  const record = Buffer.from([
    0xc0,
    HEADER_BYTES,
    0,
    TYPE_A,
    0,
    CLASS_IN,
    0,
    0,
    0,
    TTL_SECONDS,
    0,
    4,
    ...(found ?? '').split('.').map(Number),
  ])
  return Buffer.concat([header, query.subarray(HEADER_BYTES, end), ...(isAddress ? [record] : [])])
}

const socket = createSocket('udp4')
socket.on('message', (query, { address: client, port }) => socket.send(answer(query), port, client))
socket.bind(53, address)
