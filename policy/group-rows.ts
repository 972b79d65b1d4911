/**
 * The rows of one direction of a group, kept between commits. Peers that the same rules name share one compiled set of blocks; a rule that
 * comes or goes touches the peers that it names, a peer that comes or goes its own rows.
 */
import { createHash } from 'node:crypto'
import { type Block, type CompiledRule, compileBlocks, type RuleScope, type ScopedRule } from './blocks.ts'
import { EVERYTHING, PROTOCOL_NUMBERS } from './compile.ts'
import { ANY_IDENTITY, type Direction, type PeerClass, type PolicyRow, type ResolvedRuleset, rowKey } from './resolved.ts'
import type { NamedPortNumber, SelectorEntry } from './selector-index.ts'

/** A rule with the selectors of its peers in use; none when it is for any peer, or for nobody. */
export interface LiveRule {
  /** Equal numbers are the same rule. */
  readonly serial: number
  readonly direction: Direction
  readonly compiled: CompiledRule
  readonly peers: readonly LivePeer[]
}

export interface LivePeer {
  readonly entry: SelectorEntry
  /** Has to meet what rules require of endpoints. */
  readonly isEndpoint: boolean
}

/** The rules of one direction, and what they are judged by. */
export interface RuleContext {
  readonly rules: readonly (LiveRule & { readonly scope: RuleScope })[]
  /** What is required of endpoints, by the verdict of the rules that name them: as it is enforced, and with the policies in audit. */
  readonly requires: Readonly<Record<'allow' | 'deny', Requirements>>
  /** Whether nothing puts the direction at default deny, as it is enforced, and with the policies in audit. */
  readonly defaultAllow: { readonly enforced: boolean; readonly audit: boolean }
}

export interface Requirements {
  readonly enforced: readonly SelectorEntry[]
  readonly audit: readonly SelectorEntry[]
}

/** Stands for "nothing puts this direction at default deny" where rules exist all the same. */
const DEFAULT_ALLOW: CompiledRule = { name: '(default allow)', verdict: 'allow', isForAnyPeer: true, traffic: [EVERYTHING], named: [] }

type Scoped = RuleContext['rules'][number]
type ClassedBlock = Omit<Block, 'ruleset'> & { readonly classKey?: string }

/** What a set of rules makes of the peers that exactly these rules name. */
interface RuleSet {
  readonly key: string
  readonly own: readonly Scoped[]
  readonly blocks: readonly ClassedBlock[]
  readonly rulesets: ReadonlyMap<string, ResolvedRuleset>
  readonly peers: Set<number>
}

/** The rows of a group, with what changed since it was last asked. */
export class RowTable {
  readonly rows = new Map<string, PolicyRow>()
  readonly classes = new Map<string, PeerClass & { readonly rows: Set<string> }>()
  /** What was there when a key was first touched since then. */
  readonly #before = new Map<string, PolicyRow | undefined>()

  set(key: string, row: PolicyRow, ruleset: ResolvedRuleset | undefined): void {
    this.#forget(key)
    this.rows.set(key, row)
    if (row.classKey === undefined || ruleset === undefined) return
    const known = this.classes.get(row.classKey)
    if (known === undefined) {
      this.classes.set(row.classKey, { key: row.classKey, direction: row.direction, ruleset, rows: new Set([key]) })
    } else known.rows.add(key)
  }

  delete(key: string): void {
    this.#forget(key)
    this.rows.delete(key)
  }

  /** Keys whose rows are not what they were at the last call. */
  takeChanges(): ReadonlySet<string> {
    const changed = new Set<string>()
    for (const [key, before] of this.#before) if (!sameRow(before, this.rows.get(key))) changed.add(key)
    this.#before.clear()
    return changed
  }

  #forget(key: string): void {
    const row = this.rows.get(key)
    if (!this.#before.has(key)) this.#before.set(key, row)
    if (row?.classKey === undefined) return
    const users = this.classes.get(row.classKey)?.rows
    users?.delete(key)
    if (users?.size === 0) this.classes.delete(row.classKey)
  }
}

const NOTHING: Requirements = { enforced: [], audit: [] }
const NO_RULES: RuleContext = { rules: [], requires: { allow: NOTHING, deny: NOTHING }, defaultAllow: { enforced: false, audit: false } }

export class GroupRows {
  readonly #direction: Direction
  readonly #table: RowTable
  /** Named ports that rules mean: the group's own for ingress, each peer's for egress. */
  readonly #portsOf: (peer: number) => readonly NamedPortNumber[]
  #context = NO_RULES
  /** Rules that name peers, by their serials. */
  #specific: ReadonlyMap<number, Scoped> = new Map()
  #forAny: readonly ScopedRule[] = []
  /** Equal where nothing that concerns every peer has changed. */
  #generalKey: string | undefined
  readonly #sets = new Map<string, RuleSet>()
  readonly #setByPeer = new Map<number, RuleSet>()

  constructor(direction: Direction, table: RowTable, portsOf: (peer: number) => readonly NamedPortNumber[]) {
    this.#direction = direction
    this.#table = table
    this.#portsOf = portsOf
  }

  /** Goes on with other rules. @param peers that selectors began or ceased to select as well */
  setRules(context: RuleContext, peers: ReadonlySet<number>): void {
    const before = this.#specific
    this.#context = context
    this.#specific = new Map(context.rules.flatMap((rule) => (rule.compiled.isForAnyPeer ? [] : [[rule.serial, rule]])))
    const forAny = context.rules.filter(({ compiled }) => compiled.isForAnyPeer)
    this.#forAny = [...forAny.map(({ compiled, scope }) => ({ rule: compiled, scope })), ...defaultRules(context)]
    const generalKey = generalKeyOf(context, forAny)
    if (generalKey !== this.#generalKey) {
      this.#generalKey = generalKey
      this.#rebuild()
      return
    }
    const touched = new Set(peers)
    const gone = new Set<number>()
    for (const [serial, rule] of before) if (this.#specific.get(serial)?.scope !== rule.scope) gone.add(serial)
    if (gone.size > 0) {
      for (const { own, peers: members } of this.#sets.values()) {
        if (own.some(({ serial }) => gone.has(serial))) for (const id of members) touched.add(id)
      }
    }
    for (const [serial, rule] of this.#specific) {
      if (before.get(serial)?.scope === rule.scope) continue
      for (const { entry } of rule.peers) for (const id of entry.members) touched.add(id)
    }
    this.updatePeers(touched)
  }

  /** There is nothing to enforce. */
  clear(): void {
    this.#context = NO_RULES
    this.#specific = new Map()
    this.#forAny = []
    this.#generalKey = undefined
    for (const id of [...this.#setByPeer.keys()]) this.#unassign(id)
  }

  /** Peers may have come and gone unnoticed: the next rules are resolved for all of them. */
  invalidate(): void {
    this.#generalKey = undefined
  }

  /** Selectors began or ceased to select these peers, or their named ports changed. */
  updatePeers(ids: Iterable<number>): void {
    for (const id of ids) {
      if (id === ANY_IDENTITY) continue
      const own: Scoped[] = []
      for (const rule of this.#specific.values()) {
        const scoped = this.#scopedFor(rule, id)
        if (scoped !== undefined) own.push(scoped)
      }
      this.#assign(id, own)
    }
  }

  #rebuild(): void {
    const byPeer = new Map<number, Scoped[]>()
    for (const rule of this.#specific.values()) {
      for (const { entry } of rule.peers) {
        for (const id of entry.members) {
          const own = byPeer.get(id)
          // Several peers of a rule may be the same identity.
          const scoped = own?.at(-1)?.serial === rule.serial ? undefined : this.#scopedFor(rule, id)
          if (scoped === undefined) continue
          if (own === undefined) byPeer.set(id, [scoped])
          else own.push(scoped)
        }
      }
    }
    for (const id of [...this.#setByPeer.keys()]) if (id !== ANY_IDENTITY && !byPeer.has(id)) this.#unassign(id)
    this.#assign(ANY_IDENTITY, [])
    for (const [id, own] of byPeer) this.#assign(id, own)
  }

  /** A rule as far as it is about a peer: what the policies in audit require of it alone does not take it out of what is enforced. */
  #scopedFor(rule: Scoped, id: number): Scoped | undefined {
    const { enforced, audit } = this.#context.requires[rule.compiled.verdict === 'deny' ? 'deny' : 'allow']
    const names = (required: readonly SelectorEntry[]) =>
      rule.peers.some(({ entry, isEndpoint }) => entry.members.has(id) && (!isEndpoint || required.every(({ members }) => members.has(id))))
    const isEnforced = rule.scope !== 'audit' && names(enforced)
    const isAudited = rule.scope !== 'enforced' && names(audit)
    if (isEnforced === isAudited) return isEnforced ? rule : undefined
    const scope = isEnforced ? 'enforced' : 'audit'
    return scope === rule.scope ? rule : { ...rule, scope }
  }

  #assign(id: number, own: readonly Scoped[]): void {
    if (own.length === 0 && id !== ANY_IDENTITY) {
      this.#unassign(id)
      return
    }
    const hasNames = this.#forAny.some(({ rule }) => rule.named.length > 0) || own.some(({ compiled }) => compiled.named.length > 0)
    const ports = hasNames ? this.#portsOf(id) : []
    const key = `${this.#generalKey}/${serialsOf(own)}/${ports.map(({ name, protocol, port }) => `${name}=${port}/${protocol}`).join()}`
    const before = this.#setByPeer.get(id)
    if (before?.key === key) return
    let set = this.#sets.get(key)
    if (set === undefined) {
      set = this.#compile(key, own, ports)
      this.#sets.set(key, set)
    }
    if (before !== undefined) this.#unassign(id, set)
    set.peers.add(id)
    this.#setByPeer.set(id, set)
    for (const block of set.blocks) {
      const row = { direction: this.#direction, identity: id, ...block }
      this.#table.set(rowKey(row), row, block.classKey === undefined ? undefined : set.rulesets.get(block.classKey))
    }
  }

  /** @param next what comes in its place: its rows replace those of the same key */
  #unassign(id: number, next?: RuleSet): void {
    const set = this.#setByPeer.get(id)
    if (set === undefined) return
    this.#setByPeer.delete(id)
    set.peers.delete(id)
    if (set.peers.size === 0) this.#sets.delete(set.key)
    const kept = new Set(next?.blocks.map((block) => rowKey({ direction: this.#direction, identity: id, ...block })))
    for (const block of set.blocks) {
      const key = rowKey({ direction: this.#direction, identity: id, ...block })
      if (!kept.has(key)) this.#table.delete(key)
    }
  }

  #compile(key: string, own: readonly Scoped[], ports: readonly NamedPortNumber[]): RuleSet {
    const rulesets = new Map<string, ResolvedRuleset>()
    const rules = [...this.#forAny, ...own.map(({ compiled, scope }) => ({ rule: compiled, scope }))]
    const numbered = rules.map(({ rule, scope }) => ({ rule: withPorts(rule, ports), scope }))
    const blocks = compileBlocks(numbered, own.length > 0).map(({ ruleset, ...block }) => {
      if (ruleset === undefined) return block
      const classKey = classKeyOf(this.#direction, ruleset)
      rulesets.set(classKey, ruleset)
      return { ...block, classKey }
    })
    return { key, own, blocks, rulesets, peers: new Set() }
  }
}

function defaultRules({ defaultAllow }: RuleContext): ScopedRule[] {
  if (!defaultAllow.enforced && !defaultAllow.audit) return []
  const scope = defaultAllow.enforced && defaultAllow.audit ? 'both' : defaultAllow.enforced ? 'enforced' : 'audit'
  return [{ rule: DEFAULT_ALLOW, scope }]
}

function generalKeyOf({ requires, defaultAllow }: RuleContext, forAny: readonly Scoped[]): string {
  const numbersOf = (entries: readonly SelectorEntry[]) => entries.map(numberOf).join()
  const defaults = `${defaultAllow.enforced ? 'e' : ''}${defaultAllow.audit ? 'a' : ''}`
  const required = [requires.allow, requires.deny].flatMap(({ enforced, audit }) => [numbersOf(enforced), numbersOf(audit)])
  return `${serialsOf(forAny)}${defaults}/${required.join('/')}`
}

const entryNumbers = new WeakMap<SelectorEntry, number>()
let lastEntryNumber = 0

function numberOf(entry: SelectorEntry): number {
  let number = entryNumbers.get(entry)
  if (number === undefined) {
    number = ++lastEntryNumber
    entryNumbers.set(entry, number)
  }
  return number
}

function serialsOf(rules: readonly Scoped[]): string {
  let text = ''
  for (const { serial, scope } of rules) text += `${serial}${scope === 'both' ? '' : scope[0]},`
  return text
}

/** What its names stand for, as ports. */
function withPorts(rule: CompiledRule, ports: readonly NamedPortNumber[]): CompiledRule {
  if (rule.named.length === 0) return rule
  const blocks = rule.named.flatMap(({ name, protocol, l7 }) =>
    ports
      .filter((port) => port.name === name && (protocol === 'ANY' || protocol === port.protocol))
      .map((port) => ({ protocol: PROTOCOL_NUMBERS[port.protocol], port: port.port, portPrefixLength: 16, l7 })),
  )
  return blocks.length === 0 ? rule : { ...rule, traffic: [...rule.traffic, ...blocks] }
}

/** Of what the rules say, not only of their names: an equal key has to mean equal rules also where short digests collide. */
function classKeyOf(direction: Direction, ruleset: ResolvedRuleset): string {
  const digest = createHash('sha256').update(JSON.stringify(ruleset)).digest('hex').slice(0, 32)
  return `${direction}/${ruleset.kind}/${ruleset.allowAll ? 'all' : 'some'}/${digest}`
}

function sameRow(a: PolicyRow | undefined, b: PolicyRow | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return (
    a === b ||
    (a.verdict === b.verdict &&
      a.explicitDeny === b.explicitDeny &&
      a.audit === b.audit &&
      a.classKey === b.classKey &&
      (a.origins === b.origins || a.origins.join('\n') === b.origins.join('\n')))
  )
}
