/** Errors of the command line, and the exit codes. */
import { type CodeOf, defineErrors, HeadgateError } from '#config/define-errors.ts'

/** What `headgate` exits with. */
export const EXIT_CODES = {
  /** Done; everything asked for is so. */
  OK: 0,
  /** The answer is no: refused, not found, failed, not in time. */
  FAILED: 1,
  /** It could not be tried: usage, configuration, privileges, no agent. */
  COULD_NOT_RUN: 2,
} as const

export const CLI_ERRORS = defineErrors('Command line', {
  'HG-1101': {
    cause: 'The agent does not answer on its local socket.',
    next: 'Start it with `headgate up`, or name its configuration with --config or its folder with --set paths.run=PATH.',
  },
  'HG-1102': {
    cause: 'The command needs root.',
    next: 'Run it as root, or with sudo.',
  },
  'HG-1103': {
    cause: 'A policy document is refused; every problem is listed with its file, line and field.',
    next: 'Correct what is listed and run the command again; nothing was changed.',
  },
  'HG-1104': {
    cause: 'Something did not happen within the time given.',
    next: 'Look at `headgate status`, or give more time with --timeout.',
  },
  'HG-1105': {
    cause: 'Headgate is running already with the same paths.run.',
    next: 'Stop the other one first, or give this one its own instance and paths.',
  },
  'HG-1106': {
    cause: 'This machine cannot run Headgate as it is; `headgate doctor` lists what is missing.',
    next: 'Follow the hints of the failed checks.',
  },
  'HG-1107': {
    cause: 'There is nothing of that name.',
    next: 'List what there is: `headgate endpoint list`, `headgate policy list`.',
  },
  'HG-1108': {
    cause: 'An argument has a form that the command does not accept.',
    next: 'See `headgate help COMMAND`.',
  },
  'HG-1109': {
    cause: 'The agent refused the request.',
    next: 'The message says why; `headgate status` shows the state that it refers to.',
  },
  'HG-1110': {
    cause: 'This user may not use the agent’s local socket.',
    next: 'Run the command as root or as a member of the group that the setting `group` names.',
  },
  'HG-1111': {
    cause: 'A file or folder that the command writes or reads could not be used.',
    next: 'Check that the path exists and its permissions.',
  },
  'HG-1112': {
    cause: 'The DNS process does not answer on its socket.',
    next: 'Start it with `headgate up` or `headgate dns-proxy`, or name its configuration with --config or its folder with --set paths.run=PATH.',
  },
  'HG-1113': {
    cause: 'The resolver of this machine has no answer for a name that `policy trace --resolve` is about.',
    next: 'Check the name and /etc/resolv.conf, or say what it is answered with: --answer ADDRESS.',
  },
})

export type CliErrorCode = CodeOf<typeof CLI_ERRORS>

const COULD_NOT_RUN: ReadonlySet<CliErrorCode> = new Set([
  'HG-1101',
  'HG-1102',
  'HG-1105',
  'HG-1106',
  'HG-1108',
  'HG-1110',
  'HG-1111',
  'HG-1112',
  'HG-1113',
])

export class CliError extends HeadgateError<CliErrorCode> {
  override readonly name = 'CliError'
  /** Printed under the message, a line each. */
  readonly details: readonly string[]

  constructor(code: CliErrorCode, message: string, options: ErrorOptions & { readonly details?: readonly string[] } = {}) {
    super(CLI_ERRORS, code, message, options)
    this.details = options.details ?? []
  }

  get exitCode(): number {
    return COULD_NOT_RUN.has(this.code) ? EXIT_CODES.COULD_NOT_RUN : EXIT_CODES.FAILED
  }
}
