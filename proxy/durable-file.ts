/** Files that a crash at any moment leaves whole: either as they were or as they were to be. */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { ProxyError } from './errors.ts'

const FILE_MODE = 0o600

/** Writes to a temporary file in the same folder, syncs it and renames it over the old one. */
export function writeDurablySync(path: string, bytes: Uint8Array | string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const temporary = `${path}.new`
  const fd = openSync(temporary, 'w', FILE_MODE)
  try {
    writeFileSync(fd, bytes)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(temporary, path)
}

/** @returns undefined when there is no such file @throws ProxyError when it cannot be read */
export function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new ProxyError('HG-5001', `cannot read: ${path}`, { cause })
  }
}
