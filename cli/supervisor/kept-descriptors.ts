/** Sockets of a child that its keeper holds for the next one: the service manager's side of sys/service-manager.ts. */
import { mkdirSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { DescriptorReceiver } from '#sys/descriptor-passing.ts'
import { close } from '#sys/libc.ts'

/** Of more, the message is ignored. */
const KEPT_MAX = 64

/** How a child is started so that it has them. */
export interface HandedDescriptors {
  /** To be its descriptors 3 and on. */
  readonly fds: readonly number[]
  readonly environment: Readonly<Record<string, string>>
  readonly command: readonly string[]
}

export class KeptDescriptors {
  readonly #path: string
  readonly #byName = new Map<string, number>()
  readonly #receiver: DescriptorReceiver
  #isClosed = false

  /** @param path of the socket that is told to the child; only root can write to it @throws SystemCallError */
  constructor(path: string) {
    this.#path = path
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
    rmSync(path, { force: true })
    const umask = process.umask(0o177)
    try {
      this.#receiver = new DescriptorReceiver(path, (text, fds) => this.#take(text, fds))
    } finally {
      process.umask(umask)
    }
  }

  handedTo(command: readonly string[]): HandedDescriptors {
    // What a child asked for right before it died.
    this.#receiver.receivePending()
    const environment = { NOTIFY_SOCKET: this.#path }
    if (this.#byName.size === 0) return { fds: [], environment, command }
    return {
      fds: [...this.#byName.values()],
      environment: { ...environment, LISTEN_FDS: String(this.#byName.size), LISTEN_FDNAMES: [...this.#byName.keys()].join(':') },
      // The pid that they are for is known only in the child itself.
      command: ['/bin/sh', '-c', 'export LISTEN_PID=$$; exec "$@"', 'sh', ...command],
    }
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#receiver.close()
    rmSync(this.#path, { force: true })
    for (const fd of this.#byName.values()) close(fd)
    this.#byName.clear()
  }

  #take(text: string, fds: readonly number[]): void {
    const assignments = new Map(text.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
    const name = assignments.get('FDNAME') ?? ''
    if (assignments.get('FDSTOREREMOVE') === '1') this.#remove(name)
    const [fd, ...others] = fds
    for (const other of others) close(other)
    if (fd === undefined) return
    const isWanted = assignments.get('FDSTORE') === '1' && /^[a-z0-9-]{1,64}$/.test(name)
    if (!isWanted || (this.#byName.size >= KEPT_MAX && !this.#byName.has(name))) {
      close(fd)
      return
    }
    this.#remove(name)
    this.#byName.set(name, fd)
  }

  #remove(name: string): void {
    const fd = this.#byName.get(name)
    if (fd === undefined) return
    close(fd)
    this.#byName.delete(name)
  }
}
