import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { searchDomainsOf } from '#agent/workloads/search-domains.ts'

test('the list is what the endpoint says, else that of its namespace, else the setting', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-search-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const put = (netns: string, text: string) => {
    mkdirSync(join(folder, netns), { recursive: true })
    writeFileSync(join(folder, netns, 'resolv.conf'), text)
  }
  const listOf = (netns?: string, searchDomains?: string[]) => searchDomainsOf({ netns, searchDomains }, ['setting.test'], folder)
  put('one', 'nameserver 10.0.0.1\ndomain first.test\nsearch Svc.Test. svc.test  ns.test\toptions..bad -x- \n')
  put('two', 'search a.test\ndomain b.test c.test\n')
  put('none', 'nameserver 10.0.0.1\n')
  put('long', `search ${Array.from({ length: 100 }, (_, index) => `d${index}.test`).join(' ')}\n`)
  t.deepEqual(listOf('one'), ['svc.test.', 'ns.test.', '-x-.'])
  t.deepEqual(listOf('two'), ['b.test.'], 'the last line holds')
  t.deepEqual(listOf('none'), [], 'a file without a list says that there is none')
  t.is(listOf('long').length, 32)
  t.deepEqual(listOf('missing'), ['setting.test.'])
  t.deepEqual(listOf(undefined), ['setting.test.'])
  t.deepEqual(listOf('one', ['own.test']), ['own.test.'])
  t.deepEqual(listOf('one', []), [], 'none, and that is meant')
  t.deepEqual(listOf('/proc/1/ns/net'), ['setting.test.'], 'a path is no name')
  mkdirSync(join(folder, 'fifo'))
  execFileSync('mkfifo', [join(folder, 'fifo/resolv.conf')])
  t.deepEqual(listOf('fifo'), ['setting.test.'], 'nobody waits for a writer')
})
