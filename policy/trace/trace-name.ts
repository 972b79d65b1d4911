/**
 * The verdict on a flow to a DNS name, in the order in which it happens: may the name be asked for, what does each address of the answer
 * teach, and may that address be reached as what it is and by the names that it is known by then.
 */
import type { DnsRule } from '#parsers/dns/rules.ts'
import { describeL7Rule } from './explain.ts'
import { type NameServer, nameServersOf } from './name-servers.ts'
import { type MetSelectors, SELECTORS_OF_ADDRESS_MAX } from './names.ts'
import type { Party, Scene } from './scene.ts'
import { isDenied, judgeSides, type TracedFlow, type TraceQuery, trace } from './trace.ts'
import { parseTraffic, type TracedTraffic } from './traffic.ts'

export interface NameTraceQuery {
  readonly from: Party
  /** The name, and what it is an alias of, lower-case, with a trailing dot. */
  readonly names: readonly [string, ...string[]]
  /** What the answer has; empty: judged is some address of the world. */
  readonly addresses: readonly string[]
  /** Who is asked, for Scene.party; undefined: whom policy lets it ask. */
  readonly server: string | undefined
  readonly traffic: TracedTraffic
}

/** The query, as a flow to a server. */
export interface TracedQuery extends TracedFlow {
  /** The one that is named, else one that policy is about. */
  readonly server: string
  /** 53/UDP */
  readonly port: string
  /** Whether it passes the DNS process: only then an answer teaches. */
  readonly seen: boolean
  /** The chain, without last dots. */
  readonly names: readonly string[]
  readonly selectors: readonly TracedSelector[]
  /** Absent when there is nothing to say. */
  readonly notes?: readonly string[]
}

/** A name or pattern of toFQDNs that matches. */
export interface TracedSelector {
  readonly name: string
  /** A deny rule has it. */
  readonly denies: boolean
}

/** An address of the answer, and the flow to it. */
export interface TracedAddress extends TracedFlow {
  readonly address: string
  readonly teaches: boolean
  /** Why it teaches nothing; else empty. */
  readonly reason: string
  /** Those of the query that it is known by. */
  readonly selectors: readonly string[]
}

/** Of a question about a name, `egress` and `ingress` are those of the first address that is denied, else of the first. */
export interface TraceAnswer extends TracedFlow {
  /** Absent where no name is asked about. */
  readonly query?: TracedQuery
  /** One for each address of the answer, in its order; absent where none is stated. */
  readonly answers?: readonly TracedAddress[]
}

const NOT_SEEN = 'the query does not pass the DNS process'

/** @throws PartyError for a server that is nobody */
export function traceName(scene: Scene, question: NameTraceQuery): TraceAnswer {
  const { from, names, addresses, traffic } = question
  const met = scene.selectorsOf(names)
  const query = traceQuery(scene, question, met)
  // What is denied is told as if it were answered: it stays denied, and what would come next is worth knowing.
  const reason = query.verdict === 'allowed' && !query.seen ? NOT_SEEN : ''
  const answers = addresses.map((address) => traceAddress(scene, question, met, { address, because: reason }))
  const flows: readonly TracedFlow[] =
    answers.length > 0 ? answers : [trace(scene, { from, to: scene.named(undefined, names, reason === ''), traffic })]
  const shown = flows.find(({ verdict }) => verdict === 'denied') ?? (flows[0] as TracedFlow)
  const all = [query, ...flows]
  const isAllowed = all.every(({ verdict }) => verdict === 'allowed')
  return {
    verdict: isAllowed ? 'allowed' : 'denied',
    ...(isAllowed && all.some(({ audit }) => audit === true) && { audit: true }),
    query,
    ...(answers.length > 0 && { answers }),
    egress: shown.egress,
    ingress: shown.ingress,
  }
}

function traceAddress(
  scene: Scene,
  { from, names, traffic }: NameTraceQuery,
  { kept }: MetSelectors,
  { address, because }: { readonly address: string; readonly because: string },
): TracedAddress {
  const reason = scene.reasonAgainstTeaching(address) || because
  const teaches = reason === ''
  const flow = trace(scene, { from, to: scene.named(address, names, teaches), traffic })
  return { address, teaches, reason, selectors: teaches ? kept.map(({ rule }) => textOf(rule)) : [], ...flow }
}

function traceQuery(scene: Scene, { from, names, server }: NameTraceQuery, { matching, kept }: MetSelectors): TracedQuery {
  let best: { readonly text: string; readonly query: TraceQuery; readonly rank: number } | undefined
  for (const one of nameServersOf(scene, from, server)) {
    const asked = queryTo(scene, from, names[0], one)
    const rank = rankOf(judgeSides(scene, asked))
    if (best === undefined || rank > best.rank) best = { text: one.text, query: asked, rank }
    if (rank === RANK_BEST) break
  }
  if (best === undefined) throw new RangeError('nobody is asked')
  const flow = trace(scene, best.query)
  const { egress } = flow
  const seen = egress.verdict === 'redirected' && egress.l7 === 'allowed'
  const notes = [
    ...(seen && !hasDnsRules(scene, from) ? ['seen though no rule is about DNS, because rules have names (dns.observeQueries)'] : []),
    ...(matching.length > 0 && !seen && flow.verdict === 'allowed' ? [`${NOT_SEEN}: no address becomes known by its names`] : []),
    ...(kept.length < matching.length
      ? [`an address is known by ${SELECTORS_OF_ADDRESS_MAX} selectors at most, first by those that deny: ${matching.length} match`]
      : []),
  ]
  return {
    server: best.text,
    port: best.query.traffic.name,
    seen,
    names: names.map(withoutDot),
    selectors: matching.map(({ rule, denies }) => ({ name: textOf(rule), denies })),
    ...flow,
    ...(notes.length > 0 && { notes }),
  }
}

function hasDnsRules(scene: Scene, from: Party): boolean {
  return scene.specsOf(from).some(({ rules }) =>
    rules.some(({ rule: { direction, verdict, traffic } }) => {
      if (direction !== 'egress' || verdict !== 'allow' || traffic.kind !== 'ports') return false
      return traffic.rules.some(({ l7 }) => l7?.kind === 'dns')
    }),
  )
}

function queryTo(scene: Scene, from: Party, name: string, { text, port }: NameServer): TraceQuery {
  const to = scene.party(text)
  return { from, to, traffic: { ...parseTraffic(port, []), request: { kind: 'dns', name }, serverName: undefined } }
}

/** Servers whose answers teach before those that nobody listens to: rules for DNS say what may be asked, whatever else lets queries by. */
function rankOf(sides: ReturnType<typeof judgeSides>): number {
  const isSeen = sides.egress?.verdict === 'redirected'
  const isAllowed = !Object.values(sides).some(isDenied)
  return (isSeen ? 2 : 0) + (isAllowed ? 1 : 0)
}

const RANK_BEST = 3

function textOf(rule: DnsRule): string {
  return describeL7Rule(rule)
}

function withoutDot(name: string): string {
  return name.slice(0, -1)
}
