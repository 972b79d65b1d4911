/**
 * Random rules and random requests: a naive judge, which asks one rule after the other, against what the real Envoy makes of them by
 * itself, and against what it makes of them with the extension host, which every rule needs for a secret that the client has.
 */
import { Agent } from 'node:http'
import test from 'ava'
import fc from 'fast-check'
import { HttpJudge } from '#parsers/http/judge.ts'
import { type GrpcServer, serveGrpc } from '#proxy/ext-host/grpc/grpc-framing.ts'
import { httpService, type LoadedRuleset } from '#proxy/ext-host/http/http-service.ts'
import { Answers } from '#proxy/ext-host/http/processing.ts'
import { proxyPaths } from '#proxy/paths.ts'
import { echoServer, statusOf } from './support/http.ts'
import { matchesNaively, type PlainRequest, type PlainRule, request, ruleParts, rulesOf } from './support/http-rules.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18095
const NATIVE_PORT = 20001
const ASKING_PORT = 20002
const SECRET = { namespace: 'n', name: 's' }
const SECRET_VALUE = 'only the client has it'
const RULESETS = 40
const REQUESTS = 60
const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' } } })
const keepAlive = new Agent({ keepAlive: true, maxSockets: 8 })
/** By the key that Envoy names. */
const rulesets = new Map<string, LoadedRuleset>()
let extHost: GrpcServer | undefined

test.before(async () => {
  await stack.start()
  extHost = await serveGrpc(proxyPaths(stack.config).extHost, {
    methods: [httpService({ rulesetOf: (key) => rulesets.get(key) })],
    onError: (error) => process.stderr.write(`${error.stack}\n`),
  })
  await echoServer(UPSTREAM_PORT)
})
test.after.always(async () => {
  keepAlive.destroy()
  await extHost?.close()
  await stack.close()
})

interface Scene {
  readonly allowAll: boolean
  readonly allow: readonly PlainRule[]
  readonly deny: readonly PlainRule[]
}

const scene = fc
  .record({
    allowAll: fc.integer({ min: 0, max: 9 }).map((chance) => chance === 0),
    allow: fc.oneof(fc.array(ruleParts, { maxLength: 8 }), fc.array(ruleParts, { minLength: 30, maxLength: 120 })),
    deny: fc.oneof(fc.constant([]), fc.array(ruleParts, { maxLength: 6 })),
  })
  .map(({ allowAll, allow, deny }): Scene => ({ allowAll, allow: rulesOf(allow, 'a'), deny: rulesOf(deny, 'd') }))

function judge({ allowAll, allow, deny }: Scene, asked: PlainRequest): boolean {
  if (deny.some((rule) => matchesNaively(rule, asked, 'deny'))) return false
  return allowAll || allow.some((rule) => matchesNaively(rule, asked, 'allow'))
}

const messageOf = (rules: readonly PlainRule[], headerMatches: { name: string; secret: typeof SECRET }[] = []) =>
  rules.map(({ headers, ...rule }) => ({ ...rule, headers: headers.map((header) => ({ ...header })), headerMatches }))

/** The same rules, each of them on the secret too. */
function askingSlot(key: string, { allowAll, allow, deny }: Scene) {
  const headerMatches = [{ name: 'x-secret', secret: SECRET }]
  const judged = (rules: readonly PlainRule[]) => rules.map((rule) => ({ ...rule, headerMatches }))
  rulesets.set(key, {
    judge: new HttpJudge({ allowAll, allow: judged(allow), deny: judged(deny) }, () => SECRET_VALUE),
    needs: { path: false, host: false },
    answers: new Answers(),
  })
  return slotOf(2, { allowAll, http: messageOf(allow, headerMatches), httpDeny: messageOf(deny, headerMatches) }, { extHostKey: key })
}

const ask = (port: number, { method, path, authority, headers }: PlainRequest) =>
  statusOf(port, path, { method, agent: keepAlive, headers: ['host', authority, 'x-secret', SECRET_VALUE, ...headers.flat()] as never })

test.serial('Envoy allows a request exactly when the naive judge does, by itself and with the extension host', async (t) => {
  t.timeout(120_000)
  const seed = Number(process.env.HEADGATE_SEED ?? Date.now() % 2 ** 31)
  t.log(`seed ${seed}`)
  const scenes = fc.sample(scene, { numRuns: RULESETS, seed })
  const verdicts = { allowed: 0, denied: 0 }
  for (const [index, each] of scenes.entries()) {
    const native = slotOf(1, { allowAll: each.allowAll, http: messageOf(each.allow), httpDeny: messageOf(each.deny) })
    await stack.agent.applied(stack.agent.change([native, askingSlot(`scene-${index}`, each)]))
    const requests = fc.sample(request, { numRuns: REQUESTS, seed: seed + index })
    for (const port of [NATIVE_PORT, ASKING_PORT]) {
      const statuses = await Promise.all(requests.map((asked) => ask(port, asked)))
      for (const [position, asked] of requests.entries()) {
        const expected = judge(each, asked)
        verdicts[expected ? 'allowed' : 'denied'] += 1
        if (statuses[position] === (expected ? 200 : 403)) continue
        const about = (rules: readonly PlainRule[], verdict: 'allow' | 'deny') =>
          rules.filter((rule) => matchesNaively(rule, asked, verdict))
        const rules = { allowAll: each.allowAll, allow: about(each.allow, 'allow'), deny: about(each.deny, 'deny') }
        t.fail(`${statuses[position]} on port ${port} for ${JSON.stringify(asked)}: ${JSON.stringify(rules)}`)
        return
      }
    }
    rulesets.delete(`scene-${index - 1}`)
  }
  t.log(verdicts)
  t.true(Math.min(verdicts.allowed, verdicts.denied) > (RULESETS * REQUESTS) / 5, JSON.stringify(verdicts))
})

test.serial('who does not have the secret is denied by allow rules, and not by deny rules', async (t) => {
  const rule = { name: 'a', path: '/a', headers: [] }
  const statusWith = (headers: Record<string, string>) => statusOf(ASKING_PORT, '/a', { headers })
  await stack.agent.applied(stack.agent.change([askingSlot('allow', { allowAll: false, allow: [rule], deny: [] })]))
  t.is(await statusWith({ 'x-secret': SECRET_VALUE }), 200)
  t.is(await statusWith({ 'x-secret': 'another' }), 403)
  t.is(await statusWith({}), 403)
  await stack.agent.applied(stack.agent.change([askingSlot('deny', { allowAll: true, allow: [], deny: [rule] })]))
  t.is(await statusWith({ 'x-secret': SECRET_VALUE }), 403)
  t.is(await statusWith({ 'x-secret': 'another' }), 200)
  // A ruleset that the extension host does not know.
  await stack.agent.applied(
    stack.agent.change([slotOf(2, { http: [{ ...rule, headerMatches: [{ name: 'x', secret: SECRET }] }] }, { extHostKey: 'unknown' })]),
  )
  t.is(await statusWith({ 'x-secret': SECRET_VALUE }), 503)
})
