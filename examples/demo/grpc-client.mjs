// One gRPC call; prints the status as the library has it, and the answer. Usage: grpc-client.mjs ADDRESS:PORT PATH
import { credentials, makeGenericClientConstructor, status } from '@grpc/grpc-js'

const [target, path] = process.argv.slice(2)
const text = { serialize: (value) => Buffer.from(value), deserialize: (bytes) => bytes.toString() }
const Client = makeGenericClientConstructor({}, 'demo')
const client = new Client(target, credentials.createInsecure())
client.makeUnaryRequest(path, text.serialize, text.deserialize, 'hello', { deadline: Date.now() + 1500 }, (error, answer) => {
  process.stdout.write(`${status[error?.code ?? status.OK]} ${error?.details ?? answer}\n`)
  client.close()
})
