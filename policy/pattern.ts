/**
 * Whether a regular expression of a policy is one that Envoy will take. re2js accepts what RE2 accepts but for two things, which Envoy
 * would answer with a NACK: it knows classes of a newer Unicode, and it counts characters where RE2 counts bytes, so that a class
 * like \pL repeated a thousand times is small here and too large there. Both are found here, in the rule that has them.
 */
import { RE2JS } from 're2js'

/** What RE2 compiles within the 8 MiB that Envoy gives it, with some room. */
const RE2_INSTRUCTIONS_MAX = 80_000
const PATTERN_LENGTH_MAX = 16_384

/** re2js' flag of an instruction that matches a character in any case. */
const FOLD_CASE = 1
const FOLDS_WIDELY = new Set(Array.from('KkSs', (character) => character.charCodeAt(0)))

/** Names that re2js knows and RE2 of Envoy 1.40 does not: aliases, binary properties, and the scripts since Unicode 16. */
const UNKNOWN_CLASSES = new Set(
  [
    'Cn LC Lc Assigned Ascii Unknown ASCII_Hex_Digit Alphabetic Dash Emoji Emoji_Component Emoji_Modifier Emoji_Modifier_Base',
    'Emoji_Presentation Extended_Pictographic Hex_Digit Lowercase Math Quotation_Mark Terminal_Punctuation Uppercase White_Space',
    'Beria_Erfe Garay Gurung_Khema Kirat_Rai Ol_Onal Sidetic Sunuwar Tai_Yo Todhri Tolong_Siki Tulu_Tigalari',
  ].flatMap((names) => names.split(' ')),
)

/** What is wrong with a pattern, as a problem says it. */
export interface PatternProblem {
  readonly message: string
  readonly hint: string
}

/** @param sizeMax largest compiled size, in RE2's instructions, of which a pattern of plain characters needs one a character */
export function checkPattern(pattern: string, sizeMax: number): PatternProblem | undefined {
  if (pattern.length > PATTERN_LENGTH_MAX) {
    return {
      message: `regular expression is longer than ${PATTERN_LENGTH_MAX} characters: ${pattern.length}`,
      hint: 'split it into several rules',
    }
  }
  let size: number
  try {
    size = compiledSize(RE2JS.compile(pattern))
  } catch (error) {
    return { message: `not a regular expression of RE2: ${pattern}`, hint: (error as Error).message }
  }
  const unknown = classesOf(pattern).find((name) => UNKNOWN_CLASSES.has(name))
  if (unknown !== undefined)
    return { message: `Envoy knows no such class of characters: ${unknown}`, hint: 'write the characters, or a class like L, Lu or Nd' }
  const max = Math.min(sizeMax, RE2_INSTRUCTIONS_MAX)
  if (size > max)
    return { message: `regular expression is too large when compiled (${size}, at most ${max})`, hint: 'split it into several rules' }
  return undefined
}

/** Names in \p{…} and \P{…}. */
function classesOf(pattern: string): string[] {
  const names: string[] = []
  for (let offset = pattern.indexOf('\\'); offset >= 0; offset = pattern.indexOf('\\', offset + 2)) {
    const name = /^[pP]\{\^?([^}]*)\}/.exec(pattern.slice(offset + 1, offset + 64))?.[1]
    if (name !== undefined) names.push(name)
  }
  return names
}

/** About what RE2 needs for the same program, whose instructions each match a range of bytes: never far below. */
function compiledSize(compiled: RE2JS): number {
  const instructions: readonly { readonly runes: ArrayLike<number> | null; readonly arg: number }[] = compiled.re2().prog.inst
  const known = new Map<string, number>()
  let size = 0
  for (const { runes, arg } of instructions) {
    if (runes === null || runes.length <= 1) {
      // One character, of up to four bytes; in any case, k and s have a third form that is no ASCII.
      const rune = runes?.[0] ?? 0
      size += rune < 0x80 && !(arg === FOLD_CASE && FOLDS_WIDELY.has(rune)) ? 1 : 4
      continue
    }
    const key = Array.prototype.join.call(runes, ',')
    let cost = known.get(key)
    if (cost === undefined) {
      cost = classSize(runes)
      known.set(key, cost)
    }
    size += cost
  }
  return size
}

/** @param runes pairs of first and last code point */
function classSize(runes: ArrayLike<number>): number {
  const suffixes = new Set<string>()
  let sequenceCount = 0
  for (let index = 0; index + 1 < runes.length; index += 2) {
    for (const sequence of byteSequences(runes[index] as number, runes[index + 1] as number)) {
      sequenceCount += 1
      for (let from = 0; from < sequence.length; from++) suffixes.add(sequence.slice(from).join())
    }
  }
  return suffixes.size + sequenceCount
}

/** A range of code points as sequences of byte ranges, cut where the encodings change length or a trailing byte does not run through. */
function byteSequences(first: number, last: number): string[][] {
  for (const border of [0x7f, 0x7ff, 0xffff]) {
    if (first <= border && last > border) return [...byteSequences(first, border), ...byteSequences(border + 1, last)]
  }
  if (last > 0x7f) {
    for (const bits of [6, 12, 18]) {
      const mask = (1 << bits) - 1
      if ((first & ~mask) === (last & ~mask)) continue
      if ((first & mask) !== 0) return [...byteSequences(first, first | mask), ...byteSequences((first | mask) + 1, last)]
      if ((last & mask) !== mask) return [...byteSequences(first, (last & ~mask) - 1), ...byteSequences(last & ~mask, last)]
    }
  }
  const from = Buffer.from(String.fromCodePoint(first))
  const to = Buffer.from(String.fromCodePoint(last))
  return [Array.from(from, (byte, index) => `${byte}-${to[index]}`)]
}
