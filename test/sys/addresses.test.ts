import test from 'ava'
import fc from 'fast-check'
import ipaddr from 'ipaddr.js'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'

/** Bytes among which zeros are common, so that there are runs of them. */
const sparse = fc.array(fc.oneof(fc.constant(0), fc.nat(255)), { minLength: 16, maxLength: 16 }).map((bytes) => Uint8Array.from(bytes))
const groups = fc
  .array(fc.constantFrom(0, 0, 1, 0xffff, 0x10), { minLength: 8, maxLength: 8 })
  .map((words) => Uint8Array.from(words.flatMap((word) => [word >> 8, word & 0xff])))
const mapped = fc
  .uint8Array({ minLength: 4, maxLength: 4 })
  .map((bytes) => Uint8Array.from([...new Array<number>(10).fill(0), 255, 255, ...bytes]))

test('the text of an address is what ipaddr.js writes', (t) => {
  fc.assert(
    fc.property(
      fc.oneof(sparse, groups, mapped, fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.uint8Array({ minLength: 16, maxLength: 16 })),
      (bytes) => {
        t.is(bytesToAddress(bytes), ipaddr.process(ipaddr.fromByteArray([...bytes]).toString()).toString())
      },
    ),
    { numRuns: 5000 },
  )
})

test('text becomes bytes and comes back', (t) => {
  for (const text of [
    '0.0.0.0',
    '255.255.255.255',
    '10.1.2.3',
    '::',
    '::1',
    '1::',
    'fe80::1',
    '2001:db8::1:0:0:1',
    '1:0:2:0:3:0:4:0',
    '0:1::',
    '::ffff:0:1.2.3.4',
  ])
    t.deepEqual(addressToBytes(bytesToAddress(addressToBytes(text))), addressToBytes(text), text)
  t.is(bytesToAddress(addressToBytes('::ffff:1.2.3.4')), '1.2.3.4')
})
