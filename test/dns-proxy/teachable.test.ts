import test from 'ava'
import fc from 'fast-check'
import ipaddr from 'ipaddr.js'
import { Teachable } from '#dns-proxy/teachable.ts'
import { addressKey, addressToBytes, bytesToAddress } from '#sys/addresses.ts'

const ipv4 = fc.ipV4()
const address = fc.oneof(
  ipv4,
  // Where ranges begin and end.
  fc
    .tuple(fc.constantFrom(0, 10, 100, 127, 169, 172, 192, 223, 224, 239, 240, 255), fc.nat(255), fc.nat(255), fc.nat(255))
    .map((bytes) => bytes.join('.')),
  fc.ipV6().filter((text) => ipaddr.isValid(text)),
  fc
    .tuple(fc.constantFrom('fe80', 'febf', 'fec0', 'ff02', 'fc00', '2002', '64:ff9b', '2001:db8'), fc.nat(0xffff))
    .map(([head, tail]) => `${head}::${tail.toString(16)}`),
)

/** Ranges of ipaddr.js that mean nothing beyond a machine or a link, or embed an address of IPv4. */
const NEVER_RANGES = new Set(['unspecified', 'loopback', 'linkLocal', 'multicast', 'broadcast', 'reserved', 'rfc6052', '6to4'])

test('addresses of this machine, of links, groups and reserved ranges are not taught, and all others are', (t) => {
  const teachable = new Teachable(new Set<number | string>())
  fc.assert(
    fc.property(address, (text) => {
      const parsed = ipaddr.process(text)
      const range = parsed.range()
      const reason = teachable.reasonAgainst(addressToBytes(text))
      if (NEVER_RANGES.has(range)) {
        // ipaddr.js calls documentation and benchmarking reserved, too: addresses like others, which nothing in here has.
        if (range === 'reserved' && !/^(24\d|25\d|0)\./.test(parsed.toString())) return true
        return reason !== ''
      }
      return reason === '' || text === '100.100.100.200' || !(parsed instanceof ipaddr.IPv4)
    }),
    { numRuns: 5000 },
  )
  for (const text of ['93.184.216.34', '10.0.0.1', '192.168.1.1', '172.16.0.9', '100.64.0.1', '2a00:1450::1', 'fd12::1', '2606:4700::1111'])
    t.is(teachable.reasonAgainst(addressToBytes(text)), '', text)
  for (const text of [
    '0.0.0.0',
    '127.0.0.53',
    '169.254.169.254',
    '100.100.100.200',
    'fd00:ec2::254',
    '224.0.0.1',
    '255.255.255.255',
    '::',
    '::1',
    'fe80::1',
    'ff02::1',
    '64:ff9b::7f00:1',
    '2002:7f00:1::',
  ])
    t.not(teachable.reasonAgainst(addressToBytes(text)), '', text)
})

test('addresses of endpoints, nodes and services are theirs', (t) => {
  const teachable = new Teachable(new Set([addressKey(addressToBytes('10.0.0.5'))]))
  teachable.setClaimed(['10.96.0.0/12', '192.0.2.1', 'fd00:1::/64'])
  t.is(teachable.reasonAgainst(addressToBytes('10.0.0.5')), 'an endpoint has it')
  for (const text of ['10.96.0.0', '10.111.255.255', '192.0.2.1', 'fd00:1::9'])
    t.is(teachable.reasonAgainst(addressToBytes(text)), 'a node or a service has it', text)
  for (const text of ['10.95.255.255', '10.112.0.0', '192.0.2.2', 'fd00:2::9'])
    t.is(teachable.reasonAgainst(addressToBytes(text)), '', text)
  teachable.setClaimed([])
  t.is(teachable.reasonAgainst(addressToBytes('10.96.0.1')), '')
})

test('a prefix covers what ipaddr.js says it covers', (t) => {
  fc.assert(
    fc.property(ipv4, fc.integer({ min: 0, max: 31 }), ipv4, fc.nat(0xff), (network, bits, other, low) => {
      const teachable = new Teachable(new Set<number | string>())
      teachable.setClaimed([`${network}/${bits}`])
      const near = addressToBytes(network)
      near[15] = low
      for (const bytes of [addressToBytes(other), near]) {
        const isCovered = (ipaddr.process(bytesToAddress(bytes)) as ipaddr.IPv4).match(ipaddr.IPv4.parse(network), bits)
        if ((teachable.reasonAgainst(bytes) === 'a node or a service has it') !== isCovered) return false
      }
      return true
    }),
  )
  t.pass()
})

test('different addresses have different keys', (t) => {
  fc.assert(
    fc.property(address, address, (one, other) => {
      const [first, second] = [addressToBytes(one), addressToBytes(other)]
      return (addressKey(first) === addressKey(second)) === (Buffer.compare(first, second) === 0)
    }),
  )
  t.pass()
})
