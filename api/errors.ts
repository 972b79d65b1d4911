/** What can go wrong between the processes of one node beside their messages. */
import { type CodeOf, defineErrors, HeadgateError } from '#config/define-errors.ts'

export const API_ERRORS = defineErrors('Between processes', {
  'HG-5901': {
    cause: 'A living process already serves the socket: two instances share one paths.run.',
    next: 'Stop the other process, or give this instance its own paths.run.',
  },
  'HG-5902': {
    cause: 'The path of a UNIX socket is longer than the kernel allows (107 bytes).',
    next: 'Choose a shorter paths.run.',
  },
  'HG-5903': {
    cause: 'The socket cannot be made or given its mode and owner.',
    next: 'Check that paths.run is on a local file system and that this process runs as root.',
  },
  'HG-5904': {
    cause: 'What a process keeps or reads of what the agent has told is damaged, or was written by a newer version.',
    next: 'Restore the file or run the newer version; removing it is safe when the agent runs, which sends everything again.',
  },
})

/** A local socket cannot be served, or a copy of what came over one not be read. */
export class ApiError extends HeadgateError<CodeOf<typeof API_ERRORS>> {
  override readonly name = 'ApiError'
  readonly path: string

  constructor(code: CodeOf<typeof API_ERRORS>, message: string, path: string, options?: ErrorOptions) {
    super(API_ERRORS, code, `${message}: ${path}`, options)
    this.path = path
  }
}
