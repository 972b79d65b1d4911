import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import { FlowReporter } from '#api/flow-reporter.ts'
import { Control, DnsFlowSchema, type FlowBatch, ReportFlowsSummarySchema } from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createClient, createServer, listenOnSocket } from '#api/grpc.ts'

interface Scene {
  readonly reporter: FlowReporter<'dns'>
  readonly batches: FlowBatch[]
  readonly end: AbortController
  readonly path: string
}

/** A reporter that talks to an agent which takes everything. */
async function open(t: ExecutionContext): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-flows-'))
  const path = join(folder, 'control.sock')
  const batches: FlowBatch[] = []
  const server = createServer()
  const refuse = () => {
    throw new Error('not asked for')
  }
  addService(server, Control, {
    syncProxy: refuse,
    syncExtHost: refuse,
    syncDns: refuse,
    reportCounts: refuse,
    reportFlows: (call, callback) => {
      call.on('data', (batch) => batches.push(batch))
      call.on('end', () => callback(null, create(ReportFlowsSummarySchema)))
      call.on('error', () => {})
    },
  })
  await listenOnSocket(server, path, { mode: 0o600 })
  const client = createClient(Control, path)
  const end = new AbortController()
  t.teardown(() => {
    end.abort()
    client.close()
    closeServer(server, path)
    rmSync(folder, { recursive: true, force: true })
  })
  return { reporter: new FlowReporter('dns', client, end.signal), batches, end, path }
}

const flow = (query: string) => create(DnsFlowSchema, { query })
const queriesOf = (batches: readonly FlowBatch[]): string[] => batches.flatMap(({ dns }) => dns.map(({ query }) => query))

test('flows that come all the time leave together, in order, and the last ones before the end', async (t) => {
  const { reporter, batches, end } = await open(t)
  const running = reporter.run()
  reporter.add(flow('first'))
  const deadline = performance.now() + 5000
  while (batches.length === 0 && performance.now() < deadline) await delay(5)
  t.deepEqual(queriesOf(batches), ['first'])
  const wanted = ['first']
  for (let round = 0; round < 20; round++) {
    for (let index = 0; index < 10; index++) {
      wanted.push(`${round}-${index}`)
      reporter.add(flow(`${round}-${index}`))
    }
    await delay(1)
  }
  reporter.add(flow('last'))
  end.abort()
  await running
  t.deepEqual(queriesOf(batches), [...wanted, 'last'])
  t.true(batches.length < 15, `${batches.length} messages for 202 flows`)
  t.is(reporter.lost, 0n)
})

test('without an agent flows wait, and what there is no room for is counted', async (t) => {
  const { reporter, batches } = await open(t)
  for (let index = 0; index < 20_000; index++) reporter.add(flow(String(index)))
  t.is(reporter.lost, 20_000n - 16_384n)
  void reporter.run()
  const deadline = performance.now() + 5000
  while (queriesOf(batches).length < 16_384 && performance.now() < deadline) await delay(10)
  t.is(queriesOf(batches).length, 16_384)
  t.is(
    batches.reduce((sum, { lost }) => sum + lost, 0n),
    20_000n - 16_384n,
  )
})
