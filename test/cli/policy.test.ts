import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { ListPoliciesResponseSchema, WaitPolicyResponseSchema } from '#api/gen/headgate/v1/local_pb.js'
import { serveFakeAgent } from './fake-agent.ts'
import { headgate, temporaryFolder } from './run-headgate.ts'

function policy(name: string, path = '/public/.*'): string {
  return `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: ${path}}]}
`
}

interface Place {
  readonly folder: string
  readonly run: string
  readonly policies: string
  write(name: string, text: string): string
  ask(args: readonly string[], input?: string): ReturnType<typeof headgate>
}

function place(t: ExecutionContext): Place {
  const folder = temporaryFolder(t)
  const run = join(folder, 'run')
  const policies = join(folder, 'policies')
  mkdirSync(run)
  return {
    folder,
    run,
    policies,
    write(name, text) {
      const path = join(folder, name)
      writeFileSync(path, text)
      return path
    },
    ask: (args, input = '') => headgate(['--set', `paths.run=${run}`, '--set', `paths.policies=${policies}`, 'policy', ...args], { input }),
  }
}

test('validate accepts, and refuses with file, line, field and exit code 1', async (t) => {
  const { ask, write } = place(t)
  const good = write('good.yaml', policy('web'))
  const bad = write('bad.yaml', policy('web').replace('endpointSelector', 'endpointSelektor'))
  const accepted = await ask(['validate', good])
  t.is(accepted.exitCode, 0, accepted.stdout + accepted.stderr)
  t.is(accepted.stdout, `${good}: valid, 1 policy\n`)
  const refused = await ask(['validate', good, bad])
  t.is(refused.exitCode, 1)
  t.regex(refused.stdout, /bad\.yaml:5:\d+: error: spec/)
  const json = await ask(['validate', '-o', 'json', bad])
  t.is(json.exitCode, 1)
  t.like(JSON.parse(json.stdout), { valid: false, files: [{ file: bad, valid: false }] })
  t.is((await ask(['validate', '-'], policy('web'))).exitCode, 0)
  t.is((await ask(['validate', join(good, 'missing')])).exitCode, 2)
})

test('apply writes the whole file under its name and leaves nothing else behind', async (t) => {
  const { ask, write, policies } = place(t)
  const file = write('web.yaml', policy('web'))
  const applied = await ask(['apply', '-f', file, '--no-wait'])
  t.is(applied.exitCode, 0, applied.stderr)
  t.deepEqual(readdirSync(policies), ['web.yaml'])
  t.is(readFileSync(join(policies, 'web.yaml'), 'utf8'), policy('web'))
  const inode = statSync(join(policies, 'web.yaml')).ino
  write('web.yaml', policy('web', '/other'))
  t.is((await ask(['apply', '-f', file, '--no-wait'])).exitCode, 0)
  t.is(readFileSync(join(policies, 'web.yaml'), 'utf8'), policy('web', '/other'))
  t.not(statSync(join(policies, 'web.yaml')).ino, inode)
})

test('apply of standard input takes its name from the policy', async (t) => {
  const { ask, policies } = place(t)
  t.is((await ask(['apply', '-f', '-', '--no-wait'], policy('web'))).exitCode, 0)
  t.deepEqual(readdirSync(policies), ['default.web.yaml'])
})

test('apply of a refused file, or without an agent to wait for, changes nothing', async (t) => {
  const { ask, write, policies } = place(t)
  const good = write('good.yaml', policy('web'))
  const bad = write('bad.yaml', policy('web').replace('spec:', 'speck:'))
  const refused = await ask(['apply', '-f', good, '-f', bad, '--no-wait'])
  t.is(refused.exitCode, 1)
  t.regex(refused.stderr, /^error HG-1103: not valid: \S+bad\.yaml\n {2}\S+bad\.yaml:\d+:\d+: error: /)
  t.false(existsSync(policies))
  const unanswered = await ask(['apply', '-f', good])
  t.is(unanswered.exitCode, 2)
  t.regex(unanswered.stderr, /^error HG-1101/)
  t.false(existsSync(policies))
})

test('apply returns when the agent says that it is in force, and fails when the agent refused the file', async (t) => {
  const { ask, write, run, policies } = place(t)
  const file = write('web.yaml', policy('web'))
  let state = 'in-force'
  await serveFakeAgent(t, run, {
    // The file has to be there when the agent is asked to look.
    waitPolicy: (call, reply) =>
      reply(null, create(WaitPolicyResponseSchema, { revision: call.request.rescan && existsSync(join(policies, 'web.yaml')) ? 12n : 0n })),
    listPolicies: (_call, reply) =>
      reply(
        null,
        create(ListPoliciesResponseSchema, {
          documents: [
            { file: 'web.yaml', namespace: 'default', name: 'web', state, problems: [{ file: 'web.yaml', line: 4, message: 'no' }] },
          ],
        }),
      ),
  })
  const applied = await ask(['apply', '-f', file])
  t.is(applied.stdout, 'web.yaml: in force, revision 12\n')
  state = 'last-accepted'
  const refused = await ask(['apply', '-f', file])
  t.is(refused.exitCode, 1)
  t.regex(refused.stderr, /error HG-1103: the agent refused web\.yaml\n {2}web\.yaml:4:/)
})

test('delete finds a file by its name or by the only policy in it', async (t) => {
  const { ask, policies } = place(t)
  mkdirSync(policies)
  writeFileSync(join(policies, 'a.yaml'), policy('a'))
  writeFileSync(join(policies, 'b.yaml'), policy('b'))
  writeFileSync(join(policies, 'two.yaml'), `${policy('c')}---\n${policy('d')}`)
  t.is((await ask(['delete', 'a.yaml', '--no-wait'])).exitCode, 0)
  t.is((await ask(['delete', 'default/b', '--no-wait'])).exitCode, 0)
  t.deepEqual(readdirSync(policies), ['two.yaml'])
  t.is((await ask(['delete', 'default/c', '--no-wait'])).exitCode, 2)
  t.is((await ask(['delete', 'default/x', '--no-wait'])).exitCode, 1)
  t.is((await ask(['delete', '../etc/passwd', '--no-wait'])).exitCode, 1)
  t.deepEqual(readdirSync(policies), ['two.yaml'])
})

test('names that leave the folder or that the watcher would not read are refused', async (t) => {
  const { ask, write, policies } = place(t)
  const file = write('web.yaml', policy('web'))
  for (const name of ['../web.yaml', '.web.yaml', 'web.txt', 'a/web.yaml']) {
    t.is((await ask(['apply', '-f', file, '--name', name, '--no-wait'])).exitCode, 2, name)
  }
  t.false(existsSync(policies))
})

test('validate judges a folder as a whole, and a conflict between files refuses', async (t) => {
  const { ask, folder, write } = place(t)
  mkdirSync(join(folder, 'all'))
  write('all/a.yaml', policy('a'))
  write('all/b.yaml', policy('b').replace('{http: [{method: GET, path: /public/.*}]}', '{kafka: [{topic: orders}]}'))
  write('all/ignored.txt', 'no policy')
  const both = await ask(['validate', join(folder, 'all')])
  t.is(both.exitCode, 1)
  t.regex(both.stdout, /a\.yaml:8:\d+: error: spec\.ingress\[0\]\.toPorts\[0\]: http and kafka rules .*default\/b \(\S+b\.yaml:8/)
  t.regex(both.stdout, /^\S+a\.yaml: refused\n/m)
  t.regex(both.stdout, /^\S+b\.yaml: valid, 1 policy\n/m)
  const json = JSON.parse((await ask(['validate', '-o', 'json', join(folder, 'all')])).stdout) as { files: { problems: object[] }[] }
  t.like(json.files[0]?.problems[0], { rule: 'policy/conflict', severity: 'error', line: 8 })
})

test('validate refuses for Cilium what only the extended dialect has', async (t) => {
  const { ask, write, policies } = place(t)
  const file = write('kafka.yaml', policy('k').replace('{http: [{method: GET, path: /public/.*}]}', '{kafka: [{topic: orders}]}'))
  t.is((await ask(['validate', file])).exitCode, 0)
  const refused = await ask(['validate', '--dialect', 'cilium', file])
  t.is(refused.exitCode, 1)
  t.regex(refused.stdout, /kafka\.yaml:9:\d+: error: .*only the dialect extended has this: kafka/)
  t.is((await ask(['--set', 'policy.dialect=cilium', 'validate', file])).exitCode, 1)
  t.is((await ask(['validate', '--dialect', 'other', file])).exitCode, 2)
  t.is((await ask(['apply', '--dialect', 'cilium', '-f', file, '--no-wait'])).exitCode, 1)
  t.false(existsSync(policies))
})

test('validate knows whom a workloads file has', async (t) => {
  const { ask, write } = place(t)
  const file = write('web.yaml', policy('web'))
  const endpoints = write('workloads.yaml', 'apiVersion: headgate.io/v1\nendpoints: [{name: api, labels: {app: api}, netns: api}]\n')
  const { exitCode, stdout } = await ask(['validate', file, '--endpoints', endpoints])
  t.is(exitCode, 0)
  t.regex(stdout, /web\.yaml:4:\d+: warning: spec: no endpoint has the label app=web; there are api\n/)
  t.is((await ask(['validate', file, '--endpoints', join(file, 'none')])).exitCode, 2)
})

test('validate writes SARIF: rules, results, and where each is', async (t) => {
  const { ask, folder, write } = place(t)
  const bad = write('bad.yaml', policy('web').replace('endpointSelector', 'endpointSelektor'))
  const good = write('good.yaml', policy('web', '/a'))
  const { exitCode, stdout } = await ask(['validate', '-o', 'sarif', bad, good])
  t.is(exitCode, 1)
  const log = JSON.parse(stdout) as {
    version: string
    runs: { tool: { driver: { name: string; rules: { id: string }[] } }; results: SarifResult[] }[]
  }
  t.is(log.version, '2.1.0')
  const [run] = log.runs
  t.is(run?.tool.driver.name, 'headgate')
  const ids = run?.tool.driver.rules.map(({ id }) => id) ?? []
  t.true(ids.includes('policy/invalid') && ids.includes('policy/conflict'))
  for (const { ruleId, ruleIndex, locations } of run?.results ?? []) {
    t.is(ids[ruleIndex], ruleId)
    t.is(locations[0]?.physicalLocation.artifactLocation.uri.startsWith(`file://${folder}/`), true)
  }
  t.like(
    run?.results.find(({ ruleId }) => ruleId === 'policy/invalid'),
    { level: 'error' },
  )
  const literal = run?.results.find(({ ruleId }) => ruleId === 'policy/suspicious')
  t.like(literal, { level: 'warning', locations: [{ physicalLocation: { region: { startLine: 9 } } }] })
  t.regex(literal?.message.text ?? '', /query string.*; write \/a/)
})

interface SarifResult {
  readonly ruleId: string
  readonly ruleIndex: number
  readonly level: string
  readonly message: { readonly text: string }
  readonly locations: readonly {
    readonly physicalLocation: { readonly artifactLocation: { readonly uri: string }; readonly region: { readonly startLine: number } }
  }[]
}

test('diff tells what a change of policies changes, by exit code and line by line', async (t) => {
  const { ask, write } = place(t)
  const before = write('before.yaml', policy('web', '/a'))
  const after = write('after.yaml', policy('web', '/b'))
  const endpoints = write(
    'workloads.yaml',
    'apiVersion: headgate.io/v1\nendpoints:\n- {name: web, labels: {app: web}, netns: web}\n- {name: api, labels: {app: api}, netns: api}\n',
  )
  const same = await ask(['diff', before, before, '--endpoints', endpoints])
  t.is(same.exitCode, 0, same.stderr)
  t.is(same.stdout, 'no verdict changes\n')
  const changed = await ask(['diff', before, after, '--endpoints', endpoints])
  t.is(changed.exitCode, 1)
  t.regex(changed.stdout, /^default\/api -> default\/web 80\/TCP: redirected: \+GET \/b -GET \/a$/m)
  const peer = (name: string) => ({ address: '', port: 80, labels: [], endpoint: { id: 1, namespace: 'default', name } })
  const flow = { source: peer('api'), destination: peer('web'), protocol: 'TCP', http: { method: 'GET', path: '/a', authority: 'web' } }
  const flows = write('flows', `${JSON.stringify(flow)}\nnonsense\n`)
  const recorded = await ask(['diff', before, after, '--endpoints', endpoints, '--flows', flows, '--limit', '1'])
  t.is(recorded.exitCode, 1)
  t.regex(recorded.stdout, /more changes are not shown/)
  t.regex(recorded.stdout, /^recorded 1x: default\/api -> default\/web 80\/TCP GET web\/a: allowed -> denied$/m)
  t.regex(recorded.stdout, /^1 records could not be asked about$/m)
  const json = JSON.parse((await ask(['diff', before, after, '-o', 'json'])).stdout) as { changed: boolean; changes: { change: string }[] }
  t.true(json.changed)
  t.is(json.changes[0]?.change, 'redirected: +GET /b -GET /a')
  t.is((await ask(['diff', before, join(after, 'none')])).exitCode, 2)
  const refused = await ask(['diff', before, write('bad.yaml', policy('web').replace('spec:', 'speck:'))])
  t.is(refused.exitCode, 2)
  t.regex(refused.stderr, /HG-1111: not valid: \S+bad\.yaml\n {2}\S+bad\.yaml:\d+/)
  t.is((await ask(['diff', before, after, '--flows', join(after, 'none')])).exitCode, 2)
})
