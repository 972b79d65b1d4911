/** Waits for something that another process puts into a folder. */
import { mkdirSync, watch } from 'node:fs'

export interface WaitOptions {
  readonly signal?: AbortSignal | undefined
  /** Undefined waits for ever. */
  readonly timeoutMs?: number
}

/**
 * Calls `look` now and whenever something in the folder changes, until it finds something.
 * @returns undefined when the time is up or the signal came
 */
export async function waitInFolder<T>(
  folder: string,
  look: () => T | undefined | Promise<T | undefined>,
  options: WaitOptions,
): Promise<T | undefined> {
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  const signals = [options.signal, options.timeoutMs === undefined ? undefined : AbortSignal.timeout(options.timeoutMs)]
  const ended = AbortSignal.any(signals.filter((signal) => signal !== undefined))
  // Watching starts before looking: what comes in between is not missed.
  const watcher = watch(folder)
  try {
    let wake = Promise.withResolvers<void>()
    watcher.on('change', () => wake.resolve())
    watcher.on('error', (error) => wake.reject(error))
    ended.addEventListener('abort', () => wake.resolve(), { once: true })
    while (!ended.aborted) {
      const found = await look()
      if (found !== undefined) return found
      await wake.promise
      wake = Promise.withResolvers<void>()
    }
    return undefined
  } finally {
    watcher.close()
  }
}
