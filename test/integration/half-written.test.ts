import { appendFileSync, closeSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { Machine } from '../support/machine.ts'
import { Running } from '../support/running.ts'

/** Every line from the seventh on makes a document that is good on its own and says less. */
const TEXT = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
    - {}
  ingressDeny:
    - fromEndpoints: [{matchLabels: {app: web}}]
    - fromEndpoints: [{matchLabels: {app: job}}]
    - fromEndpoints: [{matchLabels: {app: test}}]
`
const LINES = TEXT.split(/(?<=\n)/)
const PAUSE_MS = 20

const WRITERS: Readonly<Record<string, (path: string) => Promise<void>>> = {
  'holds it open': async (path) => {
    const fd = openSync(path, 'w')
    for (const line of LINES) {
      writeSync(fd, line)
      await delay(PAUSE_MS)
    }
    closeSync(fd)
  },
  'opens it for each line': async (path) => {
    writeFileSync(path, '')
    for (const line of LINES) {
      appendFileSync(path, line)
      await delay(PAUSE_MS)
    }
  },
}

test.serial('a policy file that is written in place, line by line, comes in force once and whole; others do not wait for it', async (t) => {
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    machine.addWorkload('db')
    machine.writeWorkloads()
    headgate.start('agent')
    await headgate.waitForEndpoint('db')
    const log = (): string => headgate.processes.get('agent')?.log ?? ''
    const acceptedCount = (file: string): number =>
      log()
        .split('\n')
        .filter((line) => line.includes(file) && line.includes('accepted')).length
    for (const [index, [how, write]] of Object.entries(WRITERS).entries()) {
      const writing = write(join(machine.policiesFolder, `db-${index}.yaml`))
      await delay(PAUSE_MS * 3)
      headgate.write(`other-${index}.yaml`, TEXT.replace('name: db', `name: other-${index}`))
      // No `policy wait`: it would wait for the writer too.
      const deadline = performance.now() + PAUSE_MS * 6
      while (acceptedCount(`other-${index}.yaml`) === 0 && performance.now() < deadline) await delay(5)
      t.is(acceptedCount(`other-${index}.yaml`), 1, how)
      t.is(acceptedCount(`db-${index}.yaml`), 0, how)
      // Asked while the file is half-written, and answered when it is whole.
      await headgate.wait()
      await writing
      t.is(acceptedCount(`db-${index}.yaml`), 1, log())
      t.notRegex(log(), /refused/, how)
    }
  } finally {
    headgate.close()
    await machine.dispose()
  }
})
