import test from 'ava'
import fc from 'fast-check'
import { KafkaRuleset, type NamedKafkaRule } from '#parsers/kafka/judge.ts'
import type { KafkaRequest } from '#parsers/kafka/match.ts'

/** Names that could be taken for one another where they stand side by side. */
const name = fc.constantFrom('', 'a', 'b', ' ', '-', ' -', '1 a', 'a 1 b', 'a - -', 'x'.repeat(600))
const request = fc.record(
  {
    apiKey: fc.constantFrom('produce', 'fetch', 'heartbeat', 'initproducerid', '99'),
    apiVersion: fc.integer({ min: 0, max: 3 }),
    clientId: name,
    topics: fc.oneof(fc.array(name, { maxLength: 2 }), fc.constant('all' as const)),
    groups: fc.array(name, { maxLength: 2 }),
    transactionalId: name,
  },
  { requiredKeys: ['apiKey', 'topics', 'groups'] },
) as fc.Arbitrary<KafkaRequest>
const rule = fc.record(
  { role: fc.constantFrom('produce', 'consume'), topic: name, clientId: name, group: name, transactionalId: name },
  { requiredKeys: [] },
) as fc.Arbitrary<Partial<NamedKafkaRule>>
const rules = fc.array(rule, { maxLength: 3 }).map((list) => list.map((each, index) => ({ name: `rule ${index}`, ...each })))

test('a verdict is the same however many were asked for before', (t) => {
  fc.assert(
    fc.property(rules, rules, fc.boolean(), fc.array(request, { maxLength: 20 }), (allow, deny, allowAll, requests) => {
      const asked = new KafkaRuleset({ allow, deny, allowAll })
      for (const each of [...requests, ...requests]) t.deepEqual(asked.judge(each), new KafkaRuleset({ allow, deny, allowAll }).judge(each))
    }),
  )
})

test('names that clients make up are forgotten, and judged rightly all the same', (t) => {
  const ruleset = new KafkaRuleset({ allow: [{ name: 'rule', topicPrefix: 'ok-' }], deny: [], allowAll: false })
  for (let index = 0; index < 5000; index++) {
    t.true(ruleset.judge({ apiKey: 'produce', topics: [`ok-${index}`], groups: [] }).isAllowed)
    t.false(ruleset.judge({ apiKey: 'produce', topics: [`no-${index}`], groups: [] }).isAllowed)
  }
})
