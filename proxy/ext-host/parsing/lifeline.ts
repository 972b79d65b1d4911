/**
 * What a worker of the relay and its parent know of each other: each holds an end of a socket. The worker says that it is alive, and when it
 * takes connections; the parent says nothing, and that its end is closed means that it is no more.
 */
import { Socket } from 'node:net'
import type { Readable } from 'node:stream'

/** The worker's end. */
const LIFELINE_FD = 3
/** Of the worker, for who starts it. */
export const WORKER_STDIO = ['ignore', 'inherit', 'inherit', 'pipe'] as const

const BEAT_MS = 1000
/** One that says nothing for so long hangs, whatever it was that began it. */
const SILENT_MS_MAX = 15_000

const ALIVE = '.'
const READY = '+'

export class ParentLifeline {
  readonly #ended = new AbortController()
  readonly #socket = new Socket({ fd: LIFELINE_FD, readable: true, writable: true })
  readonly #beats = setInterval(() => this.#socket.write(ALIVE), BEAT_MS).unref()

  constructor() {
    for (const event of ['end', 'error', 'close']) this.#socket.on(event, () => this.#end())
    this.#socket.resume().unref()
  }

  /** Aborts when the parent is no more. */
  get ended(): AbortSignal {
    return this.#ended.signal
  }

  /** This worker takes connections. */
  ready(): void {
    if (!this.ended.aborted) this.#socket.write(READY)
  }

  #end(): void {
    clearInterval(this.#beats)
    this.#socket.destroy()
    this.#ended.abort()
  }
}

/**
 * The parent's end.
 * @param output what the worker says
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
