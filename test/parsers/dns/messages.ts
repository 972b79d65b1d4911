/** Messages for the tests: captured ones, and ones made byte by byte. */
import { readFileSync } from 'node:fs'

interface Captured {
  readonly name: string
  readonly asked: string
  readonly query: Buffer
  readonly reply: Buffer
}

const FILE = new URL('../../fixtures/dns/captured.json', import.meta.url)

/** What dig and real servers said to each other; the file says how it was captured. */
export const CAPTURED: readonly Captured[] = JSON.parse(readFileSync(FILE, 'utf8')).messages.map(
  (message: Readonly<Record<keyof Captured, string>>) => ({
    ...message,
    query: Buffer.from(message.query, 'hex'),
    reply: Buffer.from(message.reply, 'hex'),
  }),
)

export function captured(name: string): Captured {
  const found = CAPTURED.find((message) => message.name === name)
  if (found === undefined) throw new Error(`no captured message ${name}`)
  return found
}

export interface Header {
  readonly id?: number
  readonly flags?: number
  /** Questions, answers, authorities, additionals. */
  readonly counts?: readonly [number, number, number, number]
}

/** A message of bytes as given, whatever the header says of them. */
export function rawMessage({ id = 0x1234, flags = 0x0100, counts = [1, 0, 0, 0] }: Header, ...parts: readonly Uint8Array[]): Buffer {
  return Buffer.concat([uint16(id, flags, ...counts), ...parts])
}

export function uint16(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(2 * values.length)
  for (const [index, value] of values.entries()) bytes.writeUInt16BE(value, 2 * index)
  return bytes
}

/** A name without compression. @param labels one byte a character */
export function rawName(...labels: readonly string[]): Buffer {
  return Buffer.concat([...labels.flatMap((label) => [Buffer.from([label.length]), Buffer.from(label, 'latin1')]), Buffer.from([0])])
}

export function pointer(offset: number): Buffer {
  return uint16(0xc000 | offset)
}

export function rawQuestion(name: Uint8Array, type = 1): Buffer {
  return Buffer.concat([name, uint16(type, 1)])
}

export function rawRecord(owner: Uint8Array, type: number, rdata: Uint8Array, ttlSeconds = 60, recordClass = 1): Buffer {
  return Buffer.concat([owner, uint16(type, recordClass, ttlSeconds >>> 16, ttlSeconds & 0xffff, rdata.length), rdata])
}

/** An OPT record. @param ttl extended rcode, version and flags */
export function rawOpt(payloadBytesMax: number, ttl = 0, options: Uint8Array = new Uint8Array()): Buffer {
  return rawRecord(rawName(), 41, options, ttl, payloadBytesMax)
}

/** Parameters of HTTPS and SVCB. */
export function rawParameter(key: number, value: Uint8Array): Buffer {
  return Buffer.concat([uint16(key, value.length), value])
}
