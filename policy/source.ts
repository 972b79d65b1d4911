/**
 * From the text of a file to trees of plain values that know where they stand. YAML is read as kubectl reads it: version 1.1
 * (`no` is a boolean, 010 is eight), unique keys, anchors within limits, several documents, JSON as a subset; but without
 * sexagesimal numbers, timestamps and binary, which kubectl's reader leaves as strings, and with `%YAML 1.2` refused as there.
 * The tree is our own because the library's nodes are heavy, expand aliases without a bound, and compare keys quadratically.
 */
import {
  CST,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  type ParsedNode,
  parseAllDocuments,
} from 'yaml'
import type { Position, ProblemList } from './problems.ts'
import { kubectlTags } from './yaml.ts'

export const FILE_BYTES_MAX = 4 * 1024 * 1024
export const DOCUMENT_COUNT_MAX = 10_000
export const NODE_COUNT_MAX = 500_000
export const ALIAS_COUNT_MAX = 1_000
export const TOKEN_COUNT_MAX = 2_000_000
export const NESTING_DEPTH_MAX = 64

export interface SourceScalar {
  readonly kind: 'scalar'
  readonly offset: number
  readonly value: string | number | boolean | null
}

export interface SourceList {
  readonly kind: 'list'
  readonly offset: number
  readonly items: readonly SourceValue[]
}

export interface SourceField {
  readonly keyOffset: number
  readonly value: SourceValue
}

export interface SourceMap {
  readonly kind: 'map'
  readonly offset: number
  readonly fields: ReadonlyMap<string, SourceField>
}

/** A value and the offset in the text, in UTF-16 units, where it begins. */
export type SourceValue = SourceScalar | SourceList | SourceMap

/** The file as a whole: its documents that are not empty, and how to turn an offset into a position. */
export interface Source {
  readonly documents: readonly SourceValue[]
  position(offset: number, path: string): Position
}

const JSON_TAGS = new Set(['str', 'int', 'float', 'bool', 'null', 'map', 'seq', 'merge'].map((name) => `tag:yaml.org,2002:${name}`))

/** Reads the text of one file. Whatever is wrong goes into problems; the documents that can be read are returned all the same. */
export function parseSource(text: string, file: string, problems: ProblemList): Source {
  const lines = new LineCounter()
  const position = (offset: number, path: string): Position => {
    const { line, col } = lines.linePos(offset)
    return { file, line: Math.max(line, 1), column: Math.max(col, 1), path }
  }
  const start: Position = { file, line: 1, column: 1, path: '' }
  const none: Source = { documents: [], position }
  const byteLength = Buffer.byteLength(text)
  if (byteLength > FILE_BYTES_MAX) {
    problems.error(start, `file is larger than ${FILE_BYTES_MAX} bytes: ${byteLength}`, 'split it into several files')
    return none
  }
  const nulOffset = text.indexOf('\0')
  if (nulOffset >= 0) {
    problems.error(start, `file holds a NUL character at offset ${nulOffset}`, 'write the file again: it is damaged or not text')
    return none
  }
  if (countDocuments(text) > DOCUMENT_COUNT_MAX) {
    problems.error(start, `file holds more documents than ${DOCUMENT_COUNT_MAX}`, 'split it into several files')
    return none
  }
  const excess = findExcess(text)
  if (excess !== undefined) {
    problems.error({ ...start, line: lineOf(text, excess.offset) }, excess.message, 'split it, or write it flatter')
    return none
  }

  const parsed = parseAllDocuments(text, {
    version: '1.1',
    lineCounter: lines,
    prettyErrors: false,
    logLevel: 'silent',
    // Compared here in linear time instead.
    uniqueKeys: false,
    customTags: kubectlTags,
  })
  const documents: SourceValue[] = []
  if (!('empty' in parsed)) {
    const budget = { nodeCount: 0, aliasCount: 0, spent: false }
    for (const document of parsed) {
      const exhausted = reportSyntax(document, position, problems)
      if (exhausted || budget.spent) continue
      if (document.contents === null || (isScalar(document.contents) && document.contents.value === null)) continue
      const value = new TreeBuilder(document, position, problems, budget).build()
      if (value !== undefined) documents.push(value)
    }
    const last = parsed.at(-1)
    if (last !== undefined && !/[\r\n]$/.test(text) && !isClosed(last)) {
      // All that tells a file that was cut short from one that ends where its author stopped.
      const end = position(text.length - 1, '')
      problems.warning(end, 'the last line has no end: the file may be incomplete', 'check it, and end it with a line break')
    }
  }
  return { documents, position }
}

/** Whether a document says itself that it is complete. */
function isClosed({ contents, directives }: Document.Parsed<ParsedNode>): boolean {
  return directives.docEnd || ((isMap(contents) || isSeq(contents)) && contents.flow === true)
}

/** An upper bound on the documents of a file, cheap enough to be taken before it is parsed. */
function countDocuments(text: string): number {
  let count = 1
  for (let offset = text.indexOf('\n---'); offset >= 0; offset = text.indexOf('\n---', offset + 4)) count += 1
  return count
}

/**
 * What makes a file too expensive to parse: the parser takes a minute, and all the memory there is, for a few megabytes of brackets.
 * The lexer alone is linear, and knows a bracket from one in quotes.
 */
function findExcess(text: string): { readonly offset: number; readonly message: string } | undefined {
  let offset = 0
  let tokenCount = 0
  let flowDepth = 0
  /** `- - -` and `? ? ?` nest within a line. */
  let lineDepth = 0
  for (const token of new Lexer().lex(text)) {
    const type = CST.tokenType(token)
    if (type === 'flow-map-start' || type === 'flow-seq-start') flowDepth += 1
    else if (type === 'flow-map-end' || type === 'flow-seq-end') flowDepth -= 1
    else if (type === 'newline') lineDepth = 0
    else if (flowDepth === 0 && (type === 'seq-item-ind' || type === 'explicit-key-ind')) lineDepth += 1
    else if (type === 'doc-mode' || type === 'flow-error-end') flowDepth = 0
    tokenCount += 1
    if (flowDepth > NESTING_DEPTH_MAX || lineDepth > NESTING_DEPTH_MAX)
      return { offset, message: `document is nested deeper than ${NESTING_DEPTH_MAX} levels` }
    if (tokenCount > TOKEN_COUNT_MAX) return { offset, message: `file holds more YAML tokens than ${TOKEN_COUNT_MAX}` }
    // The lexer's own marks stand for no text.
    if (type !== 'doc-mode' && type !== 'flow-error-end' && type !== 'scalar') offset += token.length
  }
  return undefined
}

function lineOf(text: string, offset: number): number {
  let line = 1
  for (let at = text.indexOf('\n'); at >= 0 && at < offset; at = text.indexOf('\n', at + 1)) line += 1
  return line
}

/** Reports what the YAML library found; true when its recursion ran out, so that the tree is not to be trusted. */
function reportSyntax(document: Document.Parsed<ParsedNode>, position: Source['position'], problems: ProblemList): boolean {
  for (const error of document.errors) {
    if (error.code === 'RESOURCE_EXHAUSTION') {
      problems.error(position(error.pos[0], ''), `document is nested deeper than ${NESTING_DEPTH_MAX} levels`)
      return true
    }
  }
  for (const error of document.errors) {
    const message = error.message.split('\n', 1)[0] ?? ''
    problems.error(
      position(error.pos[0], ''),
      `not valid YAML: ${message.charAt(0).toLowerCase()}${message.slice(1)}`,
      syntaxHint(error.code),
    )
  }
  const { explicit, version } = document.directives?.yaml ?? { explicit: false, version: '1.1' }
  if (explicit === true && version !== '1.1') {
    problems.error(position(document.range[0], ''), `YAML version must be 1.1: ${version}`, 'remove the %YAML directive')
  }
  return false
}

function syntaxHint(code: string): string {
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'indent with spaces'
    case 'MISSING_CHAR':
    case 'BAD_INDENT':
      return 'close every quote, bracket and brace, and check that the file is complete'
    case 'MULTILINE_IMPLICIT_KEY':
    case 'BLOCK_AS_IMPLICIT_KEY':
      return 'check the indentation, or put the value in quotes'
    default:
      return ''
  }
}

interface Budget {
  nodeCount: number
  aliasCount: number
  spent: boolean
}

/** Turns one document of the library into a tree of our own, expanding aliases and merge keys within the budget. */
class TreeBuilder {
  readonly #document: Document.Parsed<ParsedNode>
  readonly #position: Source['position']
  readonly #problems: ProblemList
  readonly #budget: Budget
  /** Anchors seen so far: an alias means the last one before it. */
  readonly #anchors = new Map<string, Node>()

  constructor(document: Document.Parsed<ParsedNode>, position: Source['position'], problems: ProblemList, budget: Budget) {
    this.#document = document
    this.#position = position
    this.#problems = problems
    this.#budget = budget
  }

  build(): SourceValue | undefined {
    return this.#value(this.#document.contents, 0, '', 0)
  }

  #value(node: unknown, depth: number, path: string, parentOffset: number): SourceValue | undefined {
    const offset = offsetOf(node) ?? parentOffset
    if (this.#budget.spent) return undefined
    this.#budget.nodeCount += 1
    if (this.#budget.nodeCount > NODE_COUNT_MAX) return this.#spend(offset, path, `file holds more values than ${NODE_COUNT_MAX}`)
    if (depth > NESTING_DEPTH_MAX) {
      this.#problems.error(this.#position(offset, path.slice(0, 200)), `document is nested deeper than ${NESTING_DEPTH_MAX} levels`)
      return undefined
    }
    if (node === null || node === undefined) return { kind: 'scalar', offset, value: null }
    if (isAlias(node)) return this.#alias(node.source, depth, path, offset)
    this.#remember(node)
    this.#checkTag(node, offset, path)
    if (isScalar(node)) return this.#scalar(node.value, offset, path)
    if (isSeq(node)) {
      const items: SourceValue[] = []
      for (const [index, item] of node.items.entries()) {
        const value = this.#value(item, depth + 1, `${path}[${index}]`, offset)
        if (value !== undefined) items.push(value)
      }
      return { kind: 'list', offset, items }
    }
    if (isMap(node)) {
      const fields = new Map<string, SourceField>()
      const merged = new Map<string, SourceField>()
      for (const pair of node.items) {
        const keyOffset = offsetOf(pair.key) ?? offset
        const key = this.#key(pair.key, keyOffset, path)
        if (key === undefined) continue
        const value = this.#value(pair.value, depth + 1, path === '' ? key.name : `${path}.${key.name}`, keyOffset)
        if (value === undefined) continue
        if (key.merge) {
          this.#merge(value, merged, keyOffset, path)
        } else if (fields.has(key.name)) {
          this.#problems.error(
            this.#position(keyOffset, `${path === '' ? '' : `${path}.`}${key.name}`),
            `key occurs twice: ${key.name}`,
            'keep one of them',
          )
        } else {
          fields.set(key.name, { keyOffset, value })
        }
      }
      for (const [name, field] of merged) if (!fields.has(name)) fields.set(name, field)
      return { kind: 'map', offset, fields }
    }
    this.#problems.error(this.#position(offset, path), 'value is of a kind that policy does not use')
    return undefined
  }

  #spend(offset: number, path: string, message: string): undefined {
    this.#budget.spent = true
    this.#problems.error(this.#position(offset, path), message, 'split the file, and write out what anchors repeat')
    return undefined
  }

  #remember(node: unknown): void {
    if (typeof node === 'object' && node !== null && 'anchor' in node && typeof node.anchor === 'string')
      this.#anchors.set(node.anchor, node as Node)
  }

  #alias(name: string, depth: number, path: string, offset: number): SourceValue | undefined {
    this.#budget.aliasCount += 1
    if (this.#budget.aliasCount > ALIAS_COUNT_MAX) return this.#spend(offset, path, `file uses more aliases than ${ALIAS_COUNT_MAX}`)
    const target = this.#anchors.get(name)
    if (target === undefined) {
      this.#problems.error(this.#position(offset, path), `alias of an anchor that is not set before it: ${name}`)
      return undefined
    }
    return this.#value(target, depth + 1, path, offset)
  }

  #checkTag(node: unknown, offset: number, path: string): void {
    if (typeof node !== 'object' || node === null || !('tag' in node) || typeof node.tag !== 'string') return
    if (!JSON_TAGS.has(node.tag)) this.#problems.error(this.#position(offset, path), `tag is not allowed: ${node.tag}`, 'remove the tag')
  }

  #scalar(value: unknown, offset: number, path: string): SourceScalar | undefined {
    if (typeof value === 'string' && !value.isWellFormed()) {
      this.#problems.error(
        this.#position(offset, path),
        'text holds half of a character (an unpaired surrogate)',
        'write the character itself',
      )
      return undefined
    }
    if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
      return { kind: 'scalar', offset, value }
    this.#problems.error(this.#position(offset, path), 'value is of a kind that policy does not use')
    return undefined
  }

  #key(key: unknown, offset: number, path: string): { readonly name: string; readonly merge: boolean } | undefined {
    this.#remember(key)
    if (isScalar(key)) {
      if (typeof key.value === 'string') return { name: key.value, merge: key.value === '<<' && key.type === 'PLAIN' }
      // The library reads a plain << as a symbol.
      if (typeof key.value === 'symbol') return { name: '<<', merge: true }
      const written = key.source ?? String(key.value)
      this.#problems.error(this.#position(offset, path), `key is not a string in YAML 1.1: ${written}`, `write "${written}"`)
      return undefined
    }
    this.#problems.error(this.#position(offset, path), 'key is not a string')
    return undefined
  }

  #merge(value: SourceValue, into: Map<string, SourceField>, offset: number, path: string): void {
    const maps = value.kind === 'list' ? value.items : [value]
    for (const map of maps) {
      if (map.kind !== 'map') {
        this.#problems.error(this.#position(offset, path), 'merge key << needs a map')
        return
      }
      for (const [name, field] of map.fields) if (!into.has(name)) into.set(name, field)
    }
  }
}

function offsetOf(node: unknown): number | undefined {
  if (typeof node !== 'object' || node === null || !('range' in node)) return undefined
  const range = node.range as readonly [number, number, number] | null | undefined
  return range?.[0]
}
