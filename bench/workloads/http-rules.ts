/** HTTP rules as large policies have them, and requests that meet some of them. */
export interface Rule {
  readonly name: string
  readonly path: string
  readonly method?: string
  readonly host?: string
}
/** What is asked for: every kind of rule, in all sets. */
const ASKED: readonly (Omit<Rule, 'name'> & { readonly asked: string })[] = [
  { path: '/products/list', method: 'GET', asked: '/products/list' },
  { path: '/orders/recent', method: 'GET|HEAD', asked: '/orders/recent' },
  { path: '/health|/ready', asked: '/ready' },
  { path: '/static/assets/.*', method: 'GET', asked: '/static/assets/css/site.css' },
  { path: '/search(\\?.*)?', method: 'GET', asked: '/search?q=shoes' },
  { path: '/users/[0-9]+/profile', method: 'GET', asked: '/users/4711/profile' },
  { path: '/api/v1/carts/.*', method: '[A-Z]+', asked: '/api/v1/carts/17/items' },
  { path: '/images/(small|large)/[a-z0-9]+\\.png', asked: '/images/large/shoe7.png' },
]

export const PATHS = ASKED.map(({ asked }) => asked)
export const DENIED_PATH = '/denied'

const KINDS: readonly ((n: number) => Omit<Rule, 'name'>)[] = [
  (n) => ({ path: `/svc/items/${n}`, method: 'GET' }),
  (n) => ({ path: `/svc/items/${n}/edit`, method: 'POST|PUT' }),
  (n) => ({ path: `/svc/reports/report-${n}`, method: 'GET' }),
  (n) => ({ path: `/files/f${n}/.*`, method: 'GET' }),
  (n) => ({ path: `/tenants/t${n}/.*` }),
  (n) => ({ path: `/teams/${n}/(members|owners|roles)`, method: 'GET' }),
  (n) => ({ path: `/shops/${n}/orders/[0-9]+`, method: 'GET' }),
  (n) => ({ path: `/legacy/l${n}(\\?.*)?`, method: 'GET' }),
  (n) => ({ path: '/partners/.*', host: `partner${n}\\.example(:\\d+)?` }),
  (n) => ({ path: `/jobs/j${n}`, method: 'DELETE' }),
]

/** @param count at least as many as there are paths */
export function mixedRules(count: number): Rule[] {
  const own = ASKED.map(({ asked: _asked, ...rule }) => rule)
  const others = Array.from({ length: count - own.length }, (_, n) => (KINDS[n % KINDS.length] as (n: number) => Omit<Rule, 'name'>)(n))
  // Those that are met stand in the middle.
  const middle = Math.floor(others.length / 2)
  return named([...others.slice(0, middle), ...own, ...others.slice(middle)])
}

/** Expressions that no plain beginning tells apart, as many again as there are paths. */
export function regexRules(count: number): Rule[] {
  // The first letter is a class, so that it is no plain beginning.
  const own = PATHS.map((asked) => ({ path: `/[${asked.charAt(1)}]${asked.slice(2).replaceAll(/[.?]/g, '\\$&')}.*` }))
  const others = Array.from({ length: count - own.length }, (_, n) => ({ path: `/[a-z0-9-]+/(item|thing)${n}/[0-9]{1,6}(/.*)?` }))
  const middle = Math.floor(others.length / 2)
  return named([...others.slice(0, middle), ...own, ...others.slice(middle)])
}

function named(rules: readonly Omit<Rule, 'name'>[]): Rule[] {
  return rules.map((rule, index) => ({ ...rule, name: `shop/policy-${index % 50}/ingress/${index.toString(16).padStart(12, '0')}` }))
}
