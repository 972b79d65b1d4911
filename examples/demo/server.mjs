// The demo's HTTP server: answers every request with who it is and what was asked. Usage: server.mjs NAME PORT...
import { createServer } from 'node:http'

const [name, ...ports] = process.argv.slice(2)
for (const port of ports) {
  createServer((request, response) => response.end(`${name}: ${request.method} ${request.url}\n`)).listen(Number(port), () =>
    process.stdout.write(`${port}\n`),
  )
}
