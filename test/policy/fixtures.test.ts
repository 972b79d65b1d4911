/**
 * Example policies of every part of the language, each with what it is to allow and deny. They are counterparts of what others publish
 * (Cilium's examples and connectivity tests, the well-known recipes for NetworkPolicy): same intent, own words.
 */
import { globSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import test from 'ava'
import { answerLines, loadPeople, sceneOf } from '#cli/policy-scene.ts'
import { secretsIn } from '#cli/policy-secrets.ts'
import { configSchema } from '#config/schema.ts'
import { DIALECTS, type Dialect } from '#policy/model.ts'
import { parseOptions } from '#policy/options.ts'
import { type ParsedPolicyFile, parsePolicyFile } from '#policy/parse.ts'
import { parseExpectations } from '#policy/trace/expectations.ts'
import { answerQuestion } from '#policy/trace/question.ts'

const FOLDER = 'test/fixtures/policies'
const CONFIG = configSchema.parse({})

/** What Cilium 1.20 refuses of them, by what the first error says. */
const REFUSED_IN_CILIUM: Readonly<Record<string, RegExp>> = {
  'getting-started/topics.yaml': /only the dialect extended has this: kafka/,
  'host/relay-protocols.yaml': /only when policy.extendedIpProtocols is set: VRRP/,
  'l4/protocols-without-ports.yaml': /only when policy.extendedIpProtocols is set: GRE/,
  'l7/cassandra.yaml': /only the dialect extended has this: cassandra/,
  'l7/dns-deny.yaml': /only the dialect extended has this: rules in a deny rule/,
  'l7/grpc.yaml': /only the dialect extended has this: grpc/,
  'l7/grpc-deny.yaml': /only the dialect extended has this: rules in a deny rule/,
  'l7/http-actions.yaml': /only the dialect extended has this: rules in a deny rule/,
  'l7/http-secrets.yaml': /only the dialect extended has this: rules in a deny rule/,
  'l7/http-deny.yaml': /only the dialect extended has this: rules in a deny rule/,
  'l7/kafka-api-keys.yaml': /only the dialect extended has this: kafka/,
  'l7/kafka-clients.yaml': /only the dialect extended has this: kafka/,
  'l7/kafka-roles.yaml': /only the dialect extended has this: kafka/,
  'l7/parser.yaml': /only the dialect extended has this: l7proto/,
  'l3/requires.yaml': /only the dialect extended has this: fromRequires/,
  'l3/requires-out.yaml': /only the dialect extended has this: toRequires/,
}

/** What is refused in both: kept to show that it is, and how. */
const REFUSED: Readonly<Record<string, RegExp>> = {
  'auth/required.yaml': /mutual authentication is not supported/,
}

const TESTS = globSync(`${FOLDER}/*/*.test.yaml`).sort()
const POLICIES = globSync(`${FOLDER}/*/*.yaml`)
  .filter((file) => !TESTS.includes(file) && basename(file) !== 'workloads.yaml')
  .sort()

function nameOf(file: string): string {
  return file.slice(FOLDER.length + 1)
}

function read(file: string, dialect: Dialect): ParsedPolicyFile {
  return parsePolicyFile(readFileSync(file, 'utf8'), file, parseOptions(CONFIG, dialect))
}

for (const dialect of DIALECTS) {
  test(`every fixture is accepted or refused as the dialect ${dialect} has it`, (t) => {
    t.true(POLICIES.length > 0)
    const surprises = POLICIES.flatMap((file) => {
      const errors = read(file, dialect)
        .problems.filter(({ severity }) => severity === 'error')
        .map(({ line, path, message }) => `${line}: ${path}: ${message}`)
      const refusal = REFUSED[nameOf(file)] ?? (dialect === 'cilium' ? REFUSED_IN_CILIUM[nameOf(file)] : undefined)
      if (refusal === undefined) return errors.map((error) => `${file}:${error}`)
      return refusal.test(errors[0] ?? '') ? [] : [`${file}: ${errors[0] ?? 'accepted'}`]
    })
    t.deepEqual(surprises, [])
  })
}

test('what is said to be refused is there', (t) => {
  const names = POLICIES.map(nameOf)
  for (const name of [...Object.keys(REFUSED), ...Object.keys(REFUSED_IN_CILIUM)]) t.true(names.includes(name), name)
})

/** Refused in the dialect cilium, or what it says has no effect there. */
function isOfExtended(file: string): boolean {
  return Object.hasOwn(REFUSED_IN_CILIUM, nameOf(file)) || nameOf(file) === 'l7/audit.yaml'
}

for (const file of TESTS) {
  const { policies, endpoints, secrets, expectations, problems } = parseExpectations(readFileSync(file, 'utf8'), file)
  const paths = policies.map((name) => join(dirname(file), name))
  const dialects = paths.some(isOfExtended) ? (['extended'] as const) : DIALECTS
  test(`${nameOf(file)} is met in ${dialects.length === 1 ? 'its dialect' : 'both dialects'}`, async (t) => {
    t.deepEqual(problems, [])
    const people = await loadPeople(endpoints && join(dirname(file), endpoints), CONFIG)
    const known = await secretsIn(secrets && join(dirname(file), secrets))
    for (const dialect of dialects) {
      const files = paths.map((path) => ({ file: path, ...read(path, dialect) }))
      const scene = sceneOf(files, people, CONFIG, known)
      const missed = expectations.flatMap(({ at, name, question, verdict }) => {
        const answer = answerQuestion(scene, question)
        return answer.verdict === verdict ? [] : [`${file}:${at.line}: ${name}: not ${verdict} (${dialect})`, ...answerLines(answer)]
      })
      t.deepEqual(missed, [])
    }
    // One that allows or denies everything shows nothing of the policy.
    t.deepEqual([...new Set(expectations.map(({ verdict }) => verdict))].sort(), ['allowed', 'denied'])
  })
}

test('every fixture is used by some expectations', (t) => {
  const used = new Set(
    TESTS.flatMap((file) => parseExpectations(readFileSync(file, 'utf8'), file).policies.map((name) => join(dirname(file), name))),
  )
  t.deepEqual(
    POLICIES.filter((file) => !used.has(file)),
    [],
  )
})
