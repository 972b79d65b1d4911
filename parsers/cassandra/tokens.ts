/**
 * The lexical part of CQL: words, quoted names, strings, comments and signs, as Cassandra's own lexer tells them apart (Lexer.g). Whatever
 * it does not know makes the whole text unreadable; nothing is guessed, because what policy misreads it would wrongly allow.
 */

export type CqlToken =
  /** Keyword, unquoted name or number, in lower case. */
  | { readonly kind: 'word'; readonly text: string }
  /** Name in double quotes, as it is. */
  | { readonly kind: 'quoted'; readonly text: string }
  | { readonly kind: 'string' }
  | { readonly kind: 'sign'; readonly text: string }

/** Longest text of a statement that is read. */
export const STATEMENT_LENGTH_MAX = 1024 * 1024

const SIGNS = new Set('()[]{},.;:?=<>!+-*/%')
const SPACE = new Set(' \t\n\r')
const WORD = /[A-Za-z0-9_]*/y

/** @returns undefined when the text is no CQL, or longer than may be */
export function tokenizeCql(text: string): readonly CqlToken[] | undefined {
  if (text.length > STATEMENT_LENGTH_MAX) return undefined
  const tokens: CqlToken[] = []
  let offset = 0
  while (offset < text.length) {
    const character = text[offset] as string
    const two = text.slice(offset, offset + 2)
    if (SPACE.has(character)) {
      offset += 1
    } else if (two === '--' || two === '//') {
      const end = endOfLine(text, offset)
      // Without a line after it Cassandra may see two signs and not a comment.
      if (end < 0) return undefined
      offset = end
    } else if (two === '/*') {
      const end = text.indexOf('*/', offset + 2)
      if (end < 0) return undefined
      offset = end + 2
    } else if (two === '$$') {
      const end = text.indexOf('$$', offset + 2)
      if (end < 0) return undefined
      tokens.push({ kind: 'string' })
      offset = end + 2
    } else if (character === "'" || character === '"') {
      const end = endOfQuotes(text, offset)
      if (end < 0) return undefined
      const content = text.slice(offset + 1, end - 1)
      tokens.push(character === "'" ? { kind: 'string' } : { kind: 'quoted', text: content.replaceAll('""', '"') })
      offset = end
    } else if (SIGNS.has(character)) {
      tokens.push({ kind: 'sign', text: character })
      offset += 1
    } else {
      WORD.lastIndex = offset
      const word = WORD.exec(text)?.[0] ?? ''
      if (word === '') return undefined
      tokens.push({ kind: 'word', text: word.toLowerCase() })
      offset += word.length
    }
  }
  return tokens
}

function endOfLine(text: string, offset: number): number {
  for (let end = offset; end < text.length; end++) if (text[end] === '\n' || text[end] === '\r') return end + 1
  return -1
}

/** Behind the closing quote; a doubled quote is one of the content. */
function endOfQuotes(text: string, offset: number): number {
  const quote = text[offset] as string
  for (let end = text.indexOf(quote, offset + 1); end >= 0; end = text.indexOf(quote, end + 2)) {
    if (text[end + 1] !== quote) return end + 1
  }
  return -1
}
