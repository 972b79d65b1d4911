/** Findings of `policy validate` as SARIF 2.1.0, which CI systems show beside the line that they are about. */
import { isAbsolute } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Finding } from '#policy/lint/findings.ts'
import { LINTS } from '#policy/lint/findings.ts'
import type { Problem } from '#policy/problems.ts'
import { STANDARD_INPUT } from './policy-files.ts'

/** What the parser says of one file, by severity. */
export const PARSER_RULES = {
  'policy/invalid': 'Something that a policy cannot say; the file is refused.',
  'policy/suspicious': 'Something that is legal and surely not meant.',
} as const
export type RuleId = keyof typeof LINTS | keyof typeof PARSER_RULES

const RULES: Readonly<Record<RuleId, string>> = { ...PARSER_RULES, ...LINTS }

/** Which rule a problem is of. */
export function ruleOf(problem: Problem | Finding): RuleId {
  if ('lint' in problem) return problem.lint
  return problem.severity === 'error' ? 'policy/invalid' : 'policy/suspicious'
}

export function sarifLog(problems: readonly (Problem | Finding)[], version: string): object {
  const ids = Object.keys(RULES) as RuleId[]
  return {
    $schema: 'https://json.schemastore.org/sarif-2.1.0.json',
    version: '2.1.0',
    runs: [
      {
        tool: {
          driver: {
            name: 'headgate',
            version,
            rules: ids.map((id) => ({ id, shortDescription: { text: RULES[id] } })),
          },
        },
        columnKind: 'utf16CodeUnits',
        results: problems.map((problem) => {
          const { severity, file, line, column, path, message, hint } = problem
          const ruleId = ruleOf(problem)
          return {
            ruleId,
            ruleIndex: ids.indexOf(ruleId),
            level: severity,
            message: { text: hint === '' ? message : `${message}; ${hint}` },
            locations: [
              {
                physicalLocation: { artifactLocation: { uri: uriOf(file) }, region: { startLine: line, startColumn: column } },
                ...(path === '' ? {} : { logicalLocations: [{ fullyQualifiedName: path }] }),
              },
            ],
          }
        }),
      },
    ],
  }
}

/** Relative paths stay so: CI systems see them from the root of the checkout. */
function uriOf(file: string): string {
  if (file === STANDARD_INPUT) return 'stdin'
  return isAbsolute(file) ? pathToFileURL(file).href : file.replace(/^\.\//, '').split('/').map(encodeURIComponent).join('/')
}
