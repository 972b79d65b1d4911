// The demo's server: answers every HTTP request with who it is, what was asked and for which tenant, and every method of the gRPC service
// shop.Stock. Usage: server.mjs NAME GRPC-PORT HTTP-PORT...
import { createServer } from 'node:http'
import { Server, ServerCredentials } from '@grpc/grpc-js'

const [name, grpcPort, ...ports] = process.argv.slice(2)
for (const port of ports) {
  createServer((request, response) =>
    response.end(`${name}: ${request.method} ${request.url} tenant=${request.headers['x-tenant'] ?? ''}\n`),
  ).listen(Number(port), () => process.stdout.write(`${port}\n`))
}

const text = {
  requestSerialize: Buffer.from,
  requestDeserialize: String,
  responseSerialize: Buffer.from,
  responseDeserialize: String,
  requestStream: false,
  responseStream: false,
}
const methods = ['GetItem', 'Delete']
const grpc = new Server()
grpc.addService(
  Object.fromEntries(methods.map((method) => [method, { path: `/shop.Stock/${method}`, ...text }])),
  Object.fromEntries(methods.map((method) => [method, (_call, callback) => callback(null, `${name}: ${method}`)])),
)
grpc.bindAsync(`0.0.0.0:${grpcPort}`, ServerCredentials.createInsecure(), () => process.stdout.write(`${grpcPort}\n`))
