// UDP for tests. Usage: udp-peer.mjs listen PORT | ask HOST PORT [LOCAL_PORT]; the asker prints what comes back within half a second.
import { createSocket } from 'node:dgram'

const [role, ...rest] = process.argv.slice(2)
const socket = createSocket('udp4')
if (role === 'listen') {
  socket.on('message', (data, peer) => socket.send(data, peer.port, peer.address))
  socket.bind(Number(rest[0]), '0.0.0.0', () => process.stdout.write('listening\n'))
} else {
  socket.on('message', (data) => {
    process.stdout.write(`${data}\n`)
    process.exit(0)
  })
  socket.bind(Number(rest[2] ?? 0), () => socket.send('hello', Number(rest[1]), rest[0]))
  setTimeout(() => process.exit(1), 500)
}
