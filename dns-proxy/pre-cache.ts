/**
 * Names that are known before anybody asked for them, from a file (the setting dns.tofqdnsPreCache):
 * {"names": [{"name": "api.example.com", "addresses": ["192.0.2.1"], "ttlSeconds": 3600}]}. It is read once, at the start; a name of which
 * policy speaks only later is taught then, for what is left of its time. A file with anything wrong in it teaches nothing.
 */
import { readFileSync, statSync } from 'node:fs'
import { z } from 'zod'
import { isMatchName, normalizeName } from '#parsers/dns/name-pattern.ts'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import type { Lesson } from './learned-names.ts'

const FILE_BYTES_MAX = 16 << 20
const ADDRESSES_OF_NAME_MAX = 10_000
const TTL_SECONDS_MAX = 2 ** 31 - 1
const PROBLEMS_TOLD_MAX = 10

const fileSchema = z.strictObject({
  names: z.array(
    z.strictObject({
      name: z.string().refine(isMatchName, 'not a DNS name'),
      addresses: z
        .array(z.union([z.ipv4(), z.ipv6()], 'not an IP address'))
        .min(1)
        .max(ADDRESSES_OF_NAME_MAX),
      ttlSeconds: z.int().min(0).max(TTL_SECONDS_MAX),
    }),
  ),
})

export interface PreCachedName {
  /** Lower case, with a trailing dot. */
  readonly name: string
  readonly addresses: readonly Uint8Array[]
  readonly ttlSeconds: number
}

/** @returns the names, or what is wrong with the file, each with its place */
export function readPreCache(path: string): { readonly names: readonly PreCachedName[]; readonly problems: readonly string[] } {
  const refused = (...problems: string[]) => ({ names: [], problems })
  let value: unknown
  try {
    const { size } = statSync(path)
    if (size > FILE_BYTES_MAX) return refused(`more than ${FILE_BYTES_MAX} bytes: ${size}`)
    value = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    return refused(error instanceof Error ? error.message : String(error))
  }
  const result = fileSchema.safeParse(value)
  if (!result.success) {
    return refused(...result.error.issues.slice(0, PROBLEMS_TOLD_MAX).map(({ path: place, message }) => `${placeOf(place)}: ${message}`))
  }
  const names = result.data.names.map(({ name, addresses, ttlSeconds }) => ({
    name: normalizeName(name),
    addresses: addresses.map(addressToBytes),
    ttlSeconds,
  }))
  return { names, problems: [] }
}

export interface PreCacheTeaching {
  readonly learn: (name: string, address: Uint8Array, ttlSeconds: number) => Lesson
  /** @returns why an address teaches nothing, or empty */
  readonly reasonAgainst: (address: Uint8Array) => string
}

export class PreCache {
  readonly #readMs: number
  /** Those that no selector matched yet. */
  #waiting: readonly PreCachedName[]

  constructor(names: readonly PreCachedName[], nowMs: number) {
    this.#waiting = names
    this.#readMs = nowMs
  }

  /** Teaches what selectors match now. @returns what could not be taught, for people */
  teach({ learn, reasonAgainst }: PreCacheTeaching, nowMs: number): string[] {
    const problems: string[] = []
    const passedSeconds = (nowMs - this.#readMs) / 1000
    this.#waiting = this.#waiting.filter(({ name, addresses, ttlSeconds }) => {
      if (ttlSeconds < passedSeconds) return false
      for (const address of addresses) {
        const reason = reasonAgainst(address)
        const lesson = reason === '' ? learn(name, address, ttlSeconds - passedSeconds) : reason
        if (lesson === 'not selected') return true
        if (lesson !== 'learned') problems.push(`${name} ${bytesToAddress(address)}: ${lesson}`)
      }
      return false
    })
    return problems
  }
}

function placeOf(path: readonly PropertyKey[]): string {
  return (
    path
      .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
      .join('')
      .replace(/^\./, '') || 'the file'
  )
}
