import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import type { ClientDuplexStream } from '@grpc/grpc-js'
import test, { type ExecutionContext } from 'ava'
import { CountsCollector } from '#agent/counts.ts'
import { Control, type CountsReport, CountsReportSchema, type CountsRequest, CountsSource } from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createClient, createServer, listenOnSocket } from '#api/grpc.ts'

const { PROXY, EXT_HOST, RELAY } = CountsSource
const COUNTERS_MAX = 16
type Stream = ClientDuplexStream<CountsReport, CountsRequest>

/** A collector, and processes that dial it. */
async function collector(
  t: ExecutionContext,
): Promise<{ counts: CountsCollector; dial: (source: CountsSource, worker?: number) => Stream }> {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-counts-'))
  const path = join(folder, 'control.sock')
  const server = createServer()
  const counts = new CountsCollector(COUNTERS_MAX)
  addService(server, Control, { reportCounts: (call) => counts.accept(call) })
  await listenOnSocket(server, path, { mode: 0o600 })
  const clients: { close(): void }[] = []
  t.teardown(() => {
    for (const client of clients) client.close()
    closeServer(server, path)
    rmSync(folder, { recursive: true })
  })
  const dial = (source: CountsSource, worker = 0): Stream => {
    const client = createClient(Control, path)
    clients.push(client)
    const stream = client.reportCounts()
    stream.on('error', () => {})
    stream.write(create(CountsReportSchema, { source, worker }))
    return stream
  }
  return { counts, dial }
}

function answering(stream: Stream, allowed: bigint): Stream {
  stream.on('data', ({ id }: CountsRequest) => stream.write(create(CountsReportSchema, { id, totals: { allowed } })))
  return stream
}

/** Resolves when the collector knows of so many processes. */
async function known(counts: CountsCollector, count: number): Promise<void> {
  while ((await counts.ask({ expected: [], timeoutMs: 1 })).length !== count) await new Promise((resolve) => setTimeout(resolve, 5))
}

const told = (reports: readonly CountsReport[]) =>
  reports.map(({ source, totals, problem }) => [source, Number(totals?.allowed ?? -1n), problem])

test('every process is asked, and one that is not there or does not know how is told of', async (t) => {
  const { counts, dial } = await collector(t)
  const expected = [
    { source: EXT_HOST, connected: true },
    { source: PROXY, connected: false },
  ]
  t.deepEqual(told(await counts.ask({ expected })), [
    [PROXY, -1, 'is not connected'],
    [EXT_HOST, -1, 'does not count'],
  ])
  answering(dial(PROXY), 5n)
  answering(dial(EXT_HOST), 6n)
  await known(counts, 2)
  t.deepEqual(told(await counts.ask({ expected })), [
    [PROXY, 5, ''],
    [EXT_HOST, 6, ''],
  ])
})

test('a process that does not answer holds up nobody, and has one question before it however many ask', async (t) => {
  const { counts, dial } = await collector(t)
  const asked: CountsRequest[] = []
  const slow = dial(PROXY)
  slow.on('data', (request: CountsRequest) => asked.push(request))
  answering(dial(EXT_HOST), 6n)
  await known(counts, 2)
  for (let round = 0; round < 50; round++) {
    t.deepEqual(told(await counts.ask({ expected: [], timeoutMs: 2 })).at(-2), [PROXY, -1, 'does not answer within 2 ms'])
  }
  t.is(asked.length, 1)
  // What it says at last is of a question whose time is up; the next one is answered afresh.
  slow.on('data', ({ id }: CountsRequest) => slow.write(create(CountsReportSchema, { id, totals: { allowed: 8n } })))
  slow.write(create(CountsReportSchema, { id: asked[0]!.id, totals: { allowed: 7n } }))
  t.deepEqual(told(await counts.ask({ expected: [] }))[0], [PROXY, 8, ''])
})

test('a question that comes while another is under way gets an answer of its own time', async (t) => {
  const { counts, dial } = await collector(t)
  const stream = dial(PROXY)
  await known(counts, 1)
  const first = counts.ask({ expected: [] })
  const second = counts.ask({ expected: [], totalsOnly: true })
  const third = counts.ask({ expected: [] })
  let count = 0n
  const requests: CountsRequest[] = []
  stream.on('data', (request: CountsRequest) => {
    requests.push(request)
    stream.write(create(CountsReportSchema, { id: request.id, totals: { allowed: ++count } }))
  })
  // The one that was sent when the collector came to know the process may be the first that is answered.
  const [a, b, c] = await Promise.all([first, second, third])
  t.true((a[0]?.totals?.allowed ?? 0n) <= (b[0]?.totals?.allowed ?? 0n))
  t.deepEqual(b, c)
  t.false(requests.at(-1)?.totalsOnly)
})

test('workers that count alike are told apart by their numbers', async (t) => {
  const { counts, dial } = await collector(t)
  answering(dial(RELAY, 1), 11n)
  answering(dial(RELAY, 0), 10n)
  await known(counts, 2)
  const expected = [0, 1, 2].map((worker) => ({ source: RELAY, worker, connected: true }))
  const reports = await counts.ask({ expected })
  t.deepEqual(told(reports), [
    [RELAY, 10, ''],
    [RELAY, 11, ''],
    [RELAY, -1, 'does not count'],
  ])
  t.deepEqual(
    reports.map(({ worker }) => worker),
    [0, 1, 2],
  )
})

test('a process that dies while it is asked is a problem at once, and is forgotten', async (t) => {
  const { counts, dial } = await collector(t)
  const stream = dial(PROXY)
  await known(counts, 1)
  const asking = counts.ask({ expected: [] })
  stream.cancel()
  t.deepEqual(told(await asking), [[PROXY, -1, 'went away while it was asked']])
  t.deepEqual(await counts.ask({ expected: [] }), [])
})

test('the process that comes next takes the place of the one before', async (t) => {
  const { counts, dial } = await collector(t)
  const first = dial(PROXY).resume()
  await known(counts, 1)
  answering(dial(PROXY), 2n)
  await once(first, 'end')
  t.deepEqual(told(await counts.ask({ expected: [] })), [[PROXY, 2, '']])
  // The end of the first is not the end of the second.
  first.cancel()
  t.deepEqual(told(await counts.ask({ expected: [] })), [[PROXY, 2, '']])
})

test('answers that nobody asked for count for nothing, and nobody may speak in another’s name', async (t) => {
  const { counts, dial } = await collector(t)
  const stream = dial(PROXY)
  await known(counts, 1)
  stream.on('data', ({ id }: CountsRequest) => {
    for (const wrong of [0n, id + 1n, 2n ** 64n - 1n]) stream.write(create(CountsReportSchema, { id: wrong, totals: { allowed: 99n } }))
    stream.write(create(CountsReportSchema, { id, source: EXT_HOST, totals: { allowed: 3n } }))
  })
  t.deepEqual(told(await counts.ask({ expected: [] })), [[PROXY, 3, '']])
  const nobody = dial(CountsSource.UNSPECIFIED)
  nobody.resume()
  await once(nobody, 'end')
  for (let source = 3; source < 30; source++) dial(source as CountsSource).resume()
  await known(counts, COUNTERS_MAX)
  t.is((await counts.ask({ expected: [], timeoutMs: 50 })).length, COUNTERS_MAX)
})
