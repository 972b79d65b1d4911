/**
 * Other people's programs on the hooks that Headgate uses, or that see what its Envoy does: who is there, in which order, and what that
 * means for policy. It looks at no more than a bounded number of devices: a node may have thousands, and this runs before every `up`.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { SystemCallError } from '#sys/errors.ts'
import {
  BPF_F_QUERY_EFFECTIVE,
  BPF_TCX_EGRESS,
  BPF_TCX_INGRESS,
  getPinned,
  objectInfo,
  programNameById,
  queryPrograms,
} from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { type Link, withRoute } from '#sys/rtnetlink.ts'
import { type Filter, TrafficControl } from '#sys/traffic-control.ts'
import { DEVICES_MAX, type Judgement, listed, ok, warning } from './judgement.ts'

/** How much of what was found is named; the rest is counted. */
const NAMES_SHOWN_MAX = 6

/** Networks that enforce or load-balance in eBPF of their own, by how their programs are called. */
const NETWORKS: readonly (readonly [pattern: RegExp, owner: string])[] = [
  [/^cil_/, 'Cilium'],
  [/^cali(co)?_/, 'Calico'],
]

/** Attach types of cgroup hooks (linux/bpf.h) that see what Envoy does with IPv4 sockets, for TCP and for names. */
const CGROUP_HOOKS: ReadonlyMap<string, number> = new Map([
  ['ingress', 0],
  ['egress', 1],
  ['sock_create', 2],
  ['sock_ops', 3],
  ['bind4', 8],
  ['connect4', 10],
  ['sendmsg4', 14],
  ['recvmsg4', 19],
  ['setsockopt', 22],
])

/** A program, and where it was found. */
interface Sighting {
  readonly program: string
  /** As in `egress of eth0`. */
  readonly place: string
  /** It runs before Headgate's, which go first when they are attached: somebody has put it there since. */
  readonly isAhead: boolean
}

/**
 * What matters is who comes first on a workload's device, which is a veth.
 * @param bpfFolder the setting paths.bpf, whose pins tell which programs are this instance's
 */
export function checkTcx(bpfFolder: string): Judgement {
  const own = ownPrograms(bpfFolder)
  const { devices, scope } = devicesToLookAt()
  const seen = devices.flatMap((link) =>
    (['ingress', 'egress'] as const).flatMap((direction) => {
      const ids = programsOf(link, direction)
      const ownIndex = ids.findIndex((id) => own.has(id))
      return ids.flatMap((id, index): Sighting[] => {
        if (own.has(id)) return []
        const program = nameOf(id)
        return [{ program, place: `${direction} of ${link.name}`, isAhead: index < ownIndex }]
      })
    }),
  )
  if (seen.length === 0) return ok(`no others on ${scope}`)
  const detail = `${summary(seen)} (${scope})`
  const networks = networksOf(seen)
  const hints: string[] = []
  if (seen.some(({ isAhead }) => isAhead)) {
    hints.push(
      'policy does not judge what a program ahead of Headgate’s passes on or redirects: let its owner attach it behind, ' +
        'or make no endpoint of that device',
    )
  }
  if (networks !== '') hints.push(pastHeadgate(networks))
  return hints.length === 0 ? ok(`${detail}: Headgate’s run beside them`) : warning(detail, hints.join('; '))
}

/** Filters of the older kind run after all tcx programs: what Headgate drops never reaches them. */
export function checkFilters(): Judgement {
  const { devices, scope } = devicesToLookAt()
  const control = new TrafficControl()
  try {
    const qdiscs = control.hookQdiscs()
    const hooked = devices.flatMap((link) => {
      const qdisc = qdiscs.get(link.index)
      return qdisc === undefined ? [] : [{ link, qdisc, filters: control.filters(link.index, qdisc) }]
    })
    if (hooked.length === 0) return ok(`no clsact qdisc on ${scope}`)
    const seen = hooked.flatMap(({ link, filters }) =>
      filters.map((filter) => ({ filter, program: filterName(filter), place: `${filter.direction} of ${link.name}`, isAhead: false })),
    )
    const programs = seen.filter(({ filter }) => filter.kind === 'bpf')
    const detail = `${seen.length === 0 ? `no filter in the clsact qdisc of ${listed(hooked.map(({ link }) => link.name))}` : summary(seen)} (${scope})`
    if (programs.length === 0) return ok(`${detail}: they run after Headgate’s programs`)
    return warning(detail, pastHeadgate(networksOf(programs) || 'their owner'))
  } finally {
    control.close()
  }
}

/** Of the cgroup that this process is in, and those above it, which are Envoy's too when it is started from here. */
export function checkCgroup(): Judgement {
  const folder = ownCgroup()
  if (folder === undefined) return ok('no cgroup2 is mounted')
  const fd = openSync(folder, 'r')
  try {
    const seen = [...CGROUP_HOOKS].flatMap(([hook, attachType]) =>
      queryPrograms(fd, attachType, BPF_F_QUERY_EFFECTIVE, `${hook} of ${folder}`).map(
        (id): Sighting => ({ program: nameOf(id), place: hook, isAhead: false }),
      ),
    )
    if (seen.length === 0) return ok(`none on ${folder}`)
    const detail = `${summary(seen)} (${folder})`
    if (seen.every(({ program }) => /^cil_sock/.test(program))) {
      return ok(`${detail}: a service’s address becomes its backend’s before Headgate sees a packet; write policy for backends`)
    }
    const hint =
      'these programs may refuse or rewrite connections of Envoy too, and policy sees addresses as they leave them: if proxied requests ' +
      'fail, take IPAddressDeny= and the like from Envoy’s unit, or run it in a cgroup of its own'
    return warning(detail, hint)
  } finally {
    closeSync(fd)
  }
}

function pastHeadgate(owner: string): string {
  return (
    `programs of ${owner} that redirect packets straight into a workload’s namespace take them past Headgate, and do not see what it ` +
    'sends to its proxies: check with a policy that denies, or switch their eBPF datapath off'
  )
}

/** Programs behind the pinned links of this instance. */
function ownPrograms(bpfFolder: string): ReadonlySet<number> {
  const own = new Set<number>()
  if (!existsSync(bpfFolder)) return own
  for (const layout of readdirSync(bpfFolder)) {
    const links = join(bpfFolder, layout, 'links')
    for (const name of existsSync(links) ? readdirSync(links) : []) {
      const link = getPinned(join(links, name))
      if (link === undefined) continue
      // struct bpf_link_info: type, id, prog_id
      own.add(objectInfo(link, 12).readUInt32LE(8))
      close(link)
    }
  }
  return own
}

/** The few that are no veth first: those of workloads are like one another. */
function devicesToLookAt(): { readonly devices: readonly Link[]; readonly scope: string } {
  const all = withRoute(undefined, (route) => route.links()).sort((a, b) => Number(a.kind === 'veth') - Number(b.kind === 'veth'))
  const devices = all.slice(0, DEVICES_MAX)
  const scope = `${devices.length} devices${all.length > devices.length ? `, ${all.length - devices.length} others not looked at` : ''}`
  return { devices, scope }
}

function programsOf(link: Link, direction: 'ingress' | 'egress'): number[] {
  try {
    return queryPrograms(link.index, direction === 'ingress' ? BPF_TCX_INGRESS : BPF_TCX_EGRESS, 0, `${direction} of ${link.name}`)
  } catch (error) {
    // Devices come and go while we look.
    if (error instanceof SystemCallError && error.code === 'ENODEV') return []
    throw error
  }
}

function nameOf(id: number): string {
  return programNameById(id) || `program ${id}`
}

function filterName({ kind, name, programId }: Filter): string {
  return (programId === 0 ? undefined : programNameById(programId)) || name || `a filter of kind ${kind}`
}

function networksOf(seen: readonly Sighting[]): string {
  const owners = NETWORKS.filter(([pattern]) => seen.some(({ program }) => pattern.test(program))).map(([, owner]) => owner)
  return owners.join(' and ')
}

/** `name on place, place and 4 more; name on place` */
function summary(seen: readonly Sighting[]): string {
  const byProgram = [...Map.groupBy(seen, ({ program }) => program)]
  const named = byProgram
    .slice(0, NAMES_SHOWN_MAX)
    .map(([program, sightings]) => `${program} on ${listed([...new Set(sightings.map(({ place }) => place))])}`)
  const rest = byProgram.length - named.length
  return [...named, ...(rest > 0 ? [`${rest} more programs`] : [])].join('; ')
}

/** Folder of this process's cgroup in the unified hierarchy. */
function ownCgroup(): string | undefined {
  // Fields up to a lone hyphen, of which the fifth is the mount point; then the kind of file system.
  const mount = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((line) => line.split(' - ')[1]?.startsWith('cgroup2 '))
    ?.split(' ')[4]
  if (mount === undefined) return undefined
  const own = resolve(mount, `.${/^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/'}`)
  return existsSync(own) ? own : mount
}
