/**
 * The agent's durable state: JSON files with a version, and texts of users as they were accepted, replaced atomically. Each holds its
 * digest, because a bit that flips in a label or a number leaves a file that can be read and means something else. A file that cannot be
 * understood, or is not what was written, stops the agent: guessing would change what is enforced.
 */
import { createHash } from 'node:crypto'
import type { z } from 'zod'
import { readFileIfPresent, writeFileAtomic } from '#sys/atomic-file.ts'
import { AgentError } from './errors.ts'

export class StateFile<T> {
  readonly path: string
  readonly #schema: z.ZodType<T>

  constructor(path: string, schema: z.ZodType<T>) {
    this.path = path
    this.#schema = schema
  }

  /** @returns undefined when there is none yet @throws AgentError HG-2006 */
  read(): T | undefined {
    const bytes = readFileIfPresent(this.path)
    if (bytes === undefined) return undefined
    let value: unknown
    try {
      value = JSON.parse(this.#withoutDigest(bytes.toString('utf8')))
    } catch (cause) {
      if (cause instanceof AgentError) throw cause
      throw new AgentError('HG-2006', `not JSON: ${this.path}`, { cause })
    }
    const result = this.#schema.safeParse(value)
    if (result.success) return result.data
    const issue = result.error.issues[0]
    throw new AgentError('HG-2006', `${this.path}: ${issue?.path.join('.')}: ${issue?.message}`)
  }

  write(value: T): void {
    const text = JSON.stringify(value)
    writeFileAtomic(this.path, `${text.slice(0, -1)},"digest":"${digestOf(text)}"}\n`)
  }

  /** A file without a digest is of a version that knew none: every schema refuses a digest that is not quite one. */
  #withoutDigest(text: string): string {
    const match = JSON_DIGEST.exec(text)
    if (match === null) return text
    const body = `${text.slice(0, match.index)}}`
    if (digestOf(body) !== match[1]) throw new AgentError('HG-2006', `damaged, its digest is another: ${this.path}`)
    return body
  }
}

/** The last field of every JSON file. */
const JSON_DIGEST = /,"digest":"([0-9a-f]{64})"\}\n?$/
/** The last line of every text: a comment in YAML. */
const TEXT_DIGEST = /\n# sha256:([0-9a-f]{64})\n$/

/** SHA-256, in hex. */
export function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** Keeps a text of a user's. */
export function writeText(path: string, text: string): void {
  writeFileAtomic(path, `${text}\n# sha256:${digestOf(text)}\n`)
}

/** @returns undefined when there is none @throws AgentError HG-2006 when it is not what was written */
export function readText(path: string): string | undefined {
  const text = readFileIfPresent(path)?.toString('utf8')
  if (text === undefined) return undefined
  const match = TEXT_DIGEST.exec(text)
  const body = text.slice(0, match?.index)
  if (digestOf(body) !== match?.[1]) throw new AgentError('HG-2006', `damaged, its digest is another or missing: ${path}`)
  return body
}
