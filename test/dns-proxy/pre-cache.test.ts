import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { PreCache, readPreCache } from '#dns-proxy/pre-cache.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import { temporaryFolder } from '../cli/run-headgate.ts'

function read(t: ExecutionContext, text: string): ReturnType<typeof readPreCache> {
  const path = join(temporaryFolder(t), 'cache.json')
  writeFileSync(path, text)
  return readPreCache(path)
}

test('names are taught as soon as a selector matches, for what is left of their time, once', (t) => {
  const { names, problems } = read(
    t,
    JSON.stringify({
      names: [
        { name: 'API.test', addresses: ['192.0.2.1', '192.0.2.2'], ttlSeconds: 100 },
        { name: 'later.test.', addresses: ['192.0.2.3', '2001:db8::1'], ttlSeconds: 100 },
        { name: 'short.test.', addresses: ['192.0.2.4'], ttlSeconds: 5 },
      ],
    }),
  )
  t.deepEqual(problems, [])
  const cache = new PreCache(names, 1000)
  const selected = new Set(['api.test.'])
  const taught: string[] = []
  const teach = (nowMs: number) =>
    cache.teach(
      {
        learn: (name, address, ttlSeconds) => {
          if (!selected.has(name)) return 'not selected'
          taught.push(`${name} ${bytesToAddress(address)} ${ttlSeconds}`)
          return 'learned'
        },
        reasonAgainst: (address) => (bytesToAddress(address) === '192.0.2.2' ? 'a node or a service has it' : ''),
      },
      nowMs,
    )
  t.deepEqual(teach(1000), ['api.test. 192.0.2.2: a node or a service has it'])
  t.deepEqual(taught.splice(0), ['api.test. 192.0.2.1 100'])
  selected.add('later.test.').add('short.test.')
  t.deepEqual(teach(11_000), [])
  t.deepEqual(taught.splice(0), ['later.test. 192.0.2.3 90', 'later.test. 2001:db8::1 90'])
  teach(12_000)
  t.deepEqual(taught, [])
})

test('a file with anything wrong in it teaches nothing, and its problems name the place', (t) => {
  t.regex(readPreCache('/no/such/file').problems[0] ?? '', /ENOENT.*\/no\/such\/file/)
  t.regex(read(t, '{"names": [}').problems[0] ?? '', /Unexpected token '}', "{"names": \[}"/)
  const good = { name: 'a.test', addresses: ['1.1.1.1'], ttlSeconds: 1 }
  const problemOf = (entry: object): string | undefined => {
    const { names, problems } = read(t, JSON.stringify({ names: [good, { ...good, ...entry }] }))
    t.deepEqual(names, [])
    return problems[0]
  }
  t.is(problemOf({ name: 'a..test' }), 'names[1].name: not a DNS name')
  t.is(problemOf({ name: '*.test' }), 'names[1].name: not a DNS name')
  t.is(problemOf({ addresses: ['1.1.1.1', '1.1.1'] }), 'names[1].addresses[1]: not an IP address')
  t.regex(problemOf({ ttlSeconds: -1 }) ?? '', /^names\[1\]\.ttlSeconds: /)
  t.regex(problemOf({ ttl: 1 }) ?? '', /^names\[1\]: .*ttl/)
  t.regex(read(t, '[]').problems[0] ?? '', /^the file: /)
})
