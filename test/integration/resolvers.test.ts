/**
 * Resolvers of real programs as clients: getaddrinfo of glibc and of musl, curl and dig, by a resolv.conf as Kubernetes writes them. All tests
 * share one machine, and each has names and addresses of its own.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { addWorld, ask, namesPolicy, reaches, toDns } from '../support/dns-scene.ts'
import { Machine, type Workload } from '../support/machine.ts'
import { C_LIBRARIES, type CLibrary, isMuslOld, type Lookup, Resolvers } from '../support/resolvers.ts'
import { Running } from '../support/running.ts'
import { startUnbound } from '../support/unbound.ts'

/** Far below the timeout of a resolver, which is seconds. */
const AT_ONCE_MS = 1000
/** More than a datagram can have. */
const LARGE_COUNT = 100
/** Of musl's getaddrinfo, from 1.2.4 on. */
const MUSL_ADDRESSES_MAX = 48

const PLAIN = { glibc: '10.89.0.1', musl: '10.89.0.2', curl: '10.89.0.3' } as const
const LARGE = { glibc: largeOf(1), musl: largeOf(2), dig: largeOf(3) } as const
const API = '10.89.0.4'
const API_BEHIND = '10.89.0.5'

/** What unbound knows; it says of everything else in test. that there is no such name. */
const RECORDS = [
  ...Object.entries(PLAIN).flatMap(([name, address]) => [
    `${name}.open.test. 60 IN A ${address}`,
    `${name}.open.test. 60 IN AAAA 2001:db8::1`,
  ]),
  ...Object.entries(LARGE).flatMap(([name, addresses]) => addresses.map((address) => `${name}-large.open.test. 60 IN A ${address}`)),
  'text.open.test. 60 IN TXT "no address"',
  `api.test. 60 IN A ${API}`,
  `api.c.test. 60 IN A ${API_BEHIND}`,
  'denied.test. 60 IN A 10.89.0.6',
]
const ALLOWED = [{ matchPattern: '*.open.test' }, { matchName: 'api.test' }, { matchName: 'api.c.test' }]
/** A name with what is searched first is denied, as those of the cluster are to who may ask for names of the world only. */
const SEARCH = ['search b.test c.test', 'options ndots:5 timeout:1 attempts:1'] as const

let folder: string
let resolvers: Resolvers
let machine: Machine
let headgate: Running
let client: Workload
let server: string

test.before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'hgt-resolvers-'))
  resolvers = new Resolvers(folder)
  machine = new Machine()
  headgate = new Running(machine)
  client = machine.addWorkload('client')
  const dns = machine.addWorkload('dns')
  server = dns.address
  const world = await addWorld(machine)
  machine.inHost('ip', 'route', 'add', '10.89.0.0/16', 'via', world.address)
  await machine.run(world.netns, ['ip', 'route', 'add', 'local', '10.89.0.0/16', 'dev', 'lo'])
  machine.writeWorkloads()
  await startUnbound(machine, dns, ...RECORDS)
  headgate.start()
  await headgate.apply('client.json', namesPolicy('client', [{ matchPattern: '**.test' }], toDns(ALLOWED)))
})

test.after.always(async () => {
  headgate?.close()
  await machine?.dispose()
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
})

function largeOf(network: number): readonly string[] {
  return Array.from({ length: LARGE_COUNT }, (_, index) => `10.89.${network}.${index + 1}`)
}

/** By a resolv.conf that names the server, and the lines given. */
function lookUp(library: CLibrary, name: string, ...lines: readonly string[]): Promise<Lookup> {
  return resolvers.lookUp(machine, client, resolvers.etc(`nameserver ${server}`, ...lines), library, name)
}

for (const library of C_LIBRARIES) {
  test.serial(`a name resolves and connects with ${library}, which asks for both addresses at once from one socket`, async (t) => {
    t.false(await reaches(machine, client, PLAIN[library]))
    const found = await lookUp(library, `${library}.open.test`)
    t.like(found, { code: 'OK', reached: [PLAIN[library]] })
    const [ipv4, ipv6] = await Promise.all(
      ['A', 'AAAA'].map((type) => headgate.flowThat(({ dns }) => dns?.query === `${library}.open.test.` && dns.type === type)),
    )
    t.is(ipv4?.dns?.rcode, 'NOERROR')
    t.is(ipv6?.dns?.rcode, 'NOERROR')
    t.is(ipv4?.source.port, ipv6?.source.port)
    const withoutAddress = await lookUp(library, 'text.open.test')
    t.is(withoutAddress.code, library === 'musl' && isMuslOld() ? 'EAI_NONAME' : 'EAI_NODATA')
    const without = await lookUp(library, 'none.open.test')
    t.is(without.code, 'EAI_NONAME')
    for (const { ms } of [found, withoutAddress, without]) t.true(ms < AT_ONCE_MS, `${ms} ms`)
  })
}

test.serial('curl reaches a name that policy allows, and is told at once that another cannot be resolved', async (t) => {
  const etc = resolvers.etc(`nameserver ${server}`)
  const get = (name: string) => resolvers.run(machine, client, etc, 'curl', '-s', '-4', '-m', '2', '-w', '%{http_code}', `http://${name}/`)
  t.false(await reaches(machine, client, PLAIN.curl))
  t.regex((await get('curl.open.test')).stdout, /"Host","curl\.open\.test".*200$/)
  // 28 would be its time limit.
  t.is((await get('denied.test')).code, 6)
})

test.serial('an answer too large for UDP comes over TCP, and all of its addresses can be reached', async (t) => {
  for (const addresses of Object.values(LARGE)) t.false(await reaches(machine, client, addresses.at(-1) ?? ''))
  const glibc = await lookUp('glibc', 'glibc-large.open.test')
  t.deepEqual(glibc.addresses.toSorted(), LARGE.glibc.toSorted())
  t.deepEqual(glibc.reached, glibc.addresses)
  const musl = await lookUp('musl', 'musl-large.open.test')
  if (isMuslOld()) t.is(musl.code, 'EAI_NONAME', 'it takes the truncated answer for all that there is, and unbound leaves that empty')
  else t.is(musl.addresses.length, MUSL_ADDRESSES_MAX)
  t.deepEqual(musl.reached, musl.addresses)
  for (const { ms } of [glibc, musl]) t.true(ms < AT_ONCE_MS, `${ms} ms`)
  const dig = await ask(machine, client, server, 'dig-large.open.test')
  t.regex(dig.text, /\(TCP\)/)
  t.deepEqual(dig.answers.toSorted(), LARGE.dig.toSorted())
  for (const address of dig.answers.slice(-2)) t.true(await reaches(machine, client, address), address)
})

test.serial('at REFUSED glibc ends its search list and asks for the name itself', async (t) => {
  const denied = await lookUp('glibc', 'denied.test')
  t.is(denied.code, 'EAI_AGAIN')
  const relative = await lookUp('glibc', 'api', ...SEARCH)
  t.is(relative.code, 'EAI_AGAIN', 'api.b.test is denied, and api.c.test behind it')
  const absolute = await lookUp('glibc', 'api.test', ...SEARCH)
  t.like(absolute, { code: 'OK', reached: [API] })
  for (const { ms } of [denied, relative, absolute]) t.true(ms < AT_ONCE_MS, `${ms} ms`)
})

test.serial('at REFUSED musl waits for another answer until its timeout, and then ends its search list', async (t) => {
  for (const name of ['denied.test.', 'api', 'api.test']) {
    const { code, ms } = await lookUp('musl', name, ...SEARCH)
    t.is(code, 'EAI_AGAIN', name)
    t.true(ms >= 1000, `${name}: ${ms} ms`)
  }
  t.like(await lookUp('musl', 'api.test'), { code: 'OK', reached: [API] }, 'without a search list')
})

test.serial('at NXDOMAIN (tofqdnsDnsRejectResponseCode: nameError) glibc and musl go on with their search list at once', async (t) => {
  t.false(await reaches(machine, client, API_BEHIND))
  machine.setConfig({ dns: { tofqdnsDnsRejectResponseCode: 'nameError' } })
  await headgate.kill('dns-proxy')
  headgate.start('dns-proxy')
  const deadline = performance.now() + 5000
  while ((await ask(machine, client, server, 'denied.test')).rcode !== 'NXDOMAIN') if (performance.now() > deadline) return t.fail()
  for (const library of C_LIBRARIES) {
    const denied = await lookUp(library, 'denied.test')
    t.is(denied.code, 'EAI_NONAME', library)
    const relative = await lookUp(library, 'api', ...SEARCH)
    t.like(relative, { code: 'OK', reached: [API_BEHIND] }, library)
    const absolute = await lookUp(library, 'api.test', ...SEARCH)
    t.like(absolute, { code: 'OK', reached: [API] }, library)
    for (const { ms } of [denied, relative, absolute]) t.true(ms < AT_ONCE_MS, `${library}: ${ms} ms`)
  }
})
