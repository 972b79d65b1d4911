/**
 * The form of the journal of learned names (docs/state-files.md): a header, then frames, each with its own checksum, so that what a crash
 * has cut or a disk has damaged costs the frame that it is in and no other.
 *
 *   header   "HGLN", version (4 bytes), boot id (16), CRC-32 of these (4)
 *   frame    "HGf1", length of the payload (4), CRC-32 of it (4), payload
 *   payload  time of day and monotonic clock when it was written (8 each, milliseconds, IEEE 754), then records
 *   record   kind (1), endpoint (4), address (16), length of the name (2), name, and of a set: end of the lifetime on that monotonic clock (8)
 *
 * Numbers are big endian. The monotonic clock is the machine's, so it means the same to every process of one boot.
 */
import { crc32 } from 'node:zlib'

const MAGIC = 'HGLN'
const VERSION = 1
const HEADER_LENGTH = 28
const HEADER_CHECKED_LENGTH = 24
const BOOT_ID_OFFSET = 8
const BOOT_ID_LENGTH = 16

const FRAME_MARK = Buffer.from('HGf1', 'latin1')
const FRAME_HEADER_LENGTH = 12
const TIMES_LENGTH = 16
const FRAME_BYTES_MAX = 64 * 1024

const KIND_SET = 1
const KIND_REMOVE = 2
const ADDRESS_BYTES = 16
const RECORD_FIXED_LENGTH = 1 + 4 + ADDRESS_BYTES + 2
const LIFETIME_LENGTH = 8
const NAME_BYTES_MAX = 4096

export interface JournalRecord {
  readonly endpointId: number
  /** 16 bytes. */
  readonly address: Uint8Array
  readonly name: string
}

/** Of the machine: milliseconds since its boot, and since 1970. */
export interface WrittenTimes {
  readonly wallMs: number
  readonly monotonicMs: number
}

export interface JournaledClaim extends JournalRecord {
  /** On the monotonic clock of the boot that wrote it. */
  readonly expiresMs: number
  readonly written: WrittenTimes
}

export interface DecodedJournal {
  /** Undefined when the header is damaged. */
  readonly bootId: Buffer | undefined
  readonly claims: readonly JournaledClaim[]
  /** What could not be read, for people. */
  readonly problems: readonly string[]
}

/** @param bootId 16 bytes */
export function encodeHeader(bootId: Uint8Array): Buffer {
  const header = Buffer.alloc(HEADER_LENGTH)
  header.write(MAGIC, 0, 'latin1')
  header.writeUInt32BE(VERSION, MAGIC.length)
  header.set(bootId.subarray(0, BOOT_ID_LENGTH), BOOT_ID_OFFSET)
  header.writeUInt32BE(crc32(header.subarray(0, HEADER_CHECKED_LENGTH)), HEADER_CHECKED_LENGTH)
  return header
}

/** Puts records into frames. */
export class FrameWriter {
  readonly #buffer = Buffer.alloc(FRAME_BYTES_MAX)
  readonly #frames: Buffer[] = []
  #offset = FRAME_HEADER_LENGTH + TIMES_LENGTH
  #times: WrittenTimes = { wallMs: 0, monotonicMs: 0 }

  /** Of what is added from now on. */
  setTimes(times: WrittenTimes): void {
    this.#times = times
  }

  set(record: JournalRecord, expiresMs: number): void {
    this.#add(KIND_SET, record, expiresMs)
  }

  remove(record: JournalRecord): void {
    this.#add(KIND_REMOVE, record, 0)
  }

  /** What was added since the last time, as frames one after the other; empty when nothing was. */
  take(): Buffer {
    this.#endFrame()
    return Buffer.concat(this.#frames.splice(0))
  }

  #add(kind: number, { endpointId, address, name }: JournalRecord, expiresMs: number): void {
    const nameLength = Buffer.byteLength(name)
    const length = RECORD_FIXED_LENGTH + nameLength + (kind === KIND_SET ? LIFETIME_LENGTH : 0)
    // Nothing that a name server can say is that long.
    if (nameLength > NAME_BYTES_MAX) return
    if (this.#offset + length > FRAME_BYTES_MAX) this.#endFrame()
    const buffer = this.#buffer
    let offset = buffer.writeUInt8(kind, this.#offset)
    offset = buffer.writeUInt32BE(endpointId, offset)
    buffer.set(address.subarray(0, ADDRESS_BYTES), offset)
    offset = buffer.writeUInt16BE(nameLength, offset + ADDRESS_BYTES)
    offset += buffer.write(name, offset)
    this.#offset = kind === KIND_SET ? buffer.writeDoubleBE(expiresMs, offset) : offset
  }

  #endFrame(): void {
    if (this.#offset === FRAME_HEADER_LENGTH + TIMES_LENGTH) return
    const frame = Buffer.from(this.#buffer.subarray(0, this.#offset))
    this.#offset = FRAME_HEADER_LENGTH + TIMES_LENGTH
    frame.writeDoubleBE(this.#times.wallMs, FRAME_HEADER_LENGTH)
    frame.writeDoubleBE(this.#times.monotonicMs, FRAME_HEADER_LENGTH + 8)
    frame.set(FRAME_MARK)
    frame.writeUInt32BE(frame.length - FRAME_HEADER_LENGTH, FRAME_MARK.length)
    frame.writeUInt32BE(crc32(frame.subarray(FRAME_HEADER_LENGTH)), FRAME_MARK.length + 4)
    this.#frames.push(frame)
  }
}

/** Reads what can be read: never throws, whatever the bytes are. A journal of another version says nothing. */
export function decodeJournal(bytes: Buffer): DecodedJournal {
  const problems: string[] = []
  const nothing = (problem: string): DecodedJournal => ({ bootId: undefined, claims: [], problems: [problem] })
  if (bytes.length < HEADER_LENGTH) return nothing(`no header in ${bytes.length} bytes`)
  const version = bytes.readUInt32BE(MAGIC.length)
  const isSound = bytes.readUInt32BE(HEADER_CHECKED_LENGTH) === crc32(bytes.subarray(0, HEADER_CHECKED_LENGTH))
  if (isSound && bytes.toString('latin1', 0, MAGIC.length) !== MAGIC) return nothing('not a journal of names')
  if (isSound && version !== VERSION) return nothing(`version ${version}, this program knows ${VERSION}`)
  if (!isSound) problems.push('the header is damaged: taken for one of another boot')
  const claims = new Map<string, JournaledClaim>()
  let offset = HEADER_LENGTH
  while (offset < bytes.length) {
    const payload = payloadAt(bytes, offset)
    if (payload !== undefined && readRecords(payload, claims)) {
      offset += FRAME_HEADER_LENGTH + payload.length
      continue
    }
    const next = nextFrame(bytes, offset + 1)
    problems.push(`${next - offset} bytes at ${offset} cannot be read`)
    offset = next
  }
  return {
    bootId: isSound ? bytes.subarray(BOOT_ID_OFFSET, BOOT_ID_OFFSET + BOOT_ID_LENGTH) : undefined,
    claims: [...claims.values()],
    problems,
  }
}

/** @returns undefined when there is no whole and sound frame */
function payloadAt(bytes: Buffer, offset: number): Buffer | undefined {
  if (offset + FRAME_HEADER_LENGTH > bytes.length) return undefined
  if (bytes.compare(FRAME_MARK, 0, FRAME_MARK.length, offset, offset + FRAME_MARK.length) !== 0) return undefined
  const length = bytes.readUInt32BE(offset + FRAME_MARK.length)
  const payloadOffset = offset + FRAME_HEADER_LENGTH
  if (length < TIMES_LENGTH || length > FRAME_BYTES_MAX || payloadOffset + length > bytes.length) return undefined
  const payload = bytes.subarray(payloadOffset, payloadOffset + length)
  return crc32(payload) === bytes.readUInt32BE(offset + FRAME_MARK.length + 4) ? payload : undefined
}

/** Where a sound frame begins, or the end. */
function nextFrame(bytes: Buffer, from: number): number {
  let offset = from
  for (;;) {
    offset = bytes.indexOf(FRAME_MARK, offset)
    if (offset < 0) return bytes.length
    if (payloadAt(bytes, offset) !== undefined) return offset
    offset += 1
  }
}

/** @returns false when it does not end where a record does; nothing is taken from it then */
function readRecords(payload: Buffer, claims: Map<string, JournaledClaim>): boolean {
  const written = { wallMs: payload.readDoubleBE(0), monotonicMs: payload.readDoubleBE(8) }
  const found: [string, JournaledClaim | undefined][] = []
  let offset = TIMES_LENGTH
  while (offset < payload.length) {
    if (offset + RECORD_FIXED_LENGTH > payload.length) return false
    const kind = payload.readUInt8(offset)
    if (kind !== KIND_SET && kind !== KIND_REMOVE) return false
    const endpointId = payload.readUInt32BE(offset + 1)
    const address = payload.subarray(offset + 5, offset + 5 + ADDRESS_BYTES)
    const nameOffset = offset + RECORD_FIXED_LENGTH
    const nameEnd = nameOffset + payload.readUInt16BE(nameOffset - 2)
    const end = kind === KIND_SET ? nameEnd + LIFETIME_LENGTH : nameEnd
    if (end > payload.length) return false
    // Endpoint, address and name as they lie are one claim's key.
    const key = payload.toString('latin1', offset + 1, nameEnd)
    if (kind === KIND_REMOVE) found.push([key, undefined])
    else {
      const name = payload.toString('utf8', nameOffset, nameEnd)
      found.push([key, { endpointId, address, name, expiresMs: payload.readDoubleBE(nameEnd), written }])
    }
    offset = end
  }
  for (const [key, claim] of found) {
    if (claim === undefined) claims.delete(key)
    else claims.set(key, claim)
  }
  return true
}
