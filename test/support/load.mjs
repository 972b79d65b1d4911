// Load that checks every answer: allowed and denied requests, on kept and on new connections, at a fixed rate. Prints one JSON line at
// its end: counts, and the first few things that were wrong. Usage: load.mjs BASE_URL SECONDS RATE [ALLOWED_PATH] [DENIED_PATH]
import { Agent, request } from 'node:http'

const [base, seconds, rate, allowedPath = '/allowed', deniedPath = '/denied'] = process.argv.slice(2)
const kept = new Agent({ keepAlive: true, maxSockets: 16 })
const counts = { sent: 0, allowed: 0, denied: 0, failed: 0, wronglyAllowed: 0, wronglyDenied: 0, slowestMs: 0 }
const samples = []
let open = 0

function note(text) {
  if (samples.length < 20) samples.push(`${new Date().toISOString()} ${text}`)
}

function fire() {
  const index = counts.sent++
  const wantsDenied = index % 4 === 3
  const path = wantsDenied ? deniedPath : `${allowedPath}?n=${index}`
  const fresh = index % 5 === 0
  const started = performance.now()
  open++
  const done = () => {
    open--
    counts.slowestMs = Math.max(counts.slowestMs, performance.now() - started)
  }
  const call = request(`${base}${path}`, { agent: fresh ? new Agent() : kept, timeout: 10_000 }, (response) => {
    let body = ''
    response.setEncoding('utf8').on('data', (part) => {
      body += part
    })
    response.on('error', (error) => {
      done()
      counts.failed++
      note(`${path} body: ${error.code ?? error.message}`)
    })
    response.on('end', () => {
      done()
      if (response.statusCode === 200) {
        const right = body.includes(JSON.stringify(path))
        if (wantsDenied) {
          counts.wronglyAllowed++
          note(`${path} was allowed`)
        } else if (right) counts.allowed++
        else {
          counts.failed++
          note(`${path} wrong body ${body.slice(0, 80)}`)
        }
      } else if (response.statusCode === 403 && body.startsWith('Access denied')) {
        if (wantsDenied) counts.denied++
        else {
          counts.wronglyDenied++
          note(`${path} was denied`)
        }
      } else {
        counts.failed++
        note(`${path} status ${response.statusCode} ${body.slice(0, 120)}`)
      }
    })
  })
  call.on('timeout', () => call.destroy(new Error('timeout')))
  call.on('error', (error) => {
    done()
    counts.failed++
    note(`${path} ${fresh ? 'fresh' : 'kept'} ${error.code ?? error.message}`)
  })
  call.end()
}

const everyMs = 1000 / Number(rate)
const endsAt = performance.now() + Number(seconds) * 1000
let due = performance.now()
let stopped = false
process.on('SIGTERM', () => {
  stopped = true
})
process.stdout.write('started\n')
function tick() {
  const now = performance.now()
  while (due <= now && !stopped) {
    fire()
    due += everyMs
  }
  if (now < endsAt && !stopped) {
    setTimeout(tick, Math.max(1, due - performance.now()))
    return
  }
  const finish = () => {
    if (open > 0) {
      setTimeout(finish, 20)
      return
    }
    process.stdout.write(`${JSON.stringify({ ...counts, samples })}\n`)
    process.exit(0)
  }
  finish()
}
tick()
