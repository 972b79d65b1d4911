// A client of Kafka that is asked on standard input: a JSON array a line, ["produce", "topic"]; answers with an object a line.
import { createHash, randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'

const RECORD_BYTES = 10_000
const HASH_CHARACTERS = 40

/** @param typeOf of an error, as Kafka calls it */
export async function answerQuestions(commands, typeOf) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...values] = JSON.parse(line)
    const startedMs = performance.now()
    let answer
    try {
      answer = { result: 'ok', message: '', values: await commands[command](...values) }
    } catch (error) {
      answer = { result: typeOf(error), message: error.message, values: [] }
    }
    process.stdout.write(`${JSON.stringify({ ...answer, tookMs: performance.now() - startedMs })}\n`)
  }
  process.exit(0)
}

const hashOf = (text) => createHash('sha1').update(text).digest('hex')

/** A record that shows whether each byte of it came: text with its hash before it. */
export function bulkRecord() {
  const body = randomBytes((RECORD_BYTES * 3) / 4).toString('base64')
  return hashOf(body) + body
}

/** What came of so many of those. */
export class BulkCheck {
  #hashes = new Set()
  #bytes = 0
  #count = 0
  #wrong = 0

  /** @returns how many there are now */
  add(value) {
    const text = String(value)
    const hash = text.slice(0, HASH_CHARACTERS)
    if (hashOf(text.slice(HASH_CHARACTERS)) !== hash) this.#wrong++
    this.#hashes.add(hash)
    this.#bytes += text.length
    return ++this.#count
  }

  /** Records, different ones, damaged ones, bytes. */
  totals() {
    return [this.#count, this.#hashes.size, this.#wrong, this.#bytes].map(String)
  }
}
