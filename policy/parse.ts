/**
 * From the text of a policy file to documents. A file is accepted whole or refused whole: with any error there are no documents, only
 * what could be learned of them, so that their endpoints can be put at default deny (RefusedDocument).
 */
import { Cursor, type MapCursor, type ReadContext } from './cursor.ts'
import type { PolicyDocument, PolicySpec, RefusedDocument, RefusedSubject } from './model.ts'
import { type ParseLimits, parseSpec, type RuleContext, SECTIONS } from './parse-rule.ts'
import { parseSelector, type SelectorScope } from './parse-selector.ts'
import { type Problem, ProblemList } from './problems.ts'
import { DIRECTIONS, type Direction } from './resolved.ts'
import { parseSource } from './source.ts'

export type { ParseLimits } from './parse-rule.ts'

export interface ParsedPolicyFile {
  /** Empty when the file is refused. */
  readonly documents: readonly PolicyDocument[]
  /** Empty when it is accepted. */
  readonly refused: readonly RefusedDocument[]
  readonly problems: readonly Problem[]
}

const NAME = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/
const NAMESPACE = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
const LATER_KINDS = new Set(['CiliumClusterwideNetworkPolicy', 'CiliumCIDRGroup', 'NetworkPolicy'])

/** Reads one file. Never throws: whatever is wrong is a problem with its place. */
export function parsePolicyFile(text: string, file: string, limits: ParseLimits): ParsedPolicyFile {
  const problems = new ProblemList()
  const source = parseSource(text, file, problems)
  const context: ReadContext = { source, problems }
  const documents: PolicyDocument[] = []
  const refused: RefusedDocument[] = []
  for (const value of source.documents) {
    for (const cursor of itemsOf(new Cursor(context, value, ''))) {
      const { document, known } = parseDocument(cursor, limits)
      if (document !== undefined) documents.push(document)
      refused.push(known)
    }
  }
  reportTwins(documents, problems)
  // An empty list too: it may be what is left of a full one.
  if (documents.length === 0 && problems.errorCount === 0)
    problems.error({ file, line: 1, column: 1, path: '' }, 'the file holds no policy', 'delete the file to remove its policies')
  return problems.errorCount > 0
    ? { documents: [], refused, problems: problems.toArray() }
    : { documents, refused: [], problems: problems.toArray() }
}

/** A List's members, or the document itself. */
function itemsOf(cursor: Cursor): readonly Cursor[] {
  if (cursor.value.kind !== 'map') return [cursor]
  const kind = cursor.value.fields.get('kind')?.value
  if (kind?.kind !== 'scalar' || (kind.value !== 'List' && kind.value !== 'CiliumNetworkPolicyList')) return [cursor]
  const map = cursor.map()
  map?.get('apiVersion')
  map?.get('kind')
  map?.getLenient('metadata')
  const items = map?.get('items')?.list() ?? []
  map?.finish()
  return items
}

interface ParsedDocument {
  readonly document: PolicyDocument | undefined
  readonly known: RefusedDocument
}

function parseDocument(cursor: Cursor, limits: ParseLimits): ParsedDocument {
  const nothing: RefusedDocument = { kind: '', namespace: 'default', name: '', at: cursor.position, subjects: [] }
  const map = cursor.map()
  if (map === undefined) return { document: undefined, known: nothing }
  const kindCursor = map.get('kind')
  const versionCursor = map.get('apiVersion')
  const kind = kindCursor?.string() ?? ''
  const version = versionCursor?.string() ?? ''
  if (kindCursor === undefined) map.error('kind is needed', 'kind: CiliumNetworkPolicy')
  else if (LATER_KINDS.has(kind)) kindCursor.error(`kind is not supported yet: ${kind}`, 'write it as CiliumNetworkPolicy')
  else if (kind !== 'CiliumNetworkPolicy') kindCursor.error(`not a kind of policy: ${kind}`, 'kind: CiliumNetworkPolicy')
  if (versionCursor === undefined) map.error('apiVersion is needed', 'apiVersion: cilium.io/v2')
  else if (kind === 'CiliumNetworkPolicy' && version !== 'cilium.io/v2')
    versionCursor.error(`not a version of ${kind}: ${version}`, 'apiVersion: cilium.io/v2')

  const { name, namespace } = parseMetadata(map)
  const bodies = [map.getLenient('spec'), ...(map.getLenient('specs')?.list() ?? [])].filter((body) => body !== undefined)
  const known = { kind, namespace, name, at: map.position }
  // One that is not named, or not quite, is read as what it was likely meant to be, so that all problems are told at once.
  if (!/^(cilium-?network-?pol.*)?$/i.test(kind))
    return { document: undefined, known: { ...known, subjects: subjectsOfLaterKind(kind, bodies, namespace) } }
  const context: RuleContext = { namespace, limits, problems: cursor.context.problems }
  const specs: PolicySpec[] = []
  const subjects: RefusedSubject[] = []
  if (bodies.length === 0) map.error('spec or specs is needed', 'say whom the policy selects and what it allows')
  for (const body of bodies) {
    const content = body.map()
    if (content === undefined) continue
    const spec = parseSpec(content, context)
    if (spec === undefined) continue
    specs.push(spec)
    subjects.push({ selector: spec.subject.selector, directions: directionsOf(content) })
  }
  map.getLenient('status')
  map.finish()
  const document = kind === 'CiliumNetworkPolicy' ? ({ kind, namespace, name, at: map.position, specs } as const) : undefined
  return { document, known: { ...known, subjects } }
}

/** Of kinds that are not supported yet, whom they are about: somebody meant to restrict them. */
function subjectsOfLaterKind(kind: string, bodies: readonly Cursor[], namespace: string): RefusedSubject[] {
  if (kind !== 'CiliumClusterwideNetworkPolicy' && kind !== 'NetworkPolicy') return []
  return bodies.flatMap((body) => {
    const content = body.map()
    const isClusterwide = kind === 'CiliumClusterwideNetworkPolicy'
    const selector = content?.get(isClusterwide ? 'endpointSelector' : 'podSelector')
    if (content === undefined || selector === undefined) return []
    const scope: SelectorScope = isClusterwide ? { kind: 'cluster' } : { kind: 'subject', namespace }
    // A NetworkPolicy without egress rules or a word about them is about ingress alone.
    const isIngressOnly = !isClusterwide && content.get('egress') === undefined && content.get('policyTypes') === undefined
    return [{ selector: parseSelector(selector, scope), directions: isIngressOnly ? ['ingress'] : directionsOf(content) }]
  })
}

/** What the API server adds to metadata is let through; a name is what a policy is known by. */
function parseMetadata(map: MapCursor): { name: string; namespace: string } {
  const metadata = map.get('metadata')?.map()
  if (metadata === undefined) {
    map.error('metadata with a name is needed')
    return { name: '', namespace: 'default' }
  }
  const nameCursor = metadata.get('name')
  const name = nameCursor?.string() ?? ''
  if (nameCursor === undefined) metadata.error('name is needed')
  else if (!NAME.test(name)) nameCursor.error(`not a name: ${name}`, 'lower-case letters, digits, - and .')
  const namespaceCursor = metadata.getLenient('namespace')
  // A namespace that cannot be read is nobody's: the document must not come to mean the default one.
  const namespace = namespaceCursor === undefined ? 'default' : (namespaceCursor.string() ?? '')
  if (namespace !== '' && !NAMESPACE.test(namespace))
    namespaceCursor?.error(`not a namespace: ${namespace}`, 'lower-case letters, digits and -')
  for (const field of [
    'labels',
    'annotations',
    'uid',
    'resourceVersion',
    'generation',
    'creationTimestamp',
    'managedFields',
    'ownerReferences',
    'finalizers',
    'selfLink',
    'deletionTimestamp',
    'deletionGracePeriodSeconds',
    'generateName',
  ]) {
    metadata.getLenient(field)
  }
  metadata.finish()
  return { name, namespace }
}

/** Directions that a spec has any rules for, whether they could be read or not. */
function directionsOf(spec: MapCursor): readonly Direction[] {
  const named = new Set<Direction>()
  for (const [section, direction] of SECTIONS) if (spec.get(section) !== undefined) named.add(direction)
  // A document that says nothing readable of directions may have meant both.
  return named.size === 0 ? DIRECTIONS : [...named]
}

function reportTwins(documents: readonly PolicyDocument[], problems: ProblemList): void {
  const seen = new Set<string>()
  for (const { namespace, name, at } of documents) {
    const key = `${namespace}/${name}`
    if (seen.has(key)) problems.error(at, `two policies of one file have the same name: ${key}`, 'rename one of them')
    seen.add(key)
  }
}
