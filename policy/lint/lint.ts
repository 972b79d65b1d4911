/**
 * What is wrong with policies only as they stand together, over all files that are given: conflicts that Cilium finds at an endpoint,
 * rules that others make moot, names that nothing has. Judged by documents alone, without endpoints, so every check says less than it
 * could rather than something wrong.
 */
import type { Dialect, PolicyDocument } from '../model.ts'
import { findConflicts } from './conflicts.ts'
import { type Finding, Findings } from './findings.ts'
import { findMootRules } from './moot.ts'
import { findFqdnsWithoutDns, findTwins, findUnknownLabels, findUnknownReferences, type KnownEndpoints } from './names.ts'
import { RuleIndex } from './rule-index.ts'

export interface LintInput {
  readonly files: readonly { readonly file: string; readonly documents: readonly PolicyDocument[] }[]
  readonly dialect: Dialect
  /** Absent: nothing is said about labels. */
  readonly known?: KnownEndpoints
}

export function lintPolicies({ files, dialect, known }: LintInput): readonly Finding[] {
  const documents = files.flatMap((file) => file.documents)
  const findings = new Findings()
  const checks: ((index: RuleIndex) => void)[] = [
    (index) => findConflicts(index, findings),
    (index) => findMootRules(index, findings),
    (index) => findFqdnsWithoutDns(index, dialect, findings),
  ]
  // Each with a budget of its own.
  for (const check of checks) {
    const index = RuleIndex.of(documents)
    check(index)
    const at = index.policies[0]?.at
    if (index.isExhausted && at !== undefined) {
      const message = `there are too many rules for the same endpoints to compare all: ${index.rules.length}`
      findings.add('policy/not-compared', 'warning', { ...at, path: '' }, message, 'check folders one by one')
    }
  }
  const index = RuleIndex.of(documents)
  if (known !== undefined) findUnknownLabels(index, known, findings)
  findUnknownReferences(files, index, findings)
  findTwins(documents, findings)
  return findings.toArray()
}
