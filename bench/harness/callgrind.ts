/**
 * Instructions that a process executes, counted by valgrind: a figure that no neighbor on the machine and no clock can blur. The kernel's
 * part is not in it, and instructions are not time; it is for comparing runs of the same program with each other.
 */
import { execFile } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)
const FILE = 'callgrind.out'
const DUMP_WAIT_MS = 20_000

export class Callgrind {
  readonly #folder: string
  #dumps = 0

  /** @param folder for its files */
  constructor(folder: string) {
    this.#folder = folder
  }

  /** What the program's command is given to; it counts nothing yet. */
  get command(): string[] {
    return ['valgrind', '--tool=callgrind', '--instr-atstart=no', `--callgrind-out-file=${join(this.#folder, FILE)}`, '--quiet']
  }

  /**
   * Instructions executed while `work` runs.
   * @param keepBusy has the program do something that is not counted: one that idles takes no command to write down what it has
   */
  async count(pid: number, work: () => Promise<void>, keepBusy: () => Promise<void>): Promise<number> {
    const file = join(this.#folder, `${FILE}.${++this.#dumps}`)
    const tell = (...command: string[]) => run('callgrind_control', [...command, String(pid)])
    await tell('-i', 'on')
    await tell('-z')
    await work()
    await tell('-i', 'off')
    await Promise.all([tell('-d'), keepBusy()])
    for (const begin = performance.now(); performance.now() - begin < DUMP_WAIT_MS; await delay(100)) {
      const total = totalOf(file)
      if (total === undefined) continue
      rmSync(file)
      return total
    }
    throw new Error(`callgrind wrote no ${file}`)
  }
}

function totalOf(file: string): number | undefined {
  try {
    const total = /^totals: (\d+)$/m.exec(readFileSync(file, 'utf8'))?.[1]
    return total === undefined ? undefined : Number(total)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
