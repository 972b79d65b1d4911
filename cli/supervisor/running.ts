/** Which processes of an instance run, found by the records of `headgate up` and by the locks that each process holds. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { processStartTime, watchExit } from '#sys/pidfd.ts'
import { type ChildIdentity, findChild, isAlive } from './child-record.ts'

export interface RunningProcess extends ChildIdentity {
  readonly name: string
}

const STOP_TIMEOUT_MS = 20_000

/** In the order of stopping: up, which stops the others itself, then what is left of them. */
export function runningProcesses(run: string): RunningProcess[] {
  const found: RunningProcess[] = []
  for (const name of ['up', 'envoy', 'dns-proxy', 'ext-host', 'proxy', 'agent']) {
    const identity = (name === 'up' ? undefined : findChild(join(run, 'up'), name)) ?? lockHolder(join(run, 'locks', name))
    if (identity !== undefined) found.push({ name, pid: identity.pid, startTime: identity.startTime })
  }
  return found
}

/** @returns false when it was gone already */
export async function stopProcess(identity: ChildIdentity): Promise<boolean> {
  if (!isAlive(identity)) return false
  const exited = watchExit(identity.pid).then(() => true)
  process.kill(identity.pid, 'SIGTERM')
  const timeout = new AbortController()
  const isGone = await Promise.race([exited, delay(STOP_TIMEOUT_MS, false, { signal: timeout.signal }).catch(() => false)])
  timeout.abort()
  if (!isGone && isAlive(identity)) {
    process.kill(identity.pid, 'SIGKILL')
    await exited
  }
  return true
}

/** A lock file keeps its last holder's pid when that one dies, so the kernel's list of locks decides (/proc/locks, by inode). */
function lockHolder(path: string): ChildIdentity | undefined {
  try {
    const pid = Number.parseInt(readFileSync(path, 'utf8'), 10)
    const isHeld = readFileSync('/proc/locks', 'utf8')
      .split('\n')
      .some((line) => line.includes(' FLOCK ') && line.split(/\s+/)[4] === String(pid))
    const startTime = processStartTime(pid)
    return isHeld && startTime !== undefined ? { pid, startTime } : undefined
  } catch {
    return undefined
  }
}
