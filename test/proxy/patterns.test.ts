import test from 'ava'
import { HttpMatcher } from '#parsers/http/match.ts'
import { echoServer, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18087
const PORT = 20001
const stack = new Stack({ upstreamPort: UPSTREAM_PORT })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(() => stack.close())

const PATHS = [
  '/a',
  '^/a$',
  '/a|/b',
  '/(a|b)/c',
  '/ab?',
  '/a(\\?.*)?',
  '/a\\.b',
  '/a.b',
  '/a/.*',
  '/[ab]',
  '/a+',
  '(?i)/A',
  '/a\\?x=1',
  '/é',
  '.*',
] as const
const METHODS = ['GET', 'GET|HEAD', 'G.T', '(?i)get', 'DELETE'] as const
const ASKED = ['/a', '/b', '/ab', '/abb', '/a?x=1', '/a.b', '/axb', '/a/', '/a/b', '/a/c', '/b/c', '/A', '/aa', '/%C3%A9', '/'] as const

test.serial('Envoy takes patterns for what RE2 makes of them, whatever they were compiled to', async (t) => {
  let checked = 0
  for (const [index, path] of PATHS.entries()) {
    const method = METHODS[index % METHODS.length] ?? 'GET'
    const rule = { name: 'r', path, method }
    await stack.agent.applied(stack.agent.change([slotOf(1, { http: [rule] })]))
    const matcher = new HttpMatcher([{ path, method, headers: [] }], 'allow')
    for (const asked of ASKED) {
      const request = { method: 'GET', path: asked, authority: 'x', headers: new Map() }
      const expected = matcher.matches(request) ? 200 : 403
      t.is(await statusOf(PORT, asked), expected, `${method} ${path} asked for ${asked}`)
      checked += 1
    }
  }
  t.true(checked >= 200)
})

test.serial('a host is compared with its port, a method as it is written', async (t) => {
  await stack.agent.applied(stack.agent.change([slotOf(1, { http: [{ name: 'r', host: 'shop\\.example(:80)?', method: 'GET|PUT' }] })]))
  const ask = (host: string, method = 'GET') => statusOf(PORT, '/', { method, headers: { host } })
  t.is(await ask('shop.example'), 200)
  t.is(await ask('shop.example:80', 'PUT'), 200)
  t.is(await ask('shop.example:8080'), 403)
  t.is(await ask('shopxexample'), 403)
  t.is(await ask('shop.example', 'POST'), 403)
})
