/**
 * Sockets that outlive a process: the service manager keeps copies of them and hands them to the next process of the service, so that
 * what arrives in between waits instead of being lost. The protocol is systemd's (sd_notify(3) FDSTORE, sd_listen_fds(3)); `headgate up`
 * speaks it too.
 */
import { type FSWatcher, watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import { sendDescriptors } from './descriptor-passing.ts'
import { SystemCallError } from './errors.ts'
import { close, closeOnExec } from './libc.ts'

const FIRST_FD = 3

type Environment = Record<string, string | undefined>

/**
 * The descriptor that was kept under a name, the caller's from now on; others are closed. The variables that told of them are unset, for
 * they are nobody else's.
 */
export function takeKeptDescriptor(name: string, environment: Environment = process.env): number | undefined {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = environment
  for (const variable of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[variable]
  if (LISTEN_PID !== String(process.pid) || LISTEN_FDS === undefined) return undefined
  const names = (LISTEN_FDNAMES ?? '').split(':')
  let kept: number | undefined
  for (let index = 0; index < Number(LISTEN_FDS); index++) {
    const fd = FIRST_FD + index
    if (names[index] !== name || kept !== undefined) close(fd)
    else {
      closeOnExec(fd)
      kept = fd
    }
  }
  return kept
}

/** Has descriptors kept by the service manager, if there is one that does. */
export class DescriptorKeeping {
  readonly #path: string | undefined
  readonly #kept = new Map<string, number>()
  readonly #onProblem: (error: Error) => void
  readonly #watch: FSWatcher | undefined

  constructor(onProblem: (error: Error) => void, environment: Environment = process.env) {
    this.#path = environment['NOTIFY_SOCKET']
    this.#onProblem = onProblem
    if (this.#path === undefined || this.#path.startsWith('@')) return
    // A service manager that was started anew has none of them, and makes its socket anew.
    const name = basename(this.#path)
    try {
      this.#watch = watch(dirname(this.#path), { persistent: false }, (event, file) => {
        if (event === 'rename' && file === name) for (const [each, fd] of this.#kept) this.#send(each, fd)
      })
      this.#watch.on('error', onProblem)
    } catch (error) {
      // A variable that came from elsewhere, of whom there is nobody here.
      onProblem(error as Error)
    }
  }

  /** Keeps a descriptor under a name, in place of what had the name. */
  keep(name: string, fd: number): void {
    this.#kept.set(name, fd)
    this.#send(name, fd)
  }

  close(): void {
    this.#watch?.close()
  }

  #send(name: string, fd: number): void {
    if (this.#path === undefined) return
    try {
      sendDescriptors(this.#path, `FDSTOREREMOVE=1\nFDNAME=${name}`, [])
      sendDescriptors(this.#path, `FDSTORE=1\nFDNAME=${name}`, [fd])
    } catch (error) {
      if (!(error instanceof SystemCallError || error instanceof RangeError)) throw error
      this.#onProblem(error)
    }
  }
}
