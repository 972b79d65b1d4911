// One HTTP request; prints the status, or the error's code. Usage: client.mjs METHOD URL
import { request } from 'node:http'

const [method, url] = process.argv.slice(2)
const call = request(url, { method, timeout: 1500, agent: false }, (response) => {
  response.resume()
  response.on('end', () => process.stdout.write(`${response.statusCode}\n`))
})
call.on('timeout', () => call.destroy(Object.assign(new Error('timeout'), { code: 'TIMEOUT' })))
call.on('error', (error) => process.stdout.write(`${error.code}\n`))
call.end()
