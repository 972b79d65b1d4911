/** A real resolver in a workload: unbound, which knows the records that it is given and refuses the rest. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Machine, Workload } from './machine.ts'

const READY_MS = 5000

/** @param records as unbound's local-data: `api.test. 60 IN A 192.0.2.1` @returns when it answers */
export async function startUnbound(machine: Machine, server: Workload, ...records: readonly string[]): Promise<void> {
  const path = join(machine.folder, `unbound-${server.name}.conf`)
  const settings = [
    'do-daemonize: no',
    'use-syslog: no',
    'logfile: ""',
    'username: ""',
    'chroot: ""',
    'pidfile: ""',
    `interface: ${server.address}`,
    'access-control: 0.0.0.0/0 allow',
    'edns-buffer-size: 4096',
    'max-udp-size: 4096',
    'module-config: "iterator"',
    'local-zone: "." refuse',
    'local-zone: "test." static',
    ...records.map((record) => `local-data: '${record}'`),
  ]
  writeFileSync(path, ['server:', ...settings.map((line) => `  ${line}`), 'remote-control:', '  control-enable: no', ''].join('\n'))
  const child = machine.start(server.netns, ['/usr/sbin/unbound', '-c', path])
  let log = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  const deadline = performance.now() + READY_MS
  while (!/start of service/.test(log)) {
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`unbound does not start: ${log}`)
    await delay(10)
  }
}
