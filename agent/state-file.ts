/** The agent's durable state: JSON files with a version, replaced atomically. A file that cannot be understood stops the agent: guessing would change what is enforced. */
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
      value = JSON.parse(bytes.toString('utf8'))
    } catch (cause) {
      throw new AgentError('HG-2006', `not JSON: ${this.path}`, { cause })
    }
    const result = this.#schema.safeParse(value)
    if (result.success) return result.data
    const issue = result.error.issues[0]
    throw new AgentError('HG-2006', `${this.path}: ${issue?.path.join('.')}: ${issue?.message}`)
  }

  write(value: T): void {
    writeFileAtomic(this.path, `${JSON.stringify(value)}\n`)
  }
}
