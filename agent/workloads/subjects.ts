/**
 * Policy groups: endpoints of one identity, with the same named ports and the same audit mode, have the same policy and share its rows.
 * A group's number is that of the identity where nothing else tells its endpoints apart, and else made from what does, so that the same
 * endpoints find the same rows and slots after a restart. The engine hears of groups and identities as endpoints come and go.
 */
import { createHash } from 'node:crypto'
import type { PolicyEngine } from '#policy/engine.ts'
import type { NamedPortNumber } from '#policy/selector-index.ts'
import { type EndpointSpec, namedPortsOf } from './file.ts'
import type { Identity } from './identities.ts'

/** What of an endpoint tells its group. */
export interface Subject {
  readonly identity: Identity
  readonly spec: Pick<EndpointSpec, 'ports' | 'audit'>
}

interface Group {
  readonly key: string
  readonly namedPorts: readonly NamedPortNumber[]
  readonly audit: boolean
  endpointCount: number
}

/** Set in numbers that are not an identity's. */
const MADE_NUMBER = 0x80000000
const NUMBER_MAX = 0xffffffff

export class Subjects {
  readonly #engine: PolicyEngine
  readonly #numbers = new Map<string, number>()
  readonly #groups = new Map<number, Group>()
  /** Groups of each identity, and the ports that the engine knows its endpoints by, as text. */
  readonly #identities = new Map<number, { readonly groups: Set<number>; portsText: string }>()

  constructor(engine: PolicyEngine) {
    this.#engine = engine
  }

  /** Counts an endpoint in. @returns its group */
  join(subject: Subject): number {
    const key = keyOf(subject)
    const known = this.#numbers.get(key)
    const group = known === undefined ? undefined : this.#groups.get(known)
    if (known !== undefined && group !== undefined) {
      group.endpointCount++
      return known
    }
    const { identity, spec } = subject
    const number = this.#freeNumber(subject, key)
    const namedPorts = sortedPorts(spec)
    this.#numbers.set(key, number)
    this.#groups.set(number, { key, namedPorts, audit: spec.audit, endpointCount: 1 })
    const holder = this.#identities.get(identity.id)
    if (holder === undefined) this.#identities.set(identity.id, { groups: new Set([number]), portsText: '' })
    else holder.groups.add(number)
    this.#tellPorts(identity, holder === undefined)
    this.#engine.addSubject({ group: number, identity: identity.id, namedPorts, audit: spec.audit })
    return number
  }

  /** Counts an endpoint out. */
  leave(subject: Subject): void {
    const { identity } = subject
    const number = this.groupOf(subject)
    const group = number === undefined ? undefined : this.#groups.get(number)
    if (number === undefined || group === undefined) return
    group.endpointCount--
    if (group.endpointCount > 0) return
    this.#groups.delete(number)
    this.#numbers.delete(group.key)
    this.#engine.removeSubject(number)
    const holder = this.#identities.get(identity.id)
    holder?.groups.delete(number)
    if (holder?.groups.size === 0) {
      this.#identities.delete(identity.id)
      this.#engine.removeIdentity(identity.id)
    } else {
      this.#tellPorts(identity, false)
    }
  }

  /** Undefined while no endpoint of the group is attached. */
  groupOf(subject: Subject): number | undefined {
    return this.#numbers.get(keyOf(subject))
  }

  isAudited(group: number): boolean {
    return this.#groups.get(group)?.audit ?? false
  }

  endpointCount(group: number): number {
    return this.#groups.get(group)?.endpointCount ?? 0
  }

  endpointCountOfIdentity(identity: number): number {
    let count = 0
    for (const group of this.#identities.get(identity)?.groups ?? []) count += this.endpointCount(group)
    return count
  }

  #freeNumber({ identity, spec }: Subject, key: string): number {
    if (!spec.audit && Object.keys(spec.ports).length === 0) return identity.id
    let number = (createHash('sha256').update(key).digest().readUInt32LE(0) | MADE_NUMBER) >>> 0
    while (this.#groups.has(number)) number = number === NUMBER_MAX ? MADE_NUMBER : number + 1
    return number
  }

  /** For the egress rules of others: the ports of all endpoints that have the identity. */
  #tellPorts(identity: Identity, isNew: boolean): void {
    const holder = this.#identities.get(identity.id)
    if (holder === undefined) return
    const byText = new Map(
      [...holder.groups].flatMap((number) => this.#groups.get(number)?.namedPorts ?? []).map((port) => [textOf(port), port]),
    )
    const namedPorts = [...byText].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, port]) => port)
    const portsText = namedPorts.map(textOf).join()
    if (portsText === holder.portsText && !isNew) return
    holder.portsText = portsText
    this.#engine.upsertIdentity({ id: identity.id, labels: identity.labels, namedPorts })
  }
}

function keyOf({ identity, spec }: Subject): string {
  return `${identity.id} ${sortedPorts(spec).map(textOf).join()} ${spec.audit ? 'audit' : ''}`
}

/** In the order of their names. */
function sortedPorts(spec: Subject['spec']): NamedPortNumber[] {
  return namedPortsOf(spec).sort((a, b) => (a.name < b.name ? -1 : 1))
}

function textOf({ name, protocol, port }: NamedPortNumber): string {
  return `${name}=${port}/${protocol}`
}
