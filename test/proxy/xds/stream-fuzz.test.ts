import test from 'ava'
import fc from 'fast-check'
import type { DeltaDiscoveryResponse } from '#api/gen/envoy/service/discovery/v3/discovery_pb.js'
import { Snapshot } from '#proxy/xds/snapshot.ts'
import { EXTENSION_CONFIG_TYPE as E, LISTENER_TYPE as L, type TypeUrl } from '#proxy/xds/type-urls.ts'
import { DeltaClient, resource } from '../support/fake-client.ts'

const TYPES: readonly TypeUrl[] = [L, E]
const NAMES = ['a', 'b', 'c', 'd']
const name = fc.constantFrom(...NAMES)
const type = fc.constantFrom<TypeUrl>(L, E)

type Step =
  | { do: 'set'; type: TypeUrl; name: string; content: string }
  | { do: 'remove'; type: TypeUrl; name: string }
  | { do: 'subscribe' | 'unsubscribe'; type: TypeUrl; names: string[] }
  | { do: 'answer'; index: number; refuse: boolean }
  | { do: 'garbage'; type: string; nonce: string }
  | { do: 'reconnect' }

const steps = fc.array(
  fc.oneof(
    fc.record({ do: fc.constant('set' as const), type, name, content: fc.constantFrom('1', '2', 'bad') }),
    fc.record({ do: fc.constant('remove' as const), type, name }),
    fc.record({
      do: fc.constantFrom('subscribe' as const, 'unsubscribe' as const),
      type,
      names: fc.array(fc.oneof(name, fc.constant('*')), { maxLength: 3 }),
    }),
    fc.record({ do: fc.constant('answer' as const), index: fc.nat(5), refuse: fc.boolean() }),
    fc.record({ do: fc.constant('garbage' as const), type: fc.oneof(type, fc.string()), nonce: fc.string() }),
    fc.record({ do: fc.constant('reconnect' as const) }),
  ) as fc.Arbitrary<Step>,
  { maxLength: 60 },
)

/** The client's side: what it wants and has, and which responses it has not answered. */
class Model {
  client = new DeltaClient()
  snapshot = Snapshot.of([])
  waiting: DeltaDiscoveryResponse[] = []
  readonly wildcard = new Map<TypeUrl, boolean>([[L, true]])
  readonly names = new Map<TypeUrl, Set<string>>(TYPES.map((typeUrl) => [typeUrl, new Set()]))
  /** Name -> version in force. */
  readonly held = new Map<TypeUrl, Map<string, string>>(TYPES.map((typeUrl) => [typeUrl, new Map()]))
  readonly refused = new Set<string>()

  constructor() {
    this.client.stream.onSnapshot(this.snapshot)
    this.#begin()
  }

  #begin(): void {
    this.waiting = []
    for (const typeUrl of TYPES) {
      const names = [...this.names.get(typeUrl)!]
      const subscribe = this.wildcard.get(typeUrl) ? ['*', ...names] : names
      if (subscribe.length === 0) subscribe.push('never-there')
      this.collect(
        this.client.send(typeUrl, {
          resourceNamesSubscribe: subscribe,
          initialResourceVersions: Object.fromEntries(this.held.get(typeUrl)!),
        }),
      )
    }
  }

  collect(responses: DeltaDiscoveryResponse[]): void {
    for (const response of responses) {
      const names = [...response.resources.map((one) => one.name), ...response.removedResources]
      if (new Set(names).size !== names.length) throw new Error('a name twice in one response')
      if (response.resources.length > 1) throw new Error('more than one resource in a response')
      const busy = this.waiting
        .filter((one) => one.typeUrl === response.typeUrl)
        .flatMap((one) => [...one.resources.map((held) => held.name), ...one.removedResources])
      if (names.some((one) => busy.includes(one))) throw new Error('a second response about a name before the first was answered')
    }
    this.waiting.push(...responses)
  }

  answer(response: DeltaDiscoveryResponse, refuse: boolean): void {
    this.waiting = this.waiting.filter((one) => one !== response)
    const held = this.held.get(response.typeUrl as TypeUrl)!
    const isBad = refuse && response.resources.length > 0
    if (!isBad) {
      for (const one of response.resources) held.set(one.name, one.version)
      for (const one of response.removedResources) held.delete(one)
    }
    for (const one of response.resources) {
      const key = `${response.typeUrl} ${one.name} ${one.version}`
      if (isBad) this.refused.add(key)
      else this.refused.delete(key)
    }
    this.collect(isBad ? this.client.refuse(response) : this.client.acknowledge(response))
  }

  run(step: Step): void {
    switch (step.do) {
      case 'set':
        this.snapshot = this.snapshot.with({ set: [resource(step.type, step.name, step.content)] })
        this.client.stream.onSnapshot(this.snapshot)
        this.collect(this.client.take())
        break
      case 'remove':
        this.snapshot = this.snapshot.with({ remove: [{ typeUrl: step.type, name: step.name }] })
        this.client.stream.onSnapshot(this.snapshot)
        this.collect(this.client.take())
        break
      case 'subscribe':
      case 'unsubscribe':
        this.#changeSubscription(step.do, step.type, step.names)
        break
      case 'answer': {
        const response = this.waiting[step.index % Math.max(1, this.waiting.length)]
        if (response !== undefined) this.answer(response, step.refuse)
        break
      }
      case 'garbage':
        if (!this.waiting.some((one) => one.nonce === step.nonce)) this.collect(this.client.send(step.type, { responseNonce: step.nonce }))
        break
      case 'reconnect':
        this.client = new DeltaClient()
        this.client.stream.onSnapshot(this.snapshot)
        this.refused.clear()
        this.#begin()
    }
  }

  #changeSubscription(verb: 'subscribe' | 'unsubscribe', typeUrl: TypeUrl, list: string[]): void {
    const names = this.names.get(typeUrl)!
    for (const one of list) {
      if (one === '*') this.wildcard.set(typeUrl, verb === 'subscribe')
      else if (verb === 'subscribe') names.add(one)
      else names.delete(one)
    }
    const held = this.held.get(typeUrl)!
    // A client that asks again, or gives up one name of everything, may have forgotten what it had: it has to be told again.
    for (const one of list) held.delete(one)
    const request = verb === 'subscribe' ? { resourceNamesSubscribe: list } : { resourceNamesUnsubscribe: list }
    this.collect(this.client.send(typeUrl, request))
    for (const one of [...held.keys()]) if (!this.wildcard.get(typeUrl) && !names.has(one)) held.delete(one)
  }

  /** Answers everything until the server has nothing more to say. */
  settle(): void {
    for (let rounds = 0; this.waiting.length > 0; rounds++) {
      if (rounds > 500) throw new Error('the server never comes to rest')
      this.answer(this.waiting[0]!, false)
    }
  }

  check(): void {
    for (const typeUrl of TYPES) {
      const wanted = [...this.snapshot.of(typeUrl).values()].filter(
        (one) => this.wildcard.get(typeUrl) || this.names.get(typeUrl)!.has(one.name),
      )
      const held = this.held.get(typeUrl)!
      for (const one of wanted) {
        if (this.refused.has(`${typeUrl} ${one.name} ${one.version}`)) continue
        if (held.get(one.name) !== one.version) throw new Error(`${one.name} is at ${held.get(one.name)}, wanted ${one.version}`)
      }
      for (const one of held.keys()) {
        const isWanted = wanted.some((other) => other.name === one)
        if (!isWanted && (this.wildcard.get(typeUrl) || this.names.get(typeUrl)!.has(one))) throw new Error(`${one} is held and gone`)
      }
    }
  }
}

test('whatever a client does, in the end it has what it wants, and never two responses about one name at a time', (t) => {
  fc.assert(
    fc.property(steps, (list) => {
      const model = new Model()
      for (const step of list) model.run(step)
      model.settle()
      model.check()
    }),
    { numRuns: 3000 },
  )
  t.pass()
})
