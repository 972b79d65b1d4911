import test from 'ava'
import { httpRules, type ResolvedGroup } from '#policy/resolved.ts'
import { policy, Resolved } from './support.ts'

const GET = '- toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: /a.*}]}}]'
const PUT = '- toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: PUT}]}}]'

function httpNames({ classes }: ResolvedGroup): string[] {
  return [...classes.values()].flatMap(({ ruleset }) => httpRules(ruleset.allow).map(({ name, rule }) => `${rule.method} ${name}`)).sort()
}

function origins({ rows }: ResolvedGroup): string[] {
  return [...new Set([...rows.values()].flatMap((row) => row.origins))].sort()
}

const before = new Resolved(policy(`ingress:\n${GET}`)).group
const [get = ''] = httpNames(before)
const [origin = ''] = origins(before)

test('a rule’s name says policy and direction', (t) => {
  t.regex(get, /^GET default\/p\/ingress\/[0-9a-f]{12}$/)
  t.regex(origin, /^default\/p\/ingress\/[0-9a-f]{12}-0$/)
})

test('names stay when other rules are added or come in another order', (t) => {
  for (const rules of [`${GET}\n${PUT}`, `${PUT}\n${GET}`, `${GET}\n${GET.replace('"80"', '"81"')}\n${PUT}`]) {
    const { group } = new Resolved(policy(`ingress:\n${rules}`))
    t.true(httpNames(group).includes(get))
    t.true(origins(group).includes(origin))
  }
  t.deepEqual(
    httpNames(new Resolved(policy(`ingress:\n${GET}\n${PUT}`)).group),
    httpNames(new Resolved(policy(`ingress:\n${PUT}\n${GET}`)).group),
  )
})

test('names stay when the file has another name, and with other descriptions, labels and comments', (t) => {
  const other = new Resolved(policy('egress: [{}]', { name: 'first' }), policy(`# new\ndescription: new\nlabels: [a=b]\ningress:\n${GET}`))
    .group
  t.deepEqual(httpNames(other), [get])
  t.true(origins(other).includes(origin))
})

test('rules that say the same of other subjects have other names, also in one document', (t) => {
  const spec = (selector: string) => `  - endpointSelector: ${selector}\n    ingress:\n    ${GET}\n`
  const text = `${policy('ingress: [{}]').split('spec:')[0]}specs:\n${spec('{matchLabels: {app: web}}')}${spec('{}')}`
  const { group } = new Resolved(text)
  t.is(origins(group).length, 2)
  t.true(origins(group).includes(origin))
  t.deepEqual(httpNames(group), [get])
})

test('rules that are equal in everything are told apart by an ordinal', (t) => {
  t.deepEqual(origins(new Resolved(policy(`ingress:\n${GET}\n${GET}`)).group), [origin, origin.replace(/0$/, '1')])
})

test('a rule that says something else has another name', (t) => {
  const variants = [GET.replace('GET', 'HEAD'), GET.replace('/a.*', '/b.*'), GET.replace('path: /a.*', 'path: /a.*, headers: [X-A]')]
  const names = variants.flatMap((rule) => httpNames(new Resolved(policy(`ingress:\n${rule}`)).group))
  t.is(new Set([get, ...names].map((name) => name.split(' ')[1])).size, 4)
})
