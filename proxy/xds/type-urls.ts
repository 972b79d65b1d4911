/** The resource types that this server has, and the order in which Envoy has to learn of them. */

export const CLUSTER_TYPE = 'type.googleapis.com/envoy.config.cluster.v3.Cluster'
export const LISTENER_TYPE = 'type.googleapis.com/envoy.config.listener.v3.Listener'
export const EXTENSION_CONFIG_TYPE = 'type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig'

/** What is used before who uses it; removal goes the other way. */
export const TYPES_IN_ORDER = [CLUSTER_TYPE, LISTENER_TYPE, EXTENSION_CONFIG_TYPE] as const
export type TypeUrl = (typeof TYPES_IN_ORDER)[number]

/**
 * Types of which a state-of-the-world response lists everything, so that absence means removal (xDS protocol, "Resource removal").
 * Of the others it may carry a part.
 */
export const FULL_STATE_TYPES: ReadonlySet<TypeUrl> = new Set([CLUSTER_TYPE, LISTENER_TYPE])

export function isTypeUrl(value: string): value is TypeUrl {
  return (TYPES_IN_ORDER as readonly string[]).includes(value)
}
