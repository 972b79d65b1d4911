// One HTTP request; prints the status, or the error's code, and the answer. Usage: client.mjs METHOD URL [HEADERS as JSON]
import { request } from 'node:http'

const [method, url, headers = '{}'] = process.argv.slice(2)
const call = request(url, { method, headers: JSON.parse(headers), timeout: 1500, agent: false }, (response) => {
  let body = ''
  response.setEncoding('utf8').on('data', (part) => {
    body += part
  })
  response.on('end', () => process.stdout.write(`${response.statusCode} ${body.trim()}\n`))
})
call.on('timeout', () => call.destroy(Object.assign(new Error('timeout'), { code: 'TIMEOUT' })))
call.on('error', (error) => process.stdout.write(`${error.code}\n`))
call.end()
