import test from 'ava'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS } from './world.ts'

/** Every field that means more when it is absent: more peers, more ports, more requests, or less default deny. */
const POLICY = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: web
spec:
  endpointSelector:
    matchLabels:
      app: web
    matchExpressions:
      - key: tier
        operator: In
        values:
          - front
  egress:
    - toEntities:
        - world
  ingress:
    - fromEndpoints:
        - matchLabels:
            app: front
          matchExpressions:
            - key: tier
              operator: Exists
      toPorts:
        - ports:
            - port: "80"
              protocol: TCP
          rules:
            http:
              - method: GET
                path: /public/.*
                host: example[.]com
                headers:
                  - "X-Token: secret"
    - fromEntities:
        - cluster
    - fromCIDR:
        - 192.0.2.1
  ingressDeny:
    - fromCIDRSet:
        - cidr: 10.0.0.0/8
          except:
            - 10.1.0.0/16
`

function isAccepted(text: string): boolean {
  return parsePolicyFile(text, 'p.yaml', LIMITS).documents.length > 0
}

test('a file that is cut off after a colon is refused wherever the colon stands', (t) => {
  t.true(isAccepted(POLICY))
  for (let at = POLICY.indexOf(':'); at >= 0; at = POLICY.indexOf(':', at + 1)) {
    const cut = POLICY.slice(0, at + 1)
    // Inside of a value there is text after the colon on the same line, in quotes.
    if ((cut.slice(cut.lastIndexOf('\n')).match(/"/g) ?? []).length % 2 === 1) continue
    t.false(isAccepted(cut), cut.slice(-60))
    t.false(isAccepted(`${cut}\n`), cut.slice(-60))
  }
})

test('a field without a value is told of, with what to do', (t) => {
  const rules = POLICY.indexOf('          rules:\n') + '          rules:\n'.length
  const text = `${POLICY.slice(0, rules)}${POLICY.slice(POLICY.indexOf('    - fromEntities'))}`
  const errors = parsePolicyFile(text, 'p.yaml', LIMITS).problems.filter(({ severity }) => severity === 'error')
  t.deepEqual(
    errors.map(({ line, path, message, hint }) => ({ line, path, message, hint })),
    [
      {
        line: 28,
        path: 'spec.ingress[0].toPorts[0].rules',
        message: 'has no value',
        hint: 'give it a value, or remove the field',
      },
    ],
  )
})

test('a file that is cut off inside quotes or a key is refused', (t) => {
  for (const cut of ['port: "8', '- "X-To', 'fromEndp', '  ingr', 'method']) {
    const at = POLICY.indexOf(cut)
    t.true(at > 0, cut)
    t.false(isAccepted(POLICY.slice(0, at + cut.length)), cut)
  }
})
