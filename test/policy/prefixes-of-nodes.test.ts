import test from 'ava'
import { addressLabel, apiServerLabels } from '#policy/reserved.ts'
import { Scene } from '#policy/trace/scene.ts'
import { judge } from '#policy/trace/trace.ts'
import { parseTraffic } from '#policy/trace/traffic.ts'
import { parse, policy } from './support.ts'

const ADDRESS = '203.0.113.1'

/** What a policy with this egress makes of a connection to an address that is not quite the world's. */
function verdict(egress: string, labels = apiServerLabels(ADDRESS)): string {
  const { documents } = parse(policy(egress))
  const scene = new Scene({ files: [{ file: 'p.yaml', documents, refused: [] }], nodes: [{ name: '', labels, addresses: [ADDRESS] }] })
  const traffic = { ...parseTraffic('443/TCP', []), request: undefined, serverName: undefined }
  return judge(scene, { from: scene.party('k8s:app=web'), to: scene.party(ADDRESS), traffic })
}

test('an API server outside of the cluster is one, and is of the world and its prefixes all the same', (t) => {
  for (const peers of ['toEntities: [kube-apiserver]', 'toEntities: [world]', 'toCIDR: [203.0.113.0/24]', 'toCIDR: [0.0.0.0/0]'])
    t.is(verdict(`egress: [{${peers}}]`), 'allowed', peers)
  for (const peers of ['toEntities: [host]', 'toEntities: [remote-node]', 'toCIDR: [198.51.100.0/24]'])
    t.is(verdict(`egress: [{${peers}}]`), 'denied', peers)
  t.is(verdict('egress: [{toEntities: [all]}]\negressDeny: [{toEntities: [world]}]'), 'denied')
})

test('prefixes match a node only where they are to, and the world never means one', (t) => {
  const plain = ['reserved:remote-node']
  const matched = [addressLabel(ADDRESS), ...plain]
  for (const prefix of ['203.0.113.0/24', '0.0.0.0/0', '203.0.113.1/32']) {
    t.is(verdict(`egress: [{toCIDR: [${prefix}]}]`, plain), 'denied', prefix)
    t.is(verdict(`egress: [{toCIDR: [${prefix}]}]`, matched), 'allowed', prefix)
  }
  t.is(verdict('egress: [{toCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.1/32]}]}]', matched), 'denied')
  t.is(verdict('egress: [{toEntities: [world]}]', matched), 'denied')
  t.is(verdict('egress: [{toEntities: [remote-node]}]', matched), 'allowed')
  t.is(verdict('egress: [{toEntities: [all]}]\negressDeny: [{toCIDR: [203.0.113.0/24]}]', matched), 'denied')
})
