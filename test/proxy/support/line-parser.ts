import { answer, drop, fail, insert, more, type Op, type Ops, type Parser, pass, type StreamDirection } from '#parsers/contract.ts'

/** Lines: `a…` is asked of the other side, `d…` is denied with an answer of its own, `n…` needs no answer, `x` is an error. Each reply is a line. */
export class LineParser implements Parser {
  readonly #isSlow: boolean

  constructor(isSlow = false) {
    this.#isSlow = isSlow
  }

  onData(direction: StreamDirection, bytes: Uint8Array): Ops | Promise<Ops> {
    const ops = this.#ops(direction, bytes)
    return this.#isSlow ? new Promise((resolve) => setImmediate(resolve, ops)) : ops
  }

  #ops(direction: StreamDirection, bytes: Uint8Array): Ops {
    const ops: Op[] = []
    for (let offset = 0; offset < bytes.length; ) {
      const end = bytes.indexOf(10, offset) + 1
      if (end === 0) {
        ops.push(more(bytes.length - offset + 1))
        break
      }
      const length = end - offset
      const kind = String.fromCharCode(bytes[offset] as number)
      if (direction === 'reply') ops.push(pass(length, 'closes'))
      else if (kind === 'a') ops.push(pass(length, 'opens'))
      else if (kind === 'n') ops.push(pass(length))
      else if (kind === 'r') ops.push(drop(length), insert(Buffer.from('a-written\n'), 'opens'))
      else if (kind === 'd') ops.push(drop(length), answer(Buffer.from(`no ${Buffer.from(bytes.subarray(offset, end))}`)))
      else ops.push(fail('no such line'))
      offset = end
    }
    return ops
  }
}
