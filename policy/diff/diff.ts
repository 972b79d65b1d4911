/**
 * Which flows two sets of policies judge differently: between all parties that either side can tell apart, over all traffic. A pair is
 * compared by the profiles of its two sides; what comes out is exact, not a sample, but for endpoints and names that nobody told of.
 */
import type { Party, Scene, SceneEndpoint, SceneNode } from '../trace/scene.ts'
import { hasPorts, ICMP_PROTOCOLS, trafficName } from '../trace/traffic.ts'
import { type Outcome, Outcomes } from './outcomes.ts'
import { type AskedParty, askedParties } from './parties.ts'
import { OTHER_PROTOCOL, openSide, type Profile, ProfileNumbers, protocolsOf, type Segment, Sides } from './profiles.ts'

/** Traffic of a pair whose verdict is another one now. */
export interface FlowChange {
  readonly from: string
  readonly to: string
  /** How many pairs of endpoints it stands for. */
  readonly pairs: number
  /** 80/TCP, 8000-8999/UDP, icmp/8, any traffic. */
  readonly traffic: string
  readonly before: Verdict
  readonly after: Verdict
}

/** Of both sides together. */
export interface Verdict {
  readonly verdict: Outcome['verdict']
  readonly audit: boolean
  /** What requests have to meet; those of the sender's side begin with "egress". */
  readonly rules: readonly string[]
}

export interface PolicyDiff {
  /** The first of them. */
  readonly changes: readonly FlowChange[]
  readonly changeCount: number
  readonly partyCount: number
  /** Prefixes, names or endpoints that were too many to ask about. */
  readonly omittedCount: number
}

export interface DiffInput {
  readonly before: Scene
  readonly after: Scene
  readonly endpoints: readonly SceneEndpoint[]
  readonly nodes: readonly SceneNode[]
  readonly changesMax: number
}

/** A party, as each set of policies knows it. */
interface Seen {
  readonly asked: AskedParty
  readonly before: Party
  readonly after: Party
}

interface ChangedTraffic {
  readonly traffic: string
  readonly before: Verdict
  readonly after: Verdict
}

export function diffPolicies({ before, after, endpoints, nodes, changesMax }: DiffInput): PolicyDiff {
  const { parties, omittedCount } = askedParties([before, after], endpoints, nodes)
  const seen = parties.map((asked): Seen => ({ asked, before: before.party(asked.text), after: after.party(asked.text) }))
  const groups = seen.flatMap((party) => [
    ...(party.before.subject === undefined ? [] : [before.groupOf(party.before)]),
    ...(party.after.subject === undefined ? [] : [after.groupOf(party.after)]),
  ])
  const numbers = new ProfileNumbers(new Outcomes())
  const protocols = protocolsOf(groups)
  const open = openSide(numbers, protocols)
  const [old, now] = [new Sides(before, numbers, protocols, open), new Sides(after, numbers, protocols, open)]
  const parted = seen.map((party) => ({
    ...party,
    egress: [old.of('egress', party.before), now.of('egress', party.after)] as const,
    ingress: [old.of('ingress', party.before), now.of('ingress', party.after)] as const,
  }))
  const compared = new Map<string, readonly ChangedTraffic[]>()
  const changes: FlowChange[] = []
  let changeCount = 0
  for (const from of parted) {
    const isOpen = from.egress.every((side) => side === open)
    for (const to of parted) {
      if (isOpen && to.ingress.every((side) => side === open)) continue
      const pair: PairProfiles = [
        from.egress[0].of(to.before),
        to.ingress[0].of(from.before),
        from.egress[1].of(to.after),
        to.ingress[1].of(from.after),
      ]
      if (pair[0] === pair[2] && pair[1] === pair[3]) continue
      const key = pair.map(({ number }) => number).join()
      let changed = compared.get(key)
      if (changed === undefined) {
        changed = compare(pair, protocols)
        compared.set(key, changed)
      }
      changeCount += changed.length
      const pairs = from.asked.count * to.asked.count
      for (const traffic of changed.slice(0, Math.max(0, changesMax - changes.length)))
        changes.push({ from: shown(from.asked), to: shown(to.asked), pairs, ...traffic })
    }
  }
  return { changes, changeCount, partyCount: seen.length, omittedCount }
}

/** Of the sender and the receiver before, and of both after. */
type PairProfiles = readonly [Profile, Profile, Profile, Profile]

function shown({ name, count }: AskedParty): string {
  return count > 1 ? `${name} (and ${count - 1} alike)` : name
}

interface Stretch {
  readonly protocol: number
  readonly first: number
  readonly last: number
  readonly before: Verdict
  readonly after: Verdict
  readonly key: string
}

const PORT_LAST = 65535

function compare(pair: PairProfiles, protocols: readonly number[]): ChangedTraffic[] {
  const stretches = protocols.flatMap((protocol) =>
    stretchesOf(
      pair.map(({ segments }) => segments.get(protocol) ?? []),
      protocol,
    ),
  )
  const changed = stretches.filter((stretch) => JSON.stringify(stretch.before) !== JSON.stringify(stretch.after))
  const [first] = changed
  const isWhole = ({ first: port, last }: Stretch) => port === 0 && last === PORT_LAST
  if (
    first !== undefined &&
    changed.length === protocols.length &&
    changed.every((stretch) => isWhole(stretch) && stretch.key === first.key)
  )
    return [{ traffic: 'any traffic', before: first.before, after: first.after }]
  return withAnyProtocol(changed).map(({ name, stretch }) => ({ traffic: name, before: stretch.before, after: stretch.after }))
}

/** @param lists of the sender and the receiver before, and of both after */
function stretchesOf(lists: readonly (readonly Segment[])[], protocol: number): Stretch[] {
  const cuts = [...new Set(lists.flatMap((list) => list.map(({ first }) => first)))].sort((a, b) => a - b)
  const positions = lists.map(() => 0)
  const stretches: Stretch[] = []
  for (const [index, first] of cuts.entries()) {
    const outcomes = lists.map((list, which) => {
      while ((list[(positions[which] ?? 0) + 1]?.first ?? PORT_LAST + 1) <= first) positions[which] = (positions[which] ?? 0) + 1
      return list[positions[which] ?? 0]?.outcome
    })
    const last = (cuts[index + 1] ?? PORT_LAST + 1) - 1
    const [before, after] = [together(outcomes[0], outcomes[1]), together(outcomes[2], outcomes[3])]
    const key = JSON.stringify([before, after])
    const previous = stretches.at(-1)
    if (previous?.key === key) stretches[stretches.length - 1] = { ...previous, last }
    else stretches.push({ protocol, first, last, before, after, key })
  }
  return stretches
}

function together(egress: Outcome | undefined, ingress: Outcome | undefined): Verdict {
  const both = [egress, ingress].filter((outcome) => outcome !== undefined)
  if (both.some(({ verdict }) => verdict === 'denied')) return { verdict: 'denied', audit: false, rules: [] }
  const isRedirected = both.some(({ verdict }) => verdict === 'redirected')
  const rules = [...(egress?.rules ?? []).map((rule) => `egress ${rule}`), ...(ingress?.rules ?? [])]
  return { verdict: isRedirected ? 'redirected' : 'allowed', audit: both.some(({ audit }) => audit), rules }
}

/** Where TCP, UDP and SCTP say the same of the same ports, it is said once. */
function withAnyProtocol(changed: readonly Stretch[]): { readonly name: string; readonly stretch: Stretch }[] {
  const byPorts = new Map<string, Stretch[]>()
  for (const stretch of changed) {
    const key = hasPorts(stretch.protocol) ? `${stretch.first}-${stretch.last} ${stretch.key}` : `${stretch.protocol} ${stretch.first}`
    byPorts.set(key, [...(byPorts.get(key) ?? []), stretch])
  }
  return [...byPorts.values()].flatMap((alike) => {
    const [first] = alike
    if (first !== undefined && alike.length === 3) return [{ name: nameOf(first, 'ANY'), stretch: first }]
    return alike.map((stretch) => ({ name: nameOf(stretch), stretch }))
  })
}

function nameOf({ protocol, first, last }: Stretch, protocolName?: string): string {
  if (protocol === OTHER_PROTOCOL) return 'other protocols'
  if (ICMP_PROTOCOLS[protocol] !== undefined) {
    const [type, lastType] = [first >> 8, last >> 8]
    const name = trafficName(protocol, type)
    if (type === 0 && lastType === 255) return name.slice(0, name.indexOf('/'))
    return type === lastType ? name : `${name}-${lastType}`
  }
  if (!hasPorts(protocol)) return trafficName(protocol, 0)
  const name = protocolName ?? trafficName(protocol, 0).slice(2)
  if (first <= 1 && last === PORT_LAST) return `every port/${name}`
  return `${first === last ? first : `${first}-${last}`}/${name}`
}

const RULES_SHOWN_MAX = 4

/** `allowed -> denied`, or of requests `redirected: +rule -rule`. */
export function describeChange({ before, after }: Pick<FlowChange, 'before' | 'after'>): string {
  if (before.verdict !== 'redirected' || after.verdict !== 'redirected') return `${describeVerdict(before)} -> ${describeVerdict(after)}`
  const changes = [
    ...after.rules.filter((rule) => !before.rules.includes(rule)).map((rule) => `+${rule}`),
    ...before.rules.filter((rule) => !after.rules.includes(rule)).map((rule) => `-${rule}`),
  ]
  const audit = before.audit === after.audit ? [] : [after.audit ? '+audit' : '-audit']
  return `redirected: ${few([...changes, ...audit], ' ')}`
}

function describeVerdict({ verdict, audit, rules }: Verdict): string {
  const word = `${verdict}${audit ? ' in audit' : ''}`
  return verdict === 'redirected' ? `${word} (${few(rules, ', ') || 'no request'})` : word
}

function few(texts: readonly string[], separator: string): string {
  const rest = texts.length - RULES_SHOWN_MAX
  return [...texts.slice(0, RULES_SHOWN_MAX), ...(rest > 0 ? [`and ${rest} more`] : [])].join(separator)
}
