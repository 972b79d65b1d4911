/** `headgate proxy` */
import type { Command } from 'commander'
import { loadProxy } from './processes.ts'
import { defineProcess } from './run-process.ts'

const HELP = `
Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  defineProcess(command, HELP, 'run the proxy process', async () => (await loadProxy()).runProxy)
}
