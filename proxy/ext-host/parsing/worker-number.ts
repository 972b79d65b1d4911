/** The number of a worker, which is its own while it takes connections. */
import { setTimeout as delay } from 'node:timers/promises'
import { LockHeldError } from '#sys/errors.ts'
import { acquireLock, type Lock } from '#sys/flock.ts'

/** For the worker before to see that its parent is gone, and to let go of its number; one that does not hangs. */
const NUMBER_WAIT_MS = 5000
const NUMBER_RETRY_MS = 50

/**
 * There is one extension host, and it has one worker of each number: who else has it is of an extension host that is gone.
 * @throws LockHeldError
 */
export async function takeNumber(path: string): Promise<Lock> {
  const deadline = performance.now() + NUMBER_WAIT_MS
  for (;;) {
    try {
      return acquireLock(path)
    } catch (error) {
      if (!(error instanceof LockHeldError)) throw error
      if (performance.now() > deadline + NUMBER_WAIT_MS) throw error
      if (performance.now() > deadline && error.holderPid > 0) kill(error.holderPid)
    }
    await delay(NUMBER_RETRY_MS)
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    // It ended just now.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
