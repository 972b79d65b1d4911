// What one stream of node:http2 costs over a UNIX socket when nothing is done with it. `server SOCKET` answers each message with itself;
// `client SOCKET COUNT BYTES` asks one after the other and prints the median and the 99th percentile in microseconds, as JSON.
import http2 from 'node:http2'
import { createConnection } from 'node:net'

const [role, socket, count, bytes] = process.argv.slice(2)

function serve() {
  const server = http2.createServer({ streamResetBurst: 1e9, streamResetRate: 1e9 })
  server.on('stream', (stream) => {
    stream.on('error', () => {})
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
    stream.on('data', (chunk) => stream.write(chunk))
    stream.on('end', () => stream.end())
  })
  server.listen(socket, () => process.stdout.write('listening\n'))
}

async function ask() {
  const session = http2.connect('http://echo', { createConnection: () => createConnection(socket) })
  const message = Buffer.alloc(Number(bytes), 'x')
  const times = []
  for (let index = 0; index < Number(count) + 200; index++) {
    const startedNs = process.hrtime.bigint()
    const stream = session.request({ ':method': 'POST', ':path': '/echo', 'content-type': 'application/grpc', te: 'trailers' })
    await new Promise((resolve, reject) => {
      stream.once('data', resolve)
      stream.once('error', reject)
      stream.write(message)
    })
    times.push(Number(process.hrtime.bigint() - startedNs) / 1000)
    // As Envoy ends a stream that has its answer.
    stream.close(http2.constants.NGHTTP2_CANCEL)
    stream.on('error', () => {})
  }
  times.splice(0, 200)
  times.sort((a, b) => a - b)
  process.stdout.write(`${JSON.stringify({ p50Us: times[Math.floor(times.length / 2)], p99Us: times[Math.floor(times.length * 0.99)] })}\n`)
  session.destroy()
}

if (role === 'server') serve()
else await ask()
