/**
 * Builds the Go programs that benches compare with, into the cache, once for each version. Each has a go.mod of ours in bench/peers that
 * names it and its version: the module proxy gives no list of versions for some, and `go install` refuses those with replacements.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../test/support/machine.ts'
import { say } from './bench.ts'

export interface GoProgram {
  readonly path: string
  readonly version: string
}

/**
 * @param name of a folder of bench/peers; the first module that its go.mod requires is the program
 * @throws Error without a Go toolchain that is new enough
 */
export function buildGoProgram(name: string): GoProgram {
  const source = join(ROOT, 'bench/peers', name, 'go.mod')
  const text = readFileSync(source, 'utf8')
  const [, module = '', version = ''] = /^require (\S+) (\S+)$/m.exec(text) ?? []
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 12)
  const folder = join(ROOT, '.cache/bench')
  const path = join(folder, `${name}-${digest}`)
  if (existsSync(path)) return { path, version }
  say(`building ${module} ${version}, once`)
  const work = `${path}.${process.pid}`
  mkdirSync(work, { recursive: true })
  try {
    copyFileSync(source, join(work, 'go.mod'))
    execFileSync('go', ['build', '-mod=mod', '-trimpath', '-o', join(work, 'program'), module], {
      cwd: work,
      env: { ...process.env, CGO_ENABLED: '0' },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    renameSync(join(work, 'program'), path)
  } catch (error) {
    throw new Error(`${module} ${version} cannot be built: it takes Go as new as its go.mod says on the path`, { cause: error })
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return { path, version }
}
