import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { ConfigError, formatProblem } from '#config/errors.ts'
import { formatOrigin, type LoadOptions, loadConfig } from '#config/load.ts'
import { SETTINGS } from '#config/settings.ts'
import { nearest } from '#config/suggest.ts'

function fileOf(t: ExecutionContext, text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-config-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'config.yaml')
  writeFileSync(file, text)
  return file
}

/** Problems without the folder of the file. */
function problemsOf(t: ExecutionContext, options: LoadOptions): string[] {
  const error = t.throws(() => loadConfig({ environment: {}, ...options }), { instanceOf: ConfigError })
  return error.problems.map((problem) => formatProblem(problem).replace(/^\/\S*\//, ''))
}

test('defaults hold when nothing is given', (t) => {
  const { config, origins } = loadConfig({ file: fileOf(t, ''), environment: {} })
  t.is(config.paths.run, '/run/headgate')
  t.true([...origins.values()].every((origin) => origin.kind === 'default'))
})

test('flags win over the environment, which wins over the file, and each value knows its origin', (t) => {
  const file = fileOf(t, 'apiVersion: headgate.io/v1\npaths:\n  run: /file\n  state: /file\n  bpf: /file\n')
  const { config, origins } = loadConfig({
    file,
    environment: { HEADGATE_PATHS_STATE: '/environment', HEADGATE_PATHS_BPF: '/environment', HEADGATE_FLOWS_SAMPLE_RATE: '0.5' },
    set: ['paths.bpf=/flag', 'flows.ringSize=64'],
  })
  t.like(config.paths, { run: '/file', state: '/environment', bpf: '/flag' })
  t.like(config.flows, { sampleRate: 0.5, ringSize: 64 })
  const origin = (key: string) => formatOrigin(origins.get(key) ?? { kind: 'default' })
  t.deepEqual(['paths.run', 'paths.state', 'paths.bpf', 'paths.policies'].map(origin), [
    `${file}:3`,
    'HEADGATE_PATHS_STATE',
    '--set paths.bpf',
    'default',
  ])
})

test('HEADGATE_CONFIG names the file and --config is stronger', (t) => {
  const weak = fileOf(t, 'instance: weak')
  const strong = fileOf(t, 'instance: strong')
  t.is(loadConfig({ environment: { HEADGATE_CONFIG: weak } }).config.instance, 'weak')
  t.is(loadConfig({ file: strong, environment: { HEADGATE_CONFIG: weak } }).config.instance, 'strong')
})

test('a named file that does not exist is an error', (t) => {
  const error = t.throws(() => loadConfig({ file: '/nonexistent/config.yaml', environment: {} }), { instanceOf: ConfigError })
  t.is(error.code, 'HG-1001')
  t.true(error.message.endsWith('/nonexistent/config.yaml'))
})

test('every problem of a file is reported with its line and what was meant', (t) => {
  const file = fileOf(
    t,
    `apiVersion: headgate.io/v1
paths:
  rum: /x
  run: relative
log:
  levl: debug
envoy:
  concurrency: 0
flows: {mode: some}
emptyFolder: keep
`,
  )
  t.deepEqual(problemsOf(t, { file }).sort(), [
    'config.yaml:10:1: emptyFolder: unknown setting; did you mean policy.emptyFolder',
    'config.yaml:3:3: paths.rum: unknown setting; did you mean paths.run',
    'config.yaml:4:8: paths.run: an absolute path is needed, not "relative"',
    'config.yaml:6:3: log.levl: unknown setting; did you mean log.level',
    'config.yaml:8:16: envoy.concurrency: expected at least 1, not 0',
    'config.yaml:9:15: flows.mode: expected one of all, sampled, denied, not "some"',
  ])
})

test('problems of the environment and of flags name the variable and the flag', (t) => {
  const environment = { HEADGATE_PATHS_RUNN: '/x', HEADGATE_LOG_LEVEL: 'loud' }
  t.deepEqual(problemsOf(t, { environment, set: ['path.run=/x', 'envoy.concurrency', 'flows.ringSize=many'] }).sort(), [
    '--set envoy.concurrency: envoy.concurrency: no value given; write --set envoy.concurrency=VALUE',
    '--set flows.ringSize: flows.ringSize: expected number, not "many"',
    '--set path.run: path.run: unknown setting; did you mean paths.run',
    'HEADGATE_LOG_LEVEL: log.level: expected one of trace, debug, info, warn, error, not "loud"',
    'HEADGATE_PATHS_RUNN: unknown setting; did you mean HEADGATE_PATHS_RUN',
  ])
})

test('listeners that would have no port are refused, wherever the two settings come from', (t) => {
  const expected = (first: number, slots: number, last: number) =>
    `with datapath.slotsMax ${slots}, the listeners would take ports ${first} to ${last}, and the last port is 65535: lower datapath.slotPortFirst or datapath.slotsMax`
  t.deepEqual(problemsOf(t, { file: fileOf(t, 'datapath:\n  slotPortFirst: 65000\n') }), [
    `config.yaml:2:18: datapath.slotPortFirst: ${expected(65000, 4000, 68999)}`,
  ])
  const environment = { HEADGATE_DATAPATH_SLOT_PORT_FIRST: '65530' }
  t.deepEqual(problemsOf(t, { environment, set: ['datapath.slotsMax=7'] }), [
    `HEADGATE_DATAPATH_SLOT_PORT_FIRST: datapath.slotPortFirst: ${expected(65530, 7, 65536)}`,
  ])
  t.notThrows(() => loadConfig({ environment, set: ['datapath.slotsMax=6'] }))
  for (const [port, what] of [
    [0, 'at least 1'],
    [65536, 'at most 65535'],
  ]) {
    t.deepEqual(problemsOf(t, { set: [`datapath.slotPortFirst=${port}`] }), [
      `--set datapath.slotPortFirst: datapath.slotPortFirst: expected ${what}, not ${port}`,
    ])
  }
})

test('what Kubernetes puts into the environment for services of that name is no error', (t) => {
  const environment = {
    HEADGATE_PORT: 'tcp://10.0.0.1:80',
    HEADGATE_SERVICE_HOST: '10.0.0.1',
    HEADGATE_PORT_80_TCP_ADDR: '10.0.0.1',
    HEADGATE_ENVOY_SERVICE_PORT_HTTP: '80',
  }
  t.notThrows(() => loadConfig({ environment }))
})

test('broken YAML, doubled keys, several documents and a list are refused', (t) => {
  for (const text of ['paths: [', 'instance: a\ninstance: b\n', 'instance: a\n---\ninstance: b\n', '- instance: a\n', 'text']) {
    t.true(problemsOf(t, { file: fileOf(t, text) }).length > 0, text)
  }
})

test('a section whose settings are all commented out means its defaults', (t) => {
  t.notThrows(() => loadConfig({ file: fileOf(t, 'datapath:\n  # slotsMax: 10\nlog:\n  levels:\n'), environment: {} }))
})

test('words that YAML 1.1 takes for booleans stay words', (t) => {
  t.is(loadConfig({ file: fileOf(t, 'envoy:\n  logLevel: off\n'), environment: {} }).config.envoy.logLevel, 'off')
})

test('an alias bomb is refused quickly', (t) => {
  const levels = Array.from({ length: 20 }, (_, index) => `a${index + 1}: &a${index + 1} [${Array(10).fill(`*a${index}`).join(', ')}]`)
  t.true(problemsOf(t, { file: fileOf(t, ['a0: &a0 x', ...levels].join('\n')) }).length > 0)
})

test('the configuration cannot be changed after it was judged', (t) => {
  const { config } = loadConfig({ environment: {} })
  t.throws(() => Object.assign(config.paths, { run: '/x' }))
})

test('every setting has a description and a variable of its own', (t) => {
  t.is(new Set(SETTINGS.map((setting) => setting.variable)).size, SETTINGS.length)
  t.deepEqual(
    SETTINGS.filter((setting) => setting.description === '').map((setting) => setting.key),
    [],
  )
})

test('the nearest word is found unless it is too far', (t) => {
  const words = ['policy', 'proxy', 'status']
  t.is(nearest('polcy', words), 'policy')
  t.is(nearest('porxy', words), 'proxy')
  t.is(nearest('Status', words), 'status')
  t.is(nearest('observe', words), undefined)
})
