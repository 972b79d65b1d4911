/** Waiting for processes that are not our children, by pidfd: no polling, and no confusion when a pid is used again. */
import { readFileSync } from 'node:fs'
import { SystemCallError } from './errors.ts'
import { close, syscall, waitReadable } from './libc.ts'

const SYS_PIDFD_OPEN = 434
/** A stopped waiter gives its pool thread back within this time. */
const POLL_SLICE_MS = 500

/**
 * Start time of a process in clock ticks since boot; with the pid it names one process for good.
 * @returns undefined when there is no such process, or only a zombie of it
 */
export function processStartTime(pid: number): string | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The command in parentheses may hold anything, spaces and parentheses too.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19]
}

/** Resolves when the process is gone, at once if it already is; rejects only when the signal aborts. */
export async function watchExit(pid: number, signal?: AbortSignal): Promise<void> {
  let fd: number
  try {
    fd = syscall('pidfd_open', SYS_PIDFD_OPEN, pid)
  } catch (error) {
    if (error instanceof SystemCallError && error.code === 'ESRCH') return
    throw error
  }
  try {
    while (!(await waitReadable(fd, POLL_SLICE_MS))) signal?.throwIfAborted()
  } finally {
    close(fd)
  }
}
