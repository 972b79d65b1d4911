/** DNS rules and toFQDNs on the real datapath: a workload's queries pass the DNS process, and what answers teach opens the way. */
import test from 'ava'
import { dig, startDnsmasq } from '../support/dnsmasq.ts'
import { ip, type Machine, type Workload } from '../support/machine.ts'
import { get, policyOf, serve, withMachine } from '../support/running.ts'

const WORLD = ['10.88.0.2', '10.88.0.3', '10.88.0.4'] as const

/** A machine of the world with several addresses, each with a server on port 80. */
async function addWorld(machine: Machine): Promise<Workload> {
  const world = machine.addNeighbour('world', '10.88.0.1', WORLD[0])
  for (const address of WORLD.slice(1)) ip('-n', world.netns, 'addr', 'add', `${address}/24`, 'dev', 'eth0')
  ip('-n', world.netns, 'route', 'add', '10.70.0.0/24', 'via', '10.88.0.1')
  machine.inHost('sysctl', '-qw', 'net.ipv4.ip_forward=1')
  await serve(machine, world, 80)
  return world
}

const DNS_PORT = [{ port: '53', protocol: 'ANY' }]
const toDns = (dns: readonly object[]): object => ({
  toEndpoints: [{ matchLabels: { app: 'dns' } }],
  toPorts: [{ ports: DNS_PORT, rules: { dns } }],
})

test.serial('names that policy allows are answered and lead to their addresses, others are refused and lead nowhere', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    await startDnsmasq(machine, dns, `--host-record=api.test,${WORLD[0]}`, `--host-record=other.test,${WORLD[1]}`)
    headgate.start()
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', {
        egress: [
          toDns([{ matchName: 'api.test' }]),
          { toFQDNs: [{ matchName: 'api.test' }], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }] },
        ],
      }),
    )
    const status = async (address: string): Promise<number> => (await get(machine, client, `http://${address}/`, '-m', '0.7')).status
    t.is(await status(WORLD[0]), 0, 'before anybody asked for its name')
    const answer = await dig(machine, client, dns.address, 'api.test')
    t.is(answer.rcode, 'NOERROR', answer.text)
    t.deepEqual(answer.answers, [WORLD[0]])
    t.is(await status(WORLD[0]), 200)
    const refused = await dig(machine, client, dns.address, 'other.test')
    t.is(refused.rcode, 'REFUSED', refused.text)
    t.is(await status(WORLD[1]), 0)
  })
})

test.serial('queries over TCP are judged and teach as those over UDP, and answers too large for UDP come over TCP', async (t) => {
  await withMachine(async (machine, headgate) => {
    const client = machine.addWorkload('client')
    const dns = machine.addWorkload('dns')
    await addWorld(machine)
    machine.writeWorkloads()
    const large = Array.from({ length: 10 }, (_, index) => `--txt-record=large.test,${String(index).repeat(250)}`)
    await startDnsmasq(machine, dns, `--host-record=api.test,${WORLD[0]}`, `--host-record=other.test,${WORLD[1]}`, ...large)
    headgate.start()
    await headgate.apply(
      'client.json',
      policyOf('client', 'client', {
        egress: [
          toDns([{ matchName: 'api.test' }, { matchName: 'large.test' }]),
          { toFQDNs: [{ matchName: 'api.test' }], toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }] }] },
        ],
      }),
    )
    const answer = await dig(machine, client, dns.address, 'api.test', '+tcp')
    t.is(answer.rcode, 'NOERROR', answer.text)
    t.deepEqual(answer.answers, [WORLD[0]])
    t.is((await get(machine, client, `http://${WORLD[0]}/`)).status, 200)
    const refused = await dig(machine, client, dns.address, 'other.test', '+tcp')
    t.is(refused.rcode, 'REFUSED', refused.text)
    const kept = await dig(machine, client, dns.address, '+tcp', '+keepopen', 'api.test', 'other.test', 'api.test')
    t.is([...kept.text.matchAll(/status: (\w+)/g)].map(([, rcode]) => rcode).join(), 'NOERROR,REFUSED,NOERROR', kept.text)
    const large2 = await dig(machine, client, dns.address, 'large.test', 'TXT', '+bufsize=4096')
    t.is(large2.answers.length, 10, large2.text)
    t.regex(large2.text, /\(TCP\)/)
  })
})
