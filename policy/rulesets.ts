/**
 * From the L7 parts of all rules that cover one block of traffic to one ruleset. What cannot hold together (two kinds of rules, two
 * certificates) makes a ruleset of kind conflict, whose traffic is denied: policy/lint finds the same before anything is in force.
 */
import type { TlsContext } from '#parsers/tls/rules.ts'
import type { PortRule } from './model.ts'
import type { NamedRule, ResolvedRuleset, RulesetKind } from './resolved.ts'

/** What a rule says of traffic beside its L7 rules: who has to run them. */
export interface L7Shape
  extends Pick<ResolvedRuleset, 'kind' | 'parser' | 'serverNames' | 'terminatingTls' | 'originatingTls' | 'listener'> {
  /** Equal for equal shapes. */
  readonly key: string
}

/** The L7 part of one member of toPorts. */
export interface L7Part {
  readonly shape: L7Shape
  readonly rules: readonly NamedRule[]
}

/** @param nameOf name of an L7 rule @returns undefined for a member without L7 part */
export function l7PartOf(port: PortRule, nameOf: (rule: NamedRule['rule'], kind: RulesetKind) => string): L7Part | undefined {
  const kind = kindOfPart(port)
  if (kind === undefined) return undefined
  const { l7, serverNames = [], terminatingTls, originatingTls, listener } = port
  const shape = {
    kind,
    parser: l7?.kind === 'parser' ? l7.parser : '',
    serverNames: serverNames.toSorted(),
    ...(terminatingTls && { terminatingTls }),
    ...(originatingTls && { originatingTls }),
    ...(listener && { listener }),
  }
  const rules = (l7?.rules ?? []).map((rule): NamedRule => ({ name: nameOf(rule, kind), rule }))
  return { shape: { ...shape, key: JSON.stringify(shape) }, rules }
}

const DNS_SHAPE = { kind: 'dns', parser: '', serverNames: [] } as const

/** Of a rule that is about DNS, without rules of its own. */
export const DNS_PART: L7Part = { shape: { ...DNS_SHAPE, key: JSON.stringify(DNS_SHAPE) }, rules: [] }

const TCP = 6
const UDP = 17

/** Who would have to run the L7 part of a member of toPorts; undefined without one. */
export function kindOfPart({ l7, serverNames = [], terminatingTls, originatingTls, listener }: PortRule): RulesetKind | undefined {
  if (l7 !== undefined) return l7.kind
  if (listener !== undefined) return 'listener'
  return serverNames.length > 0 || terminatingTls !== undefined || originatingTls !== undefined ? 'tls' : undefined
}

/** Only DNS is read from datagrams: a member with another L7 part is about nothing else than TCP, whatever protocols it names. */
export function canRead(kind: RulesetKind | undefined, protocol: number): boolean {
  return kind === undefined || protocol === TCP || (kind === 'dns' && protocol === UDP)
}

export interface L7Cover {
  /** Shapes of allow rules, and of deny rules. */
  readonly shapes: readonly L7Shape[]
  readonly denyShapes: readonly L7Shape[]
  readonly allow: readonly NamedRule[]
  readonly deny: readonly NamedRule[]
  /** A rule without L7 part is among those that allow. */
  readonly hasPlain: boolean
}

export function mergeRulesets({ shapes, denyShapes, allow, deny, hasPlain }: L7Cover): ResolvedRuleset {
  const all = [...shapes, ...denyShapes]
  const contents = all.filter(({ kind }) => kind !== 'tls' && kind !== 'listener')
  const [content] = contents
  const terminating = contextsOf(all.flatMap(({ terminatingTls }) => terminatingTls ?? []))
  const originating = contextsOf(all.flatMap(({ originatingTls }) => originatingTls ?? []))
  const listeners = listenersOf(all)
  const serverNames = [...new Set(shapes.flatMap((shape) => shape.serverNames))].sort()
  const [terminatingTls] = terminating
  const [originatingTls] = originating
  const [listener] = listeners
  const conflict = conflictOf(contents, all, { terminating, originating, listeners, serverNames })
  return {
    kind: conflict === '' ? (content?.kind ?? (listener === undefined ? 'tls' : 'listener')) : 'conflict',
    parser: content?.parser ?? '',
    allowAll: hasPlain,
    allow,
    deny,
    serverNames,
    ...(terminatingTls && { terminatingTls }),
    ...(originatingTls && { originatingTls }),
    ...(listener && { listener }),
    conflict,
  }
}

interface Contexts {
  readonly terminating: readonly TlsContext[]
  readonly originating: readonly TlsContext[]
  readonly listeners: readonly object[]
  readonly serverNames: readonly string[]
}

function conflictOf(
  contents: readonly L7Shape[],
  all: readonly L7Shape[],
  { terminating, originating, listeners, serverNames }: Contexts,
): string {
  const kinds = [...new Set(contents.map(({ kind, parser }) => (kind === 'parser' ? parser : kind)))].sort()
  if (kinds.length > 1) return `${kinds.join(' and ')} rules for the same traffic`
  if (terminating.length > 1) return 'different terminatingTLS for the same traffic'
  if (originating.length > 1) return 'different originatingTLS for the same traffic'
  if (listeners.length > 1) return 'different listeners of equal priority for the same traffic'
  if (kinds.length > 0 && listeners.length > 0) return `${kinds.join()} rules and a listener for the same traffic`
  if (kinds[0] === 'dns' && all.some(({ kind }) => kind === 'tls')) return 'dns rules and TLS for the same traffic'
  if (kinds.length > 0 && serverNames.length > 0 && terminating.length === 0)
    return `${kinds.join()} rules and serverNames without terminatingTLS for the same traffic`
  return ''
}

function contextsOf(contexts: readonly TlsContext[]): TlsContext[] {
  return [...new Map(contexts.map((context) => [JSON.stringify(context), context])).values()]
}

/** Those of the best priority; none stated is the last. */
function listenersOf(shapes: readonly L7Shape[]): NonNullable<L7Shape['listener']>[] {
  const listeners = [
    ...new Map(shapes.flatMap(({ listener }) => (listener ? [[JSON.stringify(listener), listener] as const] : []))).values(),
  ]
  const rank = ({ priority }: { readonly priority: number }) => priority || Number.POSITIVE_INFINITY
  const best = Math.min(...listeners.map(rank))
  return listeners.filter((listener) => rank(listener) === best)
}
