import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import test from 'ava'
import { headgate, ROOT, temporaryFolder } from '../cli/run-headgate.ts'

const run = promisify(execFile)

const POLICY = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
    - toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: /public/.*}]}
`

test('the package, installed in an empty folder, validates policies and examines the machine', async (t) => {
  t.timeout(300_000)
  const folder = temporaryFolder(t)
  const environment = { ...process.env, npm_config_loglevel: 'error' }
  await run('npm', ['pack', '--pack-destination', folder], { cwd: ROOT, env: environment })
  const [tarball = ''] = readdirSync(folder)
  const installed = join(folder, 'installed')
  mkdirSync(installed)
  writeFileSync(join(installed, 'package.json'), '{}')
  await run('npm', ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', join(folder, tarball)], {
    cwd: installed,
    env: environment,
  })
  const command = join(installed, 'node_modules/.bin/headgate')
  for (const path of [
    'dist/cli/main.js',
    'dist/config/schema.d.ts',
    'dist/api/gen/headgate/v1/local_pb.js',
    'bpf/objects/headgate.bpf.o',
    'LICENSE',
  ]) {
    t.true(existsSync(join(installed, 'node_modules/headgate', path)), path)
  }
  t.false(existsSync(join(installed, 'node_modules/headgate/cli')))

  const version = await headgate(['--version'], { command })
  t.regex(version.stdout, /^headgate +\d/)

  writeFileSync(join(folder, 'good.yaml'), POLICY)
  writeFileSync(join(folder, 'bad.yaml'), POLICY.replace('endpointSelector', 'endpointSelektor'))
  const good = await headgate(['policy', 'validate', join(folder, 'good.yaml')], { command })
  t.is(good.exitCode, 0, good.stdout + good.stderr)
  const bad = await headgate(['policy', 'validate', join(folder, 'bad.yaml')], { command })
  t.is(bad.exitCode, 1, bad.stdout + bad.stderr)
  t.regex(bad.stdout, /bad\.yaml:5:\d+: error: /)

  const envoy = readdirSync(join(ROOT, '.cache/envoy')).map((release) => join(ROOT, '.cache/envoy', release, 'envoy'))[0] ?? ''
  const doctor = await headgate(['doctor', '-o', 'json', '--set', `envoy.binary=${envoy}`, '--set', `paths.run=${folder}/run`], { command })
  const { ok, findings } = JSON.parse(doctor.stdout) as { ok: boolean; findings: { name: string; level: string; detail: string }[] }
  t.true(findings.length > 3)
  t.is(doctor.exitCode, ok ? 0 : 1)
  t.deepEqual(
    findings.filter((finding) => finding.level === 'error').map((finding) => `${finding.name}: ${finding.detail}`),
    [],
  )
})
