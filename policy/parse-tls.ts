/** What a document says of connections: certificates, server names, and listeners of the user's own. */

import type { TlsContext } from '#parsers/tls/rules.ts'
import { isServerNamePattern, normalizeServerName } from '#parsers/tls/server-name.ts'
import type { Cursor, MapCursor } from './cursor.ts'
import type { ListenerRef } from './model.ts'
import { boundedList, boundedString, isClusterwide, type MemberContext, namespaceOf } from './parse-context.ts'

const SERVER_NAMES_MAX = 1000
const PRIORITY_LAST = 100
const ENVOY_CONFIGS = ['CiliumEnvoyConfig', 'CiliumClusterwideEnvoyConfig'] as const

/** `{namespace, name}`; without a namespace it is in the policy's own. */
export function parseSecret(cursor: Cursor, context: MemberContext): TlsContext['secret'] | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const nameCursor = map.get('name')
  const namespaceCursor = map.get('namespace')
  const name = boundedString(nameCursor)
  const namespace = namespaceCursor === undefined ? namespaceOf(context) : boundedString(namespaceCursor)
  map.finish()
  if (nameCursor === undefined) map.error('name is needed', 'name the secret')
  if (namespace === '') map.error('namespace is needed, as the policy has none', 'name the namespace of the secret')
  return name === undefined || namespace === undefined || namespace === '' ? undefined : { namespace, name }
}

export function parseTlsContext(cursor: Cursor, context: MemberContext): TlsContext | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  const secretCursor = map.get('secret')
  const secret = secretCursor && parseSecret(secretCursor, context)
  const trustedCa = boundedString(map.get('trustedCA'))
  const certificate = boundedString(map.get('certificate'))
  const privateKey = boundedString(map.get('privateKey'))
  map.finish()
  if (secretCursor === undefined) map.error('secret is needed', 'write secret: {namespace: …, name: …}')
  if (secret === undefined) return undefined
  return {
    secret,
    ...(trustedCa === undefined ? {} : { trustedCa }),
    ...(certificate === undefined ? {} : { certificate }),
    ...(privateKey === undefined ? {} : { privateKey }),
  }
}

/** @returns undefined for an empty list, which asks for no name */
export function parseServerNames(cursor: Cursor): readonly string[] | undefined {
  const items = boundedList(cursor, 'server names', SERVER_NAMES_MAX)
  if (items === undefined) return undefined
  if (items.length === 0) {
    cursor.warning('an empty list asks for no server name, nor for TLS', 'name them, or remove serverNames')
    return undefined
  }
  return items.flatMap((item) => {
    const name = boundedString(item)
    if (name === undefined) return []
    if (isServerNamePattern(name)) return [normalizeServerName(name)]
    item.error(`not a server name: ${name}`, 'a DNS name, in which * stands for any part of a label, like *.example.com')
    return []
  })
}

export function parseListener(cursor: Cursor, context: MemberContext): ListenerRef | undefined {
  const map = cursor.map()
  if (map === undefined) return undefined
  if (context.direction === 'ingress') map.error('a listener is for egress only', 'remove it, or write the rule for the other side')
  const nameCursor = map.get('name')
  const name = boundedString(nameCursor)
  const priority = map.get('priority')?.integer(1, PRIORITY_LAST) ?? 0
  const configCursor = map.get('envoyConfig')
  const config = configCursor?.map()
  const envoyConfig = config && parseEnvoyConfig(config, context)
  map.finish()
  if (nameCursor === undefined) map.error('name is needed', 'name the listener of the Envoy configuration')
  if (configCursor === undefined) map.error('envoyConfig is needed', 'write envoyConfig: {kind: CiliumEnvoyConfig, name: …}')
  return name === undefined || envoyConfig === undefined ? undefined : { name, envoyConfig, priority }
}

/** Without a kind it is that of the policy's own scope. */
function parseEnvoyConfig(map: MapCursor, context: MemberContext): ListenerRef['envoyConfig'] | undefined {
  const ownKind = isClusterwide(context) ? 'CiliumClusterwideEnvoyConfig' : 'CiliumEnvoyConfig'
  const kindCursor = map.get('kind')
  const kindText = kindCursor === undefined ? ownKind : kindCursor.string()
  const nameCursor = map.get('name')
  const name = boundedString(nameCursor)
  map.finish()
  if (nameCursor === undefined) map.error('name is needed', 'name the Envoy configuration')
  const kind = ENVOY_CONFIGS.find((known) => known === kindText)
  if (kindText !== undefined && kind === undefined)
    kindCursor?.error(`not a kind of Envoy configuration: ${kindText}`, `one of ${ENVOY_CONFIGS.join(', ')}`)
  if (kind === 'CiliumEnvoyConfig' && isClusterwide(context))
    kindCursor?.error('a clusterwide policy cannot use what is in a namespace', 'write kind: CiliumClusterwideEnvoyConfig')
  return kind === undefined || name === undefined ? undefined : { kind, name }
}
