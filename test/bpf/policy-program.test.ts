import test from 'ava'
import fc from 'fast-check'
import { enforceable } from '#agent/datapath/enforceable.ts'
import { GroupRows } from '#agent/datapath/group-rows.ts'
import { possibleCpuCount } from '#bpf/counters.ts'
import {
  COUNTERS,
  CT_NETWORK,
  CT_WORKLOAD,
  type CtKey,
  counterValueCodec,
  DIRECTION_EGRESS,
  DIRECTION_INGRESS,
  ENDPOINT_ENFORCE_EGRESS,
  ENDPOINT_ENFORCE_INGRESS,
  policyKeyCodec,
  policyValueCodec,
  REASON_MAX,
  REASON_NONE,
  REASON_NOT_REDIRECTABLE,
  REASON_POLICY_DENIED,
  REASON_POLICY_DENY_RULE,
  VERDICT_ALLOW,
  VERDICT_AUDIT,
  VERDICT_DENY,
  VERDICT_REDIRECT,
} from '#bpf/gen/abi.ts'
import { u32Codec } from '#bpf/map.ts'
import { KernelMaps, policyRowsMap } from '#bpf/maps.ts'
import { PROGRAMS_PATH } from '#config/package.ts'
import { PolicyEngine } from '#policy/engine.ts'
import type { ResolvedGroup } from '#policy/resolved.ts'
import { addressToBytes } from '#sys/addresses.ts'
import {
  BPF_F_NO_PREALLOC,
  BPF_MAP_TYPE_LPM_TRIE,
  closeObject,
  createMap,
  loadObject,
  lookupElement,
  mapFd,
  mapsOf,
  type OpenedObject,
  openObject,
  programsOf,
  setMaxEntries,
} from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { inNetns, netnsPath } from '#sys/netns.ts'
import { withRoute } from '#sys/rtnetlink.ts'
import { judge, type NaiveFlow, type NaiveVerdict, type RawDocument, type RawIdentity } from '../policy/naive.ts'
import { apply, document, ENDPOINTS, Prefixes, probe, RESERVED, subjectOf } from '../policy/world.ts'
import { answerTo } from '../support/bpf-program.ts'
import { ethernet, ipv4Packet, TCP_SYN, tcpFrame } from '../support/frames.ts'
import { ip } from '../support/machine.ts'

const TCX_NEXT = -1
const TCX_DROP = 2
const TCX_REDIRECT = 7

const ICMP = 1
const TCP = 6
const UDP = 17
const SCTP = 132
/** Packets of another protocol of IP version 6 are not read. */
const ICMPV6 = 58
/** Errors belong to the connection that they are about, not to policy. */
const ICMP_TIME_EXCEEDED = 11
const ICMP_ECHO = 8

const SOURCE_PORT = 40000
const FIRST_SLOT_PORT = 20000
const ROWS_MAX = 65536
const MAC = '02:00:00:00:00:01'

/** The programs with maps of their own, and a device for each endpoint, in a namespace that goes with the test. */
class Laboratory {
  readonly maps: KernelMaps
  readonly #object: OpenedObject
  readonly #programs: ReadonlyMap<string, number>
  readonly #devices: ReadonlyMap<number, number>
  readonly #groups = new Map<number, { readonly rows: GroupRows; readonly fd: number; readonly slots: Map<string, number> }>()
  readonly #counter = Buffer.alloc(counterValueCodec.size * possibleCpuCount())
  #peers: readonly RawIdentity[] = []

  constructor(netns: string) {
    this.#object = openObject(PROGRAMS_PATH)
    const maps = mapsOf(this.#object)
    for (const name of ['conntrack', 'ipcache']) setMaxEntries(maps.get(name)!, 4096, name)
    loadObject(this.#object)
    this.#programs = programsOf(this.#object)
    this.maps = new KernelMaps((name) => mapFd(maps.get(name)!))
    this.#devices = withRoute(netnsPath(netns), (route) => {
      const indexes = ENDPOINTS.map(({ id }) => [id, route.link(`e${id}`)?.index ?? 0] as const)
      return new Map(indexes)
    })
    const legs = Array.from({ length: 5 }, () => ({ hostIfindex: 1 }))
    const timeouts = { tcpTimeoutSeconds: 60, tcpSynTimeoutSeconds: 60, tcpCloseTimeoutSeconds: 60, otherTimeoutSeconds: 60 }
    this.maps.config.set(0, { revision: 1, flags: 0, legs, ...timeouts, eventSample: 0, eventsPerSecond: 1 })
  }

  /** Puts resolved groups in the kernel, as the agent does: rows that changed, one by one. */
  write(changed: readonly ResolvedGroup[]): void {
    for (const resolved of changed) {
      const { group } = enforceable(resolved)
      const { rows, slots } = this.#group(group.group)
      const ports = new Map([...group.classes.keys()].map((key) => [key, slots.get(key) ?? FIRST_SLOT_PORT + slots.size] as const))
      for (const [key, port] of ports) slots.set(key, port)
      for (const key of group.changedRows) {
        const row = group.rows.get(key)
        const port = row?.classKey === undefined ? undefined : ports.get(row.classKey)
        rows.want(key, row && { row, cookie: 0, slot: port === undefined ? undefined : { port, generation: 1 } })
      }
      rows.step(() => 'ready', false)
      rows.setEnforced(group.enforced)
      this.#writeEndpoint(group)
    }
  }

  setPeers(peers: readonly RawIdentity[]): void {
    for (const [index, { id }] of peers.entries()) {
      const key = { prefixLength: 128, address: addressToBytes(peerAddress(index)) }
      this.maps.ipcache.set(key, { identity: id, flags: 0 })
    }
    this.#peers = peers
  }

  /** @returns what is not as the kernel should have it; empty when everything is */
  problemOf(flow: NaiveFlow, expected: KernelVerdict): string {
    const { subject, direction, peer } = flow
    const ifindex = this.#devices.get(subject.id) ?? 0
    const [own, other] = [ownAddress(subject), peerAddress(this.#peers.indexOf(peer))]
    const egress = direction === 'egress'
    const frame = frameOf(flow, egress ? own : other, egress ? other : own)
    const program = this.#programs.get(egress ? 'from_workload' : 'to_workload') ?? -1
    const before = this.#count(expected, egress)
    const answer = answerTo(program, ifindex, frame)
    const slot = this.#forgetConnection(flow, own, other)
    if (answer !== expected.answer) return `answers ${answer}, not ${expected.answer}`
    if (this.#count(expected, egress) !== before + 1n) return 'is counted as another verdict'
    const ports = [...(this.#groups.get(subject.id)?.slots.values() ?? [])]
    if (answer === TCX_REDIRECT && !ports.includes(slot ?? 0)) return `goes to slot ${slot}`
    return ''
  }

  close(): void {
    for (const { fd } of this.#groups.values()) close(fd)
    closeObject(this.#object)
  }

  /** Takes every group's rows away. */
  reset(): void {
    for (const [group, { fd }] of this.#groups) {
      this.maps.policyGroups.delete(group)
      close(fd)
    }
    this.#groups.clear()
  }

  #group(group: number): { readonly rows: GroupRows; readonly slots: Map<string, number> } {
    const known = this.#groups.get(group)
    if (known !== undefined) return known
    const fd = createMap(BPF_MAP_TYPE_LPM_TRIE, 'policy_rows', policyKeyCodec.size, policyValueCodec.size, ROWS_MAX, BPF_F_NO_PREALLOC)
    this.maps.policyGroups.set(group, fd)
    const made = { fd, rows: new GroupRows(policyRowsMap(fd), { ingress: true, egress: true }), slots: new Map<string, number>() }
    this.#groups.set(group, made)
    return made
  }

  #writeEndpoint({ group, identity, enforced }: ResolvedGroup): void {
    const ifindex = this.#devices.get(identity) ?? 0
    const subject = ENDPOINTS.find(({ id }) => id === identity)
    if (subject === undefined) return
    this.maps.endpoints.set(ifindex, {
      id: identity,
      identity,
      policyGroup: group,
      revision: 1,
      flags: (enforced.ingress ? ENDPOINT_ENFORCE_INGRESS : 0) | (enforced.egress ? ENDPOINT_ENFORCE_EGRESS : 0),
      ifindex,
      mac: Buffer.alloc(6),
      hostMac: Buffer.alloc(6),
      addressCount: 1,
      addresses: [{ bytes: addressToBytes(ownAddress(subject)) }],
    })
  }

  #count({ verdict, reason }: KernelVerdict, egress: boolean): bigint {
    const index = (verdict * 2 + (egress ? DIRECTION_EGRESS : DIRECTION_INGRESS)) * REASON_MAX + reason
    if (index >= COUNTERS) throw new RangeError(`no counter ${index}`)
    lookupElement(this.maps.countersFd, u32Codec.encode(index), this.#counter, 'counters')
    let packets = 0n
    for (let offset = 0; offset < this.#counter.length; offset += counterValueCodec.size) {
      packets += counterValueCodec.decode(this.#counter.subarray(offset)).packets
    }
    return packets
  }

  /** @returns the slot that its entry was sent to */
  #forgetConnection({ subject, protocol, port, direction }: NaiveFlow, own: string, other: string): number | undefined {
    const hasPorts = protocol === TCP || protocol === UDP || protocol === SCTP
    const client = protocol === ICMP && port === ICMP_ECHO << 8 ? SOURCE_PORT : hasPorts ? SOURCE_PORT : 0
    const service = hasPorts ? port : 0
    const key: Omit<CtKey, 'side'> = {
      local: addressToBytes(own),
      remote: addressToBytes(other),
      localPort: direction === 'egress' ? client : service,
      remotePort: direction === 'egress' ? service : client,
      protocol,
      endpointId: subject.id,
    }
    let slot: number | undefined
    for (const side of [CT_WORKLOAD, CT_NETWORK]) {
      slot ??= this.maps.conntrack.get({ ...key, side })?.slotPort
      this.maps.conntrack.delete({ ...key, side })
    }
    return slot
  }
}

interface KernelVerdict {
  readonly answer: number
  readonly verdict: number
  readonly reason: number
}

/** What the program is to do where the naive evaluator says that: what cannot be enforced yet is denied. */
function kernelVerdict({ verdict, isExplicit, audit, ruleset }: NaiveVerdict, protocol: number): KernelVerdict {
  const denied = (reason: number) => ({ answer: TCX_DROP, verdict: VERDICT_DENY, reason })
  const allowed = (isAudited: boolean) =>
    isAudited
      ? { answer: TCX_NEXT, verdict: VERDICT_AUDIT, reason: REASON_POLICY_DENIED }
      : { answer: TCX_NEXT, verdict: VERDICT_ALLOW, reason: REASON_NONE }
  if (verdict === 'deny') return denied(isExplicit ? REASON_POLICY_DENY_RULE : REASON_POLICY_DENIED)
  if (ruleset === undefined) return allowed(audit)
  const { kind, allowAll, deny, serverNames, shadow } = ruleset
  if ((kind === 'http' || kind === 'kafka') && serverNames.length === 0)
    return protocol === TCP ? { answer: TCX_REDIRECT, verdict: VERDICT_REDIRECT, reason: REASON_NONE } : denied(REASON_NOT_REDIRECTABLE)
  return kind !== 'conflict' && allowAll && deny.length === 0 ? allowed(shadow === 'deny-all') : denied(REASON_POLICY_DENIED)
}

function ownAddress({ id }: RawIdentity): string {
  return `10.250.${id >> 8}.${id & 255}`
}

function peerAddress(index: number): string {
  return `172.31.0.${index + 1}`
}

/** The packet that opens a flow. */
function frameOf({ protocol, port }: NaiveFlow, source: string, destination: string): Buffer {
  if (protocol === TCP)
    return tcpFrame({ destinationMac: MAC, source, destination, sourcePort: SOURCE_PORT, destinationPort: port, flags: TCP_SYN })
  const payload = Buffer.alloc(24)
  if (protocol === ICMP) {
    payload[0] = port >>> 8
    payload.writeUInt16BE(SOURCE_PORT, 4)
  } else if (protocol === UDP || protocol === SCTP) {
    payload.writeUInt16BE(SOURCE_PORT, 0)
    payload.writeUInt16BE(port, 2)
  }
  return ethernet(MAC, MAC, 0x0800, ipv4Packet(protocol, source, destination, payload))
}

const documents = fc.tuple(document('one'), document('two'), document('three')).chain((all) => fc.subarray(all, { minLength: 1 }))
const traffic = probe.filter(
  ({ traffic: { protocol, port } }) => protocol !== ICMPV6 && !(protocol === ICMP && port >>> 8 === ICMP_TIME_EXCEEDED),
)

test('the program in the kernel says of every flow what a walk through all rules says, after an edit too', (t) => {
  const netns = `hgtlab${process.pid}`
  ip('netns', 'add', netns)
  try {
    for (const { id } of ENDPOINTS) ip('-n', netns, 'link', 'add', `e${id}`, 'type', 'veth', 'peer', 'name', `p${id}`)
    inNetns(netnsPath(netns), () => {
      const laboratory = new Laboratory(netns)
      try {
        fc.assert(
          fc.property(documents, documents, fc.array(traffic, { minLength: 30, maxLength: 30 }), (first, second, flows) =>
            agreeOn(laboratory, [first, second], flows),
          ),
          { numRuns: 150 },
        )
      } finally {
        laboratory.close()
      }
    })
  } finally {
    ip('netns', 'del', netns)
  }
  t.pass()
})

type Flow = (typeof traffic)['generate'] extends (...args: never[]) => fc.Value<infer T> ? T : never

function agreeOn(laboratory: Laboratory, edits: readonly (readonly RawDocument[])[], flows: readonly Flow[]): void {
  const engine = new PolicyEngine()
  const prefixes = new Prefixes()
  laboratory.reset()
  for (const endpoint of ENDPOINTS) {
    engine.upsertIdentity(endpoint)
    engine.addSubject(subjectOf(endpoint))
  }
  for (const policies of edits) {
    for (const name of ['one', 'two', 'three']) engine.removeFile(name)
    for (const raw of policies) apply(engine, raw.metadata.name, raw)
    prefixes.sync(engine)
    laboratory.write(engine.commit().changed)
    const peers = [...ENDPOINTS, ...RESERVED, ...prefixes.identities.values()]
    laboratory.setPeers(peers)
    for (const { subject, direction, traffic: packet } of flows) {
      for (const peer of peers) {
        const flow = { subject, direction, peer, ...packet }
        const naive = judge(policies, flow)
        const expected = kernelVerdict(naive, packet.protocol)
        const problem = laboratory.problemOf(flow, expected)
        if (problem !== '') throw new Error(`${problem}: ${JSON.stringify({ flow, naive, expected })}`)
      }
    }
  }
}
