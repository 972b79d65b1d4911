/** A name looked up by the resolver of this machine, as the answer that `policy trace --resolve` judges. */
import { Resolver } from 'node:dns/promises'
import { ALIASES_MAX } from '#policy/trace/names.ts'
import { CliError } from './errors.ts'

export interface ResolvedName {
  /** Addresses of IPv4. */
  readonly answers: readonly string[]
  /** What the name is an alias of, one after the other. */
  readonly cnames: readonly string[]
}

type Lookups = Pick<Resolver, 'resolve4' | 'resolveCname'>

const OPTIONS = { timeout: 3000, tries: 2 }
/** Of c-ares, in words. */
const REASONS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no such name',
  ENODATA: 'it has no address of IPv4',
  ESERVFAIL: 'the name server failed',
  EREFUSED: 'the name server refused',
  ECONNREFUSED: 'no name server answers',
  ETIMEOUT: 'no name server answered in time',
}
const NO_ALIAS: ReadonlySet<string> = new Set(['ENODATA', 'ENOTFOUND'])

/** @param name that somebody can ask for @throws CliError HG-1113 */
export async function resolveName(name: string, resolver: Lookups = new Resolver(OPTIONS)): Promise<ResolvedName> {
  try {
    const answers = await resolver.resolve4(name)
    const cnames: string[] = []
    for (let alias = await aliasOf(resolver, name); alias !== undefined; alias = await aliasOf(resolver, alias)) {
      // A chain that is longer, or a loop, is for the question to refuse.
      if (cnames.push(alias) > ALIASES_MAX) break
    }
    return { answers, cnames }
  } catch (cause) {
    const code = codeOf(cause)
    throw new CliError('HG-1113', `cannot look up ${name}: ${REASONS[code] ?? code}`, { cause })
  }
}

async function aliasOf(resolver: Lookups, name: string): Promise<string | undefined> {
  try {
    return (await resolver.resolveCname(name))[0]
  } catch (error) {
    if (NO_ALIAS.has(codeOf(error))) return undefined
    throw error
  }
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error)
}
