/**
 * What both transports ask about a message: may this query go, is this its answer, and what does that teach. Knows endpoints, slots and
 * names, and tells flows.
 */
import { randomInt } from 'node:crypto'
import { create } from '@bufbuild/protobuf'
import type { FlowReporter } from '#api/flow-reporter.ts'
import { type DnsEndpoint, DnsFlowSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { Config } from '#config/schema.ts'
import { AnswerChain } from '#parsers/dns/answers.ts'
import { type AnswerRcode, HEADER_BYTES, RCODE } from '#parsers/dns/codes.ts'
import type { MessageReader } from '#parsers/dns/message.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import type { ItemChanges } from './desired-state.ts'
import type { LearnedNames } from './learned-names.ts'
import type { QueryVerdict, SlotRules, SlotTable } from './slot-rules.ts'
import { keyOf, Teachable } from './teachable.ts'
import type { OpenQuery } from './transactions.ts'

const OPCODE_QUERY = 0
const MS_TO_NS = 1_000_000
const SAMPLE_STEPS = 1_000_000
/** A name server may answer with a thousand addresses; a flow tells of as many. */
const FLOW_ADDRESSES_MAX = 32

export interface Asked {
  readonly slot: SlotRules
  readonly clientAddress: Uint8Array
  readonly serverAddress: Uint8Array
}

export interface AskedBy extends Asked {
  readonly clientPort: number
  readonly serverPort: number
  readonly isTcp: boolean
}

export interface JudgedQuery {
  /** Why it does not go: a code of its own, or what policy's refusals get. Undefined: it may. */
  readonly refusal: AnswerRcode | 'policy' | undefined
  /** Of the first question; empty when there is none that can be read. */
  readonly name: string
  readonly type: number
  /** As it was asked, one character a byte. */
  readonly question: string
  readonly endpointId: number
  readonly verdict: QueryVerdict
}

const NO_VERDICT: QueryVerdict = { isAllowed: false, rule: '', isAudited: false }

export class QueryJudge {
  readonly #slots: SlotTable
  readonly #names: LearnedNames
  readonly #flows: FlowReporter<'dns'>
  readonly #sampleOf: number
  readonly #endpointIds = new Map<string, number>()
  readonly #teachable = new Teachable(this.#endpointIds)
  readonly #chain = new AnswerChain()
  #trustedServers: ReadonlySet<string> = new Set()

  constructor(slots: SlotTable, names: LearnedNames, flows: FlowReporter<'dns'>, { mode, sampleRate }: Config['flows']) {
    this.#slots = slots
    this.#names = names
    this.#flows = flows
    this.#sampleOf = mode === 'all' ? SAMPLE_STEPS : mode === 'denied' ? 0 : Math.round(sampleRate * SAMPLE_STEPS)
  }

  changeEndpoints({ gone, come }: ItemChanges<DnsEndpoint>): void {
    for (const { id, addresses } of gone) {
      for (const address of addresses) {
        const key = keyOf(addressToBytes(address))
        if (this.#endpointIds.get(key) === id) this.#endpointIds.delete(key)
      }
    }
    for (const { id, addresses } of come) for (const address of addresses) this.#endpointIds.set(keyOf(addressToBytes(address)), id)
  }

  setLists(claimedPrefixes: readonly string[], trustedServers: readonly string[]): void {
    this.#teachable.setClaimed(claimedPrefixes)
    this.#trustedServers = new Set(trustedServers.map((server) => keyOf(addressToBytes(server))))
  }

  slotAt(mark: number): SlotRules | undefined {
    return this.#slots.at(mark)
  }

  /** @param query loaded, no reply @param isReadable whether all of it could be read */
  judge(query: MessageReader, isReadable: boolean, { slot, clientAddress }: Asked): JudgedQuery {
    const endpointId = this.#endpointIds.get(keyOf(clientAddress))
    const refused = (refusal: AnswerRcode): JudgedQuery => ({
      refusal,
      name: '',
      type: 0,
      question: '',
      endpointId: endpointId ?? 0,
      verdict: NO_VERDICT,
    })
    // Other opcodes have messages of other forms.
    if (query.opcode !== OPCODE_QUERY) return refused(RCODE.NOTIMP)
    // More questions than one have no meaning that servers agree on (RFC 9619).
    if (!isReadable || query.questionCount !== 1) return refused(RCODE.FORMERR)
    // An address that is no endpoint's any more, or not yet: nobody's policy could be meant.
    if (endpointId === undefined) return refused(RCODE.SERVFAIL)
    query.rewind()
    query.nextQuestion()
    const { name, type } = query
    const question = latin1(query.bytes, query.start + HEADER_BYTES, query.questionsEnd)
    const verdict = slot.judge(name)
    return { refusal: verdict.isAllowed ? undefined : 'policy', name, type, question, endpointId, verdict }
  }

  /** Whether a message of the server that was asked answers what was asked. @param reply loaded; more may trail than it counts */
  isAnswerTo(reply: MessageReader, { question }: OpenQuery): boolean {
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
  learn(reply: MessageReader, transaction: OpenQuery, nowMs: number, isTcp: boolean): void {
    const chain = this.#chain
    const notes: string[] = []
    // What is truncated comes again, whole; what is not of the Internet's class has no addresses.
    const hasAddresses = !reply.isTruncated && chain.read(reply)
    if (hasAddresses) {
      const scope = this.#trustedServers.has(keyOf(transaction.serverAddress)) ? 0 : transaction.endpointId
      for (let index = 0; index < chain.addressCount; index++) {
        const address = chain.address(index)
        const reason = this.#teachable.reasonAgainst(address)
        const lesson = reason === '' ? this.#names.learn(scope, chain.names, address, chain.ttlsSeconds[index] ?? 0, nowMs) : reason
        if (lesson !== 'learned' && lesson !== 'not selected') notes.push(`${bytesToAddress(address)}: ${lesson}`)
      }
    }
    if (notes.length === 0 && !transaction.verdict.isAudited && !this.#isSampled()) return
    const addresses = hasAddresses
      ? Array.from({ length: Math.min(chain.addressCount, FLOW_ADDRESSES_MAX) }, (_, index) => chain.address(index))
      : []
    this.#report(transaction, isTcp, {
      answered: true,
      rcode: reply.rcode,
      addresses: addresses.map(bytesToAddress),
      cnames: hasAddresses ? chain.names.slice(1) : [],
      ttl: hasAddresses ? (chain.ttlsSeconds[0] ?? 0) : 0,
      durationNs: BigInt(Math.round((nowMs - transaction.startedMs) * MS_TO_NS)),
      notes: notes.slice(0, FLOW_ADDRESSES_MAX),
    })
  }

  reportRefused(
    { name, type, verdict }: JudgedQuery,
    { slot, clientAddress, serverAddress, clientPort, serverPort, isTcp }: AskedBy,
    rcode: number,
  ): void {
    this.#report({ name, type, verdict, slotId: slot.slot.id, clientAddress, clientPort, serverAddress, serverPort }, isTcp, {
      answered: false,
      rcode,
    })
  }

  reportTimeout(transaction: OpenQuery, isTcp: boolean): void {
    this.#report(transaction, isTcp, { answered: false, notes: ['the server did not answer'] })
  }

  #isSampled(): boolean {
    return this.#sampleOf === SAMPLE_STEPS || (this.#sampleOf > 0 && randomInt(SAMPLE_STEPS) < this.#sampleOf)
  }

  #report(
    query: Pick<OpenQuery, 'clientAddress' | 'clientPort' | 'serverAddress' | 'serverPort' | 'name' | 'type' | 'slotId' | 'verdict'>,
    isTcp: boolean,
    rest: Partial<
      Pick<Parameters<FlowReporter<'dns'>['add']>[0], 'answered' | 'rcode' | 'addresses' | 'cnames' | 'ttl' | 'durationNs' | 'notes'>
    >,
  ): void {
    this.#flows.add(
      create(DnsFlowSchema, {
        timeNs: BigInt(Date.now()) * BigInt(MS_TO_NS),
        slotId: query.slotId,
        clientAddress: bytesToAddress(query.clientAddress),
        clientPort: query.clientPort,
        serverAddress: bytesToAddress(query.serverAddress),
        serverPort: query.serverPort,
        tcp: isTcp,
        query: query.name,
        queryType: query.type,
        allowed: query.verdict.isAllowed,
        rule: query.verdict.rule,
        audit: query.verdict.isAudited,
        ...rest,
      }),
    )
  }
}

function latin1(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.prototype.latin1Slice.call(bytes, start, end)
}
