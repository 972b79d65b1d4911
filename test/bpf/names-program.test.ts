import test from 'ava'
import fc from 'fast-check'
import { GroupRows } from '#agent/datapath/group-rows.ts'
import {
  CONFIG_NAMES,
  DIRECTION_EGRESS,
  ENDPOINT_ENFORCE_EGRESS,
  IDENTITY_SEVERAL_NAMES,
  IPCACHE_PREFIX,
  LEARNED_SELECTORS_MAX,
  POLICY_ALLOWS_ALL,
  POLICY_AUDIT,
  POLICY_EXPLICIT_DENY,
  POLICY_PREFIX_FULL,
  type PolicyValue,
  policyKeyCodec,
  policyValueCodec,
  VERDICT_ALLOW,
  VERDICT_DENY,
  VERDICT_REDIRECT,
} from '#bpf/gen/abi.ts'
import { KernelMaps, policyRowsMap } from '#bpf/maps.ts'
import { PROGRAMS_PATH } from '#config/package.ts'
import { addressToBytes } from '#sys/addresses.ts'
import {
  BPF_F_NO_PREALLOC,
  BPF_MAP_TYPE_LPM_TRIE,
  closeObject,
  createMap,
  loadObject,
  mapFd,
  mapsOf,
  openObject,
  programsOf,
  setMaxEntries,
} from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { inNetns, netnsPath } from '#sys/netns.ts'
import { withRoute } from '#sys/rtnetlink.ts'
import { answerTo } from '../support/bpf-program.ts'
import { TCP_SYN, tcpFrame } from '../support/frames.ts'
import { ip } from '../support/machine.ts'

const MAC = '02:00:00:00:00:01'
const [OWN, PEER, PORT] = ['10.1.0.1', '10.2.0.1', 80]
const [ENDPOINT, GROUP, PEER_IDENTITY, FIRST_SELECTOR, FIRST_SLOT_PORT] = [7, 1, 300, 1 << 25, 20_000]
const TCP = 6
const ANSWERS = new Map([
  [-1, 'passed'],
  [2, 'dropped'],
  [7, 'redirected'],
])

const ROW_KINDS = ['none', 'deny', 'explicit deny', 'allow', 'audit', 'redirect', 'redirect all'] as const
type RowKind = (typeof ROW_KINDS)[number]

interface Situation {
  /** Row of the address's own identity. */
  readonly own: RowKind
  /** Rows of selectors, by their order. */
  readonly selectors: readonly RowKind[]
  /** Row of what stands for several names at once. */
  readonly several: RowKind
  /** Which selectors everybody knows the address by, and which only the endpoint. */
  readonly common: readonly number[]
  readonly private: readonly number[]
  /** Whose the address is as the ipcache has it. */
  readonly owner: 'nobody' | 'prefix' | 'endpoint'
  readonly hasNames: boolean
}

const [OWN_SLOT, SEVERAL_SLOT] = [FIRST_SLOT_PORT + 50, FIRST_SLOT_PORT + 51]
const SELECTOR_COUNT = 12
const rowsOf = (kinds: readonly RowKind[]) => fc.array(fc.constantFrom(...kinds), { minLength: SELECTOR_COUNT, maxLength: SELECTOR_COUNT })
const subset = fc.uniqueArray(fc.nat(SELECTOR_COUNT - 1), { maxLength: LEARNED_SELECTORS_MAX })
const situation: fc.Arbitrary<Situation> = fc.record({
  own: fc.constantFrom(...ROW_KINDS),
  selectors: fc.oneof(
    rowsOf(ROW_KINDS),
    rowsOf(['redirect', 'none', 'audit', 'explicit deny']),
    rowsOf(['redirect', 'none', 'none', 'redirect all']),
  ),
  several: fc.constantFrom(...ROW_KINDS, 'redirect', 'redirect'),
  common: subset,
  private: subset,
  owner: fc.constantFrom('nobody', 'prefix', 'prefix', 'endpoint'),
  hasNames: fc.boolean().map((isOff) => !isOff),
})

/** What the documentation says, case by case: an answer, and where it is redirected the slots that may be meant. */
function expected({ own, selectors, several, common, private: known, owner, hasNames }: Situation): { answer: string; slots: number[] } {
  const answer = answerOf({ own, selectors, common, private: known, owner, hasNames })
  if (answer !== 'redirected') return { answer, slots: [] }
  const of = (kind: RowKind) => [...new Set([...common, ...known])].filter((index) => selectors[index] === kind)
  if (own === 'redirect all') return { answer, slots: [OWN_SLOT] }
  const isNameable = hasNames && owner !== 'endpoint'
  const all = isNameable ? of('redirect all') : []
  if (all.length > 0) return { answer, slots: all.map((index) => FIRST_SLOT_PORT + index) }
  if (own === 'redirect') return { answer, slots: [OWN_SLOT] }
  const named = of('redirect')
  if (named.length > 1 && several.startsWith('redirect')) return { answer, slots: [SEVERAL_SLOT] }
  return { answer, slots: named.map((index) => FIRST_SLOT_PORT + index) }
}

function answerOf({ own, selectors, common, private: known, owner, hasNames }: Omit<Situation, 'several'>): string {
  if (own === 'explicit deny') return 'dropped'
  const isNameable = hasNames && owner !== 'endpoint'
  const named = isNameable ? [...common, ...known].map((index) => selectors[index]) : []
  const isClaimed = named.some((kind) => kind === 'allow' || kind === 'audit' || kind?.startsWith('redirect'))
  if (!isClaimed && named.includes('explicit deny')) return 'dropped'
  const all = [own, ...named]
  if (all.includes('allow')) return 'passed'
  if (all.some((kind) => kind?.startsWith('redirect'))) return 'redirected'
  return all.includes('audit') ? 'passed' : 'dropped'
}

const FLAGS: Partial<Record<RowKind, number>> = {
  'explicit deny': POLICY_EXPLICIT_DENY,
  audit: POLICY_AUDIT,
  'redirect all': POLICY_ALLOWS_ALL,
}

function valueOfRow(kind: RowKind, slotOfRow: number): PolicyValue {
  const isRedirect = kind.startsWith('redirect')
  const verdict = isRedirect ? VERDICT_REDIRECT : kind === 'allow' || kind === 'audit' ? VERDICT_ALLOW : VERDICT_DENY
  const flags = FLAGS[kind] ?? 0
  const slotPort = isRedirect ? slotOfRow : 0
  return { verdict, flags, slotPort, slotGeneration: slotPort === 0 ? 0 : 1, precedence: 0, cookie: 0 }
}

test('names open and close what their rows say, on top of what an address may do by itself', (t) => {
  const netns = `hg-names-${process.pid}`
  ip('netns', 'add', netns)
  t.teardown(() => ip('netns', 'del', netns))
  ip('-n', netns, 'link', 'add', 'e0', 'type', 'veth', 'peer', 'name', 'p0')
  const ifindex = withRoute(netnsPath(netns), (route) => route.link('e0')?.index ?? 0)
  const object = openObject(PROGRAMS_PATH)
  const byName = mapsOf(object)
  for (const name of ['conntrack', 'ipcache']) setMaxEntries(byName.get(name)!, 1024, name)
  loadObject(object)
  t.teardown(() => closeObject(object))
  const maps = new KernelMaps((name) => mapFd(byName.get(name)!))
  const program = programsOf(object).get('from_workload') ?? -1
  const rowsFd = createMap(BPF_MAP_TYPE_LPM_TRIE, 'policy_rows', policyKeyCodec.size, policyValueCodec.size, 64, BPF_F_NO_PREALLOC)
  t.teardown(() => close(rowsFd))
  maps.policyGroups.set(GROUP, rowsFd)
  const rows = policyRowsMap(rowsFd)
  maps.endpoints.set(ifindex, {
    id: ENDPOINT,
    identity: 256,
    policyGroup: GROUP,
    revision: 1,
    flags: ENDPOINT_ENFORCE_EGRESS,
    ifindex,
    mac: Buffer.alloc(6),
    hostMac: Buffer.alloc(6),
    addressCount: 1,
    addresses: [{ bytes: addressToBytes(OWN) }],
  })
  const frame = tcpFrame({ destinationMac: MAC, source: OWN, destination: PEER, sourcePort: 40_000, destinationPort: PORT, flags: TCP_SYN })
  const address = addressToBytes(PEER)
  const setRow = (identity: number, kind: RowKind, slot = OWN_SLOT): void => {
    const key = { prefixLength: POLICY_PREFIX_FULL, identity, direction: DIRECTION_EGRESS, protocol: TCP, port: PORT }
    if (kind === 'none') rows.delete(key)
    else rows.set(key, valueOfRow(kind, slot))
  }
  const setLearned = (endpointId: number, indexes: readonly number[]): void => {
    if (indexes.length === 0) {
      maps.learnedAddresses.delete({ address, endpointId })
      return
    }
    const selectors = Array.from({ length: LEARNED_SELECTORS_MAX }, (_, place) => {
      const index = indexes[place]
      return { identity: index === undefined ? 0 : FIRST_SELECTOR + index }
    })
    maps.learnedAddresses.set({ address, endpointId }, { selectors })
  }
  const legs = Array.from({ length: 5 }, () => ({ hostIfindex: 1 }))
  const timeouts = { tcpTimeoutSeconds: 60, tcpSynTimeoutSeconds: 60, tcpCloseTimeoutSeconds: 60, otherTimeoutSeconds: 60 }
  const seen = new Map<string, number>()
  inNetns(netnsPath(netns), () =>
    fc.assert(
      fc.property(situation, (asked) => {
        const { own, selectors, several, common, private: known, owner, hasNames } = asked
        maps.config.set(0, { revision: 1, flags: hasNames ? CONFIG_NAMES : 0, legs, ...timeouts, eventSample: 0, eventsPerSecond: 1 })
        const key = { prefixLength: 128, address }
        if (owner === 'nobody') maps.ipcache.delete(key)
        else maps.ipcache.set(key, { identity: PEER_IDENTITY, flags: owner === 'prefix' ? IPCACHE_PREFIX : 0 })
        // Without an entry the address is the world's.
        setRow(owner === 'nobody' ? 2 : PEER_IDENTITY, own)
        setRow(owner === 'nobody' ? PEER_IDENTITY : 2, 'none')
        for (const [index, kind] of selectors.entries()) setRow(FIRST_SELECTOR + index, kind, FIRST_SLOT_PORT + index)
        setRow(IDENTITY_SEVERAL_NAMES, several, SEVERAL_SLOT)
        setLearned(0, common)
        setLearned(ENDPOINT, known)
        const answer = ANSWERS.get(answerTo(program, ifindex, frame)) ?? 'something else'
        const slotPort = [...maps.conntrack.keys()].map((entry) => maps.conntrack.get(entry)?.slotPort ?? 0)[0] ?? 0
        for (const entry of maps.conntrack.keys()) maps.conntrack.delete(entry)
        const { answer: wanted, slots } = expected(asked)
        for (const what of [wanted, ...(slots[0] === SEVERAL_SLOT ? ['several'] : [])]) seen.set(what, (seen.get(what) ?? 0) + 1)
        if (answer !== wanted) throw new Error(`${answer}, not ${wanted}`)
        const identity = owner === 'nobody' ? 2 : PEER_IDENTITY
        const learned = hasNames && owner !== 'endpoint' ? [...common, ...known].map((index) => FIRST_SELECTOR + index) : []
        const ofAgent = new GroupRows(rows, { ingress: true, egress: true }).lookup('egress', { identity, selectors: learned }, TCP, PORT)
        if (ofAgent.slotPort !== slotPort) throw new Error(`the agent takes it for slot ${ofAgent.slotPort}, the kernel for ${slotPort}`)
        if (slots.length > 0 && !slots.includes(slotPort)) throw new Error(`slot ${slotPort}, not ${slots.join()}`)
      }),
      { numRuns: 3000, includeErrorInReport: true },
    ),
  )
  t.log(Object.fromEntries(seen))
  for (const answer of ANSWERS.values()) t.true((seen.get(answer) ?? 0) > 100, answer)
  t.true((seen.get('several') ?? 0) > 10, 'several slots at once')
})
