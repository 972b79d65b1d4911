/** Errors of the system layer: a failed call into the kernel or a native library, with the errno that says why. */
import { constants as osConstants } from 'node:os'

const ERRNO_NAMES = new Map<number, string>(Object.entries(osConstants.errno).map(([name, value]) => [value, name]))

/** A system call failed. `code` is the errno's name, as Node's own system errors have it. */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError'
  readonly errno: number
  readonly code: string
  readonly syscall: string

  /** @param errno positive errno @param detail what the call was about: a path, a device */
  constructor(syscall: string, errno: number, detail: string) {
    const code = ERRNO_NAMES.get(errno) ?? `errno ${errno}`
    super(`${syscall} failed with ${code}: ${detail}`)
    this.errno = errno
    this.code = code
    this.syscall = syscall
  }
}

/** Another process holds a lock that this one needs. */
export class LockHeldError extends Error {
  override readonly name = 'LockHeldError'
  readonly path: string
  /** 0 when the holder did not write it. */
  readonly holderPid: number

  constructor(path: string, holderPid: number) {
    super(`lock is held by ${holderPid === 0 ? 'another process' : `process ${holderPid}`}: ${path}`)
    this.path = path
    this.holderPid = holderPid
  }
}
