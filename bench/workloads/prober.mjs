// Asks one path again and again, each time on a new connection, and says what came back. Questions are not held up by answers that do
// not come. Usage: prober.mjs URL EVERY_MS TIMEOUT_MS. Prints `STATUS SENT_MS` a question, with status 0 for none, in the order of
// answers; times are milliseconds of the monotonic clock, as everywhere on this machine.
import { request } from 'node:http'

const [url, everyMs, timeoutMs] = process.argv.slice(2)

function monotonicMs() {
  return Number(process.hrtime.bigint()) / 1e6
}

function ask() {
  const sent = monotonicMs()
  let told = false
  const tell = (status) => {
    if (told) return
    told = true
    process.stdout.write(`${status} ${sent}\n`)
  }
  const call = request(url, { agent: false, headers: { connection: 'close' } }, (response) => {
    response.resume().on('end', () => tell(response.statusCode))
    response.on('error', () => tell(0))
  })
  const timer = setTimeout(() => call.destroy(), Number(timeoutMs))
  call.on('close', () => {
    clearTimeout(timer)
    tell(0)
  })
  call.on('error', () => tell(0))
  call.end()
}

setInterval(ask, Number(everyMs))
