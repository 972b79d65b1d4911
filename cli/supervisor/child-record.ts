/**
 * How a supervisor finds the children that an earlier one left behind: a record per child with its pid and start time (together
 * they name one process for good), and a mark in the child's environment for the moment between its start and its record.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { processStartTime } from '#sys/pidfd.ts'

const RECORD_VERSION = 1

/** Environment variable that marks a child; its value is FOLDER/NAME of its record. */
export const CHILD_MARK = '_HEADGATE_CHILD'

export interface ChildIdentity {
  readonly pid: number
  /** Field 22 of /proc/PID/stat, clock ticks since boot. */
  readonly startTime: string
}

export interface ChildRecord extends ChildIdentity {
  readonly version: typeof RECORD_VERSION
  readonly name: string
  /** Of what it was started with; undefined when it was found by its mark. */
  readonly digest?: string
}

export function isAlive(identity: ChildIdentity): boolean {
  return processStartTime(identity.pid) === identity.startTime
}

/** The living child of that name, if there is one. */
export function findChild(folder: string, name: string): ChildRecord | undefined {
  const record = readRecord(folder, name)
  if (record !== undefined && isAlive(record)) return record
  const marked = findMarked(folder, name)
  return marked === undefined ? undefined : { version: RECORD_VERSION, name, ...marked }
}

/** Written to a temporary file, synced, renamed: a reader finds the old record or the new one. */
export function writeRecord(folder: string, record: Omit<ChildRecord, 'version'>): void {
  mkdirSync(folder, { recursive: true, mode: 0o755 })
  const temporary = join(folder, `.${record.name}.json.tmp`)
  const fd = openSync(temporary, 'w', 0o644)
  try {
    writeSync(fd, `${JSON.stringify({ version: RECORD_VERSION, ...record })}\n`)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(temporary, recordPath(folder, record.name))
}

export function removeRecord(folder: string, name: string): void {
  rmSync(recordPath(folder, name), { force: true })
}

function recordPath(folder: string, name: string): string {
  return join(folder, `${name}.json`)
}

/** Unreadable is as good as absent: the mark finds the child, and a wrong guess would only meet the child's own lock. */
function readRecord(folder: string, name: string): ChildRecord | undefined {
  try {
    const record = JSON.parse(readFileSync(recordPath(folder, name), 'utf8')) as Partial<ChildRecord>
    const isUsable = record.version === RECORD_VERSION && Number.isInteger(record.pid) && typeof record.startTime === 'string'
    return isUsable ? (record as ChildRecord) : undefined
  } catch {
    return undefined
  }
}

/** A child leads a session of its own, which tells it from processes that it started and that inherited its mark. */
function findMarked(folder: string, name: string): ChildIdentity | undefined {
  const mark = `${CHILD_MARK}=${join(folder, name)}`
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      if (!readFileSync(`/proc/${entry}/environ`, 'latin1').split('\0').includes(mark)) continue
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1')
      const session = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]
      const pid = Number(entry)
      const startTime = processStartTime(pid)
      if (session === entry && startTime !== undefined) return { pid, startTime }
    } catch {
      // Gone since it was listed, or not ours to read.
    }
  }
  return undefined
}
