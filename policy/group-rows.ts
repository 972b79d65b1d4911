/**
 * The rows of one direction of a group, kept between commits. Peers that the same rules name share one compiled set of blocks, and sets
 * outlive the round that made them: a changed policy compiles the sets that it has a part in, a new peer costs its own rows.
 */
import { createHash } from 'node:crypto'
import { type Block, type CompiledRule, compileBlocks } from './blocks.ts'
import { EVERYTHING } from './compile.ts'
import { ANY_IDENTITY, type Direction, type PeerClass, type PolicyRow, type ResolvedRuleset, rowKey } from './resolved.ts'
import type { SelectorEntry } from './selector-index.ts'

/** A rule with the selectors of its peers in use; none when it is for any peer, or for nobody. */
export interface LiveRule {
  /** Equal numbers are the same rule. */
  readonly serial: number
  readonly direction: Direction
  readonly compiled: CompiledRule
  readonly peers: readonly SelectorEntry[]
}

/** Stands for "nothing puts this direction at default deny" where rules exist all the same. */
const DEFAULT_ALLOW: LiveRule = {
  serial: 0,
  direction: 'ingress',
  compiled: { name: '(default allow)', verdict: 'allow', isForAnyPeer: true, traffic: [EVERYTHING] },
  peers: [],
}

type ClassedBlock = Omit<Block, 'ruleset'> & { readonly classKey?: string }

/** What a set of rules makes of the peers that exactly these rules name. */
interface RuleSet {
  readonly key: string
  readonly blocks: readonly ClassedBlock[]
  readonly classes: readonly PeerClass[]
  readonly rowsByPeer: Map<number, readonly (readonly [key: string, row: PolicyRow])[]>
}

export class GroupRows {
  readonly #direction: Direction
  /** Rules that name peers. */
  #specific: readonly LiveRule[] = []
  #forAny: readonly LiveRule[] = []
  #sets = new Map<string, RuleSet>()
  #setByPeer = new Map<number, RuleSet>()

  constructor(direction: Direction) {
    this.#direction = direction
  }

  /** Starts over with other rules, taking over what stays the same. */
  setRules(rules: readonly LiveRule[], defaultDeny: boolean): void {
    const before = this.#sets
    this.#sets = new Map()
    this.#setByPeer = new Map()
    this.#specific = rules.filter(({ compiled }) => !compiled.isForAnyPeer)
    this.#forAny = rules.filter(({ compiled }) => compiled.isForAnyPeer)
    if (!defaultDeny) this.#forAny = [...this.#forAny, DEFAULT_ALLOW]
    this.#assign(ANY_IDENTITY, [], before)
    for (const [id, own] of rulesByPeer(this.#specific)) this.#assign(id, own, before)
  }

  /** There is nothing to enforce. */
  clear(): void {
    this.#sets = new Map()
    this.#setByPeer = new Map()
    this.#specific = []
    this.#forAny = []
  }

  /** Selectors began or ceased to select these peers. */
  updatePeers(ids: Iterable<number>): void {
    for (const id of ids) {
      const before = this.#setByPeer.get(id)
      before?.rowsByPeer.delete(id)
      if (before?.rowsByPeer.size === 0) this.#sets.delete(before.key)
      this.#setByPeer.delete(id)
      const own = this.#specific.filter(({ peers }) => peers.some(({ members }) => members.has(id)))
      if (own.length > 0) this.#assign(id, own, this.#sets)
    }
  }

  addTo(rows: Map<string, PolicyRow>, classes: Map<string, PeerClass>): void {
    for (const set of this.#sets.values()) {
      for (const peerClass of set.classes) classes.set(peerClass.key, peerClass)
      for (const made of set.rowsByPeer.values()) for (const [key, row] of made) rows.set(key, row)
    }
  }

  #assign(id: number, own: readonly LiveRule[], before: ReadonlyMap<string, RuleSet>): void {
    const key = `${serialsOf(this.#forAny)}/${serialsOf(own)}`
    const known = before.get(key)
    let set = this.#sets.get(key)
    if (set === undefined) {
      set = known === undefined ? this.#compile(key, own) : { ...known, rowsByPeer: new Map() }
      this.#sets.set(key, set)
    }
    set.rowsByPeer.set(id, known?.rowsByPeer.get(id) ?? this.#rowsOf(id, set))
    if (id !== ANY_IDENTITY) this.#setByPeer.set(id, set)
  }

  #compile(key: string, own: readonly LiveRule[]): RuleSet {
    const classes = new Map<string, PeerClass>()
    const rules = [...this.#forAny, ...own].map(({ compiled }) => compiled)
    const blocks = compileBlocks(rules, own.length > 0).map(({ ruleset, ...block }) => {
      if (ruleset === undefined) return block
      const peerClass = classOf(this.#direction, ruleset)
      classes.set(peerClass.key, peerClass)
      return { ...block, classKey: peerClass.key }
    })
    return { key, blocks, classes: [...classes.values()], rowsByPeer: new Map() }
  }

  #rowsOf(identity: number, { blocks }: RuleSet): (readonly [key: string, row: PolicyRow])[] {
    return blocks.map((block) => {
      const row = { direction: this.#direction, identity, ...block }
      return [rowKey(row), row] as const
    })
  }
}

/** Rules that name each identity, in their order. */
function rulesByPeer(rules: readonly LiveRule[]): Map<number, LiveRule[]> {
  const byPeer = new Map<number, LiveRule[]>()
  for (const rule of rules) {
    for (const { members } of rule.peers) {
      for (const id of members) {
        const own = byPeer.get(id)
        if (own === undefined) byPeer.set(id, [rule])
        // Several peers of a rule may be the same identity.
        else if (own.at(-1) !== rule) own.push(rule)
      }
    }
  }
  return byPeer
}

function serialsOf(rules: readonly LiveRule[]): string {
  let text = ''
  for (const { serial } of rules) text += `${serial},`
  return text
}

/** Its key is of what the rules say, not only of their names: an equal key has to mean equal rules also where short digests collide. */
function classOf(direction: Direction, ruleset: ResolvedRuleset): PeerClass {
  const digest = createHash('sha256').update(JSON.stringify(ruleset.http)).digest('hex').slice(0, 16)
  return { key: `${direction}/http/${ruleset.allowAll ? 'all' : 'some'}/${digest}`, direction, ruleset }
}
