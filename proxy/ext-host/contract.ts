/**
 * What Envoy's configuration and the extension host have to agree on, each in this one place: proxy/xds/ writes it into listeners and
 * clusters, the extension host serves it, and the access log reads it back. Nothing here is a setting.
 */

/** Type of the PROXY header's value in which Envoy names the slot of a connection (slotName in proxy/xds/resources.ts); of those for private use. */
export const SLOT_VALUE_TYPE = 0xe0

/** Metadata of a network ext_proc stream in which Envoy names the slot of its connection and who connected to whom. */
export const SLOT_METADATA = 'x-headgate-slot'
export const SOURCE_METADATA = 'x-headgate-source'
export const DESTINATION_METADATA = 'x-headgate-destination'

/** Metadata of the gRPC stream in which Envoy names the ruleset of a request: Slot.ext_host_key. */
export const RULESET_METADATA = 'x-headgate-ruleset'

/** Dynamic metadata of a judged request: `metadata_options.receiving_namespaces.untyped`, and where the access log finds it. */
export const METADATA_NAMESPACE = 'headgate.ext'

/** Fields in that namespace. */
export const METADATA_FIELDS = {
  /** RESULT_ALLOWED or RESULT_DENIED. */
  result: 'result',
  /** Name of the rule that decided; empty when none matched. */
  rule: 'rule',
  /** What was done about headers that were not as wanted, by name; absent when nothing was. */
  headers: 'headers',
} as const

export const RESULT_ALLOWED = 'allowed'
export const RESULT_DENIED = 'denied'

/** Status and response code details of a denial; the listener's local reply configuration puts the configured ones in their place. */
export const DENIED_STATUS = 403
export const DENIED_DETAILS = 'headgate_denied'
