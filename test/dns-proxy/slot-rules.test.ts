import test from 'ava'
import { SlotRules, SlotTable } from '#dns-proxy/slot-rules.ts'
import { queryOf, readerOf, slotOf } from './judging.ts'

test('a query is allowed by a name or a pattern, and the rule is named', (t) => {
  const slot = new SlotRules(
    slotOf({
      rules: [
        { name: 'b', matchName: 'api.test.' },
        { name: 'a', matchPattern: '*.test.' },
      ],
    }),
  )
  t.deepEqual(slot.judgeName('api.test.'), { isAllowed: true, rule: 'a', isAudited: false })
  t.deepEqual(slot.judgeName('www.test.'), { isAllowed: true, rule: 'a', isAudited: false })
  t.deepEqual(slot.judgeName('www.example.'), { isAllowed: false, rule: '', isAudited: false })
})

test('a deny rule wins over every rule that allows', (t) => {
  const slot = new SlotRules(slotOf({ allowAll: true, denyRules: [{ name: 'no', matchPattern: '**.bad.test.' }] }))
  t.like(slot.judgeName('x.y.bad.test.'), { isAllowed: false, rule: 'no' })
  t.like(slot.judgeName('good.test.'), { isAllowed: true, rule: '' })
})

test('a query that only a policy in audit would refuse is allowed and said to be audited', (t) => {
  const slot = new SlotRules(slotOf({ allowAll: true, shadowRules: [{ matchName: 'api.test.' }] }))
  t.false(slot.judgeName('api.test.').isAudited)
  t.true(slot.judgeName('other.test.').isAudited)
})

test('a question asked again gives the same object, and one in another case or of another type its own', (t) => {
  const slot = new SlotRules(slotOf({ rules: [{ matchName: 'api.test.' }] }))
  const first = slot.judge(readerOf(queryOf('api.test')))
  t.like(first, { name: 'api.test.', type: 1, isAllowed: true })
  t.is(slot.judge(readerOf(queryOf('api.test', { id: 9 }))), first)
  const cased = slot.judge(readerOf(queryOf('aPi.Test')))
  t.like(cased, { name: 'api.test.', isAllowed: true })
  t.not(cased.question, first.question)
  t.is(slot.judge(readerOf(queryOf('api.test', { type: 28 }))).type, 28)
})

test('questions are judged right whatever was remembered or forgotten', (t) => {
  const table = new SlotTable()
  const message = slotOf({ rules: [{ matchPattern: 'n*7.test.' }] })
  table.change({ gone: [], come: [message] })
  const slot = table.at(message.mark)
  if (slot === undefined) return t.fail()
  const before = slot.judge(readerOf(queryOf('n7.test')))
  for (let round = 0; round < 3; round++) {
    for (let index = 0; index < 20_000; index++) {
      const judged = slot.judge(readerOf(queryOf(`n${index}.test`)))
      if (judged.isAllowed !== (index % 10 === 7)) t.fail(`n${index}`)
    }
  }
  t.not(slot.judge(readerOf(queryOf('n7.test'))), before, 'what was not asked for long is forgotten')
})

test('a slot is found by the port and generation of a mark, and by no other', (t) => {
  const table = new SlotTable()
  const slot = slotOf({}, { port: 20_001, generation: 5 })
  const next = slotOf({ allowAll: true }, { port: 20_001, generation: 6 })
  table.change({ gone: [], come: [slot] })
  t.is(table.at(slot.mark)?.slot, slot)
  t.is(table.at(next.mark), undefined)
  table.change({ gone: [slot], come: [next] })
  t.is(table.at(slot.mark), undefined)
  t.is(table.at(next.mark)?.slot, next)
  t.deepEqual([...table.slots()], [next])
})
