// A server of r2d2: tells each line that it gets, and answers it. Usage: r2d2-server.mjs PORT
import { createServer } from 'node:net'

createServer((socket) => {
  let rest = ''
  socket.on('error', () => {})
  socket.setEncoding('latin1').on('data', (text) => {
    const lines = (rest + text).split('\r\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      process.stdout.write(`got ${line}\n`)
      socket.write(`OK ${line}\r\n`)
    }
  })
}).listen(Number(process.argv[2]), '0.0.0.0', () => process.stdout.write('listening\n'))
