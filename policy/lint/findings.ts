/** What the checks across files say, and the names of the checks, which users' CI goes by. */
import type { Position, Problem, Severity } from '../problems.ts'

/** Every check, with what it is about. Names are for good: people switch single ones off by them. */
export const LINTS = {
  'policy/conflict': 'Rules for the same endpoints, peers and ports that cannot hold together, so that their traffic is denied.',
  'policy/denied-rule': 'An allow rule of which nothing is left, because a deny rule covers it.',
  'policy/redundant-rule': 'A rule that another one makes moot.',
  'policy/l7-useless': 'Rules on layer 7 that a rule without any makes useless.',
  'policy/fqdn-without-dns': 'toFQDNs for endpoints that cannot ask for the names.',
  'policy/unknown-label': 'A selector with a label that no endpoint has.',
  'policy/unknown-namespace': 'A namespace that no endpoint is in.',
  'policy/unknown-reference': 'A CIDR group, service or group that no file defines.',
  'policy/duplicate-name': 'Two documents of one kind and name in different files.',
  'policy/not-compared': 'Checks that were cut short because there is too much to compare.',
} as const
export type LintId = keyof typeof LINTS

export interface Finding extends Problem {
  readonly lint: LintId
}

/** Nobody reads more of one kind. */
export const FINDINGS_OF_LINT_MAX = 500

export class Findings {
  readonly #byLint = new Map<LintId, { findings: Finding[]; omitted: number }>()

  add(lint: LintId, severity: Severity, { file, line, column, path }: Position, message: string, hint: string): void {
    const known = this.#byLint.get(lint) ?? { findings: [], omitted: 0 }
    this.#byLint.set(lint, known)
    if (known.findings.length < FINDINGS_OF_LINT_MAX) known.findings.push({ lint, severity, file, line, column, path, message, hint })
    else known.omitted += 1
  }

  /** In the order of files and lines, with a last one of each kind that counts what was left out. */
  toArray(): readonly Finding[] {
    const all = [...this.#byLint.values()].flatMap(({ findings, omitted }) => {
      const last = findings.at(-1)
      return omitted === 0 || last === undefined
        ? findings
        : [...findings, { ...last, path: '', message: `more findings of this kind are not shown: ${omitted}`, hint: '' }]
    })
    return all.sort((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : a.line - b.line || a.column - b.column))
  }
}

/** `file:line path`, to name a second place in a message. */
export function placeOf({ file, line, path }: Position): string {
  return `${file}:${line}${path === '' ? '' : ` ${path}`}`
}
