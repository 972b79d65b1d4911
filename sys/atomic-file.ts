/** Files that are whole or not there: written beside their place, synced, renamed, and the folder synced. */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { mkdir, open, rename } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

/** Replaces a file in one step. After it returns, the new content survives a crash of the machine. */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600): void {
  const folder = dirname(path)
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  // The leading dot keeps folder watchers from taking it for a finished file.
  const temporary = join(folder, `.${basename(path)}.${process.pid}.tmp`)
  const fd = openSync(temporary, 'w', mode)
  try {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content
    for (let written = 0; written < bytes.length; ) written += writeSync(fd, bytes, written)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(temporary, path)
  syncFolder(folder)
}

/** The same without waiting for the disk; two at once to one path would meet. */
export async function replaceFile(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  const folder = dirname(path)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const temporary = join(folder, `.${basename(path)}.${process.pid}.tmp`)
  const file = await open(temporary, 'w', mode)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(temporary, path)
}

/** Makes renames and removals in a folder durable. */
export function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** @returns undefined when there is no such file */
export function readFileIfPresent(path: string): Buffer | undefined {
  try {
    return readFileSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
