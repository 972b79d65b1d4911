// Asks slowly beside a run and checks every answer. Lines on standard input: `start URL PATH=EXPECTATION …` and `stop`, where an
// expectation is `body:LENGTH` (200 with a body of so many bytes of one letter) or `denied`. After `stop` it prints one JSON line.
import { Agent, request } from 'node:http'
import { createInterface } from 'node:readline'

const EVERY_MS = 50
const agent = new Agent({ keepAlive: true, maxSockets: 4 })
let timer
let open = 0
let counts

function wrong(text) {
  counts.wrong++
  if (counts.samples.length < 10) counts.samples.push(text)
}

function judge(path, expectation, status, body) {
  if (expectation === 'denied') {
    if (status === 403 && body === 'Access denied') counts.denied++
    else wrong(`${path}: ${status} instead of the denial: ${body.slice(0, 80)}`)
  } else if (status === 200 && body === 'x'.repeat(Number(expectation.split(':')[1]))) counts.allowed++
  else wrong(`${path}: ${status} instead of the body: ${body.slice(0, 80)}`)
}

function ask(base, path, expectation) {
  open++
  counts.checked++
  const call = request(`${base}${path}`, { agent, timeout: 10_000 }, (response) => {
    let body = ''
    response.setEncoding('utf8').on('data', (part) => {
      body += part
    })
    response.on('end', () => {
      open--
      judge(path, expectation, response.statusCode, body)
    })
  })
  call.on('timeout', () => call.destroy(new Error('timeout')))
  call.on('error', (error) => {
    open--
    wrong(`${path}: ${error.code ?? error.message}`)
  })
  call.end()
}

function report() {
  if (open > 0) setTimeout(report, 5)
  else process.stdout.write(`${JSON.stringify(counts)}\n`)
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const [command, base, ...expectations] = line.split(' ')
  clearInterval(timer)
  if (command === 'start') {
    counts = { checked: 0, wrong: 0, allowed: 0, denied: 0, samples: [] }
    let index = 0
    timer = setInterval(() => {
      const [path, expectation] = expectations[index++ % expectations.length].split('=')
      ask(base, path, expectation)
    }, EVERY_MS)
  } else report()
})
process.stdout.write('ready\n')
