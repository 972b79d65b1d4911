/** Compiles the benches' C programs into the cache, once for each version of their source. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../test/support/machine.ts'

const FLAGS = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror']

/** @returns path of the program */
export function compile(name: string): string {
  const source = join(ROOT, 'bench/src', `${name}.c`)
  const digest = createHash('sha256').update(readFileSync(source)).update(FLAGS.join(' ')).digest('hex').slice(0, 12)
  const folder = join(ROOT, '.cache/bench')
  const program = join(folder, `${name}-${digest}`)
  if (existsSync(program)) return program
  mkdirSync(folder, { recursive: true })
  const temporary = `${program}.${process.pid}`
  execFileSync(compiler(), [...FLAGS, source, '-o', temporary], { stdio: ['ignore', 'inherit', 'inherit'] })
  renameSync(temporary, program)
  return program
}

function compiler(): string {
  for (const name of ['clang-19', 'cc']) {
    try {
      execFileSync(name, ['--version'], { stdio: 'ignore' })
      return name
    } catch {
      // The next one.
    }
  }
  throw new Error('neither clang-19 nor cc is there')
}
