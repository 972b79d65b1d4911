/** The agent's side of the control API: holds a set of slots, sends it as full updates and deltas, and remembers what it is told. */
import { EventEmitter, once } from 'node:events'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import type { Server, ServerDuplexStream } from '@grpc/grpc-js'
import { CountsCollector } from '#agent/counts.ts'
import { digestOfSlots } from '#api/digest.ts'
import {
  Control,
  type HttpFlow,
  type ProxyReport,
  type ProxyUpdate,
  ProxyUpdateSchema,
  ReportFlowsSummarySchema,
  type Slot,
} from '#api/gen/headgate/v1/control_pb.js'
import { addService, closeServer, createServer, listenOnSocket } from '#api/grpc.ts'

type Stream = ServerDuplexStream<ProxyReport, ProxyUpdate>

export class FakeAgent extends EventEmitter {
  readonly #path: string
  readonly #slots = new Map<number, Slot>()
  readonly #streams = new Set<Stream>()
  #server: Server | undefined
  epoch = 1n
  revision = 0n
  readonly reports: ProxyReport[] = []
  readonly flows: HttpFlow[] = []
  lost = 0n
  readonly counts = new CountsCollector()
  /** The next delta does not say what its digest is about. */
  corruptNext = false

  constructor(runFolder: string) {
    super()
    this.setMaxListeners(0)
    this.#path = join(runFolder, 'control.sock')
  }

  async start(): Promise<void> {
    const server = createServer()
    addService(server, Control, {
      syncProxy: (call) => this.#sync(call),
      reportFlows: (call, callback) => {
        call.on('data', (batch) => {
          this.flows.push(...batch.http)
          this.lost += batch.lost
          this.emit('flows')
        })
        call.on('error', () => {})
        call.on('end', () => callback(null, create(ReportFlowsSummarySchema)))
      },
      reportCounts: (call) => this.counts.accept(call),
    })
    await listenOnSocket(server, this.#path, { mode: 0o660 })
    this.#server = server
  }

  stop(): void {
    if (this.#server !== undefined) closeServer(this.#server, this.#path)
    this.#server = undefined
    this.#streams.clear()
  }

  get slots(): readonly Slot[] {
    return [...this.#slots.values()]
  }

  /** Changes the set and sends the change. @returns its revision */
  change(slots: readonly Slot[], removedSlotIds: readonly number[] = []): bigint {
    for (const id of removedSlotIds) this.#slots.delete(id)
    for (const slot of slots) this.#slots.set(slot.id, slot)
    this.revision += 1n
    const update = this.#update({ full: false, slots: [...slots], removedSlotIds: [...removedSlotIds] })
    if (this.corruptNext) update.slots = []
    this.corruptNext = false
    for (const stream of this.#streams) stream.write(update)
    return this.revision
  }

  /** The newest report that satisfies a condition, now or later. */
  async report(condition: (report: ProxyReport) => boolean, timeoutMs = 10_000): Promise<ProxyReport> {
    const signal = AbortSignal.timeout(timeoutMs)
    for (;;) {
      const last = this.reports.at(-1)
      if (last !== undefined && condition(last)) return last
      await once(this, 'report', { signal }).catch(() => {
        throw new Error(`no such report; the last one: ${inspectReport(last)}`)
      })
    }
  }

  applied(revision: bigint): Promise<ProxyReport> {
    return this.report((report) => report.epoch === this.epoch && report.appliedRevision >= revision)
  }

  async flow(condition: (flow: HttpFlow) => boolean, timeoutMs = 5000): Promise<HttpFlow> {
    const signal = AbortSignal.timeout(timeoutMs)
    for (;;) {
      const found = this.flows.find(condition)
      if (found !== undefined) return found
      await once(this, 'flows', { signal }).catch(() => {
        throw new Error(`no such flow among ${this.flows.length}`)
      })
    }
  }

  #sync(call: Stream): void {
    let first = true
    call.on('data', (report: ProxyReport) => {
      this.reports.push(report)
      this.emit('report')
      if (first) {
        if (this.revision > 0n) call.write(this.#update({ full: true, slots: [...this.#slots.values()] }))
        this.#streams.add(call)
      }
      first = false
    })
    const end = () => this.#streams.delete(call)
    call.on('end', () => {
      end()
      call.end()
    })
    call.on('cancelled', end)
    call.on('error', end)
  }

  #update(part: { full: boolean; slots: Slot[]; removedSlotIds?: number[] }): ProxyUpdate {
    return create(ProxyUpdateSchema, { ...part, epoch: this.epoch, revision: this.revision, digest: digestOfSlots(this.#slots.values()) })
  }
}

function inspectReport(report: ProxyReport | undefined): string {
  return JSON.stringify(report, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value))
}
