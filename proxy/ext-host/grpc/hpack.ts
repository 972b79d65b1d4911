/**
 * Reads compressed header blocks of HTTP/2 (RFC 7541), whole: static and dynamic table and Huffman code. What is written needs no
 * compression, so there is no encoder but for literals. A block that is not right leaves the dynamic table in an unknown state: the
 * connection has to end then.
 */

/** Default of SETTINGS_HEADER_TABLE_SIZE, which is not changed. */
const TABLE_BYTES_MAX = 4096
/** What an entry costs besides its text (RFC 7541, 4.1). */
const ENTRY_OVERHEAD_BYTES = 32
/** Of one block, unpacked. */
export const HEADER_BYTES_MAX = 16 * 1024
export const HEADER_COUNT_MAX = 128

export class HpackError extends Error {}

/** Names and values, one after the other. */
export type HeaderList = readonly string[]

/** RFC 7541, appendix A: names and values, the first has index 1. */
const STATIC_TABLE: readonly (readonly [string, string])[] = [
  [':authority', ''],
  [':method', 'GET'],
  [':method', 'POST'],
  [':path', '/'],
  [':path', '/index.html'],
  [':scheme', 'http'],
  [':scheme', 'https'],
  ...['200', '204', '206', '304', '400', '404', '500'].map((status) => [':status', status] as const),
  ['accept-charset', ''],
  ['accept-encoding', 'gzip, deflate'],
  ...(
    'accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control content-disposition ' +
    'content-encoding content-language content-length content-location content-range content-type cookie date etag expect expires from ' +
    'host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards ' +
    'proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security ' +
    'transfer-encoding user-agent vary via www-authenticate'
  )
    .split(' ')
    .map((name) => [name, ''] as const),
]

export class HpackDecoder {
  /** Entries from `#first` on are alive, the newest is the last. */
  #names: string[] = []
  #values: string[] = []
  #first = 0
  #bytes = 0
  #bytesMax = TABLE_BYTES_MAX
  #block: Buffer = Buffer.alloc(0)
  #at = 0

  /** @throws HpackError */
  decode(block: Buffer): HeaderList {
    this.#block = block
    this.#at = 0
    const headers: string[] = []
    let bytes = 0
    while (this.#at < block.length) {
      const first = block[this.#at] ?? 0
      let name: string
      let value: string
      if (first >= 0x80) {
        const index = this.#integer(0x7f)
        name = this.#nameAt(index)
        value = this.#valueAt(index)
      } else if ((first & 0xe0) === 0x20) {
        if (headers.length > 0) throw new HpackError('the table changes its size between headers')
        this.#resize(this.#integer(0x1f))
        continue
      } else {
        const isIndexed = first >= 0x40
        const index = this.#integer(isIndexed ? 0x3f : 0x0f)
        name = index === 0 ? this.#text() : this.#nameAt(index)
        value = this.#text()
        if (isIndexed) this.#add(name, value)
      }
      bytes += name.length + value.length + ENTRY_OVERHEAD_BYTES
      if (bytes > HEADER_BYTES_MAX || headers.length >= HEADER_COUNT_MAX * 2) throw new HpackError('too many headers')
      headers.push(name, value)
    }
    return headers
  }

  #integer(mask: number): number {
    let value = this.#byte() & mask
    if (value < mask) return value
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = this.#byte()
      value += (byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    throw new HpackError('a number is too long')
  }

  #byte(): number {
    if (this.#at >= this.#block.length) throw new HpackError('the block ends inside of a header')
    return this.#block[this.#at++] ?? 0
  }

  #text(): string {
    const isHuffman = (this.#block[this.#at] ?? 0) >= 0x80
    const length = this.#integer(0x7f)
    const end = this.#at + length
    if (end > this.#block.length) throw new HpackError('the block ends inside of a header')
    const text = isHuffman ? decodeHuffman(this.#block, this.#at, end) : this.#block.toString('latin1', this.#at, end)
    this.#at = end
    return text
  }

  #nameAt(index: number): string {
    if (index <= STATIC_TABLE.length) return this.#static(index)[0]
    return this.#names[this.#position(index)] ?? ''
  }

  #valueAt(index: number): string {
    if (index <= STATIC_TABLE.length) return this.#static(index)[1]
    return this.#values[this.#position(index)] ?? ''
  }

  #static(index: number): readonly [string, string] {
    const entry = STATIC_TABLE[index - 1]
    if (entry === undefined) throw new HpackError('no such entry')
    return entry
  }

  #position(index: number): number {
    const position = this.#names.length - (index - STATIC_TABLE.length)
    if (position < this.#first) throw new HpackError('no such entry')
    return position
  }

  #add(name: string, value: string): void {
    this.#names.push(name)
    this.#values.push(value)
    this.#bytes += sizeOf(name, value)
    this.#evict()
  }

  #resize(bytesMax: number): void {
    if (bytesMax > TABLE_BYTES_MAX) throw new HpackError('the table is larger than agreed')
    this.#bytesMax = bytesMax
    this.#evict()
  }

  #evict(): void {
    for (; this.#bytes > this.#bytesMax; this.#first++)
      this.#bytes -= sizeOf(this.#names[this.#first] ?? '', this.#values[this.#first] ?? '')
    if (this.#first < this.#names.length - this.#first) return
    // More are dead than alive.
    this.#names = this.#names.slice(this.#first)
    this.#values = this.#values.slice(this.#first)
    this.#first = 0
  }
}

function sizeOf(name: string, value: string): number {
  return name.length + value.length + ENTRY_OVERHEAD_BYTES
}

/** A header that enters no table, without Huffman code. */
export function encodeLiteral(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0]), encodeText(name), encodeText(value)])
}

function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1')
  if (bytes.length < 0x7f) return Buffer.concat([Buffer.from([bytes.length]), bytes])
  const length = [0x7f]
  let rest = bytes.length - 0x7f
  for (; rest >= 0x80; rest >>>= 7) length.push((rest & 0x7f) | 0x80)
  return Buffer.concat([Buffer.from([...length, rest]), bytes])
}

/**
 * RFC 7541, appendix B: how many bits the code of each byte has, and that of the end, A for 5. Codes of one length are in the order of
 * their bytes, shorter ones before longer ones, which says the rest.
 */
const CODE_LENGTHS =
  'ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIX' +
  'PRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWV' +
  'Z'
const SHORTEST_CODE_BITS = 5
const END_OF_TEXT = 256

/** Two cells a node: what follows on 0 and on 1, a node when positive, a byte (-1 - byte) when negative. */
const codeTree = makeCodeTree()

function makeCodeTree(): Int16Array {
  const tree = new Int16Array(2 * 256)
  let nodeCount = 1
  let code = 0
  let lengthBefore = SHORTEST_CODE_BITS
  const lengths = Array.from(CODE_LENGTHS, (letter, byte) => ({ byte, length: letter.charCodeAt(0) - 0x41 + SHORTEST_CODE_BITS }))
  for (const { byte, length } of lengths.sort((a, b) => a.length - b.length || a.byte - b.byte)) {
    code <<= length - lengthBefore
    lengthBefore = length
    let node = 0
    for (let bit = length - 1; bit > 0; bit--) {
      const cell = node * 2 + ((code >>> bit) & 1)
      tree[cell] ||= nodeCount++
      node = tree[cell] ?? 0
    }
    tree[node * 2 + (code & 1)] = -1 - byte
    code += 1
  }
  return tree
}

function decodeHuffman(block: Buffer, start: number, end: number): string {
  const bytes: number[] = []
  let node = 0
  let bitsSinceByte = 0
  let isPadding = true
  for (let at = start; at < end; at++) {
    const byte = block[at] ?? 0
    for (let bit = 7; bit >= 0; bit--) {
      const value = (byte >>> bit) & 1
      const next = codeTree[node * 2 + value] ?? 0
      bitsSinceByte += 1
      isPadding &&= value === 1
      if (next >= 0) {
        node = next
        continue
      }
      if (next === -1 - END_OF_TEXT) throw new HpackError('text has an end before its end')
      bytes.push(-1 - next)
      node = 0
      bitsSinceByte = 0
      isPadding = true
    }
  }
  if (bitsSinceByte > 7 || !isPadding) throw new HpackError('text ends inside of a character')
  return String.fromCharCode(...bytes)
}
