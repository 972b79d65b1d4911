/** What every statement of the agent's has in common: of which agent it is, which one it is, and which delta can follow it. */
interface Statement {
  readonly epoch: bigint
  readonly revision: bigint
  /** Needs nothing before it. */
  readonly full: boolean
}

export class StatedRevision {
  #epoch = 0n
  #revision = 0n
  #holdsEpoch = false

  get epoch(): bigint {
    return this.#epoch
  }

  get revision(): bigint {
    return this.#revision
  }

  /** Whether anything complete was stated, however little. */
  get holdsEpoch(): boolean {
    return this.#holdsEpoch
  }

  /** A delta is of what the same agent stated before. */
  protected fits({ full, epoch }: Statement): boolean {
    return full || (this.#holdsEpoch && epoch === this.#epoch)
  }

  protected take({ epoch, revision }: Statement): void {
    this.#epoch = epoch
    this.#revision = revision
    this.#holdsEpoch = true
  }
}
