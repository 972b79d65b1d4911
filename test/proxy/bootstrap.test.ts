import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createRegistry, fromJson, type JsonValue } from '@bufbuild/protobuf'
import test from 'ava'
import { BootstrapSchema } from '#api/gen/envoy/config/bootstrap/v3/bootstrap_pb.js'
import { HttpGrpcAccessLogConfigSchema } from '#api/gen/envoy/extensions/access_loggers/grpc/v3/als_pb.js'
import { ExternalProcessorSchema } from '#api/gen/envoy/extensions/filters/http/ext_proc/v3/ext_proc_pb.js'
import { RBACSchema } from '#api/gen/envoy/extensions/filters/http/rbac/v3/rbac_pb.js'
import { RouterSchema } from '#api/gen/envoy/extensions/filters/http/router/v3/router_pb.js'
import { HttpConnectionManagerSchema } from '#api/gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js'
import { HttpProtocolOptionsSchema } from '#api/gen/envoy/extensions/upstreams/http/v3/http_protocol_options_pb.js'
import { configSchema } from '#config/schema.ts'
import { findEnvoy } from '#proxy/envoy/binary.ts'
import { bootstrapOf } from '#proxy/envoy/bootstrap.ts'
import { envoyArguments } from '#proxy/envoy/main.ts'
import { ProxyError } from '#proxy/errors.ts'

const folder = mkdtempSync(join(tmpdir(), 'hg-bootstrap-'))
test.after.always(() => rmSync(folder, { recursive: true, force: true }))

const bootstrap = bootstrapOf({
  nodeId: 'n1',
  xdsSocket: join(folder, 'xds.sock'),
  adminSocket: join(folder, 'admin.sock'),
  closesThroughFilters: false,
})

test('the bootstrap is one by the schema, and has the settings that everything depends on', (t) => {
  const registry = createRegistry(
    HttpProtocolOptionsSchema,
    HttpConnectionManagerSchema,
    RBACSchema,
    ExternalProcessorSchema,
    RouterSchema,
    HttpGrpcAccessLogConfigSchema,
  )
  const message = fromJson(BootstrapSchema, bootstrap as JsonValue, { registry })
  t.true(message.dynamicResources?.adsConfig?.setNodeOnFirstMessageOnly)
  const address = message.admin?.address?.address
  t.is(address?.case === 'pipe' ? address.value.mode : 0, 0o600)
})

test('the real Envoy accepts the bootstrap', (t) => {
  const path = join(folder, 'envoy.json')
  writeFileSync(path, JSON.stringify(bootstrap))
  const args = envoyArguments(configSchema.parse({}), path)
  t.notThrows(() => execFileSync(findEnvoy(''), [...args, '--mode', 'validate'], { stdio: 'pipe' }))
})

test('a removed listener lives on as long as the configuration says', (t) => {
  const args = envoyArguments(configSchema.parse({ envoy: { drainTimeSeconds: 7, concurrency: 3 } }), '/x')
  t.is(args[args.indexOf('--drain-time-s') + 1], '7')
  t.is(args[args.indexOf('--concurrency') + 1], '3')
})

test('a configured binary that cannot be run is an error that names it', (t) => {
  const error = t.throws(() => findEnvoy('/no/such/envoy'), { instanceOf: ProxyError })
  t.is(error?.code, 'HG-5004')
  t.regex(error?.message ?? '', /\/no\/such\/envoy$/)
})
