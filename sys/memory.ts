/** Loading a program leaves garbage that V8 and malloc keep for as long as nothing presses: most of what a process of this size holds. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { trimAllocator } from './libc.ts'

/** Below this much more than last time there is nothing to win. */
const GROWTH_WORTH_BYTES = 16 << 20

let lastRss = 0

/** The same after work that left garbage, if there is enough of it. */
export function shrinkMemoryIfGrown(): void {
  if (process.memoryUsage.rss() - lastRss > GROWTH_WORTH_BYTES) shrinkMemory()
}

/** Gives back to the kernel what loading used up. Takes some tens of milliseconds, so it is for once after the start. */
export function shrinkMemory(): void {
  setFlagsFromString('--expose-gc')
  const collect: unknown = runInNewContext('gc')
  if (typeof collect === 'function') collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  trimAllocator()
  lastRss = process.memoryUsage.rss()
}
