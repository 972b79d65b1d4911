/** What the documents show is what the code does: every example is read, and held against the expectations that stand beside it. */
import { globSync, readFileSync } from 'node:fs'
import test, { type ExecutionContext } from 'ava'
import { answerLines } from '#cli/policy-scene.ts'
import { configSchema } from '#config/schema.ts'
import type { Dialect } from '#policy/model.ts'
import { parseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import type { Severity } from '#policy/problems.ts'
import { parseExpectations } from '#policy/trace/expectations.ts'
import { answerQuestion } from '#policy/trace/question.ts'
import { Scene } from '#policy/trace/scene.ts'

const REFERENCE = 'docs/policy-reference.md'
const CONFIG = configSchema.parse({})

interface Section {
  readonly title: string
  /** As links inside the page name it. */
  readonly anchor: string
  readonly policies: readonly string[]
  readonly expectations: readonly string[]
}

function sectionsOf(page: string): Section[] {
  return page.split(/^(?=#{2,4} )/m).map((text) => {
    const title = /^#+ (.*)$/m.exec(text)?.[1] ?? ''
    const anchor = title
      .toLowerCase()
      .replaceAll(/[^a-z0-9 -]/g, '')
      .replaceAll(' ', '-')
    const blocks = [...text.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, block]) => block ?? '')
    const isTest = (block: string): boolean => /^kind: PolicyTest$/m.test(block)
    return { title, anchor, policies: blocks.filter((block) => !isTest(block)), expectations: blocks.filter(isTest) }
  })
}

const PAGE = readFileSync(REFERENCE, 'utf8')
const SECTIONS = sectionsOf(PAGE)

function problemsOf(text: string, file: string, severity: Severity, dialect?: Dialect): string[] {
  return parsePolicyFile(text, file, parseOptions(CONFIG, dialect))
    .problems.filter((problem) => problem.severity === severity)
    .map(({ line, path, message }) => `${file}:${line}: ${path}: ${message}`)
}

/** The policies as one folder, and nobody known but by labels. */
function assertMet(t: ExecutionContext, { title, policies, expectations }: Section): void {
  const files = policies.map((text, index) => ({ file: `${index}.yaml`, ...parsePolicyFile(text, `${index}.yaml`, parseOptions(CONFIG)) }))
  const parsed = expectations.map((text) => parseExpectations(text, title))
  t.deepEqual(
    parsed.flatMap(({ problems }) => problems),
    [],
  )
  const scene = new Scene({ files })
  const missed = parsed
    .flatMap((file) => file.expectations)
    .flatMap(({ name, question, verdict }) => {
      const answer = answerQuestion(scene, question)
      return answer.verdict === verdict ? [] : [`${title}: ${name}: not ${verdict}`, ...answerLines(answer)]
    })
  t.deepEqual(missed, [])
}

test('every YAML block of the policy reference is a policy file that is accepted, or expectations', (t) => {
  const policies = SECTIONS.flatMap(({ title, policies }) => policies.map((text) => problemsOf(text, title, 'error')))
  t.true(policies.length > 0)
  t.deepEqual(policies.flat(), [])
})

test('what the policy reference expects of its examples holds', (t) => {
  const tested = SECTIONS.filter(({ expectations }) => expectations.length > 0)
  t.true(tested.length > 0)
  for (const section of tested) assertMet(t, section)
})

/** What the table says of each in the dialect cilium, by the anchor that it links to. */
function extensions(): [string, string][] {
  const table = /^## Extensions\n(.*?)^### /ms.exec(PAGE)?.[1] ?? ''
  return [...table.matchAll(/^\| \[[^\]]*\]\(#([^)]*)\) \|.*\| (\w[^|]*) \|$/gm)].map(([, anchor = '', word = '']) => [anchor, word])
}

test('every extension has an example with expectations, and is in the dialect cilium what its row says', (t) => {
  const rows = extensions()
  const after = SECTIONS.findIndex(({ title }) => title === 'Extensions')
  const names = SECTIONS.slice(after + 1, after + 1 + rows.length).map(({ anchor }) => anchor)
  t.deepEqual(names.toSorted(), rows.map(([anchor]) => anchor).toSorted())
  for (const [anchor, word] of rows) {
    const section = SECTIONS.find((candidate) => candidate.anchor === anchor)
    const [text = ''] = section?.policies ?? []
    t.true((section?.expectations.length ?? 0) > 0, `${anchor} expects something`)
    const [errors, warnings] = (['error', 'warning'] as const).map((severity) => problemsOf(text, anchor, severity, 'cilium').length)
    const actual = errors !== 0 ? 'refused' : warnings !== 0 ? 'ignored' : 'the same'
    t.is(word.split(',')[0], actual, anchor)
    t.deepEqual(problemsOf(text, anchor, 'error', 'extended'), [])
  }
})

test('every link inside the policy reference leads somewhere', (t) => {
  const anchors = SECTIONS.map(({ anchor }) => anchor)
  t.deepEqual(
    [...PAGE.matchAll(/\]\(#([^)]*)\)/g)].map(([, anchor = '']) => anchor).filter((anchor) => !anchors.includes(anchor)),
    [],
  )
})

test('every example policy is accepted', (t) => {
  const files = globSync('examples/policies/*.yaml')
  t.true(files.length > 0)
  t.deepEqual(
    files.flatMap((file) => problemsOf(readFileSync(file, 'utf8'), file, 'error')),
    [],
  )
})
