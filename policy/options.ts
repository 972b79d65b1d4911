/** What decides whether a document is accepted, beside the document itself. */
import type { Config } from '#config/schema.ts'
import type { Dialect } from './model.ts'

export interface ParseOptions {
  readonly dialect: Dialect
  /** Largest compiled size of one regular expression. */
  readonly regexProgramSizeMax: number
  /** Whether L7 rules are accepted. */
  readonly l7Proxy: boolean
  /** Whether the dialect cilium knows protocols without ports. */
  readonly extendedIpProtocols: boolean
}

/** @param dialect instead of the configured one */
export function parseOptions({ policy, http }: Config, dialect?: Dialect): ParseOptions {
  const { l7Proxy, extendedIpProtocols } = policy
  return { dialect: dialect ?? policy.dialect, regexProgramSizeMax: http.regexProgramSizeMax, l7Proxy, extendedIpProtocols }
}

/** Whether rules with names make queries pass the DNS process (EngineOptions.observesQueries). @param dialect instead of the configured one */
export function observesQueries({ dns, policy }: Config, dialect: Dialect = policy.dialect): boolean {
  return dns.observeQueries === 'auto' ? dialect === 'extended' : dns.observeQueries === 'always'
}
