/** Numbers of the DNS as RFC 1035 and IANA's registry (dns-parameters) have them: those that decide something here, and those that flows should name. */

export const HEADER_BYTES = 12

/** Of a requester without EDNS, and the least that one with EDNS can mean (RFC 6891 6.2.3). */
export const UDP_PAYLOAD_BYTES_MIN = 512

/** Bits of the header's flags (RFC 1035 4.1.1, RFC 4035 3.1.6 and 3.2.2). */
export const FLAG = { QR: 0x8000, AA: 0x0400, TC: 0x0200, RD: 0x0100, RA: 0x0080, AD: 0x0020, CD: 0x0010 } as const
export const OPCODE_MASK = 0x7800
export const RCODE_MASK = 0x000f

/** DO: the bit of OPT's TTL that wants the records of DNSSEC, and that a reply repeats (RFC 3225 3). */
export const DNSSEC_OK = 0x8000

export const TYPE = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  NAPTR: 35,
  DNAME: 39,
  OPT: 41,
  DS: 43,
  RRSIG: 46,
  NSEC: 47,
  DNSKEY: 48,
  NSEC3: 50,
  TLSA: 52,
  SVCB: 64,
  HTTPS: 65,
  TKEY: 249,
  TSIG: 250,
  IXFR: 251,
  AXFR: 252,
  ANY: 255,
  CAA: 257,
} as const

export const CLASS_IN = 1

export const RCODE = {
  NOERROR: 0,
  FORMERR: 1,
  SERVFAIL: 2,
  NXDOMAIN: 3,
  NOTIMP: 4,
  REFUSED: 5,
  YXDOMAIN: 6,
  YXRRSET: 7,
  NXRRSET: 8,
  NOTAUTH: 9,
  NOTZONE: 10,
  BADVERS: 16,
  BADCOOKIE: 23,
} as const

/** An rcode that fits into a header: what we answer with. */
export type AnswerRcode = (typeof RCODE)['NOERROR' | 'FORMERR' | 'SERVFAIL' | 'NXDOMAIN' | 'NOTIMP' | 'REFUSED']

const TYPE_NAMES = namesOf(TYPE)
const RCODE_NAMES = namesOf(RCODE)

/** `AAAA`; of a type without a name here, `TYPE123` (RFC 3597). */
export function typeName(type: number): string {
  return TYPE_NAMES.get(type) ?? `TYPE${type}`
}

/** `NXDOMAIN`; of an rcode without a name here, `RCODE123`. @param rcode with the extension of EDNS */
export function rcodeName(rcode: number): string {
  return RCODE_NAMES.get(rcode) ?? `RCODE${rcode}`
}

function namesOf(codes: Readonly<Record<string, number>>): ReadonlyMap<number, string> {
  return new Map(Object.entries(codes).map(([name, code]) => [code, name]))
}
