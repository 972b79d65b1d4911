/**
 * Runs a parser on one connection: keeps what it cannot judge yet, carries out its ops in their order, and puts its answers between those of the
 * other side. It knows no transport: bytes come by push(), and go where the sink takes them. Bytes that need no look are handed on as the
 * views that they came in.
 */
import { fail, type Op, type Ops, type Parser, STREAM_DIRECTIONS, type StreamDirection, type Turn } from '#parsers/contract.ts'
import type { MemoryBudget } from './memory-budget.ts'

/** Where bytes go, and what is to be done about the connection. */
export interface DriverSink {
  /** @param data what was pushed, or the driver's own: of what was pushed, nothing more may come before this is done with it */
  write(direction: StreamDirection, data: Uint8Array): void
  /** Nothing more goes in this direction. */
  end(direction: StreamDirection): void
  /** Both ways, at once. @param reason for a flow */
  close(reason: string): void
  /** Directions that were not wanted may be wanted again. */
  goOn(): void
}

export interface DriverLimits {
  /** What a parser may ask to have at once. */
  readonly bufferBytesMax: number
  /** Answers of the parser's own that wait for their turn. */
  readonly answerBytesMax: number
  /** Requests that the other side has not answered; of more, nothing is read of the client. */
  readonly turnsMax: number
  readonly budget: MemoryBudget
}

/** Of a transport that cannot wait: what it brings of a direction although it is not wanted. */
const UNWANTED_BYTES_MAX = 4 << 20
const FIRST_CAPACITY = 4096
const EMPTY = new Uint8Array()

/** One direction. */
class Half {
  /** Bytes that no op has covered, at the beginning of `held`. */
  heldBytes = 0
  held: Uint8Array = EMPTY
  /** How many there have to be for the next call. */
  neededBytes = 1
  /** For the other direction, whatever comes. */
  isWaiting = false
  /** Of the last op, what is still to come. */
  restBytes = 0
  isRestPassed = false
  restTurn: Turn | undefined
  hasEnded = false
  /** Came although nothing was wanted, since the last that was. */
  unwantedBytes = 0
  /** The parser was told. */
  isEndTold = false
}

interface WaitingAnswer {
  readonly data: Uint8Array
  /** Turns that have to be closed before. */
  readonly afterTurns: number
}

export class StreamDriver {
  readonly #parser: Parser
  readonly #sink: DriverSink
  readonly #limits: DriverLimits
  readonly #halves: Readonly<Record<StreamDirection, Half>> = { original: new Half(), reply: new Half() }
  readonly #answers: WaitingAnswer[] = []
  #answerBytes = 0
  #openedTurns = 0
  #closedTurns = 0
  #isClosed = false
  /** A call of the parser is not done. */
  #isBusy = false

  constructor(parser: Parser, sink: DriverSink, limits: DriverLimits) {
    this.#parser = parser
    this.#sink = sink
    this.#limits = limits
  }

  /** Whether more of a direction should be read now: to be asked after each push, and when the sink is told to go on. */
  wants(direction: StreamDirection): boolean {
    if (this.#isClosed || this.#isBusy || this.#halves[direction].isWaiting) return false
    return direction === 'reply' || this.#openedTurns - this.#closedTurns < this.#limits.turnsMax
  }

  /** The parser has not answered. The sink is told to go on when it has. */
  get isBusy(): boolean {
    return this.#isBusy
  }

  /** @param chunk may be written over once this returns and the sink has let go of what it was given of it */
  push(direction: StreamDirection, chunk: Uint8Array): void {
    const half = this.#halves[direction]
    if (this.#isClosed || half.hasEnded) return
    half.unwantedBytes = this.wants(direction) ? 0 : half.unwantedBytes + chunk.length
    if (half.unwantedBytes > UNWANTED_BYTES_MAX) this.#close('more came than can be held back')
    else this.#add(direction, half, chunk)
  }

  #add(direction: StreamDirection, half: Half, chunk: Uint8Array): void {
    const bytes = half.restBytes > 0 ? this.#takeRest(direction, half, chunk) : chunk
    if (bytes.length === 0 || this.#isClosed) return
    if (this.#isBusy || half.isWaiting || half.heldBytes > 0 || bytes.length < half.neededBytes) {
      if (this.#hold(half, bytes)) this.#runHeld(direction, half)
    } else this.#parse(direction, half, { bytes, budgetBytes: 0 })
  }

  /** How many of the bytes that come next pass, whatever they are: a transport may move them itself, where all before them has been written. */
  passing(direction: StreamDirection): number {
    const half = this.#halves[direction]
    return this.#isClosed || half.hasEnded || !half.isRestPassed ? 0 : half.restBytes
  }

  /** So many of those have passed. */
  passed(direction: StreamDirection, bytes: number): void {
    const half = this.#halves[direction]
    half.restBytes -= bytes
    if (half.restBytes === 0) this.#boundary(direction, half.restTurn)
  }

  /** Nothing more comes of this direction. */
  pushEnd(direction: StreamDirection): void {
    const half = this.#halves[direction]
    if (this.#isClosed || half.hasEnded) return
    half.hasEnded = true
    this.#finish(direction, half)
  }

  /** Lets go of everything; nothing more is written. */
  dispose(): void {
    this.#isClosed = true
    for (const half of Object.values(this.#halves)) this.#give(half)
    this.#answers.length = 0
  }

  #close(reason: string): void {
    if (this.#isClosed) return
    this.dispose()
    this.#sink.close(reason)
  }

  /** @returns what is behind the rest of the last op */
  #takeRest(direction: StreamDirection, half: Half, chunk: Uint8Array): Uint8Array {
    const bytes = Math.min(half.restBytes, chunk.length)
    half.restBytes -= bytes
    if (half.isRestPassed) this.#sink.write(direction, bytes === chunk.length ? chunk : chunk.subarray(0, bytes))
    if (half.restBytes === 0) this.#boundary(direction, half.restTurn)
    return chunk.subarray(bytes)
  }

  /** Copies bytes behind those that are held. @returns whether there was room */
  #hold(half: Half, bytes: Uint8Array): boolean {
    const heldBytes = half.heldBytes + bytes.length
    if (heldBytes > half.held.length) {
      // What has come counts, and not what somebody says will come.
      const capacity = Math.max(heldBytes, Math.min(2 * half.held.length, half.neededBytes), FIRST_CAPACITY)
      if (!this.#limits.budget.take(capacity - half.held.length)) {
        this.#close('no memory is left for what has to be held back')
        return false
      }
      const held = new Uint8Array(capacity)
      held.set(half.held.subarray(0, half.heldBytes))
      half.held = held
    }
    half.held.set(bytes, half.heldBytes)
    half.heldBytes = heldBytes
    return true
  }

  /** @returns what was held, which is the caller's now, with its part of the budget */
  #take(half: Half): Piece {
    const piece = { bytes: half.held.subarray(0, half.heldBytes), budgetBytes: half.held.length }
    half.held = EMPTY
    half.heldBytes = 0
    return piece
  }

  #give(half: Half): void {
    this.#limits.budget.giveBack(this.#take(half).budgetBytes)
  }

  #runHeld(direction: StreamDirection, half: Half): void {
    if (!this.#isBusy && !half.isWaiting && half.heldBytes >= half.neededBytes) this.#parse(direction, half, this.#take(half))
  }

  #finish(direction: StreamDirection, half: Half): void {
    if (half.isEndTold || half.isWaiting || this.#isBusy) return
    half.isEndTold = true
    // Of what was to pass, the rest never comes: the parser has nothing to say of that.
    if (half.restBytes > 0) this.#sink.end(direction)
    else this.#parse(direction, half, this.#take(half))
  }

  #parse(direction: StreamDirection, half: Half, { bytes, budgetBytes }: Piece): void {
    const isEnd = half.isEndTold
    let rest = bytes
    while (!this.#isClosed && !half.isWaiting && (isEnd || (rest.length > 0 && rest.length >= half.neededBytes))) {
      const ops = this.#call(direction, rest, isEnd)
      if (ops instanceof Promise) {
        // What was not held is the transport's memory, and true until push returns.
        this.#await(direction, half, ops, { bytes: budgetBytes > 0 ? rest : rest.slice(), budgetBytes })
        return
      }
      rest = this.#carryOut(direction, half, ops, rest)
      if (isEnd) break
    }
    this.#limits.budget.giveBack(budgetBytes)
    this.#settle(direction, half, rest)
  }

  /** @param rest what no op has covered */
  #settle(direction: StreamDirection, half: Half, rest: Uint8Array): void {
    if (this.#isClosed) return
    if (half.isEndTold) {
      this.#sink.end(direction)
      return
    }
    if (rest.length > 0) this.#hold(half, rest)
    if (direction === 'reply') this.#wake()
  }

  /** The other side has said something. */
  #wake(): void {
    const half = this.#halves.original
    if (!half.isWaiting || this.#isBusy) return
    half.isWaiting = false
    this.#runHeld('original', half)
    if (!this.#isClosed && half.hasEnded) this.#finish('original', half)
    if (!this.#isClosed && !half.isWaiting) this.#sink.goOn()
  }

  #await(direction: StreamDirection, half: Half, ops: Promise<Ops>, { bytes, budgetBytes }: Piece): void {
    this.#isBusy = true
    ops.then(
      (result) => {
        this.#isBusy = false
        this.#limits.budget.giveBack(budgetBytes)
        if (this.#isClosed) return
        const rest = this.#carryOut(direction, half, result, bytes)
        const later = this.#take(half)
        this.#limits.budget.giveBack(later.budgetBytes)
        this.#settle(direction, half, rest)
        if (later.bytes.length > 0 && !this.#isClosed) this.#add(direction, half, later.bytes)
        this.#goOn()
      },
      (error: unknown) => this.#close(failureOf(error)),
    )
  }

  /** After a call that took time. */
  #goOn(): void {
    for (const direction of STREAM_DIRECTIONS) {
      const half = this.#halves[direction]
      if (!this.#isClosed) this.#runHeld(direction, half)
      if (!this.#isClosed && half.hasEnded) this.#finish(direction, half)
    }
    if (!this.#isClosed && !this.#isBusy) this.#sink.goOn()
  }

  #call(direction: StreamDirection, bytes: Uint8Array, endOfStream: boolean): Ops | Promise<Ops> {
    try {
      return this.#parser.onData(direction, bytes, endOfStream)
    } catch (error) {
      return [fail(failureOf(error))]
    }
  }

  /** @returns what no op has covered */
  #carryOut(direction: StreamDirection, half: Half, ops: Ops, bytes: Uint8Array): Uint8Array {
    let rest = bytes
    half.neededBytes = ops.length === 0 ? bytes.length + 1 : 1
    for (const op of ops) {
      if (this.#isClosed) return EMPTY
      if (half.restBytes > 0) this.#close('the parser has ops for bytes behind those that have not come')
      else rest = rest.subarray(this.#carryOutOne(direction, half, op, rest))
    }
    return rest
  }

  /** @returns how many of the bytes it covers */
  #carryOutOne(direction: StreamDirection, half: Half, op: Op, bytes: Uint8Array): number {
    switch (op.op) {
      case 'more':
        if (op.bytes > this.#limits.bufferBytesMax) this.#close(`it would take ${op.bytes} bytes at once`)
        half.neededBytes = Math.max(op.bytes, bytes.length + 1)
        return 0
      case 'wait':
        half.isWaiting = true
        return 0
      case 'pass':
      case 'drop':
        return this.#cover(direction, half, op, bytes)
      case 'insert':
        this.#open(direction, op.turn)
        this.#sink.write(direction, op.data)
        this.#boundary(direction, op.turn)
        return 0
      case 'answer':
        this.#answer(op.data)
        return 0
      case 'error':
        this.#close(op.reason)
        return 0
    }
  }

  #cover(direction: StreamDirection, half: Half, { op, bytes: length, turn }: Op & { op: 'pass' | 'drop' }, bytes: Uint8Array): number {
    const covered = Math.min(length, bytes.length)
    this.#open(direction, turn)
    if (op === 'pass' && covered > 0) this.#sink.write(direction, covered === bytes.length ? bytes : bytes.subarray(0, covered))
    half.restBytes = length - covered
    half.isRestPassed = op === 'pass'
    half.restTurn = turn
    if (half.restBytes === 0) this.#boundary(direction, turn)
    return covered
  }

  #open(direction: StreamDirection, turn: Turn | undefined): void {
    if (turn === 'opens' && direction === 'original') this.#openedTurns++
  }

  /** An op is done, all of it. */
  #boundary(direction: StreamDirection, turn: Turn | undefined): void {
    if (direction !== 'reply') return
    if (turn === 'closes') this.#closedTurns++
    this.#sendAnswers()
  }

  #answer(data: Uint8Array): void {
    this.#answers.push({ data, afterTurns: this.#openedTurns })
    this.#answerBytes += data.length
    this.#sendAnswers()
    if (this.#answerBytes > this.#limits.answerBytesMax) this.#close('too many answers wait for their turn')
  }

  #sendAnswers(): void {
    const { restBytes, isRestPassed } = this.#halves.reply
    if (restBytes > 0 && isRestPassed) return
    let first = this.#answers[0]
    while (first !== undefined && first.afterTurns <= this.#closedTurns) {
      this.#answers.shift()
      this.#answerBytes -= first.data.length
      this.#sink.write('reply', first.data)
      first = this.#answers[0]
    }
  }
}

interface Piece {
  readonly bytes: Uint8Array
  /** Of the memory budget, to be given back. */
  readonly budgetBytes: number
}

/** What it was given, which is the network's, stays out of it. */
function failureOf(error: unknown): string {
  return `the parser failed: ${error instanceof Error ? error.message : String(error)}`
}
