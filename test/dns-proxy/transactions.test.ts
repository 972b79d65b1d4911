import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { QueryLimits, Servers } from '#dns-proxy/query-limits.ts'
import { type Transaction, Transactions } from '#dns-proxy/transactions.ts'

const asked = { isAllowed: true, rule: '', isAudited: false, name: 'api.test.', type: 1, question: '' }
const clientOf = (endpointId: number) => ({
  endpointId,
  address: new Uint8Array(16),
  searchDomains: [],
  isIpv4Only: true,
  load: { openCount: 0 },
})

function queryAt(startedMs: number): Transaction {
  const server = { address: new Uint8Array(16), isTrusted: false, openCount: 0, timedOutCount: 0 }
  return { client: clientOf(1), clientPort: 1, server, serverPort: 53, clientId: 1, asked, slotId: 1, startedMs, socket: 0, id: 0 }
}

test('ids and ports are spread over all that there are', (t) => {
  const transactions = new Transactions(64)
  const ids = new Set<number>()
  const sockets = new Set<number>()
  const octets = new Array<number>(256).fill(0)
  for (let batch = 0; batch < 400; batch++) {
    transactions.draw(20)
    for (let index = 0; index < 20; index++) {
      const opened = queryAt(0)
      if (!transactions.open(opened)) return t.fail()
      ids.add(opened.id)
      sockets.add(opened.socket)
      octets[opened.id & 0xff] = (octets[opened.id & 0xff] ?? 0) + 1
    }
  }
  t.is(sockets.size, 64)
  // 8,000 of 65,536 drawn: about 460 are drawn twice.
  t.true(ids.size > 7300 && ids.size < 7900, `${ids.size}`)
  t.true(Math.min(...octets) > 5, `${Math.min(...octets)}`)
})

test('queries of a batch share a few ports, and never an id on one of them', (t) => {
  const transactions = new Transactions(64)
  transactions.draw(64)
  const opened = Array.from({ length: 64 }, () => queryAt(0))
  t.true(opened.every((each) => transactions.open(each)))
  t.true(new Set(opened.map(({ socket }) => socket)).size <= 4)
  t.is(new Set(opened.map(({ socket, id }) => `${socket}/${id}`)).size, 64)
})

test('a transaction is found by its own port and id until it is closed', (t) => {
  const transactions = new Transactions(8)
  transactions.draw(1)
  const opened = queryAt(0)
  t.true(transactions.open(opened))
  t.is(transactions.find(opened.socket, opened.id), opened)
  t.is(transactions.find((opened.socket + 1) % 8, opened.id), undefined)
  t.is(transactions.find(opened.socket, opened.id ^ 1), undefined)
  transactions.close(opened)
  t.is(transactions.find(opened.socket, opened.id), undefined)
  t.is(transactions.count, 0)
})

test('what began before a moment ends, the oldest first, and nothing else', (t) => {
  const transactions = new Transactions(64)
  for (let startedMs = 0; startedMs < 100; startedMs++) {
    transactions.draw(1)
    transactions.open(queryAt(startedMs))
  }
  t.deepEqual(
    [...transactions.expire(40)].map(({ startedMs }) => startedMs),
    Array.from({ length: 40 }, (_, index) => index),
  )
  t.is(transactions.count, 60)
})

test('an endpoint takes a quarter of all queries, and the others go on', (t) => {
  const limits = new QueryLimits(0)
  const server = new Servers().add(1, new Uint8Array(16), false)
  const greedy = clientOf(1)
  let count = 0
  while (limits.take(greedy, server)) count++
  t.is(count, 16_384)
  t.false(limits.wait(greedy, server, () => {}))
  t.deepEqual(limits.counts, { total: 0, endpoint: 1, server: 0 })
  t.true(limits.take(clientOf(2), server))
  limits.giveBack(greedy, server)
  t.true(limits.take(greedy, server))
})

test('a server takes as many as its limit, and other servers are not concerned', (t) => {
  const limits = new QueryLimits(2)
  const servers = new Servers()
  const [slow, other] = [servers.add(1, new Uint8Array(16), false), servers.add(2, new Uint8Array(16), false)]
  t.true(limits.take(clientOf(1), slow))
  t.true(limits.take(clientOf(2), slow))
  t.false(limits.take(clientOf(3), slow))
  t.false(limits.wait(clientOf(3), slow, () => t.fail()))
  t.true(limits.take(clientOf(3), other))
  t.deepEqual(limits.counts, { total: 0, endpoint: 0, server: 1 })
})

test('servers are remembered up to a limit, and one that is being asked stays', (t) => {
  const servers = new Servers()
  const asked = servers.add(0, new Uint8Array(16), true)
  asked.openCount = 1
  for (let key = 1; key <= 5000; key++) servers.add(key, new Uint8Array(16), false)
  t.is([...servers.values()].length, 1024)
  t.is(servers.get(0), asked)
  t.is(servers.get(1), undefined)
})

test('with a grace a query waits for room, in the order in which it came, and is given up after it', async (t) => {
  const limits = new QueryLimits(1, 50)
  const server = new Servers().add(1, new Uint8Array(16), false)
  t.true(limits.take(clientOf(1), server))
  const ends: string[] = []
  const over = new Promise<void>((resolve) => {
    t.true(limits.wait(clientOf(2), server, (hasRoom) => ends.push(`first ${hasRoom}`)))
    t.true(
      limits.wait(clientOf(3), server, (hasRoom) => {
        ends.push(`second ${hasRoom}`)
        resolve()
      }),
    )
  })
  limits.giveBack(clientOf(1), server)
  t.deepEqual(ends, [], 'not in the middle of an answer')
  await over
  t.deepEqual(ends, ['first true', 'second false'])
  t.is(server.openCount, 1)
  t.is(limits.counts.server, 1)
  limits.close()
})

test('nothing is on its way when the last query is answered, and the last that waited is given up', async (t) => {
  const limits = new QueryLimits(1, 30)
  const server = new Servers().add(1, new Uint8Array(16), false)
  await limits.idle()
  t.true(limits.take(clientOf(1), server))
  const order: string[] = []
  t.true(limits.wait(clientOf(2), server, (hasRoom) => order.push(`waited ${hasRoom}`)))
  const idle = limits.idle().then(() => order.push('idle'))
  await delay(60)
  t.deepEqual(order, ['waited false'])
  limits.giveBack(clientOf(1), server)
  await idle
  t.deepEqual(order, ['waited false', 'idle'])

  const late = new QueryLimits(1, 30)
  t.true(late.take(clientOf(1), server))
  t.true(late.wait(clientOf(2), server, (hasRoom) => order.push(`late ${hasRoom}`)))
  const lateIdle = late.idle()
  // Somebody else's query takes the room, and the one that waits is the last.
  server.openCount += 1
  late.giveBack(clientOf(1), server)
  await lateIdle
  t.is(order.at(-1), 'late false')
  for (const each of [limits, late]) each.close()
})
