import test from 'ava'
import { formatFlow } from '#cli/observe.ts'
import type { Flow } from '#flows/flow.ts'

const peer = { port: 80, identity: 1, labels: [] }
const FLOW: Flow = {
  time: '2026-01-02T03:04:05.678Z',
  kind: 'l3l4',
  verdict: 'audit',
  reason: '',
  where: 'kernel',
  direction: 'egress',
  source: { ...peer, address: '10.0.0.1', port: 4000 },
  destination: { ...peer, address: '10.0.0.2' },
  protocol: 'TCP',
  origins: [],
  node: 'n',
}
const START = '03:04:05.678 egress 10.0.0.1:4000 -> 10.0.0.2:80 TCP'

test('an audit verdict says that the flow would be denied', (t) => {
  t.is(formatFlow(FLOW), `${START} audit by kernel (would be denied)`)
  const origins = [{ policy: 'a/b', rule: 'a/b/egress/1' }]
  t.is(formatFlow({ ...FLOW, reason: 'policy_denied', origins }), `${START} audit by kernel (would be denied; policy_denied; policy a/b)`)
})

test('what a parser of a user tells of a request is one safe line', (t) => {
  const parsed = { parser: 'r2d2', fields: { cmd: 'READ', file: 'a\u001b[2J' } }
  t.is(
    formatFlow({ ...FLOW, kind: 'parsed', verdict: 'dropped', parsed }),
    '03:04:05.678 egress 10.0.0.1:4000 -> 10.0.0.2:80 r2d2 cmd=READ file=a\\x1b[2J dropped by kernel',
  )
  const closed = { ...FLOW, kind: 'parsed', verdict: 'error', reason: 'it failed', parsed: { parser: 'r2d2', fields: {} } } as const
  t.is(formatFlow(closed), '03:04:05.678 egress 10.0.0.1:4000 -> 10.0.0.2:80 r2d2 connection error by kernel (it failed)')
})

test('a policy is told once, with its own word for the flow', (t) => {
  const origins = [
    { policy: 'a/b', rule: 'a/b/egress/1', log: 'PCI\n' },
    { policy: 'a/b', rule: 'a/b/egress/2', log: 'PCI\n' },
    { policy: 'c/d', rule: 'c/d/egress/1' },
  ]
  t.is(formatFlow({ ...FLOW, verdict: 'forwarded', origins }), `${START} forwarded by kernel (policy a/b "PCI\\x0a", c/d)`)
})

test('headers that were not as wanted are told, whatever is in their names', (t) => {
  const headers = [
    { name: 'x-token', action: 'REPLACE' },
    { name: 'x-\u001b', action: 'LOG' },
  ] as const
  const http = { method: 'GET', scheme: 'http', authority: 'a', path: '/x', protocol: 'HTTP/1.1', status: 200, durationMs: 1, headers }
  const line = formatFlow({
    ...FLOW,
    kind: 'http',
    verdict: 'forwarded',
    where: 'envoy',
    http,
    origins: [{ policy: 'a/b', rule: 'a/b/egress/1' }],
  })
  t.regex(line, /forwarded by envoy \(headers: x-token REPLACE, x-\\x1b LOG; policy a\/b\)$/)
})
