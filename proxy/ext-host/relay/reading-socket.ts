/**
 * Sockets that read into the same memory again and again. What node:net allocates for each read (64 KiB) counts as memory that V8 has to look
 * through its whole heap for: with bulk that is most of what a worker does.
 */
import { Socket } from 'node:net'
import type { MemoryBudget } from '../parsing/memory-budget.ts'

const SMALL_BYTES = 4 << 10
const LARGE_BYTES = 256 << 10

/**
 * Bytes are overwritten by the next read: who needs them longer copies them, or pauses the socket until then. Not called when it ends.
 * @returns whether it would help to read more at once
 */
export type OnRead = (bytes: Buffer) => boolean

export interface ReadingSocket {
  readonly socket: Socket
  /** The socket's, as long as it is not destroyed. */
  readonly fd: number
}

/**
 * @param fd is the socket's from then on; connected, or to be connected @param budget for large buffers: without, it goes on with its small one
 * @returns half-open, and with `drain` whenever all that was written is with the kernel
 */
export function readingSocket(fd: number, budget: MemoryBudget, onRead: OnRead): ReadingSocket {
  const small = Buffer.allocUnsafeSlow(SMALL_BYTES)
  let buffer: Buffer = small
  let large: Buffer | undefined
  let isLargeWanted = false
  const nextBuffer = (): Buffer => {
    if (isLargeWanted && large === undefined && budget.take(LARGE_BYTES)) {
      large = Buffer.allocUnsafeSlow(LARGE_BYTES)
      socket.once('close', () => budget.giveBack(LARGE_BYTES))
    }
    buffer = isLargeWanted ? (large ?? small) : small
    return buffer
  }
  const socket = new Socket({
    fd,
    allowHalfOpen: true,
    writableHighWaterMark: 1,
    onread: {
      buffer: nextBuffer,
      callback: (length: number) => {
        const isMoreWanted = onRead(buffer.subarray(0, length))
        isLargeWanted = isMoreWanted && (buffer === large || length === SMALL_BYTES)
        return true
      },
    },
  } as ConstructorParameters<typeof Socket>[0])
  return { socket, fd }
}
