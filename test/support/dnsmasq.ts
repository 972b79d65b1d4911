/** A real name server in a workload: dnsmasq, which knows the records that it is given and nothing else. */
import type { ChildProcess } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import type { Machine, Workload } from './machine.ts'

const READY_MS = 5000

/** @param records options of dnsmasq: --host-record=name,address --cname=alias,target … @returns when it answers */
export async function startDnsmasq(machine: Machine, server: Workload, ...records: readonly string[]): Promise<ChildProcess> {
  const child = machine.start(server.netns, [
    '/usr/sbin/dnsmasq',
    '--no-daemon',
    '--conf-file=/dev/null',
    '--no-resolv',
    '--no-hosts',
    '--pid-file=',
    '--user=root',
    '--bind-interfaces',
    `--listen-address=${server.address}`,
    '--log-facility=-',
    '--local=/test/',
    '--cache-size=0',
    ...records,
  ])
  let log = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  const deadline = performance.now() + READY_MS
  while (!/started/.test(log)) {
    if (child.exitCode !== null || performance.now() > deadline) throw new Error(`dnsmasq does not start: ${log}`)
    await delay(10)
  }
  return child
}

export interface DigAnswer {
  /** NOERROR, REFUSED …; empty when nobody answered. */
  readonly rcode: string
  /** The last column of the answer's records. */
  readonly answers: readonly string[]
  readonly text: string
}

/** Asks a server once, as a workload. */
export async function dig(machine: Machine, from: Workload, server: string, ...question: readonly string[]): Promise<DigAnswer> {
  const { stdout } = await machine.run(from.netns, ['dig', '+tries=1', '+time=2', `@${server}`, ...question])
  return {
    rcode: /status: (\w+)/.exec(stdout)?.[1] ?? '',
    answers: [...stdout.matchAll(/^[^;\s]\S*\s+\d+\s+IN\s+\S+\s+(.+)$/gm)].map(([, value = '']) => value),
    text: stdout,
  }
}
