import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http'
import { promisify } from 'node:util'
import { fromBinary } from '@bufbuild/protobuf'
import { anyUnpack } from '@bufbuild/protobuf/wkt'
import test from 'ava'
import { ClusterSchema } from '#api/gen/envoy/config/cluster/v3/cluster_pb.js'
import { ListenerSchema } from '#api/gen/envoy/config/listener/v3/listener_pb.js'
import { HttpConnectionManagerSchema } from '#api/gen/envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager_pb.js'
import { Direction } from '#api/gen/headgate/v1/control_pb.js'
import { clusterResources, listenerResource } from '#proxy/xds/resources.ts'
import { get, statusOf } from './support/http.ts'
import { Stack, slotOf } from './support/stack.ts'

const UPSTREAM_PORT = 18084
const BODY_BYTES = 100 * 1024 * 1024
const CHUNK = Buffer.alloc(1024 * 1024, 'x')

const stack = new Stack({ upstreamPort: UPSTREAM_PORT, config: { flows: { mode: 'denied' }, http: { deniedBody: '' } } })
const upstream = createServer(async (request, response) => {
  if (request.url === '/download') {
    response.writeHead(200, { 'content-length': BODY_BYTES })
    for (let sent = 0; sent < BODY_BYTES; sent += CHUNK.length) if (!response.write(CHUNK)) await once(response, 'drain')
    response.end()
    return
  }
  // The answer starts before the request has ended: a proxy that buffers would wait for ever.
  response.writeHead(200)
  response.write('first')
  let length = 0
  for await (const chunk of request) length += (chunk as Buffer).length
  response.end(` ${length}`)
})

test.before(async () => {
  await stack.start()
  upstream.listen(UPSTREAM_PORT, '127.0.0.1')
  await once(upstream, 'listening')
  await stack.agent.applied(stack.agent.change([slotOf(1, { allowAll: true })]))
})
test.after.always(async () => {
  await stack.close()
  upstream.close()
})

const residentKib = () => Number(/VmHWM:\s+(\d+)/.exec(stack.statusOfEnvoy())?.[1])

test.serial('100 MB pass either way without being kept', async (t) => {
  const before = residentKib()
  const download = await get(20001, '/download')
  t.is(download.body.length, BODY_BYTES)

  const request = httpRequest({
    host: '127.0.0.1',
    port: 20001,
    path: '/upload',
    method: 'POST',
    headers: { 'content-length': BODY_BYTES },
  })
  request.write(CHUNK)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const [first] = (await once(response, 'data')) as [Buffer]
  t.is(first.toString(), 'first')
  for (let sent = CHUNK.length; sent < BODY_BYTES; sent += CHUNK.length) if (!request.write(CHUNK)) await once(request, 'drain')
  request.end()
  let rest = ''
  for await (const chunk of response) rest += String(chunk)
  t.is(rest, ` ${BODY_BYTES}`)
  t.true(residentKib() - before < 30_000, `Envoy grew by ${residentKib() - before} KiB`)
})

test.serial('with flows: denied an allowed request is not reported and a denied one is, at once', async (t) => {
  await stack.agent.applied(stack.agent.change([slotOf(2, { http: [{ name: 'a', path: '/a' }] })]))
  t.is(await statusOf(20002, '/a'), 200)
  const started = Date.now()
  const denied = await get(20002, '/b')
  t.is(denied.status, 403)
  t.is(denied.body, '')
  await stack.agent.flow((flow) => flow.path === '/b' && !flow.allowed)
  t.log(`seen after ${Date.now() - started} ms`)
  t.false(stack.agent.flows.some((flow) => flow.path === '/a'))
})

test.serial('headers of a rule match exactly, or by being there', async (t) => {
  const http = [
    { name: 'exact', path: '/exact', headers: [{ name: 'x-key', value: 'true' }] },
    { name: 'present', path: '/present', headers: [{ name: 'x-key' }] },
    { name: 'both', path: '/both', headers: [{ name: 'x-a', value: '1' }, { name: 'x-b' }] },
    { name: 'host', host: 'good\\.example(:\\d+)?', method: 'PUT|PATCH' },
  ]
  await stack.agent.applied(stack.agent.change([slotOf(2, { http })]))
  const ask = (path: string, headers: Record<string, string>, method = 'GET') => statusOf(20002, path, { headers, method })
  t.is(await ask('/exact', { 'X-Key': 'true' }), 200)
  t.is(await ask('/exact', { 'X-Key': 'true ' }), 200)
  t.is(await ask('/exact', { 'X-Key': 'True' }), 403)
  t.is(await ask('/exact', { 'X-Key': 'true,x' }), 403)
  t.is(await ask('/exact', {}), 403)
  t.is(await ask('/present', { 'X-Key': 'anything' }), 200)
  t.is(await ask('/present', {}), 403)
  t.is(await ask('/both', { 'x-a': '1', 'x-b': '' }), 200)
  t.is(await ask('/both', { 'x-a': '1' }), 403)
  t.is(await ask('/x', { host: 'good.example:80' }, 'PATCH'), 200)
  t.is(await ask('/x', { host: 'good.example' }, 'GET'), 403)
  t.is(await ask('/x', { host: 'xgood.example' }, 'PUT'), 403)
})

test.serial('an ingress slot listens in the ingress namespace and only there', async (t) => {
  const slot = slotOf(3, { http: [{ name: 'a', path: '/a' }] }, { direction: Direction.INGRESS })
  await stack.agent.applied(stack.agent.change([slot]))
  await t.throwsAsync(statusOf(20003, '/a'), { code: 'ECONNREFUSED' })
  const curl = ['netns', 'exec', stack.ingressNetns, 'curl', '-s', '-o', '/dev/null', '-w', '%{http_code}']
  const status = async (path: string) => (await promisify(execFile)('ip', [...curl, `http://127.0.0.1:20003${path}`])).stdout
  t.is(await status('/b'), '403')
  // The upstream socket is made in Envoy's own namespace, where the test's server is.
  t.is(await status('/a'), '200')
})

test('no request is ended for its age, and a slot can take any number of connections', (t) => {
  const settings = {
    ingressNetns: '/run/netns/i',
    denied: { status: 403, body: 'x' },
    accessLog: { mode: 'all', sampleRate: 1 },
    extHostSocket: '/run/ext-host.sock',
    l7Transport: 'relay',
    extProcKbps: 1024,
    relaySockets: ['/run/relay/0.sock'],
    extHostTimeoutMs: 1000,
    ruleCounters: false,
  } as const
  const listener = fromBinary(ListenerSchema, listenerResource(slotOf(1, {}, { direction: Direction.INGRESS }), settings).encode('').value)
  t.true(listener.transparent)
  const address = listener.address?.address
  t.is(address?.case === 'socketAddress' ? address.value.networkNamespaceFilepath : '', '/run/netns/i')
  t.is(Number(listener.socketOptions[0]?.value.value), slotOf(1, {}).mark)
  const filter = listener.filterChains[0]?.filters[0]?.configType
  const manager = filter?.case === 'typedConfig' ? anyUnpack(filter.value, HttpConnectionManagerSchema) : undefined
  t.is(manager?.streamIdleTimeout?.seconds, 0n)
  t.is(manager?.requestTimeout?.seconds, 0n)
  const routes = manager?.routeSpecifier.case === 'routeConfig' ? manager.routeSpecifier.value.virtualHosts[0]?.routes : []
  for (const route of routes ?? []) if (route.action.case === 'route') t.is(route.action.value.timeout?.seconds, 0n)
  for (const resource of clusterResources(settings)) {
    const { name, circuitBreakers, connectTimeout } = fromBinary(ClusterSchema, resource.encode('').value)
    t.is(circuitBreakers?.thresholds.length, 2, name)
    for (const { maxConnections, maxPendingRequests, maxRequests } of circuitBreakers?.thresholds ?? []) {
      // The extension host is asked on a stream a request.
      t.deepEqual([maxConnections, maxPendingRequests, maxRequests], [0xffffffff, 0xffffffff, 0xffffffff], name)
    }
    t.is(connectTimeout?.seconds, name === 'original-destination' ? 5n : 1n)
  }
})
