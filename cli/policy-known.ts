/** What the DNS process knows of a name while `policy trace --live` is about it: learned already, whoever asked. */
import type { Config } from '#config/schema.ts'
import { CliError } from './errors.ts'

export interface KnownAddress {
  readonly address: string
  readonly ttlSeconds: number
  /** Its answer ran out; connections keep it. */
  readonly zombie: boolean
  /** The only endpoint that knows; 0: all of them do. */
  readonly endpointId: number
}

/** Neither where nothing was asked. */
export interface KnownNow {
  readonly known?: readonly KnownAddress[]
  /** Why it could not be told. */
  readonly knownProblem?: string
}

/** Never throws for a DNS process that does not answer: policy says what it says without. */
export async function knownOf(name: string, config: Config): Promise<KnownNow> {
  const { create, ListNamesRequestSchema, withNames } = await import('./names-client.ts')
  try {
    const found = await withNames(config, (names) => names.list(create(ListNamesRequestSchema, { pattern: name })))
    const known = found.map(({ address, ttlSeconds, zombie, endpointId }) => ({ address, ttlSeconds, zombie, endpointId }))
    // By code units: the order is the same whatever the locale.
    return { known: known.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : a.endpointId - b.endpointId)) }
  } catch (error) {
    if (error instanceof CliError) return { knownProblem: error.message }
    throw error
  }
}

export function knownLines({ known, knownProblem }: KnownNow): string[] {
  if (knownProblem !== undefined) return [`known now: cannot be told, ${knownProblem}`]
  if (known === undefined) return []
  const texts = known.map(({ address, ttlSeconds, zombie, endpointId }) => {
    const lasts = zombie ? 'connections' : `${ttlSeconds}s`
    return `${address} (${lasts}${endpointId === 0 ? '' : `, endpoint ${endpointId} only`})`
  })
  return [`known now: ${texts.join(', ') || 'nothing'}`]
}
