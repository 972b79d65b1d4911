/** The parsers of users that a worker has: found by the name that policy gives them, in a folder that only its owner can write to. */
import { lstatSync, type Stats } from 'node:fs'
import { dirname, join } from 'node:path'
import { UserParser, type UserParserParts } from './user-parser.ts'

/** As policy has them (policy/parse-l7.ts): no dot, so no other folder can be meant. */
const NAME = /^[a-z][a-z0-9_-]{0,62}$/
const MODULE = 'parser.js'
const WRITABLE_BY_OTHERS = 0o022

export interface UserParsersParts extends Pick<UserParserParts, 'limits' | 'onChange'> {
  /** Where their folders are. */
  readonly folder: string
  readonly onLine: (parser: string, line: string) => void
}

export class UserParsers {
  readonly #parts: UserParsersParts
  readonly #byName = new Map<string, UserParser>()
  #loading: Promise<unknown> = Promise.resolve()

  constructor(parts: UserParsersParts) {
    this.#parts = parts
  }

  /** @throws Error when there is no parser of that name that can be trusted to be the owner's */
  get(name: string): UserParser {
    let parser = this.#byName.get(name)
    if (parser === undefined) {
      const { folder, limits, onChange, onLine } = this.#parts
      if (!NAME.test(name)) throw new Error(`no parser has the name ${name}`)
      const path = join(folder, name, MODULE)
      versionOf(path)
      parser = new UserParser({ name, path, versionOf, limits, onChange, onLine: (line) => onLine(name, line) })
      this.#byName.set(name, parser)
      this.#loading = Promise.all([this.#loading, parser.load()])
    }
    return parser
  }

  /** Resolves when all that were asked for are loaded, or cannot be. */
  async loaded(): Promise<void> {
    await this.#loading
  }

  /** What is wrong with those that were asked for, a sentence each. */
  problems(): string[] {
    return [...this.#byName.values()].filter(({ problem }) => problem !== '').map(({ name, problem }) => `the parser ${name}: ${problem}`)
  }

  close(): void {
    for (const parser of this.#byName.values()) parser.close('the worker ends')
  }
}

/**
 * The module, its folder and the folder of all have to be what they are called and nothing that leads elsewhere.
 * @returns another text for another module @throws Error for what others could have written
 */
function versionOf(path: string): string {
  assertOwned(dirname(dirname(path)), 'folder')
  assertOwned(dirname(path), 'folder')
  const { ino, size, mtimeMs } = assertOwned(path, 'file')
  return `${ino} ${size} ${mtimeMs}`
}

function assertOwned(path: string, kind: 'folder' | 'file'): Stats {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (stat === undefined) throw new Error(`there is no ${path}`)
  if (kind === 'folder' ? !stat.isDirectory() : !stat.isFile()) throw new Error(`${path} is no ${kind}`)
  if (stat.uid !== 0 && stat.uid !== process.geteuid?.()) throw new Error(`${path} belongs to user ${stat.uid}`)
  if ((stat.mode & WRITABLE_BY_OTHERS) !== 0) throw new Error(`${path} can be written by others`)
  return stat
}
