/** File locks that live as long as the process: the kernel drops them at any death, kill -9 included. */
import { ftruncateSync, mkdirSync, readFileSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { LockHeldError } from './errors.ts'
import { close, O_CLOEXEC, O_CREAT, O_RDWR, open, tryFlock } from './libc.ts'

export interface Lock {
  readonly path: string
  release(): void
}

export interface LockOptions {
  /** Keep the lock over exec: the program that replaces this process holds it from then on. */
  readonly inheritable?: boolean
}

/**
 * Takes an exclusive lock and writes this process's id into the file.
 * @throws LockHeldError naming the holder
 */
export function acquireLock(path: string, options: LockOptions = {}): Lock {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
  const fd = open(path, O_RDWR | O_CREAT | (options.inheritable ? 0 : O_CLOEXEC), 0o644)
  if (!tryFlock(fd, path)) {
    close(fd)
    throw new LockHeldError(path, Number.parseInt(readFileSync(path, 'utf8'), 10) || 0)
  }
  ftruncateSync(fd, 0)
  writeSync(fd, `${process.pid}\n`, 0)
  return { path, release: () => close(fd) }
}
