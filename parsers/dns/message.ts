/**
 * Reading of DNS messages (RFC 1035 4, RFC 6891, RFC 9460) from where they lie. One reader is loaded with one message after the other and
 * makes no objects: load() checks the whole structure, then cursors go over questions, records and addresses, and only a name that is asked
 * for becomes a string. In exchange what it says holds until the next move, and the bytes must stay as they are while it is used.
 *
 * The structure is header, questions, records and the options of EDNS. What is inside of a record is checked when it is asked for, because
 * everything that is not understood here passes through byte for byte.
 */
import { CLASS_IN, DNSSEC_OK, FLAG, HEADER_BYTES, OPCODE_MASK, RCODE_MASK, TYPE, UDP_PAYLOAD_BYTES_MIN } from './codes.ts'
import { checkName, endOfName, firstLabelOf, type NameFault, nameFaultOf, nameText } from './wire-name.ts'

/**
 * Why a message cannot be read, with faultOffset for where:
 * - `noHeader`: shorter than a header. There is no id to answer with; after all others there is
 * - `truncated`: it ends inside of a question or record
 * - `wrongCount`: it ends where a question or record that the header counts should begin
 * - `badLabel`, `badPointer`, `longName`: of a name; pointers may lead only backwards
 * - `badOpt`: OPT a second time, not of the root, or with options that do not fill it
 * - `trailingBytes`: more follows than the header counts. Everything that is counted can be read all the same
 */
export type MessageFault = 'noHeader' | NameFault | 'wrongCount' | 'badOpt' | 'trailingBytes'

export type Section = 'answer' | 'authority' | 'additional'

/** Type and class; type, class, TTL and length of rdata. */
const QUESTION_TAIL_BYTES = 4
const RECORD_TAIL_BYTES = 10

const ADDRESS_BYTES = 16
/** SvcParamKeys (RFC 9460 14.3.2). */
const IPV4_HINT = 4
const IPV6_HINT = 6

/** A reader without a message. Offsets that it takes and gives are from the beginning of the bytes, not of the message. */
export class MessageReader {
  bytes: Uint8Array = new Uint8Array()
  /** Where the message begins. */
  start = 0
  /** Where it ends. */
  end = 0

  fault: MessageFault | undefined = 'noHeader'
  faultOffset = 0

  id = 0
  /** The third and fourth octet of the header; the getters take them apart. */
  flags = 0
  /** Counts of what can be read. */
  questionCount = 0
  answerCount = 0
  authorityCount = 0
  additionalCount = 0
  /** Where the questions end: where they begin, if not all of them can be read. */
  questionsEnd = 0

  /** Of OPT, -1 without one. */
  optOffset = -1
  /** As OPT states it: the requester's largest UDP message; 0 without OPT. */
  #optClass = 0
  #optTtl = 0

  /** The current question or record, in the order of the message. */
  nameOffset = 0
  /** Of the name where it stands, before anything that it points at. */
  nameLength = 0
  type = 0
  class = 0

  /** The current record. */
  section: Section = 'answer'
  ttlSeconds = 0
  rdataOffset = 0
  rdataLength = 0

  #position = 0
  #questionIndex = 0
  #recordIndex = 0
  /** Where the first label of the name stands that was read last: records of one owner share it. */
  #textOffset = -1
  #text = ''
  /** The current address; width 0 before the first one of a record. */
  #addressOffset = 0
  #addressWidth = 0
  /** Where the current hint ends, and the parameter after it begins; -1 before the first one is looked for. */
  #hintEnd = 0
  #parametersOffset = -1

  /**
   * Takes a message.
   * @returns whether all of it can be read. Otherwise fault says why not; the cursors then find the questions if all of these can be read, and
   * records only if the fault is `trailingBytes`
   */
  load(bytes: Uint8Array, offset = 0, length = bytes.length - offset): boolean {
    this.bytes = bytes
    this.start = offset
    this.end = offset + length
    this.fault = undefined
    this.faultOffset = 0
    this.optOffset = -1
    this.#optClass = 0
    this.#optTtl = 0
    this.#textOffset = -1
    this.questionsEnd = offset
    if (length < HEADER_BYTES || offset < 0 || this.end > bytes.length) {
      this.id = 0
      this.flags = 0
      this.questionCount = 0
      this.#clearRecordCounts()
      return this.#fail('noHeader', offset)
    }
    this.id = this.#uint16(offset)
    this.flags = this.#uint16(offset + 2)
    this.questionCount = this.#uint16(offset + 4)
    this.answerCount = this.#uint16(offset + 6)
    this.authorityCount = this.#uint16(offset + 8)
    this.additionalCount = this.#uint16(offset + 10)
    this.questionsEnd = offset + HEADER_BYTES
    if (!this.#checkQuestions()) {
      this.questionCount = 0
      this.#clearRecordCounts()
    } else if (!this.#checkRecords()) this.#clearRecordCounts()
    this.rewind()
    return this.fault === undefined
  }

  /** Whether there is a header, so that the message can be answered at all. */
  get hasHeader(): boolean {
    return this.fault !== 'noHeader'
  }

  get isReply(): boolean {
    return (this.flags & FLAG.QR) !== 0
  }

  get opcode(): number {
    return (this.flags & OPCODE_MASK) >> 11
  }

  get isAuthoritative(): boolean {
    return (this.flags & FLAG.AA) !== 0
  }

  get isTruncated(): boolean {
    return (this.flags & FLAG.TC) !== 0
  }

  get isRecursionDesired(): boolean {
    return (this.flags & FLAG.RD) !== 0
  }

  get isRecursionAvailable(): boolean {
    return (this.flags & FLAG.RA) !== 0
  }

  get isAuthenticData(): boolean {
    return (this.flags & FLAG.AD) !== 0
  }

  get isCheckingDisabled(): boolean {
    return (this.flags & FLAG.CD) !== 0
  }

  /** With the extension of EDNS: 0 to 4095. */
  get rcode(): number {
    return ((this.#optTtl >>> 24) << 4) | (this.flags & RCODE_MASK)
  }

  /** Whether there is an OPT record: the sender speaks EDNS. */
  get hasOpt(): boolean {
    return this.optOffset >= 0
  }

  /** The largest UDP message that the sender takes. */
  get udpPayloadBytesMax(): number {
    return Math.max(UDP_PAYLOAD_BYTES_MIN, this.#optClass)
  }

  get ednsVersion(): number {
    return (this.#optTtl >>> 16) & 0xff
  }

  /** DO: the sender wants the records of DNSSEC. */
  get isDnssecOk(): boolean {
    return (this.#optTtl & DNSSEC_OK) !== 0
  }

  /** Back to before the first question. */
  rewind(): void {
    this.#position = this.start + HEADER_BYTES
    this.#questionIndex = 0
    this.#recordIndex = 0
  }

  /** Goes to the next question: name, type and class. @returns false when there is none; records may follow */
  nextQuestion(): boolean {
    if (this.#questionIndex >= this.questionCount) return false
    this.#questionIndex += 1
    this.#takeName()
    this.#position += QUESTION_TAIL_BYTES
    return true
  }

  /** Goes to the next record of any section, past the questions. @returns false when there is none */
  nextRecord(): boolean {
    const index = this.#recordIndex
    if (index === 0) {
      this.#questionIndex = this.questionCount
      this.#position = this.questionsEnd
    }
    if (index >= this.answerCount + this.authorityCount + this.additionalCount) return false
    this.#recordIndex = index + 1
    if (index < this.answerCount) this.section = 'answer'
    else this.section = index < this.answerCount + this.authorityCount ? 'authority' : 'additional'
    this.#takeName()
    const ttl = this.#uint32(this.#position + 4)
    // A TTL with the highest bit is none (RFC 2181 8).
    this.ttlSeconds = ttl > 0x7fffffff ? 0 : ttl
    this.rdataLength = this.#uint16(this.#position + 8)
    this.rdataOffset = this.#position + RECORD_TAIL_BYTES
    this.#position = this.rdataOffset + this.rdataLength
    this.#addressWidth = 0
    this.#hintEnd = 0
    this.#parametersOffset = -1
    return true
  }

  /** Name of the current question, or owner of the current record, as wire-name.ts writes it. */
  get name(): string {
    return this.#textAt(this.nameOffset)
  }

  /** The name that is all the rdata of the current record, as in CNAME, DNAME, NS and PTR. @returns undefined if it is no such name */
  get targetName(): string | undefined {
    const rdataEnd = this.rdataOffset + this.rdataLength
    if (checkName(this.bytes, this.start, this.rdataOffset, rdataEnd) !== rdataEnd) return undefined
    return this.#textAt(this.rdataOffset)
  }

  /** TargetName of the current HTTPS or SVCB record; `.` for the owner itself. @returns undefined if the rdata is malformed */
  get serviceTargetName(): string | undefined {
    return this.#checkService() < 0 ? undefined : this.#textAt(this.rdataOffset + 2)
  }

  /**
   * Goes to the next address of the current record: that of A or AAAA, the hints of HTTPS or SVCB (RFC 9460 7.3). An alias has none, malformed
   * rdata neither.
   */
  nextAddress(): boolean {
    if (this.class !== CLASS_IN) return false
    switch (this.type) {
      case TYPE.A:
        return this.#takeWholeAddress(4)
      case TYPE.AAAA:
        return this.#takeWholeAddress(ADDRESS_BYTES)
      case TYPE.HTTPS:
      case TYPE.SVCB:
        return this.#takeHint()
      default:
        return false
    }
  }

  /** Copies the current address as 16 bytes, IPv4 as ::ffff:a.b.c.d, the form of the kernel's maps (sys/addresses.ts has the text of it). */
  copyAddress(target: Uint8Array, offset = 0): void {
    let output = offset
    if (this.#addressWidth === 4) {
      target.fill(0, output, output + 10)
      target[output + 10] = 0xff
      target[output + 11] = 0xff
      output += 12
    }
    for (let index = 0; index < this.#addressWidth; index += 1) target[output + index] = this.bytes[this.#addressOffset + index] as number
  }

  #checkQuestions(): boolean {
    let position = this.start + HEADER_BYTES
    // Each turn takes bytes of what remains, so that no count is worth more than the message is long.
    for (let index = 0; index < this.questionCount; index += 1) {
      const nameEnd = this.#checkItem(position, QUESTION_TAIL_BYTES)
      if (nameEnd < 0) return false
      position = nameEnd + QUESTION_TAIL_BYTES
    }
    this.questionsEnd = position
    return true
  }

  /** @returns whether the records can be read, as they also can when bytes trail */
  #checkRecords(): boolean {
    const additionalIndex = this.answerCount + this.authorityCount
    const recordCount = additionalIndex + this.additionalCount
    let position = this.questionsEnd
    for (let index = 0; index < recordCount; index += 1) {
      const nameEnd = this.#checkItem(position, RECORD_TAIL_BYTES)
      if (nameEnd < 0) return false
      const rdataOffset = nameEnd + RECORD_TAIL_BYTES
      const rdataEnd = rdataOffset + this.#uint16(nameEnd + 8)
      if (rdataEnd > this.end) return this.#fail('truncated', position)
      if (index >= additionalIndex && this.#uint16(nameEnd) === TYPE.OPT) {
        if (this.hasOpt || nameEnd !== position + 1 || !this.#hasWholeOptions(rdataOffset, rdataEnd)) return this.#fail('badOpt', position)
        this.optOffset = position
        this.#optClass = this.#uint16(nameEnd + 2)
        this.#optTtl = this.#uint32(nameEnd + 4)
      }
      position = rdataEnd
    }
    if (position !== this.end) this.#fail('trailingBytes', position)
    return true
  }

  /** Checks the name of a question or record, and that what has a fixed size follows it. @returns where the name ends, or -1 */
  #checkItem(position: number, tailLength: number): number {
    const nameEnd = position === this.end ? 0 : checkName(this.bytes, this.start, position, this.end)
    if (nameEnd > 0 && nameEnd + tailLength <= this.end) return nameEnd
    this.#fail(nameEnd === 0 ? 'wrongCount' : nameEnd < 0 ? nameFaultOf(nameEnd) : 'truncated', position)
    return -1
  }

  #hasWholeOptions(offset: number, end: number): boolean {
    let position = offset
    while (position + 4 <= end) position += 4 + this.#uint16(position + 2)
    return position === end
  }

  #fail(fault: MessageFault, offset: number): false {
    this.fault = fault
    this.faultOffset = offset
    return false
  }

  #clearRecordCounts(): void {
    this.answerCount = 0
    this.authorityCount = 0
    this.additionalCount = 0
  }

  #takeName(): void {
    this.nameOffset = this.#position
    this.#position = endOfName(this.bytes, this.#position)
    this.nameLength = this.#position - this.nameOffset
    this.type = this.#uint16(this.#position)
    this.class = this.#uint16(this.#position + 2)
  }

  #textAt(offset: number): string {
    const first = firstLabelOf(this.bytes, this.start, offset)
    if (first !== this.#textOffset) {
      this.#text = nameText(this.bytes, this.start, first)
      this.#textOffset = first
    }
    return this.#text
  }

  #takeWholeAddress(width: number): boolean {
    if (this.#addressWidth !== 0 || this.rdataLength !== width) return false
    this.#addressOffset = this.rdataOffset
    this.#addressWidth = width
    return true
  }

  #takeHint(): boolean {
    const rdataEnd = this.rdataOffset + this.rdataLength
    if (this.#parametersOffset < 0) {
      this.#parametersOffset = this.#checkService()
      // Priority 0 is an alias: its parameters mean nothing (RFC 9460 2.4.2).
      if (this.#parametersOffset < 0 || this.#uint16(this.rdataOffset) === 0) this.#parametersOffset = rdataEnd
    }
    this.#addressOffset += this.#addressWidth
    if (this.#addressOffset < this.#hintEnd) return true
    while (this.#parametersOffset < rdataEnd) {
      const valueOffset = this.#parametersOffset + 4
      const width = hintWidth(this.#uint16(this.#parametersOffset))
      this.#parametersOffset = valueOffset + this.#uint16(valueOffset - 2)
      if (width === 0) continue
      this.#addressWidth = width
      this.#addressOffset = valueOffset
      this.#hintEnd = this.#parametersOffset
      return true
    }
    return false
  }

  /** Checks the rdata of HTTPS or SVCB (RFC 9460 2.2). @returns the offset of the parameters, or -1 */
  #checkService(): number {
    const rdataEnd = this.rdataOffset + this.rdataLength
    if (this.rdataLength < 3) return -1
    const parametersOffset = checkName(this.bytes, this.start, this.rdataOffset + 2, rdataEnd)
    if (parametersOffset < 0) return -1
    let position = parametersOffset
    let lastKey = -1
    while (position + 4 <= rdataEnd) {
      const key = this.#uint16(position)
      const length = this.#uint16(position + 2)
      const width = hintWidth(key)
      if (key <= lastKey || (width !== 0 && (length === 0 || length % width !== 0))) return -1
      lastKey = key
      position += 4 + length
    }
    return position === rdataEnd ? parametersOffset : -1
  }

  #uint16(offset: number): number {
    return ((this.bytes[offset] as number) << 8) | (this.bytes[offset + 1] as number)
  }

  #uint32(offset: number): number {
    return this.#uint16(offset) * 0x10000 + this.#uint16(offset + 2)
  }
}

/** Bytes of an address in the parameter; 0 if it is no hint. */
function hintWidth(key: number): number {
  if (key === IPV4_HINT) return 4
  return key === IPV6_HINT ? ADDRESS_BYTES : 0
}
