/** Loading a program leaves garbage that V8 and malloc keep for as long as nothing presses: most of what a process of this size holds. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { trimAllocator } from './libc.ts'

/** Gives back to the kernel what loading used up. Takes some tens of milliseconds, so it is for once after the start. */
export function shrinkMemory(): void {
  setFlagsFromString('--expose-gc')
  const collect: unknown = runInNewContext('gc')
  if (typeof collect === 'function') collect({ type: 'major', execution: 'sync', flavor: 'last-resort' })
  trimAllocator()
}
