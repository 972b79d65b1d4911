/**
 * Replies that are made here. All of them are a header, the questions as they were asked, byte for byte, and OPT if the message that they are
 * made from has one: nothing else could be signed, compressed or counted wrongly, and clients that vary the case of names (0x20) know theirs.
 */
import { type AnswerRcode, DNSSEC_OK, FLAG, HEADER_BYTES, OPCODE_MASK, RCODE, RCODE_MASK, TYPE } from './codes.ts'
import type { MessageReader } from './message.ts'

/** Of an OPT record without options. */
const OPT_BYTES = 11
/** Where class and TTL are in it. */
const OPT_CLASS_OFFSET = 3
const OPT_TTL_OFFSET = 5

/**
 * Answers a query in place of the server: with an error, or with NOERROR for a name that has no such record (NODATA). Recursion is called
 * available, because glibc takes an empty answer without that for a referral, and asks the next server.
 * @param query loaded, readable or not; without readable questions the answer has none
 * @param udpPayloadBytesMax the largest UDP message that we take, for OPT
 * @returns undefined for what must not be answered: a message without a header, and a reply
 */
export function errorAnswer(query: MessageReader, rcode: AnswerRcode, udpPayloadBytesMax: number): Buffer | undefined {
  if (!query.hasHeader || query.isReply) return undefined
  const flags = FLAG.QR | FLAG.RA | (query.flags & (OPCODE_MASK | FLAG.RD | FLAG.CD)) | rcode
  return encodeEmpty(query, flags, udpPayloadBytesMax, query.isDnssecOk ? DNSSEC_OK : 0)
}

/**
 * A reply without its records, for a client that must not use them (addresses of IPv6, where it has none): NODATA, with AD cleared, as nothing
 * is signed any more. A reply with an error has no records to take away and should be passed on as it is.
 * @param reply loaded and readable
 */
export function noDataReply(reply: MessageReader): Buffer {
  return encodeEmpty(reply, (reply.flags & ~(FLAG.TC | FLAG.AD | RCODE_MASK)) | RCODE.NOERROR, ...optOf(reply, 0x00ffffff))
}

/**
 * What of a reply may be sent over UDP: all of it, or its questions with TC, so that the client asks again over TCP.
 * @param reply loaded and readable @param udpPayloadBytesMax of the client @returns a view of the reply's bytes if all of it fits
 */
export function truncatedReply(reply: MessageReader, udpPayloadBytesMax: number): Uint8Array {
  if (reply.end - reply.start <= udpPayloadBytesMax) return reply.bytes.subarray(reply.start, reply.end)
  return encodeEmpty(reply, reply.flags | FLAG.TC, ...optOf(reply, 0xffffffff))
}

/** Gives a message another id, in place. @param offset of the message */
export function writeId(bytes: Uint8Array, id: number, offset = 0): void {
  bytes[offset] = id >> 8
  bytes[offset + 1] = id
}

/**
 * Makes a query that goes out say that no longer messages can be taken over UDP than these, in place; one that says less stays as it is.
 * @param query loaded and readable
 */
export function lowerUdpPayloadBytes(query: MessageReader, udpPayloadBytesMax: number): void {
  if (!query.hasOpt || query.udpPayloadBytesMax <= udpPayloadBytesMax) return
  query.bytes[query.optOffset + OPT_CLASS_OFFSET] = udpPayloadBytesMax >> 8
  query.bytes[query.optOffset + OPT_CLASS_OFFSET + 1] = udpPayloadBytesMax
}

/** Class and TTL of the reply's own OPT. @param ttlMask the bits of the TTL to keep */
function optOf(reply: MessageReader, ttlMask: number): readonly [optClass: number, optTtl: number] {
  if (!reply.hasOpt) return [0, 0]
  const view = new DataView(reply.bytes.buffer, reply.bytes.byteOffset + reply.optOffset, OPT_BYTES)
  return [view.getUint16(OPT_CLASS_OFFSET), view.getUint32(OPT_TTL_OFFSET) & ttlMask]
}

/** Header, questions, and OPT if the message has one. */
function encodeEmpty(message: MessageReader, flags: number, optClass: number, optTtl: number): Buffer {
  const questionsLength = message.questionsEnd - message.start - HEADER_BYTES
  const output = Buffer.allocUnsafe(HEADER_BYTES + questionsLength + (message.hasOpt ? OPT_BYTES : 0))
  output.writeUInt16BE(message.id, 0)
  output.writeUInt16BE(flags, 2)
  output.writeUInt16BE(message.questionCount, 4)
  output.writeUInt16BE(0, 6)
  output.writeUInt16BE(0, 8)
  output.writeUInt16BE(message.hasOpt ? 1 : 0, 10)
  output.set(message.bytes.subarray(message.start + HEADER_BYTES, message.questionsEnd), HEADER_BYTES)
  if (message.hasOpt) {
    const optOffset = output.length - OPT_BYTES
    output[optOffset] = 0
    output.writeUInt16BE(TYPE.OPT, optOffset + 1)
    output.writeUInt16BE(optClass, optOffset + OPT_CLASS_OFFSET)
    output.writeUInt32BE(optTtl >>> 0, optOffset + OPT_TTL_OFFSET)
    output.writeUInt16BE(0, optOffset + 9)
  }
  return output
}
