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
