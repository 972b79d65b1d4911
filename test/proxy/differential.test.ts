/** Random rules and random requests: a naive judge, which asks one rule after the other, against what the real Envoy makes of them. */
import { Agent } from 'node:http'
import test from 'ava'
import fc from 'fast-check'
import { echoServer, statusOf } from './support/http.ts'
import { matchesNaively, type PlainRequest, type PlainRule, request, ruleParts, rulesOf } from './support/http-rules.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18095
const PORT = 20001
const RULESETS = 40
const REQUESTS = 60
const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' } } })
const keepAlive = new Agent({ keepAlive: true, maxSockets: 8 })

test.before(async () => {
  await stack.start()
  await echoServer(UPSTREAM_PORT)
})
test.after.always(async () => {
  keepAlive.destroy()
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

const messageOf = (rules: readonly PlainRule[]) =>
  rules.map(({ headers, ...rule }) => ({ ...rule, headers: headers.map((header) => ({ ...header })) }))

const ask = ({ method, path, authority, headers }: PlainRequest) =>
  statusOf(PORT, path, { method, agent: keepAlive, headers: ['host', authority, ...headers.flat()] as never })

test.serial('Envoy allows a request exactly when the naive judge does', async (t) => {
  t.timeout(120_000)
  const seed = Number(process.env.HEADGATE_SEED ?? Date.now() % 2 ** 31)
  t.log(`seed ${seed}`)
  const scenes = fc.sample(scene, { numRuns: RULESETS, seed })
  const verdicts = { allowed: 0, denied: 0 }
  for (const [index, each] of scenes.entries()) {
    const ruleset = { allowAll: each.allowAll, http: messageOf(each.allow), httpDeny: messageOf(each.deny) }
    await stack.agent.applied(stack.agent.change([slotOf(1, ruleset)]))
    const requests = fc.sample(request, { numRuns: REQUESTS, seed: seed + index })
    const statuses = await Promise.all(requests.map(ask))
    for (const [position, asked] of requests.entries()) {
      const expected = judge(each, asked)
      verdicts[expected ? 'allowed' : 'denied'] += 1
      if (statuses[position] === (expected ? 200 : 403)) continue
      const about = (rules: readonly PlainRule[], verdict: 'allow' | 'deny') => rules.filter((rule) => matchesNaively(rule, asked, verdict))
      t.fail(
        `${statuses[position]} for ${JSON.stringify(asked)}: ${JSON.stringify({ allowAll: each.allowAll, allow: about(each.allow, 'allow'), deny: about(each.deny, 'deny') })}`,
      )
      return
    }
  }
  t.log(verdicts)
  t.true(Math.min(verdicts.allowed, verdicts.denied) > (RULESETS * REQUESTS) / 10, JSON.stringify(verdicts))
})
