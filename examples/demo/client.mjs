// One HTTP request; prints the status, or the error's code, and the answer. Usage: client.mjs METHOD URL [HEADERS as JSON [NAME SERVER]]
import { Resolver } from 'node:dns'
import { request } from 'node:http'

const [method, url, headers = '{}', server] = process.argv.slice(2)
const resolver = new Resolver({ timeout: 1500, tries: 1 })
if (server !== undefined) resolver.setServers([server])

function lookup(name, { all }, callback) {
  resolver.resolve4(name, (error, [address] = []) => {
    if (error) callback(error)
    else if (all) callback(null, [{ address, family: 4 }])
    else callback(null, address, 4)
  })
}

const call = request(url, { method, headers: JSON.parse(headers), timeout: 1500, agent: false, lookup }, (response) => {
  let body = ''
  response.setEncoding('utf8').on('data', (part) => {
    body += part
  })
  response.on('end', () => process.stdout.write(`${response.statusCode} ${body.trim()}\n`))
})
call.on('timeout', () => call.destroy(Object.assign(new Error('timeout'), { code: 'TIMEOUT' })))
call.on('error', (error) => process.stdout.write(`${error.code}\n`))
call.end()
