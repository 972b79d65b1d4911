/**
 * Which labels make an identity. Every set of labels has a number and rows of its own in the kernel, so labels that tell single
 * instances apart (a hash, an index) would make as many identities as there are instances. Patterns, their defaults and what wins are
 * Cilium's (pkg/labelsfilter; its option --labels): the patterns of the configuration are added to the list here.
 *
 * A label that is left out cannot be selected by: it is not there, for policy.
 */
import { RE2JS } from 're2js'
import { ConfigError, type ConfigProblem } from '#config/errors.ts'
import { ANY_SOURCE, type Label, parseLabel } from './labels.ts'
import { checkPattern } from './pattern.ts'
import { NAMESPACE_LABEL_KEY } from './reserved.ts'

/** Key prefix of the labels that say to which cluster and service account an endpoint belongs; their source is k8s. */
const POLICY_LABELS_PREFIX = 'io.cilium.k8s.policy.'
const SETTING = 'policy.labels'
const PROGRAM_SIZE_MAX = 10_000
/** Keys are few and repeat in every endpoint; whoever makes them up must not fill the memory. */
const KNOWN_KEYS_MAX = 10_000

/** Cilium's own list. With these alone, a label that none of them leaves out is kept. */
export const DEFAULT_LABEL_PATTERNS: readonly string[] = [
  'reserved:.*',
  String.raw`io\.kubernetes\.pod\.namespace`,
  String.raw`io\.cilium\.k8s\.namespace\.labels`,
  String.raw`io\.cilium\.k8s\.policy\.cluster`,
  String.raw`app\.kubernetes\.io`,
  String.raw`!io\.kubernetes`,
  String.raw`!kubernetes\.io`,
  String.raw`!statefulset\.kubernetes\.io/pod-name`,
  String.raw`!apps\.kubernetes\.io/pod-index`,
  String.raw`!batch\.kubernetes\.io/job-completion-index`,
  String.raw`!batch\.kubernetes\.io/controller-uid`,
  String.raw`!.*beta\.kubernetes\.io`,
  String.raw`!k8s\.io`,
  '!pod-template-generation',
  '!pod-template-hash',
  '!controller-revision-hash',
  '!annotation.*',
  '!controller-uid',
  '!etcd_node',
]

interface LabelPattern {
  /** any: of whatever source. */
  readonly source: string
  readonly leavesOut: boolean
  readonly expression: RE2JS
}

export class LabelFilter {
  readonly #patterns: readonly LabelPattern[]
  /** Whether a label has to match a pattern that keeps it: as soon as the configuration has one. */
  readonly #keepsNamedOnly: boolean
  readonly #known = new Map<string, boolean>()

  /** @param configured the setting policy.labels @throws ConfigError HG-1002 with every pattern that is none */
  constructor(configured: readonly string[]) {
    const problems: ConfigProblem[] = []
    const own = configured.flatMap((text, index) => {
      const pattern = parsePattern(text)
      if (!('message' in pattern)) return [pattern]
      problems.push({ source: 'configuration', path: `${SETTING}[${index}]`, ...pattern })
      return []
    })
    if (problems.length > 0) throw new ConfigError('HG-1002', `the configuration is not valid: ${SETTING}`, problems)
    this.#patterns = [...DEFAULT_PATTERNS, ...own]
    this.#keepsNamedOnly = own.some(({ leavesOut }) => !leavesOut)
  }

  /** @param labels as source:key=value @returns those that make the identity */
  filter(labels: readonly string[]): string[] {
    return labels.filter((text) => this.keeps(parseLabel(text)))
  }

  keeps({ source, key }: Pick<Label, 'source' | 'key'>): boolean {
    const name = `${source}:${key}`
    const known = this.#known.get(name)
    if (known !== undefined) return known
    if (this.#known.size >= KNOWN_KEYS_MAX) this.#known.clear()
    const kept = isNeeded(source, key) || this.#isKept(source, key)
    this.#known.set(name, kept)
    return kept
  }

  /** The longest match of a pattern that keeps has to be longer than the shortest of one that leaves out. */
  #isKept(source: string, key: string): boolean {
    let keptLength = 0
    let leftOutLength = 0
    for (const pattern of this.#patterns) {
      if (pattern.source !== ANY_SOURCE && pattern.source !== source) continue
      const length = matchLength(pattern.expression, key)
      if (length === 0) continue
      if (!pattern.leavesOut) keptLength = Math.max(keptLength, length)
      else if (leftOutLength === 0 || length < leftOutLength) leftOutLength = length
    }
    return (!this.#keepsNamedOnly && leftOutLength === 0) || keptLength > leftOutLength
  }
}

/** What policy could not do without: who is reserved, and where an endpoint belongs. */
function isNeeded(source: string, key: string): boolean {
  if (source === 'reserved') return true
  return source === 'k8s' && (key === NAMESPACE_LABEL_KEY || key.startsWith(POLICY_LABELS_PREFIX))
}

/** Length of the match at the key's beginning; 0 for none. */
function matchLength(expression: RE2JS, key: string): number {
  const matcher = expression.matcher(key)
  return matcher.lookingAt() ? matcher.end() : 0
}

/** `source:expression`, or the expression alone for any source; `!` before either leaves out what matches. */
function parsePattern(text: string): LabelPattern | { readonly message: string; readonly hint: string } {
  const colon = text.indexOf(':')
  const before = text.slice(0, Math.max(colon, 0))
  const after = text.slice(colon + 1)
  const source = before.replace(/^!/, '')
  const expression = after.replace(/^!/, '')
  if (!/^[a-z0-9-]*$/.test(source))
    return {
      message: `not a source of labels: ${source}`,
      hint: 'what stands before the first colon is the source: begin with k8s: or any:',
    }
  if (expression === '') return { message: `no expression: ${text}`, hint: 'for example k8s:app or !k8s:version' }
  const problem = checkPattern(expression, PROGRAM_SIZE_MAX)
  if (problem !== undefined) return problem
  return {
    source: source === '' ? ANY_SOURCE : source,
    leavesOut: before.startsWith('!') || after.startsWith('!'),
    expression: RE2JS.compile(expression),
  }
}

const DEFAULT_PATTERNS: readonly LabelPattern[] = DEFAULT_LABEL_PATTERNS.flatMap((text) => {
  const pattern = parsePattern(text)
  return 'message' in pattern ? [] : [pattern]
})
