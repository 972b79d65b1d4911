import { EventEmitter } from 'node:events'
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { ServerDuplexStream } from '@grpc/grpc-js'
import test from 'ava'
import type { Slot } from '#agent/datapath/slots.ts'
import { RelayFeed } from '#agent/relay-feed.ts'
import { type RelayReport, RelayReportSchema, type RelayUpdate } from '#api/gen/headgate/v1/control_pb.js'

const EPOCH = 7n
const FIRST_REVISION = 100n

function slot(id: number): Slot {
  const ruleset = { kind: 'kafka', parser: '', allowAll: true, allow: [], deny: [], serverNames: [], conflict: '' } as const
  return { id, generation: 1, direction: 'ingress', port: 20_000 + id, group: 300, classKey: '', ruleset }
}

/** The agent's end of a worker's stream. */
class Worker extends EventEmitter {
  readonly updates: RelayUpdate[] = []
  readonly #number: number

  constructor(feed: RelayFeed, number: number) {
    super()
    this.#number = number
    feed.serve(this as unknown as ServerDuplexStream<RelayReport, RelayUpdate>)
  }

  write(update: RelayUpdate): void {
    this.updates.push(update)
  }

  end(): void {}

  says(report: MessageInitShape<typeof RelayReportSchema>): void {
    this.emit('data', create(RelayReportSchema, { epoch: EPOCH, worker: this.#number, ...report }))
  }
}

function feedWithSlot(): RelayFeed {
  const feed = new RelayFeed(EPOCH, FIRST_REVISION, () => {})
  feed.changeSlots([slot(1)], [])
  return feed
}

test('a slot is served when every worker that takes connections has it', (t) => {
  const feed = feedWithSlot()
  t.false(feed.isServing(1))
  const [first, second] = [new Worker(feed, 0), new Worker(feed, 1)]
  first.says({ appliedRevision: feed.revision })
  t.true(feed.isServing(1))
  second.says({ appliedRevision: 0n })
  t.false(feed.isServing(1))
  t.true(second.updates[0]!.full)
  second.says({ appliedRevision: feed.revision })
  t.true(feed.isServing(1))
  second.emit('close')
  t.true(feed.isServing(1))
})

test('a worker that takes no connections, not yet or no more, is not waited for, and serves nobody', (t) => {
  const feed = feedWithSlot()
  const coming = new Worker(feed, 0)
  coming.says({ appliedRevision: feed.revision, takesNone: true })
  t.false(feed.isServing(1))
  t.deepEqual(feed.workers, [])
  coming.says({ appliedRevision: feed.revision })
  t.true(feed.isServing(1))
  const going = new Worker(feed, 1)
  going.says({ appliedRevision: 0n, takesNone: true })
  t.true(feed.isServing(1))
  // It hears of changes all the same, for the connections that it has.
  feed.changeSlots([slot(2)], [])
  t.is(going.updates.at(-1)!.slots[0]!.id, 2)
})

test('one whose place another has is not waited for, even if it hangs and says nothing more', (t) => {
  const feed = feedWithSlot()
  const before = new Worker(feed, 0)
  before.says({ appliedRevision: feed.revision, pid: 1 })
  feed.changeSlots([slot(2)], [])
  t.false(feed.isServing(2))
  const next = new Worker(feed, 0)
  next.says({ appliedRevision: feed.revision, pid: 2, takesNone: true })
  t.false(feed.isServing(2), 'while it has it')
  next.says({ appliedRevision: feed.revision, pid: 2 })
  t.true(feed.isServing(2))
  t.deepEqual(
    feed.workers.map(({ pid }) => pid),
    [2],
  )
})
