/** Label selectors of a document: Kubernetes' form, with Cilium's label sources in the keys. */
import type { Cursor } from './cursor.ts'
import { ANY_SOURCE } from './labels.ts'
import { type LabelRequirement, type LabelSelector, SELECTOR_OPERATORS, type SelectorOperator } from './model.ts'
import { NAMESPACE_LABEL_KEY, NAMESPACE_LABELS_PREFIX, RESERVED_IDENTITIES } from './reserved.ts'

export const REQUIREMENTS_MAX = 100
export const LABEL_VALUE = /^(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/
const LABEL_NAME = /^[A-Za-z0-9](?:[-A-Za-z0-9_./]{0,251}[A-Za-z0-9])?$/
const RESERVED_PREFIX = 'reserved.'
const LABEL_SOURCES = new Set([
  'any',
  'k8s',
  'reserved',
  'container',
  'cidr',
  'cidrgroup',
  'cni',
  'unspec',
  'fqdn',
  'node',
  'mesos',
  'cilium-generated',
  'directory',
])

/** How a selector is bound to the policy's namespace. */
export type SelectorScope =
  /** Endpoints of this namespace only: a subject. */
  | { readonly kind: 'subject'; readonly namespace: string }
  /** Of this namespace unless the selector names another: a peer. */
  | { readonly kind: 'peer'; readonly namespace: string }
  /** Of every namespace: a subject of a clusterwide policy. */
  | { readonly kind: 'cluster-subject' }
  /** Of every namespace, but nobody without one unless the selector names a reserved label: a peer of a clusterwide policy. */
  | { readonly kind: 'cluster-peer' }
  /** Of things that policy does not divide by namespace: nodes, services, groups of prefixes. */
  | { readonly kind: 'labels' }

/** @returns the requirements that could be read, with the namespace's; what is wrong is reported */
export function parseSelector(cursor: Cursor, scope: SelectorScope): LabelSelector {
  const requirements: LabelRequirement[] = []
  const map = cursor.map()
  if (map !== undefined) {
    for (const [key, value] of map.get('matchLabels')?.map()?.entries() ?? []) {
      const name = parseKey(value, key)
      const text = value.string()
      if (name === undefined || text === undefined) continue
      if (!LABEL_VALUE.test(text)) value.error(`not a label value: ${text}`, 'at most 63 letters, digits, - _ and .')
      else requirements.push({ ...name, operator: 'In', values: [text] })
    }
    for (const expression of map.get('matchExpressions')?.list() ?? []) {
      const requirement = parseExpression(expression)
      if (requirement !== undefined) requirements.push(requirement)
    }
    if (requirements.length > REQUIREMENTS_MAX) map.error(`more conditions than ${REQUIREMENTS_MAX}: ${requirements.length}`)
    map.finish()
  }
  if (scope.kind === 'cluster-subject' || scope.kind === 'labels') return { requirements }
  const isReserved = requirements.some(({ source }) => source === 'reserved')
  const namesNamespace = requirements.some(isAboutNamespace)
  const namespace: LabelRequirement =
    scope.kind === 'cluster-peer'
      ? { source: 'k8s', key: NAMESPACE_LABEL_KEY, operator: 'Exists', values: [] }
      : { source: 'k8s', key: NAMESPACE_LABEL_KEY, operator: 'In', values: [scope.namespace] }
  if (scope.kind === 'subject') {
    const foreign = requirements.find(
      ({ key, operator, values }) => key === NAMESPACE_LABEL_KEY && operator === 'In' && !values.includes(scope.namespace),
    )
    if (foreign !== undefined)
      cursor.error(
        `a policy selects endpoints of its own namespace only: ${foreign.values.join()}`,
        `put the policy into that namespace, or leave ${NAMESPACE_LABEL_KEY} out`,
      )
    // A file with that error is refused: whom it may have meant is rather too many than too few.
    return { requirements: [...requirements.filter((requirement) => requirement !== foreign), namespace] }
  }
  if (!namesNamespace && !isReserved) return { requirements: [...requirements, namespace] }
  if (requirements.every(({ operator }) => operator === 'NotIn' || operator === 'DoesNotExist'))
    cursor.warning(
      'this selects everybody without these labels: the host and the world too',
      `add {key: ${NAMESPACE_LABEL_KEY}, operator: Exists} to mean endpoints`,
    )
  return { requirements }
}

function isAboutNamespace({ source, key }: LabelRequirement): boolean {
  if (source !== 'k8s' && source !== ANY_SOURCE) return false
  return key === NAMESPACE_LABEL_KEY || key.startsWith(NAMESPACE_LABELS_PREFIX)
}

function parseExpression(cursor: Cursor): LabelRequirement | undefined {
  const map = cursor.map()
  const key = map?.get('key')
  const operatorCursor = map?.get('operator')
  const valuesCursor = map?.getLenient('values')
  map?.finish()
  if (map === undefined) return undefined
  if (key === undefined || operatorCursor === undefined) {
    map.error('key and operator are needed')
    return undefined
  }
  const name = parseKey(key, key.string())
  const operator = operatorCursor.string()
  const values = (valuesCursor?.list() ?? []).flatMap((value) => value.string() ?? [])
  if (name === undefined || operator === undefined) return undefined
  if (!(SELECTOR_OPERATORS as readonly string[]).includes(operator)) {
    operatorCursor.error(`no such operator: ${operator}`, `one of ${SELECTOR_OPERATORS.join(', ')}`)
    return undefined
  }
  const takesValues = operator === 'In' || operator === 'NotIn'
  if (takesValues && values.length === 0) {
    map.error(`${operator} needs values`, 'give values a list that is not empty')
    return undefined
  }
  if (!takesValues && values.length > 0) {
    valuesCursor?.error(`${operator} takes no values`, 'remove values')
    return undefined
  }
  return { ...name, operator: operator as SelectorOperator, values }
}

function parseKey(cursor: Cursor, text: string | undefined): { source: string; key: string } | undefined {
  if (text === undefined) return undefined
  const colon = text.indexOf(':')
  // Cilium's own examples spell it so; without a colon in a key, it is the source too (pkg/labels, ParseSource).
  const reserved = colon < 0 && text.startsWith(RESERVED_PREFIX) ? text.slice(RESERVED_PREFIX.length) : ''
  if (Object.hasOwn(RESERVED_IDENTITIES, reserved)) {
    cursor.warning(`an old spelling of reserved:${reserved}: ${text}`, `write "reserved:${reserved}"`)
    return { source: 'reserved', key: reserved }
  }
  const source = colon < 0 ? ANY_SOURCE : text.slice(0, colon)
  const key = colon < 0 ? text : text.slice(colon + 1)
  if (!LABEL_SOURCES.has(source)) {
    cursor.error(`no such label source: ${source}`, `write ${key} alone, or k8s:${key}`)
    return undefined
  }
  if (!LABEL_NAME.test(key)) {
    cursor.error(`not a label key: ${text}`)
    return undefined
  }
  return { source, key }
}
