/** `headgate dns-proxy` */
import type { Command } from 'commander'
import { loadDnsProxy } from './processes.ts'
import { defineProcess } from './run-process.ts'

const HELP = `
Judges the DNS queries of endpoints whose policy has rules for DNS, or names in toFQDNs, and learns from the answers which addresses the
names have. Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  defineProcess(command, HELP, 'run the DNS process', async () => (await loadDnsProxy()).runDnsProxy)
}
