/**
 * Secrets that rules refer to, from a folder: NAMESPACE/NAME is a file, or a folder with one file in it, as Kubernetes mounts a secret
 * with one key. What no rule asks for is not read. A secret that cannot be used is as if it was not there, and why is told; a value
 * leaves this class to be compared with a header or to be written into one, and never reaches a log, a report or an error.
 */
import { isUtf8 } from 'node:buffer'
import {
  closeSync,
  existsSync,
  type FSWatcher,
  constants as fs,
  fstatSync,
  openSync,
  readdirSync,
  readSync,
  realpathSync,
  watch,
} from 'node:fs'
import { dirname, join, sep } from 'node:path'

export interface SecretName {
  readonly namespace: string
  readonly name: string
}

export interface SecretProblem {
  readonly secret: SecretName
  readonly reason: string
}

/** Of a header's value. */
export const SECRET_BYTES_MAX = 8192
/** A line break that an editor left. */
const LINE_BREAK_BYTES_MAX = 2
const NAME_LENGTH_MAX = 253

/** Several changes are looked at together: who writes a file in place empties it first. */
const QUIET_MS = 50
/** However often something changes. */
const WAIT_MS_MAX = 500
/** For what cannot be watched, such as what a link leads to. */
const LOOK_AGAIN_MS = 30_000
/** Kubernetes swaps folders under the reader. */
const ATTEMPTS_MAX = 3

type Found = { readonly value: string } | { readonly reason: string }

export class SecretFolder {
  readonly #root: string
  readonly #onChange: () => void
  readonly #wanted = new Map<string, SecretName>()
  readonly #found = new Map<string, Found>()
  readonly #watchers = new Map<string, FSWatcher>()
  readonly #slowTimer: NodeJS.Timeout
  #timer: NodeJS.Timeout | undefined
  #waitsSince: number | undefined
  #isClosed = false

  /** @param onChange a secret, or what is wrong with one, changed */
  constructor(root: string, onChange: () => void) {
    this.#root = root
    this.#onChange = onChange
    this.#slowTimer = setInterval(() => this.#look(), LOOK_AGAIN_MS).unref()
  }

  /** Reads and watches these and no others. They can be used when this returns. */
  want(secrets: Iterable<SecretName>): void {
    this.#wanted.clear()
    for (const { namespace, name } of secrets) this.#wanted.set(keyOf(namespace, name), { namespace, name })
    for (const key of this.#found.keys()) if (!this.#wanted.has(key)) this.#found.delete(key)
    this.#look()
  }

  /** @returns undefined for a secret that cannot be used, or was not asked for */
  readonly valueOf = (namespace: string, name: string): string | undefined => {
    const found = this.#found.get(keyOf(namespace, name))
    return found !== undefined && 'value' in found ? found.value : undefined
  }

  get problems(): SecretProblem[] {
    return [...this.#wanted].flatMap(([key, secret]) => {
      const found = this.#found.get(key)
      return found !== undefined && 'reason' in found ? [{ secret, reason: found.reason }] : []
    })
  }

  close(): void {
    this.#isClosed = true
    clearInterval(this.#slowTimer)
    clearTimeout(this.#timer)
    for (const watcher of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
  }

  #look(): void {
    if (this.#isClosed) return
    // Watching first: what changes while it is read is read again.
    this.#watch()
    let isChanged = false
    for (const [key, secret] of this.#wanted) {
      const before = this.#found.get(key)
      const now = readSecret(this.#root, secret)
      if (isSame(before, now)) continue
      this.#found.set(key, now)
      isChanged = true
    }
    if (isChanged) this.#onChange()
  }

  #watch(): void {
    const folders = new Set<string>()
    for (const { namespace, name } of this.#wanted.values()) {
      if (!isName(namespace) || !isName(name)) continue
      for (const path of [this.#root, join(this.#root, namespace), join(this.#root, namespace, name)]) folders.add(nearestThatIs(path))
    }
    for (const [folder, watcher] of this.#watchers) {
      if (folders.has(folder)) continue
      watcher.close()
      this.#watchers.delete(folder)
    }
    for (const folder of folders) if (!this.#watchers.has(folder)) this.#watchOne(folder)
  }

  #watchOne(folder: string): void {
    try {
      const watcher = watch(folder, { persistent: false })
      // A folder that is removed and made again is another one under the same name.
      const again = (): void => {
        watcher.close()
        if (this.#watchers.get(folder) === watcher) this.#watchers.delete(folder)
        this.#touch()
      }
      watcher.on('change', (event) => (event === 'rename' && !existsSync(folder) ? again() : this.#touch()))
      watcher.on('error', again)
      this.#watchers.set(folder, watcher)
    } catch {
      // It went away, or there are no watches left: the slow timer looks again.
    }
  }

  #touch(): void {
    const now = performance.now()
    this.#waitsSince ??= now
    clearTimeout(this.#timer)
    this.#timer = setTimeout(
      () => {
        this.#waitsSince = undefined
        this.#rewatch()
        this.#look()
      },
      Math.max(0, Math.min(QUIET_MS, this.#waitsSince + WAIT_MS_MAX - now)),
    ).unref()
  }

  /** Folders may have been replaced by others of their name, which the watches do not tell. */
  #rewatch(): void {
    for (const watcher of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
  }
}

/** Reads one secret. Neither its name nor a link leads out of the folder. */
export function readSecret(root: string, { namespace, name }: SecretName): Found {
  if (!isName(namespace) || !isName(name)) return { reason: 'not the name of a secret' }
  for (let attempt = 1; ; attempt++) {
    try {
      return readOnce(root, join(root, namespace, name))
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      const isGone = code === 'ENOENT' || code === 'ENOTDIR'
      if (isGone && attempt < ATTEMPTS_MAX) continue
      return { reason: isGone ? 'there is no such file' : `cannot be read: ${code ?? 'unknown error'}` }
    }
  }
}

function readOnce(root: string, path: string): Found {
  const inside = `${realpathSync(root)}${sep}`
  let real = realpathSync(path)
  if (!real.startsWith(inside)) return { reason: 'leads out of the folder of secrets' }
  const entries = entriesOf(real)
  if (entries !== undefined) {
    if (entries.length !== 1) return { reason: `the folder has ${entries.length} entries instead of one` }
    real = realpathSync(join(real, entries[0] ?? ''))
    if (!real.startsWith(inside)) return { reason: 'leads out of the folder of secrets' }
  }
  const bytes = readFile(real)
  if (bytes === undefined) return { reason: 'is no file' }
  return valueIn(bytes)
}

/** @returns undefined for what is no folder */
function entriesOf(path: string): string[] | undefined {
  try {
    return readdirSync(path).filter((name) => !name.startsWith('..'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined
    throw error
  }
}

/** @returns at most one byte more than may be used; undefined for what is no file */
function readFile(path: string): Buffer | undefined {
  // A pipe would have us wait.
  const fd = openSync(path, fs.O_RDONLY | fs.O_NOFOLLOW | fs.O_NONBLOCK)
  try {
    if (!fstatSync(fd).isFile()) return undefined
    const bytes = Buffer.alloc(SECRET_BYTES_MAX + LINE_BREAK_BYTES_MAX + 1)
    let length = 0
    for (let read = -1; read !== 0 && length < bytes.length; length += read) read = readSync(fd, bytes, length, bytes.length - length, null)
    return bytes.subarray(0, length)
  } finally {
    closeSync(fd)
  }
}

function valueIn(bytes: Buffer): Found {
  if (!isUtf8(bytes) && bytes.length <= SECRET_BYTES_MAX + LINE_BREAK_BYTES_MAX) return { reason: 'is no text' }
  const value = bytes.toString('utf8').replace(/\r?\n$/, '')
  if (value === '') return { reason: 'is empty' }
  if (Buffer.byteLength(value) > SECRET_BYTES_MAX) return { reason: `is longer than ${SECRET_BYTES_MAX} bytes` }
  if (/[\0-\x1f\x7f]/.test(value)) return { reason: 'has a control character, which a header cannot have' }
  if (value.trim() !== value) return { reason: 'begins or ends with a space, which a header cannot' }
  return { value }
}

/** Names come from policies. */
function isName(text: string): boolean {
  return text !== '' && text.length <= NAME_LENGTH_MAX && text !== '.' && !text.startsWith('..') && !/[/\\\0]/.test(text)
}

function keyOf(namespace: string, name: string): string {
  return `${namespace}/${name}`
}

function nearestThatIs(path: string): string {
  let folder = path
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder)
  return folder
}

function isSame(a: Found | undefined, b: Found): boolean {
  if (a === undefined) return false
  return 'value' in a ? 'value' in b && a.value === b.value : 'reason' in b && a.reason === b.reason
}
