/**
 * The form of a path in which rules judge it: what Envoy 1.40 makes of the target of a request with normalize_path, merge_slashes and
 * UNESCAPE_AND_REDIRECT (proxy/xds/transparency.ts), step for step, oddities included: test/parsers/http/normalize.test.ts asks both. Escaped
 * slashes are unescaped first, then dots lose their parameters (`/..;x` is `/..`), then googleurl (url_canon_path.cc) resolves dots and
 * escapes, then slashes are merged; so `/a//../b` is `/a/b`, and `///` is `//`. For oracles and for answers where no Envoy is.
 */

export type NormalizedPath =
  /** Judged and forwarded in this form. `authority`: of a target in absolute form, in place of Host. */
  | { readonly kind: 'path'; readonly path: string; readonly authority?: string }
  /** Answered with a redirect to that form, before any rule; whoever asks for it may be refused then. */
  | { readonly kind: 'redirect'; readonly path: string; readonly authority?: string }
  /** Answered with an error, whatever the rules are. */
  | { readonly kind: 'refused' }

const REFUSED = { kind: 'refused' } as const

/** What neither version can carry, and what HTTP/1.1 cannot. */
const CONTROL = /[\x00-\x20\x7f]/
const NOT_ASCII = /[^\x00-\x7f]/
const DOTS_WITH_PARAMETERS = /\/\.\.?;/
const ABSOLUTE = /^https?:\/\/([^/?]+)(.*)$/is

/** Escaped, these are unescaped; of the others, what is escaped stays as it is. */
const UNRESERVED = /^[A-Za-z0-9._~-]$/
/** Of what can stand in a request, these are escaped where they are not. */
const ESCAPED = /^["<>^`{|}\x80-\xff]$/

/**
 * @param target of the request line, or :path
 * @param version of HTTP; absent: of those that can carry the target. Targets in absolute form are of 1, bytes beyond ASCII of 2
 */
export function normalizePath(target: string, version?: 1 | 2): NormalizedPath {
  if (CONTROL.test(target) || target.includes('#')) return REFUSED
  if (version === 1 && NOT_ASCII.test(target)) return REFUSED
  if (target.startsWith('/')) return normalizeOrigin(target)
  const [, authority, rest = ''] = (version !== 2 && !NOT_ASCII.test(target) && ABSOLUTE.exec(target)) || []
  // Without a slash, a query string is taken for a path, and refused as one.
  if (authority === undefined || rest.startsWith('?')) return REFUSED
  const normalized = normalizeOrigin(rest === '' ? '/' : rest)
  return normalized.kind === 'refused' ? normalized : { ...normalized, authority }
}

function normalizeOrigin(target: string): NormalizedPath {
  const question = target.indexOf('?')
  const [raw, query] = question < 0 ? [target, ''] : [target.slice(0, question), target.slice(question)]
  const unescaped = raw.replaceAll(/%2f/gi, '/').replaceAll(/%5c/gi, '\\')
  // Parameters of dots mean nothing (as servlet containers have it), but only of dots and after slashes that are written openly.
  const canonical = canonicalPath(bytesOf(unescaped.replaceAll(/\/(\.\.?);[^/]*/g, '/$1')))
  if (canonical === undefined) return REFUSED
  const path = mergeSlashes(canonical)
  if (unescaped !== raw) return { kind: 'redirect', path: `${path}${query}` }
  // Dots that were escaped still have their parameters. Servers would resolve what rules have not, so no route leads there.
  return DOTS_WITH_PARAMETERS.test(path) ? REFUSED : { kind: 'path', path: `${path}${query}` }
}

/** One character a byte. */
function bytesOf(text: string): string {
  return NOT_ASCII.test(text) ? Buffer.from(text, 'utf8').toString('latin1') : text
}

/** The path as googleurl has it. @returns undefined for one that is none */
function canonicalPath(path: string): string | undefined {
  let output = ''
  /** Where the output has a % that begins no escape: what is unescaped after it must not make it one. */
  let strayPercent = Number.NEGATIVE_INFINITY
  for (let offset = 0; offset < path.length; ) {
    const character = path[offset] ?? ''
    const dotLength = lengthOfDot(path, offset)
    if (dotLength > 0) {
      const [kind, length] = output.endsWith('/') ? afterDot(path, offset + dotLength) : (['name', 0] as const)
      offset += dotLength + length
      if (kind === 'name') output += '.'
      else if (kind === 'parent') {
        output = output.slice(0, output.lastIndexOf('/', output.length - 2) + 1) || '/'
        if (strayPercent >= output.length) strayPercent = Number.NEGATIVE_INFINITY
      }
      continue
    }
    offset += 1
    if (character === '\\') output += '/'
    else if (character !== '%') output += ESCAPED.test(character) ? escaped(character) : character
    else {
      const digits = path.slice(offset, offset + 2)
      if (!isEscape(digits)) {
        strayPercent = output.length
        output += '%'
        continue
      }
      offset += 2
      const value = String.fromCharCode(Number.parseInt(digits, 16))
      if (value === '\0') return undefined
      if (!UNRESERVED.test(value)) output += `%${digits}`
      else {
        output += value
        if (strayPercent >= output.length - 3) output = withoutNestedEscape(output, strayPercent, path[offset] ?? '')
      }
    }
  }
  return output
}

/** Length of a dot, escaped or not; 0 without one. */
function lengthOfDot(path: string, offset: number): number {
  if (path[offset] === '.') return 1
  return path.slice(offset, offset + 3).toLowerCase() === '%2e' ? 3 : 0
}

/** What a dot at the beginning of a segment is: of its own directory, of the one above, or of a name; and what to skip with it. */
function afterDot(path: string, offset: number): readonly ['own' | 'parent' | 'name', number] {
  if (isEndOfSegment(path, offset)) return ['own', Math.min(1, path.length - offset)]
  const second = lengthOfDot(path, offset)
  if (second === 0 || !isEndOfSegment(path, offset + second)) return ['name', 0]
  return ['parent', second + Math.min(1, path.length - offset - second)]
}

function isEndOfSegment(path: string, offset: number): boolean {
  return offset === path.length || path[offset] === '/' || path[offset] === '\\'
}

function isEscape(digits: string): boolean {
  return /^[0-9a-f]{2}$/i.test(digits)
}

function escaped(character: string): string {
  return `%${character.charCodeAt(0).toString(16).toUpperCase()}`
}

/** `%%32f` must not become `%2f`: the stray percent sign is escaped then. @param next that follows in the input */
function withoutNestedEscape(output: string, strayPercent: number, next: string): string {
  const isShort = strayPercent === output.length - 2
  if (isShort && (next === '' || next >= '\x80')) return output
  const digits = `${output.slice(strayPercent + 1)}${isShort ? next : ''}`
  return isEscape(digits) ? `${output.slice(0, strayPercent)}%25${output.slice(strayPercent + 1)}` : output
}

function mergeSlashes(path: string): string {
  if (!path.includes('//')) return path
  const segments = path.split('/').filter((segment) => segment !== '')
  return `/${segments.join('/')}${path.endsWith('/') ? '/' : ''}`
}
