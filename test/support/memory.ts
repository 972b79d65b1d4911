/** What memory a process has, from /proc. */
import { readFileSync } from 'node:fs'

/** Resident memory in MiB, with what part of it the process shares with nobody. */
export function residentMb(pid: number): { rss: number; anonymous: number; peak: number } {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  const mb = (name: string): number => Math.round((Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0) / 1024) * 10) / 10
  return { rss: mb('VmRSS'), anonymous: mb('RssAnon'), peak: mb('VmHWM') }
}
