/**
 * Identities of what policies name beside labels: address prefixes, which the ipcache gives to packets, and conditions on DNS names, which
 * the DNS process gives to addresses. Rows for an identity come before anything gets it, and go after nothing has it any more.
 */
import { create } from '@bufbuild/protobuf'
import { type NameSelector, NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import { IDENTITY_SEVERAL_NAMES } from '#bpf/gen/abi.ts'
import type { DnsRule } from '#parsers/dns/rules.ts'
import { type PolicyEngine, SEVERAL_NAMES } from '#policy/engine.ts'
import type { IdentityAllocator } from '../workloads/identities.ts'
import type { Ipcache } from '../workloads/ipcache.ts'

type Engine = Pick<PolicyEngine, 'cidrPrefixes' | 'nameSelectors' | 'upsertIdentity' | 'removeIdentity'>

export class PolicyIdentities {
  readonly #engine: Engine
  readonly #allocator: IdentityAllocator
  readonly #ipcache: Pick<Ipcache, 'set' | 'delete'>
  readonly #prefixes = new Map<string, number>()
  /** By the engine's keys. */
  readonly #names = new Map<string, number>()

  constructor(engine: Engine, allocator: IdentityAllocator, ipcache: Pick<Ipcache, 'set' | 'delete'>) {
    this.#engine = engine
    this.#allocator = allocator
    this.#ipcache = ipcache
  }

  /** CIDR identities in use, by prefix. */
  get prefixes(): ReadonlyMap<string, number> {
    return this.#prefixes
  }

  get hasNames(): boolean {
    return this.#names.size > 0
  }

  /** Gives an identity to everything that policies mention; the engine is to be asked for its rows then. */
  bringIn(): void {
    this.#allocator.batch(() => {
      for (const prefix of this.#engine.cidrPrefixes()) {
        if (this.#prefixes.has(prefix) || prefix.endsWith('/0')) continue
        const identity = this.#allocator.allocateCidr(prefix)
        this.#engine.upsertIdentity(identity)
        this.#prefixes.set(prefix, identity.id)
      }
      const names = this.#engine.nameSelectors()
      if (names.size > 0 && this.#names.size === 0) {
        this.#engine.upsertIdentity({ id: IDENTITY_SEVERAL_NAMES, labels: [], nameSelector: SEVERAL_NAMES })
      }
      for (const [key, { rule }] of names) {
        if (this.#names.has(key)) continue
        const { id, labels } = this.#allocator.allocateName(key, nameLabel(rule))
        this.#engine.upsertIdentity({ id, labels, nameSelector: key, names: rule.matchName === undefined ? [] : [rule.matchName] })
        this.#names.set(key, id)
      }
    })
  }

  /**
   * Puts prefixes in the ipcache whose rows are in the kernel, and takes out what no policy mentions.
   * @returns whether something went, so that the engine has rows to take away
   */
  settle(): boolean {
    const wanted = this.#engine.cidrPrefixes()
    let isLess = false
    for (const [prefix, id] of this.#prefixes) {
      if (wanted.has(prefix)) this.#ipcache.set(prefix, 'cidr', id)
    }
    for (const [prefix, id] of this.#prefixes) {
      if (wanted.has(prefix)) continue
      this.#ipcache.delete(prefix, 'cidr')
      this.#engine.removeIdentity(id)
      this.#prefixes.delete(prefix)
      isLess = true
    }
    const names = this.#engine.nameSelectors()
    for (const [key, id] of this.#names) {
      if (names.has(key)) continue
      this.#engine.removeIdentity(id)
      this.#names.delete(key)
      isLess = true
    }
    return isLess
  }

  /** What the DNS process learns addresses for. */
  selectors(): NameSelector[] {
    const uses = this.#engine.nameSelectors()
    const selectors: NameSelector[] = []
    for (const [key, id] of this.#names) {
      const use = uses.get(key)
      if (use !== undefined) selectors.push(create(NameSelectorSchema, { id, denies: use.denies, ...use.rule }))
    }
    return selectors
  }

  /** What nothing has had for long is forgotten. */
  tidy(): void {
    this.#allocator.forgetUnused(this.#prefixes, this.#names)
  }
}

/** What people are shown of a condition on names. */
function nameLabel({ matchName, matchPattern }: DnsRule): string {
  return `fqdn:${matchName ?? matchPattern ?? ''}`
}
