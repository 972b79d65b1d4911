/** What can keep the proxy or Envoy from starting. */
import { type CodeOf, defineErrors, HeadgateError } from '#config/define-errors.ts'

export const PROXY_ERRORS = defineErrors('Proxy and Envoy', {
  'HG-5001': {
    cause: 'A durable file of the proxy cannot be read, is damaged, or was written by a newer version.',
    next: 'Restore the file or run the newer version; removing it is safe when the agent runs, which sends everything again.',
  },
  'HG-5002': {
    cause: 'The agent has not made the namespaces of the proxies in time, or netns.json cannot be read.',
    next: 'Look at the agent: `headgate status` and its log say why it does not start.',
  },
  'HG-5003': {
    cause: 'The proxy process did not serve its socket in time, so Envoy would have nobody to ask for its configuration.',
    next: 'Look at the log of `headgate proxy`.',
  },
  'HG-5004': {
    cause: 'No Envoy binary was found, or the one found cannot be run.',
    next: 'Run the set-up script, or name a binary of Envoy 1.40 with envoy.binary.',
  },
})

export class ProxyError extends HeadgateError<CodeOf<typeof PROXY_ERRORS>> {
  override readonly name = 'ProxyError'

  constructor(code: CodeOf<typeof PROXY_ERRORS>, message: string, options?: ErrorOptions) {
    super(PROXY_ERRORS, code, message, options)
  }
}
