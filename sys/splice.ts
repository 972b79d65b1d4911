/**
 * Moves bytes from one socket to another within the kernel, through a pipe (splice(2)): they are neither copied into this process nor out
 * of it, but when the other socket has no room for them.
 */
import { readSync } from 'node:fs'
import { close, pipe, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, setPipeBytes, splice } from './libc.ts'

/** What of a pipe is unprivileged (fs.pipe-max-size). */
const PIPE_BYTES = 1 << 20

export interface Spliced {
  /** How many bytes left the source: none where nothing is there, at its end, and when it failed. */
  readonly taken: number
  /** The last of them, for which there was no room; empty otherwise. */
  readonly left: Buffer
}

const EMPTY: Buffer = Buffer.alloc(0)
const NOTHING: Spliced = { taken: 0, left: EMPTY }

/** One pipe, which is empty between calls. */
export class Splicer {
  readonly #read: number
  readonly #write: number

  /** @throws SystemCallError */
  constructor() {
    const { read, write } = pipe()
    this.#read = read
    this.#write = write
    setPipeBytes(write, PIPE_BYTES)
  }

  /** Takes what there is now, at most as much as the pipe holds. Neither socket is waited for; failures are left to who reads and writes next. */
  move(from: number, to: number, bytesMax: number): Spliced {
    const taken = splice(from, this.#write, Math.min(bytesMax, PIPE_BYTES), SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
    if (taken <= 0) return NOTHING
    let bytes = taken
    while (bytes > 0) {
      const sent = splice(this.#read, to, bytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
      if (sent <= 0) return { taken, left: this.#rest(bytes) }
      bytes -= sent
    }
    return { taken, left: EMPTY }
  }

  close(): void {
    close(this.#read)
    close(this.#write)
  }

  #rest(bytes: number): Buffer {
    const left = Buffer.allocUnsafeSlow(bytes)
    for (let offset = 0; offset < bytes; ) offset += readSync(this.#read, left, offset, bytes - offset, null)
    return left
  }
}
