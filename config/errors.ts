/** Errors of the configuration. */
import { type CodeOf, defineErrors, HeadgateError } from './define-errors.ts'

export const CONFIG_ERRORS = defineErrors('Configuration', {
  'HG-1001': {
    cause: 'The configuration file cannot be read, or a file that was named does not exist.',
    next: 'Check the path given with --config or HEADGATE_CONFIG and that this user may read it.',
  },
  'HG-1002': {
    cause: 'A setting is unknown or its value is not allowed; each problem is listed with its file and line, variable or flag.',
    next: 'Correct what is listed; `headgate config show --origin` prints every setting, docs/configuration.md explains them.',
  },
})

/** One thing wrong with the configuration. */
export interface ConfigProblem {
  /** File, environment variable or flag that it comes from. */
  readonly source: string
  /** 1-based; only for files. */
  readonly line?: number
  /** 1-based; only for files. */
  readonly column?: number
  /** paths.run; empty for the document as a whole. */
  readonly path: string
  readonly message: string
  readonly hint?: string
}

export class ConfigError extends HeadgateError<CodeOf<typeof CONFIG_ERRORS>> {
  override readonly name = 'ConfigError'
  readonly problems: readonly ConfigProblem[]

  constructor(code: CodeOf<typeof CONFIG_ERRORS>, message: string, problems: readonly ConfigProblem[], options?: ErrorOptions) {
    super(CONFIG_ERRORS, code, message, options)
    this.problems = problems
  }
}

/** `file:line:column: path: message; hint` */
export function formatProblem(problem: ConfigProblem): string {
  const position = problem.line === undefined ? '' : `:${problem.line}:${problem.column ?? 1}`
  const path = problem.path === '' ? '' : `${problem.path}: `
  return `${problem.source}${position}: ${path}${problem.message}${problem.hint === undefined ? '' : `; ${problem.hint}`}`
}
