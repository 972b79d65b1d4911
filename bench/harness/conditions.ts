/** Under what conditions a run was made: the machine, the code, and what else the machine was doing. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { ROOT } from '../../test/support/machine.ts'

/** Over what test machines set for tests' sake: benches measure what users get. */
export const DEFAULTS: Readonly<Record<string, unknown>> = { flows: {}, datapath: {} }

/** Above this the machine was doing something else too when the run began. */
const LOAD_QUIET_MAX = 0.5

export function loadAverage(): number {
  return Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0])
}

function git(...args: string[]): string {
  try {
    return execFileSync('git', ['-C', ROOT, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return ''
  }
}

/** To be called when the run begins. */
export function machineConditions(): Record<string, unknown> {
  const load = loadAverage()
  const changed = git('status', '--porcelain', '--untracked-files=no')
    .split('\n')
    .filter((line) => line !== '' && !/ (bench|test|docs)\//.test(line))
  return {
    date: new Date().toISOString(),
    kernel: release(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    commit: git('rev-parse', '--short', 'HEAD') || 'unknown',
    ...(changed.length > 0 ? { uncommittedFiles: changed.length } : {}),
    node: process.version,
    loadBefore: load,
    quiet: load <= LOAD_QUIET_MAX,
  }
}
