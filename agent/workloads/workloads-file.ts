/**
 * The workloads file on disk, with the last accepted version kept beside the agent's state. A file that is broken, unreadable or gone
 * must not take the programs off its endpoints' devices: what was accepted last stays, over restarts too. To have no endpoints, say so:
 * a file without any.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AgentError } from '../errors.ts'
import { CachedValue, contextOf } from '../parse-cache.ts'
import { readText, writeText } from '../state-file.ts'
import { parseWorkloads, type Workloads } from './file.ts'

export class WorkloadsFile {
  readonly #path: string
  readonly #acceptedPath: string
  readonly #parsed: CachedValue<Workloads>
  readonly #context = contextOf(['agent/workloads/file.ts'])

  constructor(path: string, stateFolder: string) {
    this.#path = path
    this.#acceptedPath = join(stateFolder, 'agent/workloads.accepted.yaml')
    this.#parsed = new CachedValue(join(stateFolder, 'agent/workloads.parsed'))
  }

  /**
   * Reads the file as it is now, and keeps it for the next start.
   * @returns undefined when there is none and never was one
   * @throws AgentError HG-2001 with every problem, HG-2012 when it cannot be read or is gone
   */
  read(): Workloads | undefined {
    let text: string
    try {
      text = readFileSync(this.#path, 'utf8')
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      if (code === 'ENOENT' && !existsSync(this.#acceptedPath)) return undefined
      throw new AgentError('HG-2012', `the workloads file cannot be read (${code}): ${this.#path}`, { cause })
    }
    const known = this.#known(text)
    if (known !== undefined) return known
    const workloads = parseWorkloads(text, this.#path)
    writeText(this.#acceptedPath, text)
    this.#parsed.write(this.#context + text, workloads)
    return workloads
  }

  /** @throws AgentError HG-2006 when the copy was damaged */
  lastAccepted(): Workloads | undefined {
    const text = readText(this.#acceptedPath)
    if (text === undefined) return undefined
    try {
      return this.#known(text) ?? parseWorkloads(text, this.#acceptedPath)
    } catch (cause) {
      throw new AgentError('HG-2006', `not a workloads file: ${this.#acceptedPath}`, { cause })
    }
  }

  /** Of the text that was accepted last, if its copy is whole. */
  #known(text: string): Workloads | undefined {
    const known = this.#parsed.read(this.#context + text)
    try {
      return readText(this.#acceptedPath) === text ? known : undefined
    } catch (error) {
      if (error instanceof AgentError) return undefined
      throw error
    }
  }
}
