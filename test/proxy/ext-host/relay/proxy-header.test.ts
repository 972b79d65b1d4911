import test from 'ava'
import fc from 'fast-check'
import { decodeProxyHeader, PROXY_HEADER_BYTES_MAX, ProxyHeaderError } from '#proxy/ext-host/relay/proxy-header.ts'

const SIGNATURE = '0d0a0d0a000d0a515549540a'
/** Made by hand from the specification: 10.0.0.1:4660 to 10.0.0.2:9092, and a value of type 0xe0. */
const IPV4 = Buffer.from(`${SIGNATURE}2111${'0017'}0a0000010a00000212342384${'e00008'}${Buffer.from('slot-1-2').toString('hex')}`, 'hex')
const IPV6 = Buffer.from(
  `${SIGNATURE}2121${'0024'}${'fd000000000000000000000000000001'}${'fd000000000000000000000000000002'}12342384`,
  'hex',
)

test('a header says who connected to whom, and what else it was given', (t) => {
  const header = decodeProxyHeader(IPV4)
  if (typeof header === 'number') return t.fail()
  t.is(header.length, IPV4.length)
  t.is(Buffer.from(header.source).toString('hex'), '00000000000000000000ffff0a000001')
  t.is(Buffer.from(header.destination).toString('hex'), '00000000000000000000ffff0a000002')
  t.deepEqual([header.sourcePort, header.destinationPort], [0x1234, 9092])
  t.is(header.values.get(0xe0)?.toString(), 'slot-1-2')
  const longer = decodeProxyHeader(Buffer.concat([IPV6, Buffer.from('behind')]))
  if (typeof longer === 'number') return t.fail()
  t.is(longer.length, IPV6.length)
  t.is(Buffer.from(longer.source).toString('hex'), 'fd000000000000000000000000000001')
})

test('every beginning of a header asks for more', (t) => {
  for (const whole of [IPV4, IPV6]) {
    for (let length = 0; length < whole.length; length++) {
      const needed = decodeProxyHeader(whole.subarray(0, length))
      t.true(typeof needed === 'number' && needed > length && needed <= whole.length)
    }
  }
})

test('what is no such header is refused, whatever its bytes', (t) => {
  const changed = (offset: number, ...values: number[]) => {
    const bytes = Buffer.from(IPV4)
    bytes.set(values, offset)
    return bytes
  }
  const refused = [
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    changed(12, 0x11),
    changed(12, 0x20),
    changed(13, 0x12),
    changed(14, 0, 8),
    changed(14, (PROXY_HEADER_BYTES_MAX - 15) >> 8, (PROXY_HEADER_BYTES_MAX - 15) & 0xff),
    changed(29, 0xff, 0xff),
  ]
  for (const bytes of refused) t.throws(() => decodeProxyHeader(bytes), { instanceOf: ProxyHeaderError })
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(IPV4.length - 1), fc.nat(255), (noise, offset, value) => {
      for (const bytes of [Buffer.from(noise), changed(offset, value), Buffer.concat([IPV4.subarray(0, 16), Buffer.from(noise)])]) {
        try {
          decodeProxyHeader(bytes)
        } catch (error) {
          t.true(error instanceof ProxyHeaderError)
        }
      }
    }),
  )
  t.pass()
})
