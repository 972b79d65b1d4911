import test from 'ava'
import { type Subject, Subjects } from '#agent/workloads/subjects.ts'
import type { EngineIdentity, EngineSubject, PolicyEngine } from '#policy/engine.ts'

/** Notes what it is told. */
class FakeEngine {
  readonly identities = new Map<number, EngineIdentity>()
  readonly groups = new Map<number, EngineSubject>()
  upsertIdentity(identity: EngineIdentity): void {
    this.identities.set(identity.id, identity)
  }
  removeIdentity(id: number): void {
    if ([...this.groups.values()].some(({ identity }) => identity === id)) throw new Error(`in use: ${id}`)
    this.identities.delete(id)
  }
  addSubject(subject: EngineSubject): void {
    if (this.groups.has(subject.group)) throw new Error(`there already: ${subject.group}`)
    this.groups.set(subject.group, subject)
  }
  removeSubject(group: number): void {
    this.groups.delete(group)
  }
}

const open = (): { engine: FakeEngine; subjects: Subjects } => {
  const engine = new FakeEngine()
  return { engine, subjects: new Subjects(engine as unknown as PolicyEngine) }
}
const subject = (ports: Record<string, string> = {}, audit = false, id = 300): Subject => ({
  identity: { id, labels: ['k8s:app=web'] },
  spec: { ports, audit },
})

test('endpoints without anything of their own have the number of their identity', (t) => {
  const { subjects, engine } = open()
  t.is(subjects.join(subject()), 300)
  t.is(subjects.join(subject()), 300)
  t.is(subjects.endpointCount(300), 2)
  t.is(engine.groups.size, 1)
})

test('named ports and audit make groups of their own, with the same numbers in whatever order they come', (t) => {
  const kinds = [
    subject({ web: '80/TCP', dns: '53/UDP' }),
    subject({ web: '8080/TCP' }),
    subject({}, true),
    subject({ web: '80/TCP' }, true),
  ]
  const [a, b] = [open().subjects, open().subjects]
  const numbers = kinds.map((kind) => a.join(kind))
  t.is(new Set([300, ...numbers]).size, 5)
  t.true(numbers.every((number) => number >= 0x80000000 && number <= 0xffffffff))
  t.deepEqual(
    [...kinds].reverse().map((kind) => b.join(kind)),
    numbers.toReversed(),
  )
  t.deepEqual([a.join(subject({ dns: '53/UDP', web: '80/TCP' }))], numbers.slice(0, 1))
  t.deepEqual(
    numbers.map((number) => a.isAudited(number)),
    [false, false, true, true],
  )
})

test('peers know an identity by the ports of all its endpoints, as long as it has any', (t) => {
  const { subjects, engine } = open()
  const [one, two] = [subject({ web: '80/TCP' }), subject({ web: '8080/TCP', dns: '53/UDP' })]
  const ports = (): string[] => (engine.identities.get(300)?.namedPorts ?? []).map(({ name, port }) => `${name}=${port}`)
  subjects.join(one)
  subjects.join(two)
  t.deepEqual(ports(), ['dns=53', 'web=80', 'web=8080'])
  subjects.leave(one)
  t.deepEqual(ports(), ['dns=53', 'web=8080'])
  t.is(subjects.endpointCountOfIdentity(300), 1)
  subjects.leave(two)
  t.deepEqual([engine.identities.size, engine.groups.size, subjects.groupOf(two)], [0, 0, undefined])
})
