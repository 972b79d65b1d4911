import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import test from 'ava'
import { digestOfSlots } from '#api/digest.ts'
import { ApiError } from '#api/errors.ts'
import {
  Control,
  FlowBatchSchema,
  ProxyReportSchema,
  ProxyUpdateSchema,
  ReportFlowsSummarySchema,
  SlotSchema,
} from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createClient, createServer, listenOnSocket, type ServiceHandlers } from '#api/grpc.ts'
import { isAnswering } from '#api/unix-socket.ts'

const folder = mkdtempSync(join(tmpdir(), 'headgate-api-'))
test.after.always(() => rmSync(folder, { recursive: true, force: true }))

const echoRevisions: Partial<ServiceHandlers<typeof Control.method>> = {
  syncProxy: (call) => {
    call.on('data', (report) => call.write(create(ProxyUpdateSchema, { epoch: report.epoch, revision: report.appliedRevision + 1n })))
    call.on('end', () => call.end())
  },
  reportFlows: (call, callback) => {
    call.on('data', () => {})
    call.on('end', () => callback(null, create(ReportFlowsSummarySchema)))
  },
}

function startServer(handlers = echoRevisions) {
  const server = createServer()
  addService(server, Control, handlers)
  return server
}

test('a stream carries typed messages both ways over a socket with the mode asked for', async (t) => {
  const path = join(folder, 'a.sock')
  const server = startServer()
  await listenOnSocket(server, path, { mode: 0o600 })
  t.is(statSync(path).mode & 0o777, 0o600)
  const client = createClient(Control, path)
  const call = client.syncProxy()
  call.write(create(ProxyReportSchema, { epoch: 7n, appliedRevision: 41n }))
  const [update] = await once(call, 'data')
  t.is(update.epoch, 7n)
  t.is(update.revision, 42n)
  call.cancel()
  await once(call, 'error')
  client.close()
  closeServer(server, path)
  t.false(await isAnswering(path))
})

test('a call made before the server is there waits for it', async (t) => {
  const path = join(folder, 'late.sock')
  const client = createClient(Control, path)
  const summary = new Promise((resolve, reject) => {
    const call = client.reportFlows((error, value) => (error ? reject(error) : resolve(value)))
    call.write(create(FlowBatchSchema, { lost: 1n }))
    call.end()
  })
  const server = startServer()
  await listenOnSocket(server, path, { mode: 0o600 })
  t.truthy(await summary)
  client.close()
  closeServer(server, path)
})

test('a socket that a dead process left is replaced, one that answers is not', async (t) => {
  const path = join(folder, 'stale.sock')
  writeFileSync(path, '')
  const server = startServer()
  await listenOnSocket(server, path, { mode: 0o660, group: 'no-such-group' })
  t.is(statSync(path).gid, 0)
  const second = startServer()
  const error = await t.throwsAsync(listenOnSocket(second, path, { mode: 0o600 }), { instanceOf: ApiError })
  t.is(error.code, 'HG-5901')
  t.true(await isAnswering(path))
  closeServer(server, path)
  second.forceShutdown()
})

test('a path too long for a socket is refused by name', async (t) => {
  const path = join(folder, 'x'.repeat(120))
  const error = await t.throwsAsync(listenOnSocket(startServer(), path, { mode: 0o600 }), { instanceOf: ApiError })
  t.is(error.code, 'HG-5902')
})

test('the digest of slots does not depend on their order and changes with every field', (t) => {
  const one = create(SlotSchema, { id: 1, port: 20000, ruleset: { http: [{ name: 'a', path: '/x' }] } })
  const two = create(SlotSchema, { id: 2, port: 20001, ruleset: { allowAll: true } })
  const digest = (...slots: (typeof one)[]) => Buffer.from(digestOfSlots(slots)).toString('hex')
  t.is(digest(one, two), digest(two, one))
  t.not(digest(one, two), digest(one))
  t.not(digest(one), digest(create(SlotSchema, { ...one, mark: 1 })))
  t.is(digest().length, 64)
})
