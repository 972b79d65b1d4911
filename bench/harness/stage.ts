/** The machines of one bench run. They go when it ends, fails or is interrupted. */
import { Machine } from '../../test/support/machine.ts'
import { Running } from '../../test/support/running.ts'
import { say } from './bench.ts'

export class Stage {
  readonly #machines: Machine[] = []
  readonly #headgates: Running[] = []
  #disposed: Promise<void> | undefined

  machine(): Machine {
    const machine = new Machine()
    this.#machines.push(machine)
    return machine
  }

  headgateOn(machine: Machine): Running {
    const headgate = new Running(machine)
    this.#headgates.push(headgate)
    return headgate
  }

  dispose(): Promise<void> {
    this.#disposed ??= this.#dispose()
    return this.#disposed
  }

  async #dispose(): Promise<void> {
    for (const headgate of this.#headgates) headgate.close()
    for (const machine of this.#machines) await machine.dispose()
  }
}

/** Runs something on a stage and clears it afterwards, whatever happens. */
export async function onStage<T>(run: (stage: Stage) => Promise<T>): Promise<T> {
  const stage = new Stage()
  const interrupted = (): void => {
    say('interrupted: cleaning up')
    stage.dispose().finally(() => process.exit(130))
  }
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted)
  try {
    return await run(stage)
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted)
    await stage.dispose()
  }
}
