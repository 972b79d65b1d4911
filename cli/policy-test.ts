/** `headgate policy test`: expectations about flows, held against policy files. For users' CI: no agent, no root. */
import { dirname, resolve } from 'node:path'
import type { Config } from '#config/schema.ts'
import type { Dialect } from '#policy/model.ts'
import { parseExpectations } from '#policy/trace/expectations.ts'
import { answerQuestion, QuestionError } from '#policy/trace/question.ts'
import type { Scene } from '#policy/trace/scene.ts'
import type { TraceAnswer } from '#policy/trace/trace-name.ts'
import { CliError, EXIT_CODES } from './errors.ts'
import type { OutputFormat } from './options.ts'
import { print, printJson } from './output.ts'
import { formatProblem, readText } from './policy-files.ts'
import { answerLines, createScene } from './policy-scene.ts'

export interface TestOptions {
  readonly output: OutputFormat
  readonly policy?: readonly string[]
  readonly endpoints?: string
  readonly secrets?: string
  readonly dialect?: Dialect
}

interface Outcome {
  readonly file: string
  readonly line: number
  readonly name: string
  readonly expected: string
  readonly actual: string
  readonly passed: boolean
  /** Absent when the question could not be answered. */
  readonly answer?: TraceAnswer
}

export async function runTests(names: readonly string[], options: TestOptions, config: Config): Promise<void> {
  const outcomes: Outcome[] = []
  for (const name of names) outcomes.push(...(await runFile(name, options, config)))
  const failed = outcomes.filter(({ passed }) => !passed)
  const summary = { passed: outcomes.length - failed.length, failed: failed.length }
  if (options.output === 'json') {
    printJson({ ...summary, tests: outcomes })
  } else {
    for (const outcome of outcomes) printOutcome(outcome)
    print(`${summary.passed} passed, ${summary.failed} failed`)
  }
  process.exitCode = failed.length > 0 ? EXIT_CODES.FAILED : EXIT_CODES.OK
}

async function runFile(file: string, options: TestOptions, config: Config): Promise<Outcome[]> {
  const { policies, endpoints, secrets, expectations, problems } = parseExpectations(readText(file), file)
  const errors = problems.filter(({ severity }) => severity === 'error')
  if (errors.length > 0) throw new CliError('HG-1108', `not a file of expectations: ${file}`, { details: errors.map(formatProblem) })
  // Paths in a file are seen from the file, so that it means the same wherever it is run.
  const fromFile = (path: string): string => resolve(dirname(file), path)
  const policy = options.policy ?? policies.map(fromFile)
  if (policy.length === 0) throw new CliError('HG-1108', `${file} names no policies: give it policies, or --policy`)
  const known = options.endpoints ?? (endpoints === undefined ? undefined : fromFile(endpoints))
  const secretsFolder = options.secrets ?? (secrets === undefined ? undefined : fromFile(secrets))
  const scene = await createScene({ policies: policy, endpoints: known, secrets: secretsFolder, config, dialect: options.dialect })
  return expectations.map(({ at, name, question, verdict }) => ({
    file,
    line: at.line,
    name,
    expected: verdict,
    ...judge(scene, question, verdict),
  }))
}

function judge(scene: Scene, question: unknown, expected: string): Pick<Outcome, 'actual' | 'passed' | 'answer'> {
  try {
    const answer = answerQuestion(scene, question)
    return { actual: answer.verdict, passed: answer.verdict === expected, answer }
  } catch (error) {
    if (error instanceof QuestionError) return { actual: error.message, passed: false }
    throw error
  }
}

function printOutcome({ file, line, name, expected, actual, passed, answer }: Outcome): void {
  if (passed) {
    print(`ok    ${name}`)
    return
  }
  print(`FAIL  ${name} (${file}:${line}): expected ${expected}, is ${actual}`)
  for (const text of answer === undefined ? [] : answerLines(answer)) print(`      ${text}`)
}
