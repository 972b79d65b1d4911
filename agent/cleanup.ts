/** Removes every trace of an instance from the machine but its durable state: programs, maps, devices, namespaces, sockets. */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { removePins } from '#bpf/kernel.ts'
import type { Config } from '#config/schema.ts'
import { acquireLock } from '#sys/flock.ts'
import { removeTopology } from './datapath/topology.ts'

/** @returns what was removed @throws LockHeldError while a process of the instance lives */
export async function cleanup(config: Config): Promise<string[]> {
  const locks = ['agent', 'proxy', 'ext-host', 'dns-proxy', 'envoy'].map((name) => acquireLock(join(config.paths.run, 'locks', name)))
  try {
    const removed = [...removePins(config.paths.bpf), ...removeTopology(config.instance)]
    if (existsSync(config.paths.run)) {
      rmSync(config.paths.run, { recursive: true })
      removed.push(config.paths.run)
    }
    return removed
  } finally {
    for (const lock of locks) lock.release()
  }
}
