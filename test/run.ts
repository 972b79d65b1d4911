/**
 * Runs every check and every test, after set-up: type check, Biome, knip (each counts as one), then AVA. The last line is
 * `N passed, N failed`; the exit code is 0 only when nothing failed and something ran. Arguments: --long adds *.long.test.ts;
 * file names or patterns run just those tests, without the checks.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { TapReader } from './report.ts'

interface Check {
  readonly name: string
  readonly command: readonly string[]
}

/** Longer than AVA's own limit for one test (ava.config.js, t.timeout in long ones), so that AVA can name the test first. */
const SILENCE_MS_MAX = (process.argv.includes('--long') ? 25 : 5) * 60_000

const node = 'bin/node'
const CHECKS: readonly Check[] = [
  { name: 'type check', command: [node, 'node_modules/.bin/tsc', '--noEmit'] },
  { name: 'Biome', command: [node, 'node_modules/.bin/biome', 'check', '.'] },
  { name: 'knip', command: [node, 'node_modules/.bin/knip'] },
]

const patterns = process.argv.slice(2).filter((argument) => argument !== '--long')
const isLong = process.argv.includes('--long')

let passed = 0
let failed = 0
const failures: string[] = []

for (const check of patterns.length === 0 ? CHECKS : []) {
  const started = performance.now()
  const { output, exitCode } = await run(check.command)
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  if (exitCode === 0) {
    passed += 1
    print(`✔ ${check.name} (${seconds} s)\n`)
  } else {
    failed += 1
    failures.push(check.name)
    print(`✘ ${check.name} (${seconds} s)\n${output}\n`)
  }
}

const reader = new TapReader(print)
const ava = spawn(node, ['node_modules/.bin/ava', '--tap', ...patterns], {
  stdio: ['ignore', 'pipe', 'inherit'],
  // A group of its own: a hanging test is ended with whatever it started.
  detached: true,
  env: { ...process.env, HEADGATE_TEST_LONG: isLong ? '1' : '' },
})
const ended = new Promise<number | undefined>((resolve) => {
  ava.on('error', (error) => {
    print(`${error.message}\n`)
    resolve(undefined)
  })
  ava.on('close', (code) => resolve(code ?? undefined))
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => endAva(signal))
// AVA waits without end for a test process that has finished its tests and does not exit.
const silence = setTimeout(endSilence, SILENCE_MS_MAX)
for await (const line of createInterface({ input: ava.stdout })) {
  silence.refresh()
  reader.line(line)
}
clearTimeout(silence)
const totals = reader.end(await ended)
passed += totals.passed
failed += totals.failed
failures.push(...reader.failures().map((lines) => lines.join('\n')))

if (failures.length > 0) print(`\nFailed:\n${failures.map((failure) => `  ✘ ${failure}\n`).join('')}`)
if (totals.skipped > 0) print(`\n${totals.skipped} skipped\n`)
print(`\n${passed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1

function endSilence(): void {
  print(`no result for ${SILENCE_MS_MAX / 60_000} minutes: ending the test run; a test process hangs\n`)
  endAva('SIGINT')
  setTimeout(() => endAva('SIGKILL'), 10_000).unref()
}

function endAva(signal: NodeJS.Signals): void {
  try {
    if (ava.pid !== undefined) process.kill(-ava.pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function print(text: string): void {
  process.stdout.write(text)
}

function run(command: readonly string[]): Promise<{ output: string; exitCode: number }> {
  return new Promise((resolve) => {
    const [file = '', ...args] = command
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const chunks: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.on('error', (error) => resolve({ output: error.message, exitCode: 1 }))
    child.on('close', (code) => resolve({ output: Buffer.concat(chunks).toString(), exitCode: code ?? 1 }))
  })
}
