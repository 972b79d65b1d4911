/** Everything that answers queries, over the maps of one layout; made anew when the agent has taken over from another layout. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { FlowReporter } from '#api/flow-reporter.ts'
import type { DnsSlot } from '#api/gen/headgate/v1/control_pb.js'
import { openPinnedMaps, type PinnedMaps } from '#bpf/pinned-maps.ts'
import type { Config } from '#config/schema.ts'
import { RCODE } from '#parsers/dns/codes.ts'
import type { UdpSocket } from '#sys/udp.ts'
import type { DesiredState, StateChange } from './desired-state.ts'
import { LearnedNames } from './learned-names.ts'
import { Lifetimes } from './lifetimes.ts'
import { machineClock, NamesJournal, readJournal } from './names-journal.ts'
import type { PreCache } from './pre-cache.ts'
import { type QueryCounts, QueryJudge } from './query-judge.ts'
import type { SlotTable } from './slot-rules.ts'
import { TcpProxy } from './tcp-proxy.ts'
import { UdpProxy } from './udp-proxy.ts'

const PROBLEMS_TOLD_MAX = 10

export interface ServingParts {
  readonly config: Config
  readonly slots: SlotTable
  readonly flows: FlowReporter<'dns'>
  readonly desired: DesiredState
  readonly preCache: PreCache | undefined
  /** Of learned names. */
  readonly journalPath: string
  readonly log: Pick<Logger, 'error' | 'info'>
  /** Stays open when this is closed. */
  readonly queries: UdpSocket
  readonly inNetns: <T>(run: () => T) => T
  /** Told when a slot came to listen, or ceased to, without a change of the agent's. */
  readonly onListening: () => void
}

export class Serving {
  readonly mapsFolder: string
  readonly #parts: ServingParts
  readonly #pinned: PinnedMaps
  readonly #names: LearnedNames
  readonly #judge: QueryJudge
  readonly #udp: UdpProxy
  readonly #tcp: TcpProxy
  readonly #lifetimes: Lifetimes
  readonly #clock = machineClock()
  #journal: NamesJournal | undefined

  /** @throws RangeError or SystemCallError when a map or a socket cannot be had; nothing is left open then */
  constructor(parts: ServingParts) {
    const { config, desired, flows, inNetns, log, onListening, queries, slots } = parts
    this.#parts = parts
    this.mapsFolder = desired.mapsFolder
    this.#pinned = openPinnedMaps(this.mapsFolder)
    const { kept, problems } = readJournal(parts.journalPath, this.#clock)
    for (const problem of problems) log.error({ path: parts.journalPath, problem }, 'names learned before are not all known')
    try {
      this.#names = new LearnedNames(
        this.#pinned.maps,
        {
          minTtlSeconds: config.dns.tofqdnsMinTtl,
          addressesOfNameMax: config.dns.tofqdnsEndpointMaxIpPerHostname,
          zombiesMax: config.dns.tofqdnsMaxDeferredConnectionDeletes,
          graceSeconds: config.dns.tofqdnsIdleConnectionGracePeriodSeconds,
        },
        { kept },
      )
      this.#judge = new QueryJudge(slots, this.#names, flows, config)
      const rejectCode = config.dns.tofqdnsDnsRejectResponseCode === 'refused' ? RCODE.REFUSED : RCODE.NXDOMAIN
      this.#udp = new UdpProxy(this.#judge, rejectCode, queries, inNetns)
      this.#tcp = new TcpProxy(this.#judge, rejectCode, inNetns, onListening)
    } catch (error) {
      this.#pinned.close()
      throw error
    }
    this.#lifetimes = new Lifetimes(this.#names)
    this.#udp.start()
  }

  /** Slots are the caller's to change before. */
  change({ endpoints, selectors }: StateChange): void {
    this.#names.changeSelectors(selectors)
    // What earlier rows and names mean is known with the first selectors.
    this.#journal ??= this.#keep()
    this.#judge.changeEndpoints(endpoints)
    this.#judge.setLists(this.#parts.desired.claimedPrefixes, this.#parts.desired.trustedServers)
    if (selectors.come.length > 0) this.#teachPreCache()
    this.#tcp.setSlots(this.#parts.slots.slots())
  }

  #teachPreCache(): void {
    const { log, preCache } = this.#parts
    if (preCache === undefined) return
    const nowMs = performance.now()
    const learn = (name: string, address: Uint8Array, ttlSeconds: number) => this.#names.learn(0, [name], address, ttlSeconds, nowMs)
    const problems = preCache.teach({ learn, reasonAgainst: (address) => this.#judge.reasonAgainst(address) }, nowMs)
    for (const problem of problems.slice(0, PROBLEMS_TOLD_MAX)) log.error({ problem }, 'an address of the precache is not known')
  }

  #keep(): NamesJournal {
    const { journalPath, log } = this.#parts
    const journal = new NamesJournal({ path: journalPath, clock: this.#clock, log, claims: () => this.#names.claims() })
    this.#names.keepIn(journal)
    return journal
  }

  /** The slots that queries can be sent to, by both transports. */
  listening(): DnsSlot[] {
    return [...this.#parts.slots.slots()].filter((slot) => this.#tcp.isListening(slot))
  }

  get names(): LearnedNames {
    return this.#names
  }

  get queryCounts(): QueryCounts {
    return this.#judge.counts
  }

  /** Queries that there was no room for. */
  get overLimitCount(): number {
    return this.#udp.counts.overLimit + this.#tcp.counts.overLimit
  }

  /** Takes no more queries over UDP, and waits for the answers to those that are on their way. */
  async drain(timeoutMs: number): Promise<void> {
    this.#udp.stop()
    await Promise.race([this.#judge.idle(), delay(timeoutMs, undefined, { ref: false })])
  }

  close(): void {
    this.#lifetimes.close()
    this.#journal?.close()
    this.#udp.close()
    this.#tcp.close()
    this.#judge.close()
    this.#pinned.close()
  }
}
