/** What tests of DNS have in common: clients, name servers, and a machine of the world whose addresses names lead to. */
import { join } from 'node:path'
import { type DigAnswer, dig } from './dnsmasq.ts'
import { ip, type Machine, ROOT, type Workload } from './machine.ts'
import { get, policyOf, serve } from './running.ts'
import { TcpPeer } from './tcp.ts'

export const WORLD = ['10.88.0.2', '10.88.0.3', '10.88.0.4'] as const

export const HTTP_PORT = [{ ports: [{ port: '80', protocol: 'TCP' }] }]

/** A machine of the world with several addresses, each with a server on port 80. */
export async function addWorld(machine: Machine): Promise<Workload> {
  const world = machine.addNeighbour('world', '10.88.0.1', WORLD[0])
  for (const address of WORLD.slice(1)) ip('-n', world.netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
  ip('-n', world.netns, 'route', 'add', '10.70.0.0/24', 'via', '10.88.0.1')
  machine.inHost('sysctl', '-qw', 'net.ipv4.ip_forward=1')
  await serve(machine, world, 80)
  return world
}

/** Queries to the workloads with a label, by rules or, without, all of them. */
export function toDns(dns?: readonly object[], app = 'dns', port = '53'): object {
  const ports = [{ port, protocol: 'ANY' }]
  return { toEndpoints: [{ matchLabels: { app } }], toPorts: [dns === undefined ? { ports } : { ports, rules: { dns } }] }
}

/** Connections to the names given, and whatever else. */
export function namesPolicy(app: string, names: readonly object[], ...egress: readonly object[]): Record<string, unknown> {
  return policyOf(app, app, { egress: [...egress, { toFQDNs: names, toPorts: HTTP_PORT }] })
}

/** Whether a workload gets an answer of HTTP. */
export async function reaches(machine: Machine, from: Workload, address: string): Promise<boolean> {
  return (await get(machine, from, `http://${address}/`, '-m', '0.7')).status === 200
}

/** A name server of our own that lies (hostile-dns.mjs). @param otherAddress of the same workload */
export async function startHostileDns(machine: Machine, server: Workload, otherAddress: string, good: string, bad: string): Promise<void> {
  const script = join(ROOT, 'test/support/hostile-dns.mjs')
  const peer = new TcpPeer(machine.start(server.netns, [join(ROOT, 'bin/node'), script, server.address, otherAddress, good, bad]))
  await peer.saw('listening')
}

/** Asks, and gives up after a second. */
export function ask(machine: Machine, from: Workload, server: string, ...question: readonly string[]): Promise<DigAnswer> {
  return dig(machine, from, server, ...question, '+time=1')
}
