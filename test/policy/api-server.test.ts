import test from 'ava'
import { apiServerLabels } from '#policy/reserved.ts'
import { Scene } from '#policy/trace/scene.ts'
import { judge } from '#policy/trace/trace.ts'
import { parseTraffic } from '#policy/trace/traffic.ts'
import { parse, policy } from './support.ts'

/** What a policy with this egress makes of a connection to an API server that is no node. */
function verdict(egress: string): string {
  const { documents } = parse(policy(egress))
  const address = '203.0.113.1'
  const scene = new Scene({
    files: [{ file: 'p.yaml', documents, refused: [] }],
    nodes: [{ name: '', labels: apiServerLabels(address), addresses: [address] }],
  })
  const traffic = { ...parseTraffic('443/TCP', []), request: undefined, serverName: undefined }
  return judge(scene, { from: scene.party('k8s:app=web'), to: scene.party(address), traffic })
}

test('an API server outside of the cluster is one, and is of the world and its prefixes all the same', (t) => {
  for (const peers of ['toEntities: [kube-apiserver]', 'toEntities: [world]', 'toCIDR: [203.0.113.0/24]', 'toCIDR: [0.0.0.0/0]'])
    t.is(verdict(`egress: [{${peers}}]`), 'allowed', peers)
  for (const peers of ['toEntities: [host]', 'toEntities: [remote-node]', 'toCIDR: [198.51.100.0/24]'])
    t.is(verdict(`egress: [{${peers}}]`), 'denied', peers)
  t.is(verdict('egress: [{toEntities: [all]}]\negressDeny: [{toEntities: [world]}]'), 'denied')
})
