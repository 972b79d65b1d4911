// HTTP server for tests: echoes what was asked as JSON. Usage: http-server.mjs NAME PORT...
import { createServer } from 'node:http'

const [name, ...ports] = process.argv.slice(2)
for (const port of ports) {
  const server = createServer((request, response) => {
    if (request.url.startsWith('/slow')) {
      setTimeout(() => response.end('slow\n'), Number(new URL(request.url, 'http://x').searchParams.get('ms') ?? 500))
      return
    }
    let bodyBytes = 0
    request.on('data', (data) => {
      bodyBytes += data.length
    })
    request.on('end', () => {
      response.setHeader('content-type', 'application/json')
      const { method, url, rawHeaders: headers, socket } = request
      response.end(JSON.stringify({ name, method, url, peer: socket.remoteAddress, headers, bodyBytes }))
    })
  })
  server.keepAliveTimeout = 60_000
  server.listen(Number(port), '0.0.0.0', () => process.stdout.write(`listening ${port}\n`))
}
