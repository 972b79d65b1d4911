/**
 * What reading an accepted text yielded, kept beside it, so that a start with thousands of unchanged files does not wait for the YAML
 * parser. A cache only: what is missing, damaged, of another text or made by other code is made again.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { PACKAGE_ROOT } from '#config/package.ts'
import { readFileIfPresent } from '#sys/atomic-file.ts'
import { digestOf } from './state-file.ts'

const CODE_ROOT = join(import.meta.dirname, '..')

/**
 * @param code files and folders, from the package's root, that make the value of a text: the libraries' versions count with them
 * @param options what else decides, as plain data
 * @returns stands for all of it
 */
export function contextOf(code: readonly string[], options: object = {}): string {
  const hash = createHash('sha256').update(process.version).update(JSON.stringify(options))
  hash.update(readFileSync(join(PACKAGE_ROOT, 'package.json')))
  for (const path of code.flatMap(filesIn)) hash.update(`${path}\n`).update(readFileSync(join(CODE_ROOT, path)))
  return hash.digest('hex')
}

function filesIn(path: string): string[] {
  // The installed package has the same files, compiled.
  const installed = import.meta.filename.endsWith('.js') ? path.replace(/\.ts$/, '.js') : path
  if (!statSync(join(CODE_ROOT, installed)).isDirectory()) return [installed]
  const names = readdirSync(join(CODE_ROOT, installed), { recursive: true, encoding: 'utf8' })
  return names
    .filter((name) => /\.[jt]s$/.test(name))
    .sort()
    .map((name) => join(installed, name))
}

/** One value, of one text. */
export class CachedValue<T> {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  /** @param text with everything else that the value depends on */
  read(text: string): T | undefined {
    const content = readFileIfPresent(this.#path)?.toString('utf8')
    const [key, digest, body] = content?.split('\n', 3) ?? []
    if (body === undefined || key !== digestOf(text) || digest !== digestOf(body)) return undefined
    return JSON.parse(body) as T
  }

  /** Not synced: half of it is found out by its digest. Where there is no room, the next start takes longer. */
  write(text: string, value: T): void {
    const body = JSON.stringify(value)
    const temporary = join(dirname(this.#path), `.${basename(this.#path)}.${process.pid}.tmp`)
    try {
      writeFileSync(temporary, `${digestOf(text)}\n${digestOf(body)}\n${body}\n`, { mode: 0o600 })
      renameSync(temporary, this.#path)
    } catch {
      rmSync(temporary, { force: true })
      this.forget()
    }
  }

  forget(): void {
    rmSync(this.#path, { force: true })
  }
}
