// HTTP server for tests: echoes what was asked as JSON. Usage: http-server.mjs NAME PORT...
import { createServer } from 'node:http'

const [name, ...ports] = process.argv.slice(2)
for (const port of ports) {
  const server = createServer((request, response) => {
    if (request.url.startsWith('/slow')) {
      setTimeout(() => response.end('slow\n'), Number(new URL(request.url, 'http://x').searchParams.get('ms') ?? 500))
      return
    }
    request.resume()
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ name, method: request.method, url: request.url, peer: request.socket.remoteAddress, headers: request.rawHeaders }))
  })
  server.keepAliveTimeout = 60_000
  server.listen(Number(port), '0.0.0.0', () => process.stdout.write(`listening ${port}\n`))
}
