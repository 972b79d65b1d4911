/**
 * The names that rows of the kernel stand for, and how long, on disk: what lets a process that was killed go on where it was. An answer does
 * not wait for it, because the kernel has the row already; changes are written together every tenth of a second. The file is written
 * anew, beside the old one and in small steps, at the start and whenever it has grown to several times what it says.
 */
import {
  close,
  closeSync,
  fdatasync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  write,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import { readFileIfPresent } from '#sys/atomic-file.ts'
import type { Claim, ClaimSink, KeptClaim } from './claims.ts'
import { decodeJournal, encodeHeader, FrameWriter, type JournalRecord } from './journal-format.ts'

const FLUSH_INTERVAL_MS = 100
/** A lifetime that only moved by less is not written again: servers that count down tell the same end each time. */
const LIFETIME_STEP_MS = 1000
const COMPACT_BYTES_MIN = 1 << 20
const COMPACT_FACTOR = 3
const COMPACT_CLAIMS_AT_ONCE = 512
/** Waiting for a disk that does not take it; beyond it, all is written anew later. */
const QUEUE_BYTES_MAX = 16 << 20
const RETRY_MS = 10_000

/** The machine's clocks, so that tests can have others. */
export interface JournalClock {
  /** The clock that lifetimes are of. */
  readonly nowMs: () => number
  /** What is to be added to it for the machine's monotonic clock. */
  readonly monotonicOffsetMs: number
  readonly wallMs: () => number
  /** 16 bytes. */
  readonly bootId: Uint8Array
}

export function machineClock(): JournalClock {
  return {
    nowMs: () => performance.now(),
    monotonicOffsetMs: Number(process.hrtime.bigint()) / 1e6 - performance.now(),
    wallMs: () => Date.now(),
    bootId: Buffer.from(readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').replaceAll(/[^0-9a-f]/g, ''), 'hex'),
  }
}

/** What an earlier process wrote, in this one's time. Of another boot, only what has not run out. Never throws. */
export function readJournal(path: string, clock: JournalClock): { readonly kept: KeptClaim[]; readonly problems: readonly string[] } {
  let bytes: Buffer | undefined
  try {
    bytes = readFileIfPresent(path)
  } catch (error) {
    return { kept: [], problems: [error instanceof Error ? error.message : String(error)] }
  }
  if (bytes === undefined) return { kept: [], problems: [] }
  const { bootId, claims, problems } = decodeJournal(bytes)
  const isSameBoot = bootId !== undefined && Buffer.compare(bootId, clock.bootId) === 0
  const nowMs = clock.nowMs()
  const wallMs = clock.wallMs()
  const kept: KeptClaim[] = []
  let fromFutureCount = 0
  for (const { endpointId, address, name, expiresMs, written } of claims) {
    const leftMs = isSameBoot ? expiresMs - nowMs - clock.monotonicOffsetMs : expiresMs - written.monotonicMs - (wallMs - written.wallMs)
    if (!Number.isFinite(leftMs)) continue
    if (!isSameBoot) {
      // With a clock that went back, nobody knows how long ago that was.
      if (wallMs < written.wallMs) fromFutureCount++
      if (wallMs < written.wallMs || leftMs <= 0 || name === '') continue
    }
    kept.push({ endpointId, address, name, expiresMs: nowMs + leftMs })
  }
  const future = fromFutureCount === 0 ? [] : [`${fromFutureCount} lifetimes were written at a time that is still to come: not used`]
  return { kept, problems: [...problems, ...future] }
}

export interface NamesJournalParts {
  readonly path: string
  readonly clock: JournalClock
  readonly log: Pick<Logger, 'error' | 'info'>
  /** All there are. */
  readonly claims: () => Iterable<Claim>
}

export class NamesJournal implements ClaimSink {
  readonly #parts: NamesJournalParts
  readonly #frames = new FrameWriter()
  readonly #dirty = new Set<Claim>()
  #removed: JournalRecord[] = []
  #file: AppendFile | undefined
  /** Being written, to take the file's place. */
  #next: AppendFile | undefined
  #compactedBytes = 0
  #failedMs = Number.NEGATIVE_INFINITY
  #isBroken = false
  readonly #timer: NodeJS.Timeout

  /** Begins with a file of its own; the old one stays until that is complete. */
  constructor(parts: NamesJournalParts) {
    this.#parts = parts
    this.#timer = setInterval(() => this.#flush(), FLUSH_INTERVAL_MS).unref()
    this.#compact()
  }

  set(claim: Claim): void {
    if (claim.expiresMs - claim.journaledMs >= LIFETIME_STEP_MS) this.#dirty.add(claim)
  }

  remove(claim: Claim): void {
    this.#dirty.delete(claim)
    if (claim.journaledMs === Number.NEGATIVE_INFINITY) return
    this.#removed.push(recordOf(claim))
    claim.journaledMs = Number.NEGATIVE_INFINITY
  }

  /** Writes what is not written, and waits for it. */
  close(): void {
    clearInterval(this.#timer)
    const next = this.#next
    this.#next = undefined
    next?.abandon()
    const frames = this.#takeFrames()
    try {
      // Without a file that is complete, or while a write is under way that might land behind this one, it is written anew.
      if (!this.#isBroken && this.#file?.finish(frames) !== true) this.#writeWhole()
    } catch (error) {
      this.#fail(error)
    }
    this.#file = undefined
  }

  #flush(): void {
    const { clock } = this.#parts
    if (this.#isBroken) {
      // All of it is written anew when that works again.
      this.#dirty.clear()
      this.#removed = []
      if (clock.nowMs() - this.#failedMs >= RETRY_MS) this.#compact()
      return
    }
    const frames = this.#takeFrames()
    if (frames.length === 0) return
    this.#file?.append(frames)
    this.#next?.append(frames)
    const bytes = this.#file?.bytes ?? 0
    if (this.#next === undefined && bytes > COMPACT_BYTES_MIN && bytes > COMPACT_FACTOR * this.#compactedBytes) this.#compact()
  }

  #takeFrames(): Buffer {
    this.#setTimes()
    // What was removed and is there again comes after.
    for (const record of this.#removed) this.#frames.remove(record)
    this.#removed = []
    for (const claim of this.#dirty) this.#put(claim)
    this.#dirty.clear()
    return this.#frames.take()
  }

  #setTimes(): void {
    const { clock } = this.#parts
    this.#frames.setTimes({ wallMs: clock.wallMs(), monotonicMs: clock.nowMs() + clock.monotonicOffsetMs })
  }

  #put(claim: Claim): void {
    claim.journaledMs = claim.expiresMs
    this.#frames.set(recordOf(claim), claim.expiresMs + this.#parts.clock.monotonicOffsetMs)
  }

  #compact(): void {
    const next = this.#open()
    if (next === undefined) return
    this.#isBroken = false
    this.#next = next
    // Claims that come or go meanwhile are in what is written meanwhile, which stands after.
    const claims = this.#parts.claims()[Symbol.iterator]()
    const step = (): void => {
      if (this.#next !== next) return
      this.#flush()
      if (this.#next !== next) return
      this.#setTimes()
      for (let count = 0; count < COMPACT_CLAIMS_AT_ONCE; count++) {
        const { value, done } = claims.next()
        if (done) {
          next.append(this.#frames.take())
          next.sync(() => this.#replace(next))
          return
        }
        this.#put(value)
      }
      next.append(this.#frames.take())
      setImmediate(step)
    }
    setImmediate(step)
  }

  #replace(next: AppendFile): void {
    if (this.#next !== next) return
    this.#next = undefined
    try {
      renameSync(next.path, this.#parts.path)
    } catch (error) {
      next.abandon()
      this.#fail(error)
      return
    }
    this.#file?.abandon()
    this.#file = next
    this.#compactedBytes = next.bytes
  }

  #writeWhole(): void {
    const { path, clock } = this.#parts
    this.#setTimes()
    for (const claim of this.#parts.claims()) this.#put(claim)
    const whole = `${path}.new`
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    rmSync(whole, { force: true })
    writeFileSync(whole, Buffer.concat([encodeHeader(clock.bootId), this.#frames.take()]), { mode: 0o600 })
    renameSync(whole, path)
  }

  #open(): AppendFile | undefined {
    const { path, clock } = this.#parts
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
      return new AppendFile(`${path}.new`, encodeHeader(clock.bootId), (error) => this.#fail(error))
    } catch (error) {
      this.#fail(error)
      return undefined
    }
  }

  #fail(error: unknown): void {
    this.#failedMs = this.#parts.clock.nowMs()
    if (!this.#isBroken) this.#parts.log.error({ err: error }, 'learned names cannot be kept on disk')
    this.#isBroken = true
    this.#file?.abandon()
    this.#file = undefined
    this.#next?.abandon()
    this.#next = undefined
  }
}

/** A file that only grows, without waiting for it. */
class AppendFile {
  readonly path: string
  bytes = 0
  readonly #fd: number
  readonly #onError: (error: Error) => void
  #queue: Buffer[] = []
  #queueBytes = 0
  #isWriting = false
  #isClosed = false
  #onDrained: (() => void) | undefined

  /** @throws system errors of open() */
  constructor(path: string, header: Buffer, onError: (error: Error) => void) {
    this.path = path
    this.#onError = onError
    rmSync(path, { force: true })
    this.#fd = openSync(path, 'ax', 0o600)
    this.append(header)
  }

  append(bytes: Buffer): void {
    if (bytes.length === 0 || this.#isClosed) return
    this.bytes += bytes.length
    this.#queueBytes += bytes.length
    this.#queue.push(bytes)
    if (this.#queueBytes > QUEUE_BYTES_MAX) this.#fail(new Error(`the disk does not take ${this.#queueBytes} bytes: ${this.path}`))
    else this.#write()
  }

  /** When everything until now is on disk. */
  sync(then: () => void): void {
    this.#onDrained = () =>
      fdatasync(this.#fd, (error) => {
        if (this.#isClosed) return
        if (error === null) then()
        else this.#fail(error)
      })
    this.#write()
  }

  /** Writes the rest at once, and closes. @returns false when it cannot, because a write is under way @throws system errors */
  finish(bytes: Buffer): boolean {
    if (this.#isWriting || this.#isClosed) {
      this.abandon()
      return false
    }
    const rest = Buffer.concat([...this.#queue, bytes])
    try {
      for (let written = 0; written < rest.length; ) written += writeSync(this.#fd, rest, written)
    } finally {
      this.abandon()
    }
    return true
  }

  /** Closes without the rest. */
  abandon(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#queue = []
    if (!this.#isWriting) closeSync(this.#fd)
  }

  #write(): void {
    if (this.#isWriting || this.#isClosed) return
    if (this.#queue.length === 0) {
      const onDrained = this.#onDrained
      this.#onDrained = undefined
      onDrained?.()
      return
    }
    const bytes = Buffer.concat(this.#queue.splice(0))
    this.#queueBytes = 0
    this.#isWriting = true
    write(this.#fd, bytes, 0, bytes.length, null, (error, written) => {
      this.#isWriting = false
      if (this.#isClosed) {
        close(this.#fd, () => {})
        return
      }
      if (error !== null) this.#fail(error)
      else {
        if (written < bytes.length) this.#queue.unshift(bytes.subarray(written))
        this.#write()
      }
    })
  }

  #fail(error: Error): void {
    if (this.#isClosed) return
    this.abandon()
    this.#onError(error)
  }
}

function recordOf({ name, address }: Claim): JournalRecord {
  return { endpointId: address.endpointId, address: address.address, name: name.text }
}
