/** What a check of `doctor` comes to, whoever may run it: one that may not look says so, and the others go on. */
import { SystemCallError } from '#sys/errors.ts'
import type { Finding } from './processes.ts'

/** A node may have thousands of devices, and the checks run before every `up`: so many are looked at. */
export const DEVICES_MAX = 1024

const LISTED_MAX = 3

/** A finding before it has its name. */
export type Judgement = Omit<Finding, 'name'>

export function ok(detail: string): Judgement {
  return { level: 'ok', detail, hint: '' }
}

export function warning(detail: string, hint: string): Judgement {
  return { level: 'warning', detail, hint }
}

/** Runs a check. What it may not see, or what this kernel does not have, is not known; that alone keeps nothing from running. */
export async function judge(name: string, check: () => Judgement | Promise<Judgement>): Promise<Finding> {
  try {
    return { name, ...(await check()) }
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException
    if (!(error instanceof SystemCallError) && !['EACCES', 'EPERM'].includes(code)) throw error
    return { name, ...warning(`not known: ${message}`, 'run as root, on a kernel that Headgate runs on') }
  }
}

/** `a, b, c and 4 more` */
export function listed(names: readonly string[]): string {
  const rest = names.length - LISTED_MAX
  return rest > 0 ? `${names.slice(0, LISTED_MAX).join(', ')} and ${rest} more` : names.join(', ')
}
