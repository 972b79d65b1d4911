/**
 * Tells which files of the policy folder changed. The kernel's word is trusted where it can be had: a folder has thousands of files, of
 * which one has changed. Where it is not known which (the folder itself came or went, too much happened at once, nothing is watched),
 * it says so, and all are looked at.
 */
import { type FSWatcher, watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Several files are often put in place at once; events within this time are one change. */
const FILE_QUIET_MS = 15
/** A file that is written without end must not keep the others from being read. */
const BURST_MS = 200
/** Of more names, the kernel may have dropped some. */
const NAMES_MAX = 1000

/** Names that may have changed; undefined: any. */
export type ChangedNames = ReadonlySet<string> | undefined

export interface FolderWatchOptions {
  /** Some moments after a burst of changes, though it may go on. */
  readonly onChange: (names: ChangedNames) => void
  /** A file was changed under its own name. */
  readonly onWrite: (name: string) => void
}

export class FolderWatch {
  readonly #path: string
  readonly #options: FolderWatchOptions
  readonly #parent: FSWatcher | undefined
  #folder: FSWatcher | undefined
  #names: Set<string> | undefined = new Set()
  #timer: NodeJS.Timeout | undefined
  #burstEndsAt = 0

  constructor(path: string, options: FolderWatchOptions) {
    this.#path = path
    this.#options = options
    this.#openFolder()
    // The folder itself may come, go or be replaced: its parent tells.
    this.#parent = openWatcher(dirname(path), (_event, name) => {
      if (name !== basename(path)) return
      this.#openFolder()
      this.#changed(null)
    })
  }

  /** What has changed until now and was not told yet. Whoever asks has to look. */
  async take(): Promise<ChangedNames> {
    // What the kernel has noted is read in one turn of the loop: the one that is under way, or the next.
    await nextTurn()
    await nextTurn()
    clearTimeout(this.#timer)
    this.#timer = undefined
    const names = this.#names
    this.#names = new Set()
    return this.#folder === undefined ? undefined : names
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#folder?.close()
    this.#parent?.close()
  }

  #openFolder(): void {
    this.#folder?.close()
    const watcher = openWatcher(this.#path, (event, name) => {
      if (event === 'change' && name !== null) this.#options.onWrite(name)
      this.#changed(name)
    })
    this.#folder = watcher
    watcher?.on('error', () => {
      if (this.#folder === watcher) this.#folder = undefined
    })
  }

  #changed(name: string | null): void {
    if (name === null || (this.#names?.size ?? 0) > NAMES_MAX) this.#names = undefined
    else this.#names?.add(name)
    if (this.#timer === undefined) this.#burstEndsAt = performance.now() + BURST_MS
    else if (performance.now() > this.#burstEndsAt) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      const names = this.#names
      this.#names = new Set()
      this.#options.onChange(names)
    }, FILE_QUIET_MS)
  }
}

/** @returns undefined when there is nothing to watch */
export function openWatcher(path: string, onEvent: (event: string, name: string | null) => void): FSWatcher | undefined {
  try {
    const watcher = watch(path, onEvent)
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return undefined
  }
}
