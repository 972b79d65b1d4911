/**
 * Names as messages carry them (RFC 1035 3.1, 4.1.4), and the text in which everything else knows them. Checking and reading are apart: a
 * message is checked once, whole, and the few names that somebody asks for are read without a check.
 *
 * The text is in lower case with a trailing dot, the root is `.`. Letters, digits, `-` and `_` stand for themselves; every other byte is
 * escaped as in master files, backslash and three decimal digits (RFC 1035 5.1), a dot inside a label (`\046`) and a star (`\042`) as well. So
 * different names have different texts, a dot is always between labels, and no escaped name is one that policy can state.
 */
import { HEADER_BYTES } from './codes.ts'

/** Octets of a whole name on the wire, with the lengths of its labels and the root's. */
export const NAME_BYTES_MAX = 255

/** One to each label of the longest name and to its root, so that only a name made to cost much has more. */
const JUMP_COUNT_MAX = 128

/** Pointers begin with these two bits; a length with one of them alone has no meaning that is in use (RFC 6891 5). */
const POINTER_BITS = 0xc0
const LABEL_BYTES_MAX = 0x3f

const DOT = 0x2e
const BACKSLASH = 0x5c
const ZERO = 0x30

/** Why a name cannot be read: what checkName returns, negated, counts from 1. */
const NAME_FAULTS = ['truncated', 'badLabel', 'badPointer', 'longName'] as const
const TRUNCATED = -1
const BAD_LABEL = -2
const BAD_POINTER = -3
const LONG_NAME = -4

export type NameFault = (typeof NAME_FAULTS)[number]

/** @param result of checkName, below 0 */
export function nameFaultOf(result: number): NameFault {
  return NAME_FAULTS[-result - 1] ?? 'truncated'
}

/** The byte of the text that a byte of a label becomes; 0: escaped. */
const PLAIN = new Uint8Array(256)
for (const character of '-_0123456789abcdefghijklmnopqrstuvwxyz') {
  PLAIN[character.charCodeAt(0)] = character.charCodeAt(0)
  PLAIN[character.toUpperCase().charCodeAt(0)] = character.charCodeAt(0)
}

/** A name of escaped bytes only is the longest text. */
const TEXT = Buffer.alloc(4 * NAME_BYTES_MAX)

/**
 * Checks a name and everything that it points at. Pointers lead only to before the part of the name that they end, never into the header,
 * which also ends every loop.
 * @param start of the message, to which pointers are relative
 * @param offset of the name, from the beginning of the bytes
 * @param end of what the name may take
 * @returns the offset after the name, or a number below 0 for nameFaultOf
 */
export function checkName(bytes: Uint8Array, start: number, offset: number, end: number): number {
  let position = offset
  let partOffset = offset
  let next = -1
  let nameLength = 1
  let jumpCount = 0
  for (;;) {
    if (position >= end) return TRUNCATED
    const length = bytes[position] as number
    if (length === 0) return next < 0 ? position + 1 : next
    if (length <= LABEL_BYTES_MAX) {
      nameLength += 1 + length
      if (nameLength > NAME_BYTES_MAX) return LONG_NAME
      position += 1 + length
    } else if (length >= POINTER_BITS) {
      if (position + 1 >= end) return TRUNCATED
      if (next < 0) next = position + 2
      position = pointerTarget(bytes, start, position)
      jumpCount += 1
      if (position < start + HEADER_BYTES || position >= partOffset || jumpCount > JUMP_COUNT_MAX) return BAD_POINTER
      partOffset = position
    } else return BAD_LABEL
  }
}

/** Where a name ends that checkName has accepted; what it points at is not followed. */
export function endOfName(bytes: Uint8Array, offset: number): number {
  let position = offset
  for (;;) {
    const length = bytes[position] as number
    if (length === 0) return position + 1
    if (length >= POINTER_BITS) return position + 2
    position += 1 + length
  }
}

/** Where the first label of a name stands that checkName has accepted: the same for all names that point at one place. */
export function firstLabelOf(bytes: Uint8Array, start: number, offset: number): number {
  let position = offset
  while ((bytes[position] as number) >= POINTER_BITS) position = pointerTarget(bytes, start, position)
  return position
}

/** The text of a name that checkName has accepted. */
export function nameText(bytes: Uint8Array, start: number, offset: number): string {
  let position = offset
  let textLength = 0
  for (;;) {
    const length = bytes[position] as number
    if (length === 0) return textLength === 0 ? '.' : TEXT.toString('latin1', 0, textLength)
    if (length >= POINTER_BITS) {
      position = pointerTarget(bytes, start, position)
      continue
    }
    const labelEnd = position + 1 + length
    for (position += 1; position < labelEnd; position += 1) {
      const byte = bytes[position] as number
      const plain = PLAIN[byte] as number
      if (plain !== 0) TEXT[textLength++] = plain
      else {
        TEXT[textLength++] = BACKSLASH
        TEXT[textLength++] = ZERO + Math.trunc(byte / 100)
        TEXT[textLength++] = ZERO + (Math.trunc(byte / 10) % 10)
        TEXT[textLength++] = ZERO + (byte % 10)
      }
    }
    TEXT[textLength++] = DOT
  }
}

/** How many octets a name takes on the wire without compression. @param text in the form that nameText gives */
export function wireLengthOf(text: string): number {
  if (text === '.') return 1
  // A dot stands for the length before its label, the root's length is one more, an escape is four characters for one byte.
  let escapeCount = 0
  for (let index = text.indexOf('\\'); index >= 0; index = text.indexOf('\\', index + 1)) escapeCount += 1
  return text.length + 1 - 3 * escapeCount
}

function pointerTarget(bytes: Uint8Array, start: number, position: number): number {
  return start + ((((bytes[position] as number) & LABEL_BYTES_MAX) << 8) | (bytes[position + 1] as number))
}
