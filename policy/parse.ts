/**
 * From the text of a policy file to documents. A file is accepted whole or refused whole: with any error there are no documents, only
 * what could be learned of them, so that their endpoints can be put at default deny (RefusedDocument).
 */
import { Cursor, type MapCursor, type ReadContext } from './cursor.ts'
import { documentName, type PolicyDocument, type PolicySpec, type RefusedDocument, type RefusedSubject } from './model.ts'
import { type ParseLimits, parseSpec, type RuleContext, SECTIONS } from './parse-rule.ts'
import { parseSelector } from './parse-selector.ts'
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
const CLUSTERWIDE = 'CiliumClusterwideNetworkPolicy'
const LIST_KINDS = new Set(['List', 'CiliumNetworkPolicyList', `${CLUSTERWIDE}List`])
const LATER_KINDS = new Set(['CiliumCIDRGroup', 'NetworkPolicy'])

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

function isPolicyKind(kind: string): kind is PolicyDocument['kind'] {
  return kind === 'CiliumNetworkPolicy' || kind === CLUSTERWIDE
}

/** A List's members, or the document itself. */
function itemsOf(cursor: Cursor): readonly Cursor[] {
  if (cursor.value.kind !== 'map') return [cursor]
  const kind = cursor.value.fields.get('kind')?.value
  if (kind?.kind !== 'scalar' || typeof kind.value !== 'string' || !LIST_KINDS.has(kind.value)) return [cursor]
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
  else if (!isPolicyKind(kind)) kindCursor.error(`not a kind of policy: ${kind}`, 'kind: CiliumNetworkPolicy')
  if (versionCursor === undefined) map.error('apiVersion is needed', 'apiVersion: cilium.io/v2')
  else if (isPolicyKind(kind) && version !== 'cilium.io/v2')
    versionCursor.error(`not a version of ${kind}: ${version}`, 'apiVersion: cilium.io/v2')

  const isClusterwide = kind === CLUSTERWIDE
  const { name, namespace } = parseMetadata(map, isClusterwide)
  const bodies = [map.getLenient('spec'), ...(map.getLenient('specs')?.list() ?? [])].filter((body) => body !== undefined)
  const known = { kind, namespace, name, at: map.position }
  // One that is not named, or not quite, is read as what it was likely meant to be, so that all problems are told at once.
  if (!/^(cilium-?network-?pol.*)?$/i.test(kind) && !isClusterwide)
    return { document: undefined, known: { ...known, subjects: subjectsOfLaterKind(kind, bodies, namespace) } }
  const context: RuleContext = {
    subjects: isClusterwide ? { kind: 'cluster-subject' } : { kind: 'subject', namespace },
    peers: isClusterwide ? { kind: 'cluster-peer' } : { kind: 'peer', namespace },
    limits,
    problems: cursor.context.problems,
  }
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
  const document = isPolicyKind(kind) ? { kind, namespace, name, at: map.position, specs } : undefined
  return { document, known: { ...known, subjects } }
}

/** Of a kind that is not supported yet, whom it is about: somebody meant to restrict them. */
function subjectsOfLaterKind(kind: string, bodies: readonly Cursor[], namespace: string): RefusedSubject[] {
  if (kind !== 'NetworkPolicy') return []
  return bodies.flatMap((body) => {
    const content = body.map()
    const selector = content?.get('podSelector')
    if (content === undefined || selector === undefined) return []
    // Without egress rules or a word about them it is about ingress alone.
    const isIngressOnly = content.get('egress') === undefined && content.get('policyTypes') === undefined
    return [
      {
        selector: parseSelector(selector, { kind: 'subject', namespace }),
        directions: isIngressOnly ? ['ingress'] : directionsOf(content),
      },
    ]
  })
}

/** What the API server adds to metadata is let through; a name is what a policy is known by. */
function parseMetadata(map: MapCursor, isClusterwide: boolean): { name: string; namespace: string } {
  const metadata = map.get('metadata')?.map()
  if (metadata === undefined) {
    map.error('metadata with a name is needed')
    return { name: '', namespace: isClusterwide ? '' : 'default' }
  }
  const nameCursor = metadata.get('name')
  const name = nameCursor?.string() ?? ''
  if (nameCursor === undefined) metadata.error('name is needed')
  else if (!NAME.test(name)) nameCursor.error(`not a name: ${name}`, 'lower-case letters, digits, - and .')
  const namespaceCursor = metadata.getLenient('namespace')
  // A namespace that cannot be read is nobody's: the document must not come to mean the default one.
  const namespace = isClusterwide ? '' : namespaceCursor === undefined ? 'default' : (namespaceCursor.string() ?? '')
  if (isClusterwide) namespaceCursor?.error('a clusterwide policy has no namespace', 'leave it out, or write kind: CiliumNetworkPolicy')
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
  for (const document of documents) {
    const { at } = document
    const key = documentName(document)
    if (seen.has(key)) problems.error(at, `two policies of one file have the same name: ${key}`, 'rename one of them')
    seen.add(key)
  }
}
