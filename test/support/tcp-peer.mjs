// One side of a TCP connection, telling what happens to it a line each. Usage: tcp-peer.mjs listen PORT | connect HOST PORT [LOCAL_PORT]
// The listener echoes. The client writes what it gets on its standard input.
import { connect, createServer } from 'node:net'

const [role, ...rest] = process.argv.slice(2)
const say = (text) => process.stdout.write(`${text}\n`)

function follow(socket) {
  socket.on('error', (error) => say(`error ${error.code}`))
  socket.on('end', () => say('end'))
  socket.on('close', () => say('closed'))
}

if (role === 'listen') {
  createServer((socket) => {
    say(`accepted ${socket.remoteAddress}:${socket.remotePort}`)
    follow(socket)
    socket.on('data', (data) => socket.write(data))
  }).listen(Number(rest[0]), '0.0.0.0', () => say('listening'))
} else {
  const socket = connect({ host: rest[0], port: Number(rest[1]), ...(rest[2] === undefined ? {} : { localPort: Number(rest[2]) }) }, () =>
    say('open'),
  )
  follow(socket)
  socket.on('data', (data) => say(`data ${data.toString().trim()}`))
  process.stdin.on('data', (data) => socket.write(data))
}
