/**
 * Judges requests by a whole ruleset where Envoy cannot: it knows secrets, and does to headers what rules ask for. No I/O; whoever
 * calls it looks secrets up and carries the edits out.
 *
 * A request is denied or allowed as it came. Then every allow rule that holds has its say about the headers, in the order of the rules'
 * names, each on what those before it have left (Cilium evaluates all rules too, so that every side effect happens). A rule whose
 * conditions do not hold changes nothing.
 */
import { hash, timingSafeEqual } from 'node:crypto'
import { joinedValue, type Purpose, partsOfLength } from './header-values.ts'
import { type HttpRequest, headerValue, meetsHeader, TargetIndex, TUNNEL_METHOD } from './match.ts'
import type { HeaderMatch, HttpRule, MismatchAction } from './rules.ts'

export interface NamedHttpRule extends HttpRule {
  readonly name: string
}

export interface JudgedRules {
  /** What no rule denies is allowed, whatever the allow rules say. */
  readonly allowAll: boolean
  readonly allow: readonly NamedHttpRule[]
  readonly deny: readonly NamedHttpRule[]
}

/** What a secret holds; undefined where there is none that can be used. */
export type SecretLookup = (namespace: string, name: string) => string | undefined

/** What is to be done to a request's header. Of each header there is one `set` or `remove` at most, and it comes before its `add`s. */
export type HeaderEdit =
  | { readonly kind: 'set' | 'add'; readonly name: string; readonly value: string }
  | { readonly kind: 'remove'; readonly name: string }

/** A header that was not as a rule wants it, and what that rule asks for then. */
export interface HeaderNote {
  readonly name: string
  readonly action: MismatchAction
}

export interface Judgement {
  readonly allowed: boolean
  /** Name of the rule that decided, the first that matches; empty when none did, or everything is allowed. */
  readonly rule: string
  readonly edits: readonly HeaderEdit[]
  /** One a header: the last change, or LOG where none was asked for. */
  readonly notes: readonly HeaderNote[]
}

const NOTHING: readonly never[] = []

export class HttpJudge {
  readonly #allowAll: boolean
  readonly #allow: TargetIndex<NamedHttpRule>
  readonly #deny: TargetIndex<NamedHttpRule>
  readonly #conditions = new Map<NamedHttpRule, readonly Condition[]>()
  readonly #changesNothing: boolean

  /** @throws RE2JSException for a pattern that is none */
  constructor({ allowAll, allow, deny }: JudgedRules, secretOf: SecretLookup) {
    this.#allowAll = allowAll
    this.#allow = new TargetIndex(sorted(allow), 'allow')
    this.#deny = new TargetIndex(sorted(deny), 'deny')
    const compile = (rule: NamedHttpRule, purpose: Purpose): void => {
      this.#conditions.set(
        rule,
        (rule.headerMatches ?? []).map((match) => new Condition(match, purpose, secretOf)),
      )
    }
    for (const rule of allow) compile(rule, 'allow')
    for (const rule of deny) compile(rule, 'deny')
    this.#changesNothing = !allow.some((rule) => this.#hasActions(rule))
  }

  judge(request: HttpRequest): Judgement {
    for (const index of this.#deny.matching(request)) {
      const rule = this.#deny.rules[index]
      if (rule !== undefined && this.#holds(rule, request, 'deny')) return refused(rule.name)
    }
    let first: string | undefined
    let changes: Changes | undefined
    // In a tunnel nobody would look for what is denied: who allows everything does not mean it.
    const isUnseen = request.method === TUNNEL_METHOD && this.#deny.rules.length > 0
    for (const index of this.#allow.matching(request)) {
      const rule = this.#allow.rules[index]
      if (rule === undefined || (isUnseen && rule.method === undefined)) continue
      if (first === undefined && this.#holds(rule, request, 'allow')) first = rule.name
      if (first !== undefined && this.#changesNothing) break
      // Nothing was changed before the first rule that holds, so nobody is allowed for what a rule has written.
      if (this.#hasActions(rule) && this.#holds(rule, changes?.request ?? request, 'allow')) {
        changes ??= new Changes(request)
        for (const condition of this.#conditions.get(rule) ?? NOTHING) condition.act(changes)
      }
    }
    if (first === undefined && (isUnseen || !this.#allowAll)) return refused('')
    const rule = this.#allowAll ? '' : (first ?? '')
    if (changes === undefined) return { allowed: true, rule, edits: NOTHING, notes: NOTHING }
    return { allowed: true, rule, edits: changes.edits(), notes: changes.notes() }
  }

  #hasActions(rule: NamedHttpRule): boolean {
    return this.#conditions.get(rule)?.some(({ action }) => action !== undefined) ?? false
  }

  #holds(rule: NamedHttpRule, request: HttpRequest, purpose: Purpose): boolean {
    for (const header of rule.headers) if (!meetsHeader(header, headerValue(request, header.name), purpose)) return false
    for (const condition of this.#conditions.get(rule) ?? NOTHING) if (!condition.holds(request)) return false
    return true
  }
}

function sorted(rules: readonly NamedHttpRule[]): NamedHttpRule[] {
  return [...rules].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
}

function refused(rule: string): Judgement {
  return { allowed: false, rule, edits: NOTHING, notes: NOTHING }
}

/** A HeaderMatch of one rule, with what its secret holds now. */
class Condition {
  readonly action: MismatchAction | undefined
  readonly #match: HeaderMatch
  readonly #purpose: Purpose
  readonly #secretOf: SecretLookup
  #known: { readonly value: string; readonly digest: Buffer } | undefined

  constructor(match: HeaderMatch, purpose: Purpose, secretOf: SecretLookup) {
    this.action = match.mismatch
    this.#match = match
    this.#purpose = purpose
    this.#secretOf = secretOf
  }

  /** Whether the rule may hold, by itself or for its action. */
  holds(request: HttpRequest): boolean {
    // Cilium lets nobody in for a secret that is not there, whatever the action. A deny is for everybody then: doubt is on its side.
    if (this.#isUnknowable()) return this.#purpose === 'deny'
    return this.action !== undefined || this.#matches(headerValue(request, this.#match.name))
  }

  /** What the action asks for, where the header is not as wanted. */
  act(changes: Changes): void {
    if (this.action === undefined || this.#matches(headerValue(changes.request, this.#match.name))) return
    changes.apply(this.#match.name, this.action, this.#wanted())
  }

  #secret(): string | undefined {
    const { secret } = this.#match
    return secret && this.#secretOf(secret.namespace, secret.name)
  }

  #wanted(): string | undefined {
    return this.#secret() ?? this.#match.value
  }

  #isUnknowable(): boolean {
    return this.#match.secret !== undefined && this.#wanted() === undefined
  }

  #matches(value: string | undefined): boolean {
    const { name } = this.#match
    const secret = this.#secret()
    const wanted = secret ?? this.#match.value
    if (wanted === undefined) return value !== undefined
    if (secret === undefined) return meetsHeader({ name, value: wanted }, value, this.#purpose)
    return value !== undefined && this.#isSecret(value, secret)
  }

  /** In a time that does not tell how much of it was right. */
  #isSecret(value: string, secret: string): boolean {
    if (this.#known?.value !== secret) this.#known = { value: secret, digest: digestOf(secret) }
    const { digest } = this.#known
    if (timingSafeEqual(digestOf(value), digest)) return true
    if (this.#purpose === 'allow') return false
    let found = false
    for (const part of partsOfLength(value, secret.length, secret.split(',').length - 1))
      if (timingSafeEqual(digestOf(part), digest)) found = true
    return found
  }
}

function digestOf(value: string): Buffer {
  return hash('sha256', value, 'buffer')
}

/** The headers of a request as actions leave them. */
class Changes {
  readonly request: Omit<HttpRequest, 'authority'> & { authority: string }
  readonly #headers: Map<string, readonly string[]>
  readonly #edited = new Map<string, { base: 'kept' | 'set' | 'removed'; added: string[] }>()
  readonly #notes = new Map<string, MismatchAction>()

  constructor(request: HttpRequest) {
    this.#headers = new Map(request.headers)
    this.request = { method: request.method, path: request.path, authority: request.authority, headers: this.#headers }
  }

  /** @param wanted undefined for a test of presence, which has nothing to write */
  apply(name: string, action: MismatchAction, wanted: string | undefined): void {
    const noted = this.#notes.get(name)
    if (noted === undefined || noted === 'LOG' || action !== 'LOG') this.#notes.set(name, action)
    const present = this.#headers.get(name)
    if (action === 'DELETE') {
      if (joinedValue(present) === undefined) return
      this.#headers.delete(name)
      this.#edited.set(name, { base: 'removed', added: [] })
      return
    }
    if (action === 'LOG' || wanted === undefined) return
    if (action === 'REPLACE') {
      // Another name for the authority; the rules for this request stay those that its own host has.
      if (name === 'host') this.request.authority = wanted
      this.#headers.set(name, [wanted])
      this.#edited.set(name, { base: 'set', added: [wanted] })
      return
    }
    this.#headers.set(name, [...(present ?? []), wanted])
    const edited = this.#edited.get(name)
    if (edited === undefined) this.#edited.set(name, { base: 'kept', added: [wanted] })
    else {
      edited.added.push(wanted)
      // To remove a header and add one is to set it: who carries this out may do the one before the other.
      if (edited.base === 'removed') edited.base = 'set'
    }
  }

  edits(): HeaderEdit[] {
    const edits: HeaderEdit[] = []
    for (const [name, { base, added }] of this.#edited) {
      if (base === 'removed') edits.push({ kind: 'remove', name })
      for (const [index, value] of added.entries()) edits.push({ kind: base === 'set' && index === 0 ? 'set' : 'add', name, value })
    }
    return edits
  }

  notes(): HeaderNote[] {
    return Array.from(this.#notes, ([name, action]) => ({ name, action }))
  }
}
