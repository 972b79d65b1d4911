/**
 * What both transports ask about a message: may this query go, is this its answer, and what does that teach. Knows endpoints, slots and
 * names, and tells flows.
 */
import { create } from '@bufbuild/protobuf'
import type { FlowReporter } from '#api/flow-reporter.ts'
import { type DnsEndpoint, DnsFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { ItemChanges } from '#api/stated-items.ts'
import type { Config } from '#config/schema.ts'
import { AnswerChain } from '#parsers/dns/answers.ts'
import { type AnswerRcode, HEADER_BYTES, RCODE, TYPE } from '#parsers/dns/codes.ts'
import type { MessageReader } from '#parsers/dns/message.ts'
import { withoutDomain } from '#parsers/dns/name-pattern.ts'
import { noDataReply } from '#parsers/dns/reply.ts'
import { type AddressKey, addressKey, addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import { AnswerMemory } from './answer-memory.ts'
import type { LearnedNames, TaughtClaim } from './learned-names.ts'
import { type Client, type DnsServer, type LimitCounts, QueryLimits, Servers } from './query-limits.ts'
import { randomIndex } from './random-numbers.ts'
import type { JudgedQuestion, SlotRules, SlotTable } from './slot-rules.ts'
import { Teachable } from './teachable.ts'
import type { OpenQuery } from './transactions.ts'

const OPCODE_QUERY = 0
const MS_TO_NS = 1_000_000
const SAMPLE_STEPS = 1_000_000
/** A name server may answer with a thousand addresses; a flow tells of as many. */
const FLOW_ADDRESSES_MAX = 32

/** A query that does not go, as flows tell of it. */
export interface RefusedQuery {
  readonly slotId: number
  /** 16 bytes each. */
  readonly clientAddress: Uint8Array
  readonly clientPort: number
  readonly serverAddress: Uint8Array
  readonly serverPort: number
  /** Undefined when the question could not be read, or was not looked at. */
  readonly asked: JudgedQuestion | undefined
}

/** Since this process serves. */
export interface QueryCounts {
  received: number
  forwarded: number
  /** By policy. */
  denied: number
  /** Not of one readable question. */
  malformed: number
  answered: number
  /** Of all that were answered together. */
  answeredMs: number
  timedOut: number
}

const NO_NOTES: readonly string[] = []
const UNREAD: JudgedQuestion = { isAllowed: false, rule: '', isAudited: false, name: '', type: 0, question: '' }

type Names = Pick<LearnedNames, 'isSelected' | 'learn' | 'renew' | 'selectorsRevision'>
type Flows = Pick<FlowReporter<'dns'>, 'add'>
type FlowRest = Partial<
  Pick<Parameters<FlowReporter<'dns'>['add']>[0], 'answered' | 'rcode' | 'addresses' | 'cnames' | 'ttl' | 'durationNs' | 'notes'>
>

export class QueryJudge {
  readonly counts: QueryCounts = { received: 0, forwarded: 0, denied: 0, malformed: 0, answered: 0, answeredMs: 0, timedOut: 0 }
  readonly #slots: SlotTable
  readonly #names: Names
  readonly #flows: Flows
  readonly #sampleOf: number
  readonly #stripsAaaa: boolean
  readonly #clients = new Map<AddressKey, Client>()
  readonly #servers = new Servers()
  readonly #teachable = new Teachable(this.#clients)
  readonly #chain = new AnswerChain()
  readonly #limits: QueryLimits
  #trustedServers: ReadonlySet<AddressKey> = new Set()
  /** Of what addresses may teach. */
  #listsRevision = 0

  constructor(slots: SlotTable, names: Names, flows: Flows, config: Pick<Config, 'flows' | 'dns'>) {
    const { mode, sampleRate } = config.flows
    this.#limits = new QueryLimits(config.dns.dnsproxyConcurrencyLimit, config.dns.dnsproxyConcurrencyProcessingGracePeriodMs)
    this.#stripsAaaa = config.dns.stripAaaa
    this.#slots = slots
    this.#names = names
    this.#flows = flows
    this.#sampleOf = mode === 'all' ? SAMPLE_STEPS : mode === 'denied' ? 0 : Math.round(sampleRate * SAMPLE_STEPS)
  }

  /** Queries over a limit. */
  get limitCounts(): LimitCounts {
    return this.#limits.counts
  }

  /** Those asked of late, with how many of their queries are on their way and were never answered. */
  servers(): Iterable<DnsServer> {
    return this.#servers.values()
  }

  changeEndpoints({ gone, come }: ItemChanges<DnsEndpoint>): void {
    this.#listsRevision += 1
    for (const { id, addresses } of gone) {
      for (const text of addresses) {
        const key = addressKey(addressToBytes(text))
        if (this.#clients.get(key)?.endpointId === id) this.#clients.delete(key)
      }
    }
    for (const { id, addresses, searchDomains } of come) {
      const ofEndpoint = {
        endpointId: id,
        searchDomains,
        isIpv4Only: addresses.every((text) => !text.includes(':')),
        load: { openCount: 0 },
      }
      for (const text of addresses) {
        const address = addressToBytes(text)
        this.#clients.set(addressKey(address), { ...ofEndpoint, address })
      }
    }
  }

  setLists(claimedPrefixes: readonly string[], trustedServers: readonly string[]): void {
    this.#listsRevision += 1
    this.#teachable.setClaimed(claimedPrefixes)
    this.#trustedServers = new Set(trustedServers.map((server) => addressKey(addressToBytes(server))))
    this.#servers.clear()
  }

  /** @param address 16 bytes @returns why it teaches nothing, or empty */
  reasonAgainst(address: Uint8Array): string {
    return this.#teachable.reasonAgainst(address)
  }

  /** Resolves when no query is on its way. */
  idle(): Promise<void> {
    return this.#limits.idle()
  }

  /** Queries that wait for room are forgotten. */
  close(): void {
    this.#limits.close()
  }

  slotAt(mark: number): SlotRules | undefined {
    return this.#slots.at(mark)
  }

  /** @param address 16 bytes @returns undefined for an address that is no endpoint's any more, or not yet: nobody's policy could be meant */
  clientAt(address: Uint8Array): Client | undefined {
    return this.#clients.get(addressKey(address))
  }

  /** @param address 16 bytes */
  serverAt(address: Uint8Array): DnsServer {
    const key = addressKey(address)
    return this.#servers.get(key) ?? this.#servers.add(key, address, this.#trustedServers.has(key))
  }

  /**
   * @param query loaded, no reply @param isReadable whether all of it could be read
   * @returns the question with its verdict, or what a query gets that nobody can answer
   */
  judge(query: MessageReader, isReadable: boolean, slot: SlotRules, client: Client): JudgedQuestion | AnswerRcode {
    this.counts.received += 1
    // Other opcodes have messages of other forms.
    if (query.opcode !== OPCODE_QUERY) return RCODE.NOTIMP
    // More questions than one have no meaning that servers agree on (RFC 9619).
    if (!isReadable || query.questionCount !== 1) {
      this.counts.malformed += 1
      return RCODE.FORMERR
    }
    const asked = slot.judge(query)
    if (asked.isAllowed) return asked
    // A rule that denies the name as it is asked for has a name itself.
    const judged = asked.rule === '' ? judgeWithoutDomain(asked, slot, client.searchDomains) : asked
    if (!judged.isAllowed) this.counts.denied += 1
    return judged
  }

  /** @returns whether there is room for one more query on its way, which `end` gives back */
  begin(client: Client, server: DnsServer): boolean {
    const hasRoom = this.#limits.take(client, server)
    if (hasRoom) this.counts.forwarded += 1
    return hasRoom
  }

  /** After `begin` has found none. @param onRoom told once, later, whether there is room now @returns whether it is worth waiting */
  waitForRoom(client: Client, server: DnsServer, onRoom: (hasRoom: boolean) => void): boolean {
    return this.#limits.wait(client, server, (hasRoom) => {
      if (hasRoom) this.counts.forwarded += 1
      onRoom(hasRoom)
    })
  }

  end({ client, server }: Pick<OpenQuery, 'client' | 'server'>): void {
    this.#limits.giveBack(client, server)
  }

  /** Whether a message of the server that was asked answers what was asked. @param reply loaded; more may trail than it counts */
  isAnswerTo(reply: MessageReader, { asked: { question } }: OpenQuery): boolean {
    if (reply.fault !== undefined && reply.fault !== 'trailingBytes') return false
    if (!reply.isReply || reply.opcode !== OPCODE_QUERY) return false
    // Servers may leave the question out of an error.
    if (reply.questionCount === 0) return reply.rcode !== RCODE.NOERROR
    const offset = reply.start + HEADER_BYTES
    if (reply.questionsEnd - offset !== question.length) return false
    for (let index = 0; index < question.length; index++) if (reply.bytes[offset + index] !== question.charCodeAt(index)) return false
    return true
  }

  /** The kernel knows what the answer teaches when this returns. @param reply loaded, and an answer to the query */
  learn(reply: MessageReader, query: OpenQuery, nowMs: number, isTcp: boolean): void {
    this.counts.answered += 1
    this.counts.answeredMs += nowMs - query.startedMs
    const { asked } = query
    const isTold = asked.isAudited || this.#isSampled()
    if (!isTold && this.#isKnown(reply, query, nowMs)) return
    const chain = this.#chain
    // Some clients (musl before 1.2.4) take what a truncated answer has for all that there is. Other classes than the Internet's have no addresses.
    const hasAddresses = chain.read(reply)
    const taught: TaughtClaim[] = []
    const notes = hasAddresses ? this.#learn(query, nowMs, taught) : NO_NOTES
    if (notes.length === 0) {
      // Many questions are asked once: what the second answer teaches is worth keeping.
      if (asked.isAnswered === true) {
        asked.memory ??= new AnswerMemory()
        asked.memory.keep(reply, scopeOf(query), this.#teachingRevision, taught)
      }
      asked.isAnswered = true
      if (!isTold) return
    }
    const addresses = hasAddresses
      ? Array.from({ length: Math.min(chain.addressCount, FLOW_ADDRESSES_MAX) }, (_, index) => chain.address(index))
      : []
    this.#reportOpen(query, isTcp, {
      answered: true,
      rcode: reply.rcode,
      addresses: addresses.map(bytesToAddress),
      cnames: hasAddresses ? chain.names.slice(1) : [],
      ttl: hasAddresses ? (chain.ttlsSeconds[0] ?? 0) : 0,
      durationNs: BigInt(Math.round((nowMs - query.startedMs) * MS_TO_NS)),
      notes: notes.slice(0, FLOW_ADDRESSES_MAX),
    })
  }

  /**
   * What the client gets in place of an answer that it should not have. @param reply loaded, and an answer to the query
   * @returns undefined for an answer that is the client's as it is
   */
  replacementOf(reply: MessageReader, { client, asked }: OpenQuery): Uint8Array | undefined {
    if (!this.#stripsAaaa || asked.type !== TYPE.AAAA || !client.isIpv4Only) return undefined
    return reply.rcode !== RCODE.NOERROR || reply.isDnssecOk || reply.answerCount === 0 ? undefined : noDataReply(reply)
  }

  reportRefused(query: RefusedQuery, isTcp: boolean, rcode: number): void {
    this.#report(query, isTcp, { answered: false, rcode })
  }

  reportTimeout(query: OpenQuery, isTcp: boolean): void {
    query.server.timedOutCount += 1
    this.counts.timedOut += 1
    this.#reportOpen(query, isTcp, { answered: false, notes: ['the server did not answer'] })
  }

  /** Whether the answer says what it said before, and nobody is to be told of it. */
  #isKnown(reply: MessageReader, query: OpenQuery, nowMs: number): boolean {
    const { memory } = query.asked
    if (memory === undefined) return false
    const taught = memory.taughtBy(reply, scopeOf(query), this.#teachingRevision)
    return taught !== undefined && this.#names.renew(taught, nowMs)
  }

  /** Both only grow, so the same sum is the same two. */
  get #teachingRevision(): number {
    return this.#names.selectorsRevision + this.#listsRevision
  }

  #hasSelected(names: readonly string[]): boolean {
    for (const name of names) if (this.#names.isSelected(name)) return true
    return false
  }

  /** @returns why some of the addresses teach nothing, or not all */
  #learn(query: OpenQuery, nowMs: number, taught: TaughtClaim[]): readonly string[] {
    const chain = this.#chain
    const scope = scopeOf(query)
    let notes: string[] | undefined
    for (let index = 0; index < chain.addressCount; index++) {
      const address = chain.address(index)
      let reason = this.#teachable.reasonAgainst(address)
      if (reason === '') {
        const lesson = this.#names.learn(scope, chain.names, address, chain.ttlsSeconds[index] ?? 0, nowMs, taught)
        if (lesson === 'not selected') return NO_NOTES
        if (lesson === 'learned') continue
        reason = lesson
      } else if (notes === undefined && !this.#hasSelected(chain.names)) return NO_NOTES
      notes ??= []
      notes.push(`${bytesToAddress(address)}: ${reason}`)
    }
    return notes ?? NO_NOTES
  }

  #isSampled(): boolean {
    return this.#sampleOf === SAMPLE_STEPS || (this.#sampleOf > 0 && randomIndex(SAMPLE_STEPS) < this.#sampleOf)
  }

  #reportOpen({ client, clientPort, server, serverPort, asked, slotId }: OpenQuery, isTcp: boolean, rest: FlowRest): void {
    this.#report({ clientAddress: client.address, clientPort, serverAddress: server.address, serverPort, asked, slotId }, isTcp, rest)
  }

  #report(query: RefusedQuery, isTcp: boolean, rest: FlowRest): void {
    const { name, type, isAllowed, rule, isAudited } = query.asked ?? UNREAD
    this.#flows.add(
      create(DnsFlowSchema, {
        timeNs: BigInt(Date.now()) * BigInt(MS_TO_NS),
        slotId: query.slotId,
        clientAddress: bytesToAddress(query.clientAddress),
        clientPort: query.clientPort,
        serverAddress: bytesToAddress(query.serverAddress),
        serverPort: query.serverPort,
        tcp: isTcp,
        query: name,
        queryType: type,
        allowed: isAllowed,
        rule,
        audit: isAudited,
        ...rest,
      }),
    )
  }
}

/** Whom an answer teaches: everybody (0), or the endpoint that asked a server which nobody vouches for. */
function scopeOf({ client, server }: OpenQuery): number {
  return server.isTrusted ? 0 : client.endpointId
}

/**
 * Resolvers try a name with each of their search domains, and some give up at the first that is refused: what policy allows may be asked for
 * with one of them behind it. The answer belongs to the name as it was asked for, so the bare name learns nothing from it.
 */
function judgeWithoutDomain(judged: JudgedQuestion, slot: SlotRules, searchDomains: readonly string[]): JudgedQuestion {
  for (const domain of searchDomains) {
    const name = withoutDomain(judged.name, domain)
    if (name === undefined) continue
    const bare = slot.judgeName(name)
    if (bare.isAllowed) return { ...judged, ...bare }
  }
  return judged
}
