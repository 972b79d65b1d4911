/**
 * The policy folder: every file in it is in force whole, as last accepted, or not at all. Accepted versions are kept on disk, so that a
 * file which is broken or gone with its mount leaves what it last said in force, after a restart too.
 *
 * A half of a file may be good policy that says less. Who writes beside and renames shows no half; who writes in place is waited for:
 * what was written under its own name is read when it has been left alone for a while. That is a guess, not a promise: a writer that
 * pauses for longer is taken to be done.
 */
import { closeSync, constants, existsSync, fstatSync, openSync, readdirSync, readFileSync, type Stats, statSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { EMPTY_FOLDER_MARKER, POLICY_FILE_NAME } from '#policy/files.ts'
import { documentName, isPolicy, type Policy, type PolicyDocument, type RefusedDocument } from '#policy/model.ts'
import type { Problem } from '#policy/problems.ts'
import { DIRECTIONS } from '#policy/resolved.ts'
import { AgentError } from '../errors.ts'
import { digestOf, readText, StateFile, writeText } from '../state-file.ts'
import { type ParsedFile, ParsedFiles, type ParseFile } from './parsed-files.ts'

/** What a file means now. */
export interface FileState {
  readonly file: string
  /** Documents in force. */
  readonly documents: readonly PolicyDocument[]
  /** Documents that were refused and never accepted: their subjects are at default deny. */
  readonly refused: readonly RefusedDocument[]
  /** Of the version on disk. */
  readonly problems: readonly Problem[]
  /** in-force; last-accepted: an earlier version is; refused: nothing is. */
  readonly state: 'in-force' | 'last-accepted' | 'refused'
}

export interface FolderChange {
  readonly changed: readonly FileState[]
  readonly removed: readonly string[]
  /** Something an operator should know, or empty. */
  readonly warning: string
  /** Milliseconds until a file that somebody is writing can be read; undefined when there is none. */
  readonly lookAgainMs?: number
}

interface Candidate {
  readonly text: string
  readonly digest: string
  readonly parsed: ParsedFile
  /** What was in force before. */
  readonly before: FileState | undefined
}

const POLICY_FILE_BYTES_MAX = 4 << 20

/** How long a file that is written in place is left alone after its last write. */
export const IN_PLACE_QUIET_MS = 100
/** Of the clock that stamps files: HZ is 100 or more. */
const CLOCK_TICK_MS_MAX = 20

/** The first version also had digests and times, which had to be written with each change of one file among thousands. */
const indexSchema = z.union([
  z.strictObject({ version: z.literal(2), files: z.array(z.string()) }),
  z
    .object({ version: z.literal(1), files: z.array(z.object({ file: z.string() })) })
    .transform(({ files }) => ({ version: 2 as const, files: files.map(({ file }) => file) })),
])

interface ReadText {
  readonly text: string
  /** See #seen. */
  readonly identity: string
}

export class PolicyFolder {
  readonly #folder: string
  readonly #accepted: string
  readonly #index: StateFile<z.infer<typeof indexSchema>>
  readonly #parsed: ParsedFiles
  readonly #emptyMeans: 'keep' | 'apply'
  /** Digest of what was last accepted of each file. */
  readonly #acceptedDigests = new Map<string, string>()
  readonly #states = new Map<string, FileState>()
  /** Versions that were read and wait to be accepted. */
  readonly #candidates = new Map<string, Candidate>()
  /** What was restored of each file, until its text on disk has been compared. */
  readonly #restored = new Map<string, { readonly digest: string; readonly parsed: ParsedFile }>()
  /** Accepted, and not on disk. */
  readonly #notKept = new Map<string, string>()
  /** Of files of which nothing was ever accepted. */
  readonly #refusedTexts = new Map<string, string>()
  /** What was last read of each file: its digest, and how to tell without reading that it is still the same; empty when nothing tells. */
  readonly #seen = new Map<string, { readonly digest: string; readonly identity: string }>()
  /** When somebody last wrote to a file under its own name (performance.now()), as long as it matters. */
  readonly #writtenAt = new Map<string, number>()
  /** Files that are symbolic links, as ConfigMaps are mounted. */
  #links: ReadonlySet<string> = new Set()
  #hasScanned = false

  /** @param options whatever decides what `parse` makes of a text */
  constructor(folder: string, stateFolder: string, emptyMeans: 'keep' | 'apply', parse: ParseFile, options: object = {}) {
    this.#folder = folder
    this.#accepted = join(stateFolder, 'policies')
    this.#index = new StateFile(join(this.#accepted, 'index.json'), indexSchema)
    this.#emptyMeans = emptyMeans
    this.#parsed = new ParsedFiles(this.#accepted, parse, options)
  }

  get states(): readonly FileState[] {
    return [...this.#states.values()]
  }

  state(file: string): FileState | undefined {
    return this.#states.get(file)
  }

  /** The texts in force, and those that were refused while nothing was: what is to be judged as this folder is. */
  sources(): { readonly file: string; readonly text: string; readonly refusedText: string }[] {
    return this.states.map(({ file, state }) => ({
      file,
      text: state === 'refused' ? '' : (this.#notKept.get(file) ?? readText(this.#acceptedPath(file)) ?? ''),
      refusedText: state === 'refused' ? (this.#refusedTexts.get(file) ?? '') : '',
    }))
  }

  /** What was accepted before this process started. To be called once, before the first scan. @throws AgentError HG-2006 */
  restore(): FolderChange {
    const changed: FileState[] = []
    for (const file of this.#index.read()?.files ?? []) {
      const text = readText(this.#acceptedPath(file))
      // The index never names a file before it is there, nor after it is gone.
      if (text === undefined) throw new AgentError('HG-2006', `missing: ${this.#acceptedPath(file)}`)
      const digest = digestOf(text)
      this.#acceptedDigests.set(file, digest)
      const parsed = this.#parsed.parseAccepted(text, file)
      const { documents, refused, problems } = parsed
      this.#restored.set(file, { digest, parsed })
      // A newer version of Headgate may refuse what an older one took; its subjects are then at default deny.
      const state: FileState = { file, documents, refused, problems, state: documents.length > 0 ? 'last-accepted' : 'refused' }
      if (state.state === 'refused') this.#refusedTexts.set(file, text)
      this.#states.set(file, state)
      changed.push(state)
    }
    return { changed, removed: [], warning: '' }
  }

  /** To be called when a file was changed in place, as opposed to put there whole. */
  noteWrite(file: string): void {
    if (POLICY_FILE_NAME.test(file)) this.#writtenAt.set(file, performance.now())
  }

  /**
   * Compares the folder with what is known. What is read as good is a candidate until `accept` or `reject` says more.
   * @param among files that may have changed; undefined: any
   */
  scan(among?: ReadonlySet<string>): FolderChange {
    const files = this.#list()
    if (typeof files === 'string') return { changed: [], removed: [], warning: files }
    const changed: FileState[] = []
    for (const file of files) {
      const mayHaveChanged = among?.has(file) ?? true
      // What a link leads to changes without a word about the link.
      if (!mayHaveChanged && this.#states.has(file) && !this.#writtenAt.has(file) && !this.#links.has(file)) continue
      const state = this.#read(file)
      if (state !== undefined) changed.push(state)
    }
    this.#hasScanned = true
    const lookAgain = this.#lookAgain(files)
    const isThere = new Set(files)
    const removed = [...this.#states.keys()].filter((file) => !isThere.has(file))
    if (removed.length > 0 && files.length === 0 && this.#emptyMeans === 'keep' && !existsSync(join(this.#folder, EMPTY_FOLDER_MARKER))) {
      return { changed, removed: [], warning: `the policy folder is empty; what was in force stays: ${this.#folder}`, ...lookAgain }
    }
    for (const file of removed) this.#forget(file)
    return { changed, removed, warning: '', ...lookAgain }
  }

  #list(): string[] | string {
    try {
      const entries = readdirSync(this.#folder, { withFileTypes: true }).filter(
        (entry) => POLICY_FILE_NAME.test(entry.name) && (entry.isFile() || entry.isSymbolicLink()),
      )
      this.#links = new Set(entries.filter((entry) => entry.isSymbolicLink()).map((entry) => entry.name))
      return entries.map((entry) => entry.name).sort()
    } catch (error) {
      return `the policy folder cannot be read (${(error as NodeJS.ErrnoException).code}); what was in force stays: ${this.#folder}`
    }
  }

  /** When the first of the files that somebody is writing may be read. */
  #lookAgain(files: readonly string[]): { readonly lookAgainMs?: number } {
    for (const file of this.#writtenAt.keys()) if (!files.includes(file)) this.#writtenAt.delete(file)
    if (this.#writtenAt.size === 0) return {}
    const readableAt = Math.min(...this.#writtenAt.values()) + IN_PLACE_QUIET_MS
    return { lookAgainMs: Math.max(1, Math.ceil(readableAt - performance.now())) }
  }

  #isBeingWritten(file: string): boolean {
    const at = this.#writtenAt.get(file)
    if (at === undefined) return false
    if (performance.now() - at < IN_PLACE_QUIET_MS) return true
    this.#writtenAt.delete(file)
    return false
  }

  /** @returns undefined when somebody writes to it right now */
  #readWhole(path: string): ReadText | undefined {
    // A pipe in the folder must not hold the agent up.
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const before = fstatSync(fd)
      if (before.size > POLICY_FILE_BYTES_MAX) throw new RangeError(`larger than ${POLICY_FILE_BYTES_MAX} bytes`)
      const text = readFileSync(fd, 'utf8')
      const after = fstatSync(fd)
      if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) return undefined
      // Of what was written before this process started, nobody tells how.
      const ageMs = Date.now() - after.mtimeMs
      if (!this.#hasScanned && ageMs >= 0 && ageMs < IN_PLACE_QUIET_MS) return undefined
      return { text, identity: isSettled(after) ? identityOf(after) : '' }
    } finally {
      closeSync(fd)
    }
  }

  /** Folders have thousands of files, of which one has changed. */
  #isAsSeen(file: string, path: string): boolean {
    const identity = this.#seen.get(file)?.identity ?? ''
    return identity !== '' && identityOf(statSync(path)) === identity
  }

  /** @returns undefined when nothing changed, or is about to */
  #read(file: string): FileState | undefined {
    if (this.#isBeingWritten(file)) return undefined
    const path = join(this.#folder, file)
    let read: ReadText | undefined
    try {
      if (this.#isAsSeen(file, path)) return undefined
      read = this.#readWhole(path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      return this.#refuse(file, [], [problemOf(file, (error as Error).message, 'check the file and its permissions')])
    }
    if (read === undefined) {
      this.noteWrite(file)
      return undefined
    }
    const { text, identity } = read
    const digest = digestOf(text)
    const isKnown = this.#seen.get(file)?.digest === digest
    this.#seen.set(file, { digest, identity })
    if (isKnown) return undefined
    const restored = this.#restored.get(file)
    this.#restored.delete(file)
    const parsed = restored?.digest === digest ? restored.parsed : this.#parsed.parse(text, file)
    const { documents, refused, problems } = parsed
    if (problems.some(({ severity }) => severity === 'error')) return this.#refuse(file, refused, problems, text)
    this.#candidates.set(file, { text, digest, parsed, before: this.#states.get(file) })
    const state: FileState = { file, documents, refused: [], problems, state: 'in-force' }
    this.#refusedTexts.delete(file)
    this.#states.set(file, state)
    return state
  }

  /**
   * Candidates can be enforced: they are kept for the next start.
   * @returns why some could not be kept, by file
   */
  accept(files: readonly string[]): ReadonlyMap<string, Error> {
    const failed = new Map<string, Error>()
    let isIndexStale = false
    for (const file of files) {
      const candidate = this.#candidates.get(file)
      if (candidate === undefined) continue
      this.#candidates.delete(file)
      if (this.#acceptedDigests.get(file) === candidate.digest) continue
      this.#notKept.set(file, candidate.text)
      try {
        writeText(this.#acceptedPath(file), candidate.text)
        this.#parsed.keep(candidate.text, file, candidate.parsed)
      } catch (error) {
        failed.set(file, error as Error)
        continue
      }
      this.#notKept.delete(file)
      if (!this.#acceptedDigests.has(file)) isIndexStale = true
      this.#acceptedDigests.set(file, candidate.digest)
    }
    try {
      if (isIndexStale) this.#saveIndex()
    } catch (error) {
      for (const file of files) failed.set(file, error as Error)
    }
    return failed
  }

  /** A candidate cannot be enforced. @returns what holds instead: the version before it, or default deny for whom it selects */
  reject(file: string, message: string): FileState {
    const candidate = this.#candidates.get(file)
    const rejected = this.#states.get(file)
    this.#candidates.delete(file)
    if (candidate?.before === undefined) this.#states.delete(file)
    else this.#states.set(file, candidate.before)
    const refused = (rejected?.documents ?? []).filter(isPolicy).map(refusedDocument)
    return this.#refuse(file, refused, [problemOf(file, message, 'use fewer or wider rules, or raise the setting')], candidate?.text)
  }

  /** @param text undefined when it could not be read */
  #refuse(file: string, refused: readonly RefusedDocument[], problems: readonly Problem[], text?: string): FileState {
    const documents = this.#states.get(file)?.documents ?? []
    const known = new Set(documents.map(documentName))
    const state: FileState = {
      file,
      documents,
      refused: refused.filter((document) => !known.has(documentName(document))),
      problems,
      state: documents.length > 0 ? 'last-accepted' : 'refused',
    }
    this.#states.set(file, state)
    if (state.state === 'refused' && text !== undefined) this.#refusedTexts.set(file, text)
    else this.#refusedTexts.delete(file)
    return state
  }

  #forget(file: string): void {
    this.#states.delete(file)
    this.#seen.delete(file)
    this.#notKept.delete(file)
    this.#refusedTexts.delete(file)
    this.#restored.delete(file)
    this.#parsed.forget(file)
    if (!this.#acceptedDigests.delete(file)) return
    this.#saveIndex()
    const path = this.#acceptedPath(file)
    if (existsSync(path)) unlinkSync(path)
  }

  #acceptedPath(file: string): string {
    return join(this.#accepted, `${file}.accepted`)
  }

  #saveIndex(): void {
    this.#index.write({ version: 2, files: [...this.#acceptedDigests.keys()] })
  }
}

/** Whatever is written to a file, or put in its place, changes one of these. */
function identityOf({ dev, ino, size, mtimeMs, ctimeMs }: Stats): string {
  return `${dev}/${ino}/${size}/${mtimeMs}/${ctimeMs}`
}

/** Of two writes within one tick of the kernel's clock, the second may leave no trace. */
function isSettled({ ctimeMs }: Stats): boolean {
  return Date.now() - ctimeMs > CLOCK_TICK_MS_MAX
}

function problemOf(file: string, message: string, hint: string): Problem {
  return { severity: 'error', file, line: 1, column: 1, path: '', message, hint }
}

/** A good document that cannot be enforced: whom it selects, and in which directions. */
function refusedDocument({ kind, namespace, name, at, specs }: Policy): RefusedDocument {
  const subjects = specs
    .filter(({ subject }) => subject.kind === 'endpoints')
    .map(({ subject, rules, defaultDeny }) => ({
      selector: subject.selector,
      directions: DIRECTIONS.filter((direction) => defaultDeny[direction] || rules.some((rule) => rule.direction === direction)),
    }))
  return { kind, namespace, name, at, subjects }
}
