/**
 * The form of a path in which rules judge it: what Envoy makes of it with normalize_path, merge_slashes and UNESCAPE_AND_REDIRECT
 * (proxy/xds/transparency.ts). For oracles and for answers where no Envoy is.
 */

const UNRESERVED = /^[A-Za-z0-9._~-]$/

export type NormalizedPath =
  /** Judged and forwarded in this form. */
  | { readonly kind: 'path'; readonly path: string }
  /** Answered with a redirect to that form, before any rule. */
  | { readonly kind: 'redirect'; readonly path: string }
  /** Answered with 400, before any rule. */
  | { readonly kind: 'refused' }

/** @param target of the request line, with its query string */
export function normalizePath(target: string): NormalizedPath {
  if (target.includes('#') || !target.startsWith('/')) return { kind: 'refused' }
  const question = target.indexOf('?')
  const raw = question < 0 ? target : target.slice(0, question)
  const query = question < 0 ? '' : target.slice(question)
  if (/%00/.test(raw)) return { kind: 'refused' }
  const unescaped = raw.replaceAll(/%2f/gi, '/').replaceAll(/%5c/gi, '\\')
  const path = `${resolveDots(unescaped.replaceAll('\\', '/').replaceAll(/%[0-9a-f]{2}/gi, decodeUnreserved))}${query}`
  return unescaped === raw ? { kind: 'path', path } : { kind: 'redirect', path }
}

function decodeUnreserved(encoded: string): string {
  const character = String.fromCharCode(Number.parseInt(encoded.slice(1), 16))
  return UNRESERVED.test(character) ? character : encoded
}

function resolveDots(path: string): string {
  const kept: string[] = []
  const segments = path.split('/')
  for (const [index, segment] of segments.entries()) {
    const isLast = index === segments.length - 1
    if (segment === '..') {
      kept.pop()
      if (isLast) kept.push('')
    } else if (segment === '.') {
      if (isLast) kept.push('')
    } else if (segment !== '' || isLast) {
      kept.push(segment)
    }
  }
  return `/${kept.join('/')}`
}
