/** Runs test/support/load.mjs in a workload. */
import { join } from 'node:path'
import type { Machine, Workload } from './machine.ts'
import { ROOT } from './machine.ts'

export interface LoadResult {
  readonly sent: number
  readonly allowed: number
  readonly denied: number
  readonly failed: number
  readonly wronglyAllowed: number
  readonly wronglyDenied: number
  readonly slowestMs: number
  readonly samples: readonly string[]
}

export interface Load {
  /** Ends it early; the result counts what was asked until then. */
  stop(): void
  readonly result: Promise<LoadResult>
}

/** Resolves when the load has begun. */
export function startLoad(
  machine: Machine,
  from: Workload,
  url: string,
  seconds: number,
  rate: number,
  ...paths: readonly string[]
): Promise<Load> {
  const child = machine.start(from.netns, [
    join(ROOT, 'bin/node'),
    join(ROOT, 'test/support/load.mjs'),
    url,
    String(seconds),
    String(rate),
    ...paths,
  ])
  let text = ''
  let errors = ''
  child.stderr?.setEncoding('utf8').on('data', (part: string) => {
    errors += part
  })
  const result = new Promise<LoadResult>((resolve, reject) => {
    child.once('close', () => {
      const last = text.trim().split('\n').at(-1) ?? ''
      if (last.startsWith('{')) resolve(JSON.parse(last) as LoadResult)
      else reject(new Error(`load ended without a result: ${errors}`))
    })
  })
  return new Promise((resolve) => {
    child.stdout?.setEncoding('utf8').on('data', (part: string) => {
      text += part
      if (part.startsWith('started')) resolve({ stop: () => child.kill('SIGTERM'), result })
    })
  })
}
