/** `headgate agent` */
import type { Command } from 'commander'
import { loadAgent, loadProbes } from './processes.ts'
import { defineProcess } from './run-process.ts'

const HELP = `
Runs until SIGTERM or SIGINT. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

export function define(command: Command): void {
  defineProcess(command, HELP, 'run the agent', async (config) => {
    // The agent itself cannot be loaded where libbpf is missing.
    const { assertMachine } = await loadProbes()
    await assertMachine(config)
    return (await loadAgent()).runAgent
  })
}
