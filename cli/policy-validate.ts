/** `headgate policy validate`: every problem of every file at once, and what is wrong with the files together. No agent, no root. */
import { packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import type { Finding } from '#policy/lint/findings.ts'
import { lintPolicies } from '#policy/lint/lint.ts'
import type { Dialect } from '#policy/model.ts'
import { POLICY_KINDS } from '#policy/model.ts'
import { parseOptions } from '#policy/options.ts'
import type { Problem } from '#policy/problems.ts'
import { EXIT_CODES } from './errors.ts'
import { print, printJson, sanitize } from './output.ts'
import { type CheckedFile, checkFile, formatProblem, policyFilesOf, STANDARD_INPUT } from './policy-files.ts'
import { ruleOf, sarifLog } from './policy-sarif.ts'
import { loadPeople } from './policy-scene.ts'

export interface ValidateOptions {
  readonly output: 'text' | 'json' | 'sarif'
  readonly endpoints?: string
  readonly dialect?: Dialect
}

/** A file with all that is said of it. */
interface Judged {
  readonly file: CheckedFile
  readonly isValid: boolean
  readonly problems: readonly (Problem | Finding)[]
}

/** @throws CliError HG-1111 for what cannot be read */
export async function runValidate(names: readonly string[], options: ValidateOptions, config: Config): Promise<void> {
  const parsing = parseOptions(config, options.dialect)
  const people = options.endpoints === undefined ? undefined : await loadPeople(options.endpoints, config)
  const files: CheckedFile[] = []
  for (const name of names.flatMap((path) => (path === STANDARD_INPUT ? [path] : policyFilesOf(path))))
    files.push(await checkFile(name, parsing))
  const findings = lintPolicies({
    files: files.map(({ file, accepted }) => ({ file, documents: accepted })),
    dialect: parsing.dialect,
    ...(people && {
      known: { labels: people.endpoints.map(({ labels }) => labels), namespaces: people.namespaces },
    }),
  })
  const judged = files.map((file) => judge(file, findings))
  const isValid = judged.every((file) => file.isValid)
  if (options.output === 'sarif')
    printJson(
      sarifLog(
        judged.flatMap(({ problems }) => problems),
        packageVersion(),
      ),
    )
  else if (options.output === 'json') printJson({ valid: isValid, files: judged.map(asJson) })
  else for (const line of judged.flatMap(linesOf)) print(sanitize(line))
  process.exitCode = isValid ? EXIT_CODES.OK : EXIT_CODES.FAILED
}

function judge(file: CheckedFile, findings: readonly Finding[]): Judged {
  const own = findings.filter((finding) => finding.file === file.file)
  const problems = [...file.problems, ...own].sort((a, b) => a.line - b.line || a.column - b.column)
  return { file, isValid: problems.every(({ severity }) => severity !== 'error'), problems }
}

function asJson({ file, isValid, problems }: Judged): object {
  const told = problems.map((problem) => {
    const { lint: _lint, ...rest } = { lint: undefined, ...problem }
    return { ...rest, rule: ruleOf(problem) }
  })
  return { file: file.file, valid: isValid, documents: file.documents, problems: told }
}

function linesOf({ file, isValid, problems }: Judged): string[] {
  const policies = file.documents.filter(({ kind }) => (POLICY_KINDS as readonly string[]).includes(kind)).length
  const others = file.documents.length - policies
  const counts = [
    ...(policies > 0 || others === 0 ? [`${policies} ${policies === 1 ? 'policy' : 'policies'}`] : []),
    ...(others > 0 ? [`${others} ${others === 1 ? 'document' : 'documents'} that policies refer to`] : []),
  ]
  return [...problems.map(formatProblem), `${file.file}: ${isValid ? `valid, ${counts.join(', ')}` : 'refused'}`]
}
