/**
 * The rulesets that this node's extension host judges by: offered as soon as a slot needs one, and taken back when Envoy cannot ask by
 * it any more, which is when the proxy has applied that no slot has it. A ruleset has a digest of its content for a key, so there is
 * nothing to change, and a client that holds another revision than ours is simply told everything.
 */
import { create } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import { digestOfKeys } from '#api/digest.ts'
import {
  type ExtHostReport,
  type ExtHostUpdate,
  ExtHostUpdateSchema,
  type Ruleset,
  type SecretProblem,
} from '#api/gen/headgate/v1/control_pb.js'
import { FeedStreams } from './feed-streams.ts'

/** What is known of the extension host process. */
export interface ExtHostState {
  connected: boolean
  pid: number
  version: string
  appliedRevision: bigint
  secretProblems: readonly SecretProblem[]
}

/** Rulesets that no slot has and the proxy has not let go of; of more, the oldest go, and what asks by them is refused. */
const RELEASED_MAX = 4096

type Stream = ServerDuplexStream<ExtHostReport, ExtHostUpdate>

export class ExtHostFeed {
  readonly state: ExtHostState = { connected: false, pid: 0, version: '', appliedRevision: 0n, secretProblems: [] }
  readonly #epoch: bigint
  readonly #rulesets = new Map<string, Ruleset>()
  /** Keys that no slot has, and since which revision of the proxy. */
  readonly #released = new Map<string, bigint>()
  readonly #streams: FeedStreams<ExtHostReport, ExtHostUpdate>
  #revision: bigint
  /** That brought the newest ruleset. */
  #offeredRevision: bigint
  #isRelayNeeded = false

  /** @param onReport a report came, or the extension host came or went */
  constructor(epoch: bigint, firstRevision: bigint, onReport: () => void) {
    this.#epoch = epoch
    this.#revision = firstRevision
    this.#offeredRevision = firstRevision
    this.#streams = new FeedStreams(epoch, {
      revision: () => this.#revision,
      everything: () => this.#update([...this.#rulesets], { full: true }),
      onReport: ({ appliedRevision, pid, version, secretProblems }) =>
        Object.assign(this.state, { appliedRevision, pid, version, secretProblems }),
      onChange: () => {
        this.state.connected = this.#streams.isConnected
        onReport()
      },
    })
  }

  get revision(): bigint {
    return this.#revision
  }

  /** Whether a slot needs it. */
  get isNeeded(): boolean {
    return this.#rulesets.size > this.#released.size
  }

  /** Whether it is there and does not have every ruleset that a slot needs yet. */
  get isBehind(): boolean {
    return this.state.connected && !this.isApplied
  }

  /** Whether it has every ruleset that a slot needs. */
  get isApplied(): boolean {
    return !this.isNeeded || this.state.appliedRevision >= this.#offeredRevision
  }

  /**
   * States what slots need now.
   * @param needed by key @param proxyRevision in which they are
   */
  setNeeded(needed: ReadonlyMap<string, Ruleset>, proxyRevision: bigint): void {
    const added = [...needed].filter(([key]) => !this.#rulesets.has(key))
    for (const key of needed.keys()) this.#released.delete(key)
    for (const key of this.#rulesets.keys()) if (!needed.has(key) && !this.#released.has(key)) this.#released.set(key, proxyRevision)
    const removed = [...this.#released.keys()].slice(0, Math.max(0, this.#released.size - RELEASED_MAX))
    if (added.length > 0) this.#offeredRevision = this.#revision + 1n
    this.#change(added, removed)
  }

  /** Whether there are slots for the relay. It is told once: workers that run go on. */
  setRelayNeeded(): void {
    if (this.#isRelayNeeded) return
    this.#isRelayNeeded = true
    this.#revision++
    this.#streams.send(this.#update([], {}))
  }

  /** The proxy has this revision in force, and Envoy asks by nothing older. */
  onProxyApplied(proxyRevision: bigint): void {
    if (this.#released.size === 0) return
    const isDone = ([, since]: [string, bigint]): boolean => since <= proxyRevision
    this.#change(
      [],
      [...this.#released].filter(isDone).map(([key]) => key),
    )
  }

  serve(stream: Stream): void {
    this.#streams.serve(stream)
  }

  #change(added: readonly (readonly [string, Ruleset])[], removedKeys: readonly string[]): void {
    if (added.length === 0 && removedKeys.length === 0) return
    this.#revision++
    for (const [key, ruleset] of added) this.#rulesets.set(key, ruleset)
    for (const key of removedKeys) {
      this.#rulesets.delete(key)
      this.#released.delete(key)
    }
    this.#streams.send(this.#update(added, { removedKeys: [...removedKeys] }))
  }

  #update(rulesets: readonly (readonly [string, Ruleset])[], rest: { full?: true; removedKeys?: string[] }): ExtHostUpdate {
    return create(ExtHostUpdateSchema, {
      epoch: this.#epoch,
      revision: this.#revision,
      rulesets: rulesets.map(([key, ruleset]) => ({ key, ruleset })),
      digest: digestOfKeys(this.#rulesets.keys()),
      relay: this.#isRelayNeeded,
      ...rest,
    })
  }
}
