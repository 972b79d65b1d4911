// A server of r2d2: tells each line that it gets, and answers it. Usage: r2d2-server.mjs PORT
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'

createServer((socket) => {
  socket.on('error', () => {})
  createInterface({ input: socket }).on('line', (line) => {
    process.stdout.write(`got ${line}\n`)
    socket.write(`OK ${line}\r\n`)
  })
}).listen(Number(process.argv[2]), '0.0.0.0', () => process.stdout.write('listening\n'))
