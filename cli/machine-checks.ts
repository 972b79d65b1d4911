/**
 * Everything that `doctor` and `up` ask of a machine: what the datapath cannot do without (agent/datapath/probes.ts), and the
 * surroundings in which it is to live. The latter only warn, as long as Headgate can start: an operator may know better.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isAnswering } from '#api/unix-socket.ts'
import type { Config } from '#config/schema.ts'
import { DEVICES_MAX, type Judgement, judge, listed, ok, warning } from './judgement.ts'
import { type Finding, loadProbes, loadTopology } from './processes.ts'
import { type RunningProcess, runningProcesses } from './supervisor/running.ts'

const RP_FILTER_FOLDER = '/proc/sys/net/ipv4/conf'
const RP_FILTER_MODES = ['off', 'strict', 'loose'] as const

/** All findings, good ones too. Changes nothing. */
export async function checkMachine(config: Config): Promise<Finding[]> {
  const running = runningProcesses(config.paths.run)
  return [
    ...(await datapathChecks(config)),
    await judge('rp_filter', checkRpFilter),
    await judge('instance', () => checkInstance(config, running)),
    await judge('ports', () => checkPorts(config, running)),
  ]
}

/** Who else is on the hooks cannot be asked without libbpf; that it is missing is a finding already. */
async function datapathChecks(config: Config): Promise<Finding[]> {
  const { probe } = await loadProbes()
  const findings = await probe(config)
  if (findings.some(({ name, level }) => name === 'libbpf' && level === 'error')) return findings
  const { checkCgroup, checkFilters, checkTcx } = await import('./other-programs.ts')
  return [
    ...findings,
    await judge('tcx programs', () => checkTcx(config.paths.bpf)),
    await judge('tc filters', checkFilters),
    await judge('cgroup programs', checkCgroup),
  ]
}

/**
 * Strict reverse-path filtering is what breaks transparent proxies elsewhere, so people look for it. Here it is no trouble: the
 * proxies live in namespaces of their own, and their packets come back to the host by the workload's device.
 */
function checkRpFilter(): Judgement {
  if (!existsSync(RP_FILTER_FOLDER)) return ok(`no ${RP_FILTER_FOLDER}`)
  const all = rpFilterOf('all')
  const devices = readdirSync(RP_FILTER_FOLDER).filter((device) => !['all', 'default', 'lo'].includes(device))
  // The kernel takes the greater of a device's value and that of all.
  const byMode = Map.groupBy(devices.slice(0, DEVICES_MAX), (device) => RP_FILTER_MODES[Math.max(all, rpFilterOf(device))] ?? 'off')
  const modes = RP_FILTER_MODES.flatMap((mode) => {
    const found = byMode.get(mode) ?? []
    return found.length === 0 ? [] : [`${mode} on ${listed(found)}`]
  })
  if (devices.length > DEVICES_MAX) modes.push(`${devices.length - DEVICES_MAX} others not looked at`)
  const meaning = [
    ...(byMode.has('strict') ? ['strict is supported, the proxies have namespaces of their own'] : []),
    ...(byMode.has('off') ? ['where it is off, source addresses from the network are believed'] : []),
  ]
  const values = `all=${all} default=${rpFilterOf('default')}`
  return ok([[values, ...modes].join(', '), ...meaning].join('; '))
}

function rpFilterOf(device: string): number {
  try {
    return Number.parseInt(readFileSync(join(RP_FILTER_FOLDER, device, 'rp_filter'), 'utf8'), 10)
  } catch {
    // Devices come and go while we look.
    return 0
  }
}

/** Sockets and namespaces carry the instance's name or lie in its folder: whoever else has them is in the way. */
async function checkInstance({ instance, paths: { run } }: Config, running: readonly RunningProcess[]): Promise<Judgement> {
  if (running.length > 0) {
    const processes = running.map((process) => `${process.name} (pid ${process.pid})`).join(', ')
    return ok(`${instance} runs already, with ${run}: ${processes}`)
  }
  const sockets = existsSync(run) ? readdirSync(run).filter((entry) => entry.endsWith('.sock')) : []
  for (const path of sockets.map((entry) => join(run, entry))) {
    if (!(await isAnswering(path))) continue
    return warning(
      `somebody answers on ${path}, and no process of this instance is seen to run`,
      `\`ss -xlp src ${path}\` names it: end it, or give this instance its own paths.run; a container sees no processes of others`,
    )
  }
  const namespaces = (await namespacesOf(instance)).filter(({ path }) => existsSync(path))
  if (namespaces.length > 0 && !existsSync(join(run, 'netns.json'))) {
    return warning(
      `the namespace ${namespaces[0]?.name} is there, but ${run} knows nothing of it`,
      `an instance called ${instance} with another paths.run made it: give this one its own \`instance\`, or run \`headgate cleanup\` with the paths of the other`,
    )
  }
  return ok(namespaces.length > 0 ? `${instance} is stopped; what it left in the kernel is taken over` : `${instance} is new here`)
}

/** Nothing of Headgate listens on a port of the host; but its own namespaces have ports too. */
async function checkPorts(
  { instance, datapath: { slotPortFirst, slotsMax } }: Config,
  running: readonly RunningProcess[],
): Promise<Judgement> {
  const last = slotPortFirst + slotsMax - 1
  const fine = ok(`none of the host; ${slotPortFirst} to ${last} in namespaces of the instance’s own`)
  if (running.some((process) => process.name === 'envoy')) return fine
  const { inNetns, isNetns } = await import('#sys/netns.ts')
  for (const namespace of await namespacesOf(instance)) {
    if (!isNetns(namespace.path)) continue
    const taken = inNetns(namespace.path, listeningPorts).filter((port) => port >= slotPortFirst && port <= last)
    if (taken.length === 0) continue
    return warning(
      `port ${taken[0]} is taken in the namespace ${namespace.name}, though Envoy does not run`,
      `connections for a listener on it are dropped: end what took it (\`ip netns pids ${namespace.name}\`)`,
    )
  }
  return fine
}

async function namespacesOf(instance: string): Promise<{ name: string; path: string }[]> {
  const [{ topologyNames }, { netnsPath }] = await Promise.all([loadTopology(), import('#sys/netns.ts')])
  const { egressNetns, ingressNetns } = topologyNames(instance)
  return [egressNetns, ingressNetns].map((name) => ({ name, path: netnsPath(name) }))
}

/** TCP ports that somebody listens on in the current namespace. */
function listeningPorts(): number[] {
  const LISTEN = '0A'
  return ['tcp', 'tcp6'].flatMap((table) => {
    const path = `/proc/thread-self/net/${table}`
    if (!existsSync(path)) return []
    const rows = readFileSync(path, 'utf8').trim().split('\n').slice(1)
    return rows.flatMap((row) => {
      const [, local = '', , state] = row.trim().split(/\s+/)
      return state === LISTEN ? [Number.parseInt(local.split(':')[1] ?? '', 16)] : []
    })
  })
}
