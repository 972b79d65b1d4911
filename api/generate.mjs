// Makes api/gen from the protos: our own (api/*.proto) and Envoy's, which the package @grpc/grpc-js-xds carries.
// Plain JavaScript, because set-up runs it before anything can read TypeScript.
// Output is JavaScript with declarations: generated TypeScript would hold enums, which Node cannot strip.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const stage = join(root, '.cache/protos')
const deps = join(root, 'node_modules/@grpc/grpc-js-xds/deps')

// What the proxy speaks; buf adds whatever these import.
const ENVOY_FILES = [
  'envoy/service/discovery/v3/ads.proto',
  'envoy/service/accesslog/v3/als.proto',
  'envoy/config/bootstrap/v3/bootstrap.proto',
  'envoy/extensions/access_loggers/grpc/v3/als.proto',
  'envoy/extensions/common/matching/v3/extension_matcher.proto',
  'envoy/extensions/filters/http/composite/v3/composite.proto',
  'envoy/extensions/filters/http/ext_proc/v3/ext_proc.proto',
  'envoy/extensions/filters/http/filter_chain/v3/filter_chain.proto',
  'envoy/extensions/filters/http/rbac/v3/rbac.proto',
  'envoy/extensions/filters/http/set_metadata/v3/set_metadata.proto',
  'envoy/service/ext_proc/v3/external_processor.proto',
  'envoy/service/network_ext_proc/v3/network_external_processor.proto',
  'envoy/type/matcher/v3/http_inputs.proto',
  'xds/type/matcher/v3/matcher.proto',
  'envoy/extensions/filters/http/router/v3/router.proto',
  'envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto',
  'envoy/extensions/filters/listener/original_dst/v3/original_dst.proto',
  'envoy/extensions/filters/listener/original_src/v3/original_src.proto',
  'envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto',
  'envoy/extensions/filters/network/ext_proc/v3/network_ext_proc.proto',
  'envoy/extensions/filters/network/tcp_bandwidth_limit/v3/tcp_bandwidth_limit.proto',
  'envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto',
  'envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.proto',
  'envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto',
  'envoy/extensions/http/early_header_mutation/header_mutation/v3/header_mutation.proto',
  'envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.proto',
  'envoy/extensions/upstreams/http/v3/http_protocol_options.proto',
]

rmSync(stage, { recursive: true, force: true })
mkdirSync(stage, { recursive: true })
for (const module of ['envoy-api', 'googleapis', 'protoc-gen-validate', 'xds']) {
  cpSync(join(deps, module), stage, { recursive: true, filter: (path) => !/\/(java|tests)(\/|$)/.test(path) })
}
for (const name of ['control', 'local']) {
  mkdirSync(join(stage, 'headgate/v1'), { recursive: true })
  cpSync(join(root, `api/${name}.proto`), join(stage, `headgate/v1/${name}.proto`))
}
// Younger than the package as a whole.
for (const [name, folder] of [
  ['filter_chain', 'extensions/filters/http/filter_chain'],
  ['network_ext_proc', 'extensions/filters/network/ext_proc'],
  ['tcp_bandwidth_limit', 'extensions/filters/network/tcp_bandwidth_limit'],
  ['network_external_processor', 'service/network_ext_proc'],
]) {
  mkdirSync(join(stage, 'envoy', folder, 'v3'), { recursive: true })
  cpSync(join(root, `api/envoy/${name}.proto`), join(stage, 'envoy', folder, `v3/${name}.proto`))
}

// The package's validate.proto is older than the Envoy protos beside it: they use `ignore_empty`, which it does not declare.
const validatePath = join(stage, 'validate/validate.proto')
const messages = [
  'Float',
  'Double',
  'Int32',
  'Int64',
  'UInt32',
  'UInt64',
  'SInt32',
  'SInt64',
  'Fixed32',
  'Fixed64',
  'SFixed32',
  'SFixed64',
  'String',
  'Bytes',
  'Repeated',
  'Map',
]
let validate = readFileSync(validatePath, 'utf8')
for (const message of messages) {
  const declared = new RegExp(`message ${message}Rules \\{[^}]*ignore_empty`).test(validate)
  if (!declared) validate = validate.replace(`message ${message}Rules {`, `message ${message}Rules {\n    optional bool ignore_empty = 40;`)
}
writeFileSync(validatePath, validate)

// Fields younger than the package.
const YOUNGER = [
  // A listener in another network namespace, Envoy 1.36 and later.
  {
    file: 'envoy/config/core/v3/address.proto',
    after: 'bool ipv4_compat = 6;',
    field: 'string network_namespace_filepath = 7;',
  },
  // What a request gets when the server fails that should have judged it.
  {
    file: 'envoy/extensions/filters/http/ext_proc/v3/ext_proc.proto',
    after: 'google.protobuf.Duration deferred_close_timeout = 19;',
    field: 'envoy.type.v3.HttpStatus status_on_error = 24;',
    imports: 'envoy/type/v3/http_status.proto',
  },
  // What of a request's trailers goes on.
  {
    file: 'envoy/extensions/filters/http/header_mutation/v3/header_mutation.proto',
    after: 'repeated config.common.mutation_rules.v3.HeaderMutation response_mutations = 2;',
    field: 'repeated config.common.mutation_rules.v3.HeaderMutation request_trailers_mutations = 5;',
  },
  // What a connection that is handed on says of itself.
  {
    file: 'envoy/config/core/v3/proxy_protocol.proto',
    after: 'ProxyProtocolPassThroughTLVs pass_through_tlvs = 2;',
    field: 'repeated TlvEntry added_tlvs = 3;',
    message: 'message TlvEntry {\n  uint32 type = 1;\n  bytes value = 2;\n}',
  },
  {
    file: 'envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto',
    after: 'TunnelingConfig tunneling_config = 12;',
    field: 'repeated config.core.v3.TlvEntry proxy_protocol_tlvs = 19;',
    imports: 'envoy/config/core/v3/proxy_protocol.proto',
  },
  // Several filters for one match.
  {
    file: 'envoy/extensions/filters/http/composite/v3/composite.proto',
    after: 'config.core.v3.RuntimeFractionalPercent sample_percent = 3;',
    field: 'FilterChainConfiguration filter_chain = 4;',
    message: 'message FilterChainConfiguration {\n  repeated config.core.v3.TypedExtensionConfig typed_config = 1;\n}',
  },
]
for (const { file, after, field, imports, message } of YOUNGER) {
  const path = join(stage, file)
  let text = readFileSync(path, 'utf8')
  const name = /(\w+) = \d+;/.exec(field)?.[1]
  if (new RegExp(`\\b${name} = \\d+`).test(text)) continue
  if (!text.includes(after)) throw new Error(`${file} has no ${after}`)
  text = text.replace(after, `${after}\n  ${field}`)
  if (imports !== undefined && !text.includes(`import "${imports}"`)) text = text.replace(/^import /m, `import "${imports}";\nimport `)
  if (message !== undefined && !text.includes(message.split(' {')[0])) text += `\n${message}\n`
  writeFileSync(path, text)
}

writeFileSync(join(stage, 'buf.yaml'), 'version: v2\n')
writeFileSync(
  join(stage, 'buf.gen.yaml'),
  `version: v2
clean: true
plugins:
  - local: [${JSON.stringify(process.execPath)}, ${JSON.stringify(join(root, 'node_modules/@bufbuild/protoc-gen-es/bin/protoc-gen-es'))}]
    out: ${JSON.stringify(join(root, 'api/gen'))}
    include_imports: true
    opt: [target=js+dts, import_extension=js]
`,
)
const paths = ['headgate/v1/control.proto', 'headgate/v1/local.proto', ...ENVOY_FILES].flatMap((file) => ['--path', file])
const run = spawnSync(join(root, 'node_modules/.bin/buf'), ['generate', ...paths], { cwd: stage, stdio: 'inherit' })
process.exit(run.status ?? 1)
