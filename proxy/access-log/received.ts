/**
 * How many entries of Envoy's access log arrived, since that Envoy was started and over restarts of this process: what Envoy says it
 * sent, less this, was lost on the way. Envoy itself takes everything for sent that it wrote to a connection nobody reads.
 *
 * The count is 8 bytes in a file that `headgate envoy` makes anew before it becomes Envoy. It is written with each delivery and never
 * flushed: a killed process leaves what it wrote, and with the machine Envoy is gone too.
 */
import { closeSync, openSync, readSync, renameSync, statSync, writeFileSync, writeSync } from 'node:fs'

const COUNT_LENGTH = 8

/** Begins at 0, for an Envoy that is about to start. */
export function resetReceived(path: string): void {
  writeFileSync(`${path}.new`, Buffer.alloc(COUNT_LENGTH), { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

/** Entries of one Envoy. */
export interface ReceivedCount {
  readonly count: bigint
  add(entries: number): void
}

export class ReceivedEntries {
  readonly #path: string
  #current: { readonly inode: bigint; readonly entries: CountFile } | undefined

  constructor(path: string) {
    this.#path = path
  }

  /** Of the Envoy that runs now. @returns undefined when that was not started by `headgate envoy` of this version */
  current(): ReceivedCount | undefined {
    try {
      const inode = statSync(this.#path, { bigint: true, throwIfNoEntry: false })?.ino
      if (inode === this.#current?.inode) return this.#current?.entries
      this.close()
      if (inode !== undefined) this.#current = { inode, entries: new CountFile(this.#path) }
      return this.#current?.entries
    } catch {
      // A file that cannot be read: telemetry about telemetry is no reason to fail.
      return undefined
    }
  }

  close(): void {
    this.#current?.entries.close()
    this.#current = undefined
  }
}

class CountFile implements ReceivedCount {
  readonly #bytes = Buffer.alloc(COUNT_LENGTH)
  #fd: number | undefined

  constructor(path: string) {
    this.#fd = openSync(path, 'r+')
    readSync(this.#fd, this.#bytes, 0, COUNT_LENGTH, 0)
  }

  get count(): bigint {
    return this.#bytes.readBigUInt64LE()
  }

  /** What arrives after its Envoy has died is nobody's. */
  add(entries: number): void {
    if (this.#fd === undefined) return
    this.#bytes.writeBigUInt64LE(this.count + BigInt(entries))
    try {
      writeSync(this.#fd, this.#bytes, 0, COUNT_LENGTH, 0)
    } catch {
      // The next process will begin with less; this one knows.
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd)
    this.#fd = undefined
  }
}
