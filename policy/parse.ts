/**
 * From the text of a policy file to documents. A file is accepted whole or refused whole: with any error there are no documents, only
 * what could be learned of them, so that their endpoints can be put at default deny (RefusedDocument).
 */
import { Cursor, type MapCursor, type ReadContext } from './cursor.ts'
import {
  documentName,
  isPolicy,
  POLICY_KINDS,
  type Policy,
  type PolicyDocument,
  type PolicySpec,
  type RefusedDocument,
  type RefusedSubject,
} from './model.ts'
import type { ParseOptions } from './options.ts'
import { type Metadata, parseAudit, parseMetadata, refuseAnnotations } from './parse-metadata.ts'
import { parseNetworkPolicy } from './parse-network-policy.ts'
import { REFERENCE_PARSERS } from './parse-references.ts'
import { parseSpec, type RuleContext, SECTIONS } from './parse-rule.ts'
import { type Problem, ProblemList } from './problems.ts'
import { DIRECTIONS, type Direction } from './resolved.ts'
import { parseSource } from './source.ts'

export interface ParsedPolicyFile {
  /** Empty when the file is refused. */
  readonly documents: readonly PolicyDocument[]
  /** Empty when it is accepted. */
  readonly refused: readonly RefusedDocument[]
  readonly problems: readonly Problem[]
}

type Kind = PolicyDocument['kind']
type PolicyKind = Policy['kind']

interface KindOfDocument {
  /** apiVersions that mean it; the first is what hints name. */
  readonly versions: readonly [string, ...string[]]
  /** What one without a namespace is called. */
  readonly clusterwide?: string
}

const KINDS: Readonly<Record<Kind, KindOfDocument>> = {
  CiliumNetworkPolicy: { versions: ['cilium.io/v2'] },
  CiliumClusterwideNetworkPolicy: { versions: ['cilium.io/v2'], clusterwide: 'clusterwide policy' },
  NetworkPolicy: { versions: ['networking.k8s.io/v1'] },
  CiliumCIDRGroup: { versions: ['cilium.io/v2', 'cilium.io/v2alpha1'], clusterwide: 'CiliumCIDRGroup' },
  Service: { versions: ['v1'] },
  EndpointSlice: { versions: ['discovery.k8s.io/v1'] },
  PeerGroup: { versions: ['headgate.io/v1'], clusterwide: 'PeerGroup' },
}
const LIST_KINDS = new Set(['List', ...Object.keys(KINDS).map((kind) => `${kind}List`)])

/** Reads one file. Never throws: whatever is wrong is a problem with its place. */
export function parsePolicyFile(text: string, file: string, options: ParseOptions): ParsedPolicyFile {
  const problems = new ProblemList()
  const source = parseSource(text, file, problems)
  const context: ReadContext = { source, problems }
  const documents: PolicyDocument[] = []
  const refused: RefusedDocument[] = []
  for (const value of source.documents) {
    for (const cursor of itemsOf(new Cursor(context, value, ''))) {
      const { document, known } = parseDocument(cursor, options)
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

function parseDocument(cursor: Cursor, options: ParseOptions): ParsedDocument {
  const nothing: RefusedDocument = { kind: '', namespace: 'default', name: '', at: cursor.position, subjects: [] }
  const map = cursor.map()
  if (map === undefined) return { document: undefined, known: nothing }
  const { written, meant } = parseKind(map)
  const metadata = parseMetadata(map, meant === undefined ? undefined : KINDS[meant].clusterwide)
  const { name, namespace } = metadata
  const known: RefusedDocument = { kind: written, namespace, name, at: map.position, subjects: [] }
  if (meant === undefined) return { document: undefined, known }
  if (!isPolicyKind(meant)) {
    refuseAnnotations(metadata, meant)
    const document = REFERENCE_PARSERS[meant](map, metadata, options)
    map.finish()
    return { document: written === meant ? document : undefined, known }
  }
  const { specs, subjects } = meant === 'NetworkPolicy' ? parseKubernetesSpec(map, namespace) : parseSpecs(map, meant, metadata, options)
  map.getLenient('status')
  // Where some of Cilium's own examples have it.
  map.finish({ description: 'write it inside spec' })
  const document: Policy = { kind: meant, namespace, name, at: map.position, audit: parseAudit(metadata, options.dialect), specs }
  return { document: written === meant ? document : undefined, known: { ...known, subjects } }
}

function isPolicyKind(kind: Kind): kind is PolicyKind {
  return (POLICY_KINDS as readonly string[]).includes(kind)
}

/** @returns what stands there, and what it was likely meant to be, so that all problems are told at once; undefined for what is not ours */
function parseKind(map: MapCursor): { readonly written: string; readonly meant: Kind | undefined } {
  const kindCursor = map.get('kind')
  const versionCursor = map.get('apiVersion')
  const written = kindCursor?.string() ?? ''
  const version = versionCursor?.string() ?? ''
  const isKnown = Object.hasOwn(KINDS, written)
  const meant = isKnown ? (written as Kind) : likelyKind(written, version)
  const example = meant ?? 'CiliumNetworkPolicy'
  if (kindCursor === undefined) map.error('kind is needed', `kind: ${example}`)
  else if (!isKnown && written !== '') kindCursor.error(`not a kind of policy: ${written}`, `kind: ${example}`)
  const { versions } = KINDS[example]
  if (versionCursor === undefined) map.error('apiVersion is needed', `apiVersion: ${versions[0]}`)
  else if (isKnown && version !== '' && !versions.includes(version))
    versionCursor.error(`not a version of ${written}: ${version}`, `apiVersion: ${versions[0]}`)
  return { written, meant }
}

/** What a kind that is missing or misspelt was meant to be, as far as it restricts anybody. */
function likelyKind(written: string, version: string): PolicyKind | undefined {
  if (/^cilium-?cluster-?wide-?network-?pol/i.test(written)) return 'CiliumClusterwideNetworkPolicy'
  if (/^cilium-?network-?pol/i.test(written)) return 'CiliumNetworkPolicy'
  if (/^network-?pol/i.test(written)) return 'NetworkPolicy'
  if (written !== '') return undefined
  return version.startsWith('networking.k8s.io/') ? 'NetworkPolicy' : 'CiliumNetworkPolicy'
}

interface ParsedSpecs {
  readonly specs: readonly PolicySpec[]
  readonly subjects: readonly RefusedSubject[]
}

function parseSpecs(map: MapCursor, kind: PolicyKind, { namespace }: Metadata, options: ParseOptions): ParsedSpecs {
  const bodies = [map.getLenient('spec'), ...(map.getLenient('specs')?.list() ?? [])].filter((body) => body !== undefined)
  if (bodies.length === 0) map.error('spec or specs is needed', 'say whom the policy selects and what it allows')
  const isClusterwide = kind === 'CiliumClusterwideNetworkPolicy'
  const context: RuleContext = {
    subjects: isClusterwide ? { kind: 'cluster-subject' } : { kind: 'subject', namespace },
    peers: isClusterwide ? { kind: 'cluster-peer' } : { kind: 'peer', namespace },
    options,
    problems: map.context.problems,
  }
  const specs: PolicySpec[] = []
  const subjects: RefusedSubject[] = []
  for (const body of bodies) {
    const content = body.map()
    const spec = content && parseSpec(content, context)
    if (content === undefined || spec === undefined) continue
    specs.push(spec)
    // Nodes are no endpoints: there is nobody to put at default deny.
    if (spec.subject.kind === 'endpoints') subjects.push({ selector: spec.subject.selector, directions: directionsOf(content) })
  }
  return { specs, subjects }
}

function parseKubernetesSpec(map: MapCursor, namespace: string): ParsedSpecs {
  const body = map.getLenient('spec')
  if (body === undefined) map.error('spec is needed', 'say whom the policy selects and what it allows')
  const content = body?.map()
  if (content === undefined) return { specs: [], subjects: [] }
  const { spec, directions } = parseNetworkPolicy(content, namespace)
  return { specs: [spec], subjects: [{ selector: spec.subject.selector, directions }] }
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
    const name = documentName(document)
    // Those of one kind, and policies that flows could not tell apart.
    const key = isPolicy(document) ? name : `${document.kind} ${name}`
    const what = isPolicy(document) ? 'two policies' : `two documents of kind ${document.kind}`
    if (seen.has(key)) problems.error(document.at, `${what} of one file have the same name: ${name}`, 'rename one of them')
    seen.add(key)
  }
}
