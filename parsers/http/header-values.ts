/**
 * When a header has a value. Several lines of a header are one value, joined with commas, as Envoy's matchers see it. A list means what
 * all of its parts mean, so what allows compares the whole, and what denies looks at each part too: nobody slips past a deny by stating
 * the header twice, or reaches an allow by stating a second value.
 */

/** Whom a condition serves: doubt is on the side of denying. */
export type Purpose = 'allow' | 'deny'

/** The value of a header that may occur several times; undefined where it does not occur. */
export function joinedValue(values: readonly string[] | undefined): string | undefined {
  if (values === undefined || values.length === 0) return undefined
  return values.length === 1 ? values[0] : values.join(',')
}

/**
 * Whether a value stands in a joined one between its commas, with nothing but spaces and tabs around it. Envoy is told the same as
 * `(?s)(?:\C*,)?[ \t]*VALUE[ \t]*(?:,\C*)?`; the value may have commas of its own. Takes time that is linear in the joined value.
 */
export function hasPart(joined: string, value: string): boolean {
  if (isBlank(value)) return joined.split(',').some((part) => isBlank(part) && part.includes(value))
  for (let at = joined.indexOf(value); at >= 0; at = joined.indexOf(value, at + 1)) {
    let before = at - 1
    while (before >= 0 && isSpace(joined.charCodeAt(before))) before -= 1
    if (before >= 0 && joined.charCodeAt(before) !== COMMA) continue
    let after = at + value.length
    while (after < joined.length && isSpace(joined.charCodeAt(after))) after += 1
    if (after === joined.length || joined.charCodeAt(after) === COMMA) return true
  }
  return false
}

/**
 * Everything that stands between commas and is as long as wanted, without the spaces and tabs around it: what can be compared with a
 * value that has no space at its ends. For values that must not be searched for, because that takes longer the more of them is right.
 */
export function partsOfLength(joined: string, length: number, commaCount: number): string[] {
  const parts = joined.split(',')
  const found: string[] = []
  for (let index = 0; index + commaCount < parts.length; index++) {
    const part = commaCount === 0 ? (parts[index] ?? '') : parts.slice(index, index + commaCount + 1).join(',')
    if (part.length < length) continue
    const trimmed = trimSpaces(part)
    if (trimmed.length === length) found.push(trimmed)
  }
  return found
}

const COMMA = 0x2c

function isSpace(code: number): boolean {
  return code === 0x20 || code === 0x09
}

function isBlank(text: string): boolean {
  for (let offset = 0; offset < text.length; offset++) if (!isSpace(text.charCodeAt(offset))) return false
  return true
}

function trimSpaces(text: string): string {
  let start = 0
  let end = text.length
  while (start < end && isSpace(text.charCodeAt(start))) start += 1
  while (end > start && isSpace(text.charCodeAt(end - 1))) end -= 1
  return text.slice(start, end)
}
