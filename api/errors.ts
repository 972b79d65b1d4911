/** What can go wrong between the processes of one node before any message is exchanged. */
import { type CodeOf, defineErrors, HeadgateError } from '#config/define-errors.ts'

export const API_ERRORS = defineErrors('Local sockets', {
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
})

/** A local socket cannot be served. */
export class ApiError extends HeadgateError<CodeOf<typeof API_ERRORS>> {
  override readonly name = 'ApiError'
  readonly path: string

  constructor(code: CodeOf<typeof API_ERRORS>, message: string, path: string, options?: ErrorOptions) {
    super(API_ERRORS, code, `${message}: ${path}`, options)
    this.path = path
  }
}
