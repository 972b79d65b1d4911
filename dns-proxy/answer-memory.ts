/**
 * What answers to one question taught of late. Popular names are asked again and again, and answers come again byte for byte within a
 * second; such a one renews what it taught before, without being read.
 */
import type { MessageReader } from '#parsers/dns/message.ts'
import type { TaughtClaim } from './learned-names.ts'

/** Longer answers are read each time: there are thousands of questions. */
const ANSWER_BYTES_MAX = 512
const FLAGS_OFFSET = 2

export class AnswerMemory {
  /** Whom it taught, and the revision of what else than its bytes decides what it teaches. */
  #endpointId = 0
  #revision = 0
  #bytes: Uint8Array | undefined
  #taught: readonly TaughtClaim[] = []

  /** @returns what this answer taught the last time; undefined when it is another, or may teach something else now */
  taughtBy({ bytes, start, end }: MessageReader, endpointId: number, revision: number): readonly TaughtClaim[] | undefined {
    const known = this.#bytes
    if (endpointId !== this.#endpointId || revision !== this.#revision) return undefined
    if (known === undefined || known.length !== end - start - FLAGS_OFFSET) return undefined
    for (let index = 0; index < known.length; index++) if (known[index] !== bytes[start + FLAGS_OFFSET + index]) return undefined
    return this.#taught
  }

  /** @param taught everything that the answer says of selected names */
  keep({ bytes, start, end }: MessageReader, endpointId: number, revision: number, taught: readonly TaughtClaim[]): void {
    if (end - start > ANSWER_BYTES_MAX) {
      this.#bytes = undefined
      return
    }
    this.#endpointId = endpointId
    this.#revision = revision
    this.#bytes = Uint8Array.prototype.slice.call(bytes, start + FLAGS_OFFSET, end)
    this.#taught = taught
  }
}
