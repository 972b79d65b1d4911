import { statSync } from 'node:fs'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { NameSelectorSchema } from '#api/gen/headgate/v1/control_pb.js'
import { LearnedNames } from '#dns-proxy/learned-names.ts'
import { metricsOf } from '#dns-proxy/names-metrics.ts'
import { serveNames } from '#dns-proxy/names-server.ts'
import { addressToBytes } from '#sys/addresses.ts'
import { headgate, temporaryFolder } from '../cli/run-headgate.ts'
import { FakeMaps } from './fake-maps.ts'

interface Served {
  readonly names: LearnedNames
  readonly fake: FakeMaps
  readonly run: string
  ask(...args: string[]): ReturnType<typeof headgate>
}

async function served(t: ExecutionContext): Promise<Served> {
  const run = temporaryFolder(t)
  const fake = new FakeMaps()
  const names = new LearnedNames(fake.maps, { minTtlSeconds: 0, addressesOfNameMax: 10_000, zombiesMax: 10, graceSeconds: 0 })
  names.changeSelectors({
    gone: [],
    come: [
      create(NameSelectorSchema, { id: 101, matchName: 'api.test.' }),
      create(NameSelectorSchema, { id: 102, matchPattern: '*.test.' }),
    ],
  })
  const close = await serveNames(join(run, 'dns.sock'), 'no-such-group', {
    names: () => names,
    metrics: () => metricsOf({ names, overLimitCount: 3, queryCounts: QUERY_COUNTS }),
  })
  t.teardown(close)
  return { names, fake, run, ask: (...args) => headgate(['fqdn', ...args, '--set', `paths.run=${run}`]) }
}

const QUERY_COUNTS = { received: 9, forwarded: 5, denied: 3, malformed: 1, answered: 4, answeredMs: 12.5, timedOut: 1 }
const QUERY_LINES = [
  'policy_l7_total{proxy_type="fqdn",rule="received"} 9',
  'policy_l7_total{proxy_type="fqdn",rule="denied"} 3',
  'proxy_upstream_reply_seconds_count{protocol_l7="dns",scope="upstreamTime"} 4',
  'proxy_upstream_reply_seconds_sum{protocol_l7="dns",scope="upstreamTime"} 0.0125',
]

test('fqdn cache list shows names in order, with what keeps them, and takes a pattern', async (t) => {
  const { names, run, ask } = await served(t)
  t.is(statSync(join(run, 'dns.sock')).mode & 0o777, 0o660)
  const now = performance.now()
  names.learn(0, ['www.test.', 'api.test.'], addressToBytes('10.1.1.1'), 100_000, now)
  names.learn(7, ['own.test.'], addressToBytes('10.1.1.2'), 0, now - 1000)
  names.expire(now)
  const { stdout, exitCode } = await ask('cache', 'list')
  t.is(exitCode, 0)
  t.deepEqual(
    stdout
      .replaceAll(/\d+s /g, '99s ')
      .split('\n')
      .map((line) => line.replaceAll(/ +/g, ' ')),
    [
      'NAME ADDRESS ENDPOINT TTL SELECTORS',
      'api.test. 10.1.1.1 99s 101',
      'own.test. 10.1.1.2 7 connections 102',
      'www.test. 10.1.1.1 99s 102',
      '',
    ],
  )
  const json = JSON.parse((await ask('cache', 'list', '--name', 'a*.test', '-o', 'json')).stdout)
  t.is(json.names.length, 1)
  t.like(json.names[0], { name: 'api.test.', address: '10.1.1.1', endpointId: 0, zombie: false, selectors: [101] })
  const refused = await ask('cache', 'list', '--name', 'a b')
  t.is(refused.exitCode, 2)
  t.regex(refused.stderr, /error HG-1108: not a pattern of names: a b/)
})

test('fqdn cache list gives all of thousands', async (t) => {
  const { names, ask } = await served(t)
  for (let index = 0; index < 5000; index++) {
    names.learn(0, [`n${index}.test.`], addressToBytes(`10.2.${index >> 8}.${index & 255}`), 1000, performance.now())
  }
  t.is((await ask('cache', 'list')).stdout.split('\n').length, 5002)
})

test('fqdn cache clean forgets what matches, with its rows', async (t) => {
  const { names, fake, ask } = await served(t)
  names.learn(0, ['www.test.', 'api.test.'], addressToBytes('10.1.1.1'), 60, performance.now())
  names.learn(0, ['own.test.'], addressToBytes('10.1.1.2'), 60, performance.now())
  t.is((await ask('cache', 'clean', '--name', 'api.test')).stdout, '1 name forgotten\n')
  t.deepEqual(fake.rows(), { '10.1.1.1': [102], '10.1.1.2': [102] })
  t.deepEqual(JSON.parse((await ask('cache', 'clean', '-o', 'json')).stdout), { nameCount: 2 })
  t.deepEqual(fake.rows(), {})
})

test('fqdn names shows selectors and counters', async (t) => {
  const { names, ask } = await served(t)
  names.learn(0, ['www.test.', 'api.test.'], addressToBytes('10.1.1.1'), 60, performance.now())
  const lines = (await ask('names')).stdout.split('\n').map((line) => line.replaceAll(/ +/g, ' '))
  t.deepEqual(lines.slice(0, 3), ['ID NAMES ADDRESSES PATTERN', '101 1 1 api.test.', '102 1 1 *.test.'])
  for (const line of ['fqdn_active_names 2', 'fqdn_active_ips 1', 'fqdn_selectors 2', 'fqdn_semaphore_rejected_total 3', ...QUERY_LINES])
    t.true(lines.includes(line), line)
  t.like(JSON.parse((await ask('names', '-o', 'json')).stdout), { selectors: [{ selector: { id: 101 }, nameCount: 1 }, { nameCount: 1 }] })
})

test('without a DNS process the command says so', async (t) => {
  const outcome = await headgate(['fqdn', 'names', '--set', `paths.run=${temporaryFolder(t)}`])
  t.is(outcome.exitCode, 2)
  t.regex(outcome.stderr, /error HG-1112: no DNS process answers on/)
})
