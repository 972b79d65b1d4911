import { spawnSync } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { COMMANDS } from '#cli/commands.ts'
import { completionScript } from '#cli/completion.ts'
import { parseDurationMs } from '#cli/options.ts'
import { formatTable, sanitize } from '#cli/output.ts'
import { createProgram } from '#cli/program.ts'
import { headgate, ROOT, temporaryFolder } from './run-headgate.ts'

const HELP_MS_MAX = 150

test.serial('--help stays within its budget and names every command', async (t) => {
  const { stdout, exitCode } = await headgate(['--help'])
  t.is(exitCode, 0)
  for (const { name } of COMMANDS) t.regex(stdout, new RegExp(`^  ${name} `, 'm'))
  // Processor time, because the machine runs other tests meanwhile; on an idle one the clock shows about the same.
  const script = `TIMEFORMAT='%R %U %S'; for i in 1 2 3 4 5 6 7 8 9; do time ${join(ROOT, 'bin/headgate')} --help > /dev/null; done`
  const { stderr } = spawnSync('bash', ['-c', script], { encoding: 'utf8' })
  const runs = stderr
    .trim()
    .split('\n')
    .map((line) => line.split(' ').map(Number))
  const processorMs = runs.map(([, user = 0, system = 0]) => (user + system) * 1000).sort((a, b) => a - b)
  const wallMs = runs.map(([real = 0]) => real * 1000).sort((a, b) => a - b)
  t.log(`median of ${runs.length}: ${wallMs[4]?.toFixed(0)} ms, processor ${processorMs[4]?.toFixed(0)} ms`)
  t.true((processorMs[4] ?? Number.POSITIVE_INFINITY) <= HELP_MS_MAX, `${processorMs.join(' ')} ms`)
})

test('every command and subcommand explains itself', async (t) => {
  const program = await createProgram(() => true)
  for (const command of program.commands) {
    for (const each of [command, ...command.commands]) {
      t.not(each.description(), '', each.name())
      for (const option of each.options) t.not(option.description, '', `${each.name()} ${option.flags}`)
    }
  }
  const outcome = await headgate(['policy', 'apply', '--help'])
  t.is(outcome.exitCode, 0)
  t.regex(outcome.stdout, /--no-wait/)
})

test('--version names every part', async (t) => {
  const { stdout, exitCode } = await headgate(['--version'])
  t.is(exitCode, 0)
  t.deepEqual(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split(/\s+/)[0]),
    ['headgate', 'node', 'envoy', 'libbpf', 'kernel'],
  )
  t.notRegex(stdout, /not found/)
  const json = await headgate(['version', '-o', 'json'])
  t.regex((JSON.parse(json.stdout) as { envoy: string }).envoy, /^\d+\.\d+\.\d+$/)
})

test('usage errors end in 2 and say what was meant', async (t) => {
  const unknown = await headgate(['polcy', 'list'])
  t.is(unknown.exitCode, 2)
  t.regex(unknown.stderr, /error HG-1108: there is no command polcy\n {2}did you mean policy\nnext: /)
  for (const args of [[], ['policy', 'lst'], ['status', '--nope'], ['status', '-o', 'xml'], ['endpoint', 'add']]) {
    const outcome = await headgate(args)
    t.is(outcome.exitCode, 2, args.join(' '))
    t.is(outcome.stdout, '')
    t.not(outcome.stderr, '')
  }
})

test('without an agent, commands say so, what to do, and end in 2', async (t) => {
  const run = temporaryFolder(t)
  for (const args of [
    ['status'],
    ['policy', 'list'],
    ['endpoint', 'list'],
    ['identity', 'list'],
    ['observe'],
    ['policy', 'wait', '--timeout', '100ms'],
  ]) {
    const outcome = await headgate([...args, '--set', `paths.run=${run}`])
    t.is(outcome.exitCode, 2, args.join(' '))
    t.regex(outcome.stderr, /^error HG-1101: no agent answers on /, args.join(' '))
    t.regex(outcome.stderr, /^next: Start it with `headgate up`/m)
  }
})

test('a bad configuration ends every command in 2 with its problems', async (t) => {
  const file = join(temporaryFolder(t), 'c.yaml')
  writeFileSync(file, 'paths:\n  rum: /x\n')
  const outcome = await headgate(['status'], { environment: { HEADGATE_CONFIG: file } })
  t.is(outcome.exitCode, 2)
  t.regex(
    outcome.stderr,
    /error HG-1002: the configuration is not valid: 1 problem\n {2}\S+c\.yaml:2:3: paths\.rum: unknown setting; did you mean paths\.run/,
  )
})

test('config show prints a file that config validate accepts', async (t) => {
  const folder = temporaryFolder(t)
  const shown = await headgate(['config', 'show', '--set', 'log.levels.proxy=debug', '--set', 'nodeName=on'])
  t.is(shown.exitCode, 0)
  const file = join(folder, 'c.yaml')
  writeFileSync(file, shown.stdout)
  const validated = await headgate(['config', 'validate', file])
  t.is(validated.exitCode, 0, validated.stderr)
  const again = await headgate(['config', 'show', '--config', file])
  t.is(again.stdout, shown.stdout)
})

test('config show --origin tells where each value comes from, options before the command count too', async (t) => {
  const outcome = await headgate(['--set', 'paths.run=/tmp/a', 'config', 'show', '--origin', '-o', 'json'], {
    environment: { HEADGATE_PATHS_STATE: '/tmp/b' },
  })
  const { settings, origins } = JSON.parse(outcome.stdout) as Record<'settings' | 'origins', Record<string, unknown>>
  t.like(settings, { 'paths.run': '/tmp/a', 'paths.state': '/tmp/b' })
  t.like(origins, { 'paths.run': '--set paths.run', 'paths.state': 'HEADGATE_PATHS_STATE', 'paths.bpf': 'default' })
})

test('config validate -o json lists the problems', async (t) => {
  const outcome = await headgate(['config', 'validate', '-o', 'json', '--set', 'flows.mode=x'])
  t.is(outcome.exitCode, 2)
  t.like(JSON.parse(outcome.stdout), { valid: false, problems: [{ path: 'flows.mode' }] })
})

test('the launcher works by a symlink from anywhere', async (t) => {
  const link = join(temporaryFolder(t), 'hg')
  symlinkSync(join(ROOT, 'bin/headgate'), link)
  t.is((await headgate(['config', 'show'], { command: link })).exitCode, 0)
})

test('output into a closed pipe ends quietly', (t) => {
  const { stderr } = spawnSync('sh', ['-c', `${join(ROOT, 'bin/headgate')} completion fish | true`], { encoding: 'utf8' })
  t.is(stderr, '')
})

test('bash completes commands, subcommands, options and their values', async (t) => {
  const file = join(temporaryFolder(t), 'headgate.bash')
  writeFileSync(file, completionScript('bash', await createProgram(() => true)))
  const complete = (...words: string[]) => {
    const program = `source ${file}; COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _headgate; printf '%s\\n' "\${COMPREPLY[@]}"`
    const { stdout, stderr } = spawnSync('bash', ['-c', program], { encoding: 'utf8' })
    t.is(stderr, '')
    return stdout.split('\n').filter((line) => line !== '')
  }
  t.deepEqual(complete('headgate', 'po'), ['policy'])
  t.deepEqual(complete('headgate', 'policy', 'va'), ['validate'])
  t.deepEqual(complete('headgate', 'policy', 'apply', '--no'), ['--no-wait'])
  t.deepEqual(complete('headgate', 'status', '-o', ''), ['text', 'json', 'sarif', 'compact'])
  t.deepEqual(complete('headgate', 'policy', 'diff', '--dialect', ''), ['cilium', 'extended'])
  t.deepEqual(complete('headgate', 'completion', 'z'), ['zsh'])
})

test('scripts for zsh and fish name every command', async (t) => {
  for (const shell of ['zsh', 'fish'] as const) {
    const script = completionScript(shell, await createProgram(() => true))
    for (const { name } of COMMANDS) t.true(script.includes(name), `${shell} ${name}`)
  }
})

test('tables are aligned and control characters do not reach the terminal', (t) => {
  t.is(
    formatTable(
      ['A', 'LONG'],
      [
        ['xxx', 'y'],
        ['z', ''],
      ],
    ),
    'A    LONG\nxxx  y\nz',
  )
  t.is(sanitize('a\u001b[31m\nb'), 'a\\x1b[31m\\x0ab')
})

test('durations are read with and without units', (t) => {
  t.deepEqual(['500ms', '2s', '1.5', '1m'].map(parseDurationMs), [500, 2000, 1500, 60_000])
  t.throws(() => parseDurationMs('soon'))
})
