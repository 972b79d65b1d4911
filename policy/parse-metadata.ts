/** `metadata` of a document: what it is called, and what its annotations and labels say. What the API server adds is let through. */
import type { Cursor, MapCursor } from './cursor.ts'
import type { Dialect } from './model.ts'

const NAME = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/
const NAMESPACE = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
const OWN_ANNOTATIONS = 'headgate.io/'
/** What a policy with this annotation would deny is reported, and not denied. */
const AUDIT_ANNOTATION = `${OWN_ANNOTATIONS}audit`

/** What the API server and others write, without meaning here. */
const OTHER_FIELDS = [
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
]

export interface Metadata {
  /** Empty when it could not be read. */
  readonly name: string
  /** Empty for what is clusterwide, and when it could not be read. */
  readonly namespace: string
  readonly labels: Cursor | undefined
  readonly annotations: Cursor | undefined
}

/** @param map the document @param clusterwide what a kind without namespaces is called; undefined for one with */
export function parseMetadata(map: MapCursor, clusterwide: string | undefined): Metadata {
  const isClusterwide = clusterwide !== undefined
  const metadata = map.get('metadata')?.map()
  if (metadata === undefined) {
    map.error('metadata with a name is needed')
    return { name: '', namespace: isClusterwide ? '' : 'default', labels: undefined, annotations: undefined }
  }
  const nameCursor = metadata.get('name')
  const name = nameCursor?.string() ?? ''
  if (nameCursor === undefined) metadata.error('name is needed')
  else if (!NAME.test(name)) nameCursor.error(`not a name: ${name}`, 'lower-case letters, digits, - and .')
  const namespaceCursor = metadata.getLenient('namespace')
  // A namespace that cannot be read is nobody's: the document must not come to mean the default one.
  const namespace = isClusterwide ? '' : namespaceCursor === undefined ? 'default' : (namespaceCursor.string() ?? '')
  if (isClusterwide) namespaceCursor?.error(`a ${clusterwide} has no namespace`, 'leave it out')
  if (namespace !== '' && !NAMESPACE.test(namespace))
    namespaceCursor?.error(`not a namespace: ${namespace}`, 'lower-case letters, digits and -')
  const labels = metadata.getLenient('labels')
  const annotations = metadata.getLenient('annotations')
  for (const field of OTHER_FIELDS) metadata.getLenient(field)
  metadata.finish()
  return { name, namespace, labels, annotations }
}

/** Labels of a document that others select by them, as k8s:key=value, sorted. */
export function parseLabels({ labels }: Metadata): readonly string[] {
  const texts: string[] = []
  for (const [key, value] of labels?.map()?.entries() ?? []) {
    const text = value.string()
    if (text !== undefined) texts.push(`k8s:${key}${text === '' ? '' : `=${text}`}`)
  }
  return texts.sort()
}

/** Whether a policy is in audit. What annotations of Headgate's own say otherwise is reported; those of others have no meaning here. */
export function parseAudit({ annotations }: Metadata, dialect: Dialect): boolean {
  let isInAudit = false
  for (const [key, value] of ownAnnotations(annotations)) {
    if (key !== AUDIT_ANNOTATION) {
      value.warning(`no such annotation: ${key}`, `the one of a policy is ${AUDIT_ANNOTATION}`)
    } else if (dialect === 'cilium') {
      value.warning(`has no effect in the dialect cilium: ${key}`, 'the policy is enforced; policy.audit puts all of them into audit')
    } else {
      const text = value.string()
      if (text !== undefined && text !== 'true' && text !== 'false') value.error(`must be "true" or "false": ${text}`)
      isInAudit = text === 'true'
    }
  }
  return isInAudit
}

/** Annotations of Headgate's own on a document that is no policy: there are none. */
export function refuseAnnotations({ annotations }: Metadata, kind: string): void {
  for (const [key, value] of ownAnnotations(annotations)) value.warning(`has no effect on a ${kind}: ${key}`, 'remove it')
}

function ownAnnotations(annotations: Cursor | undefined): readonly (readonly [string, Cursor])[] {
  // What is wrong with the annotations of others is for others.
  if (annotations?.value.kind !== 'map') return []
  return [...(annotations.map()?.entries() ?? [])].filter(([key]) => key.startsWith(OWN_ANNOTATIONS))
}
