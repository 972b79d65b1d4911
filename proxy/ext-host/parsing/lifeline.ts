/**
 * What a worker of the relay and its parent know of each other: each holds an end of two pipes. The worker says that it is alive, and when it
 * takes connections; the parent says nothing, and that its end is closed means that it is no more.
 */
import type { Readable } from 'node:stream'

const BEAT_MS = 1000
/** One that says nothing for so long hangs, whatever it was that began it. */
const SILENT_MS_MAX = 15_000

const ALIVE = '.'
const READY = '+'

/** The worker's end: its standard input and output. */
export class ParentLifeline {
  readonly #ended = new AbortController()
  readonly #beats = setInterval(() => process.stdout.write(ALIVE), BEAT_MS).unref()

  constructor() {
    for (const event of ['end', 'error', 'close']) process.stdin.on(event, () => this.#end())
    process.stdin.resume()
    // That nobody reads any more is what standard input tells.
    process.stdout.on('error', () => {})
  }

  /** Aborts when the parent is no more. */
  get ended(): AbortSignal {
    return this.#ended.signal
  }

  /** This worker takes connections. */
  ready(): void {
    if (!this.ended.aborted) process.stdout.write(READY)
  }

  #end(): void {
    clearInterval(this.#beats)
    this.#ended.abort()
  }
}

/**
 * The parent's end.
 * @param output standard output of the worker
 * @param onReady it takes connections @param onSilent it hangs
 */
export function watchWorker(output: Readable, onReady: () => void, onSilent: () => void): void {
  let isSilent = true
  const timer = setTimeout(() => {
    isSilent = true
    // When it was this process that stood still, what the worker said meanwhile is read first.
    setImmediate(() => {
      if (isSilent && !output.destroyed) onSilent()
    })
  }, SILENT_MS_MAX)
  output.on('data', (said: Buffer) => {
    isSilent = false
    timer.refresh()
    if (said.includes(READY)) onReady()
  })
  output.on('error', () => {})
  output.once('close', () => clearTimeout(timer))
}
