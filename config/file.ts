/**
 * A configuration file: strict YAML with the position of every value. YAML 1.2 core, unlike policy files: under 1.1, `off` would be
 * a boolean, and `logLevel: off` is a setting. Nothing here depends on 1.1.
 */
import { isMap, LineCounter, type Node, parseDocument } from 'yaml'
import type { ConfigProblem } from './errors.ts'

export interface ConfigFile {
  readonly file: string
  /** What the document holds; an object unless there are problems. */
  readonly value: Readonly<Record<string, unknown>>
  readonly problems: readonly ConfigProblem[]
  /** Where a value stands, or the nearest thing around it that exists; of a key instead of its value with `atKey`. */
  positionOf(path: readonly PropertyKey[], atKey?: boolean): { readonly line: number; readonly column: number }
}

export function parseConfigFile(file: string, text: string): ConfigFile {
  const lines = new LineCounter()
  const document = parseDocument(text, {
    version: '1.2',
    schema: 'core',
    strict: true,
    uniqueKeys: true,
    lineCounter: lines,
    prettyErrors: false,
  })
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return { line: Math.max(1, line), column: Math.max(1, col) }
  }
  const problems: ConfigProblem[] = [...document.errors, ...document.warnings].map((error) => ({
    source: file,
    ...at(error.pos[0]),
    path: '',
    message: `not valid YAML: ${error.message.charAt(0).toLowerCase()}${error.message.slice(1)}`,
  }))
  let value: unknown = {}
  if (problems.length === 0 && document.contents !== null) {
    try {
      value = document.toJS({ maxAliasCount: 100 })
    } catch (error) {
      problems.push({ source: file, line: 1, column: 1, path: '', message: `not valid YAML: ${(error as Error).message}` })
    }
    if (problems.length === 0 && !isPlainObject(value)) {
      problems.push({ source: file, ...at(document.contents.range[0]), path: '', message: 'expected settings by name' })
    }
  }
  return {
    file,
    value: isPlainObject(value) ? value : {},
    problems,
    positionOf(path, atKey = false) {
      let node: Node | null = document.contents
      let offset = node?.range?.[0] ?? 0
      for (const [index, step] of path.entries()) {
        if (!isMap<Node, Node>(node)) break
        const pair = node.items.find((item) => String((item.key as { value?: unknown }).value) === String(step))
        if (pair === undefined) break
        const isLast = index === path.length - 1
        offset = ((isLast && atKey) || pair.value === null ? pair.key : pair.value).range?.[0] ?? offset
        node = pair.value
      }
      return at(offset)
    },
  }
}

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
