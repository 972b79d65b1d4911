/** What policy says about TLS: which names, and which certificates. */

/** Material of one side of an intercepted connection, from a secret. */
export interface TlsContext {
  readonly secret: { readonly namespace: string; readonly name: string }
  /** Keys inside the secret; absent: ca.crt, tls.crt, tls.key, as far as the secret has them. */
  readonly trustedCa?: string
  readonly certificate?: string
  readonly privateKey?: string
}
