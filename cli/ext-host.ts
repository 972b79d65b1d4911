/** `headgate ext-host` */
import { type Command, Option } from 'commander'
import { loadExtHost, loadRelayWorker } from './processes.ts'
import { defineProcess } from './run-process.ts'

const HELP = `
Judges for Envoy what Envoy cannot judge itself: requests whose rules compare headers with secrets, or change many headers, and, in
processes of its own (relay.workers), connections of Kafka and of parsers in paths.parsers. Secrets are read from paths.secrets. Runs until
SIGTERM or SIGINT; SIGUSR2 ends it too, but leaves connections of Kafka and parsers, new ones included, to its workers until the next
extension host has started others. Logs go to standard error. Normally started by \`headgate up\` or a systemd unit of its own.`

const WORKER_OPTION = '--relay-worker'

export function define(command: Command): void {
  command.addOption(
    new Option(`${WORKER_OPTION} <number>`, 'be one worker of the relay; the extension host starts them itself')
      .argParser(Number)
      .hideHelp(),
  )
  defineProcess(command, HELP, 'run the extension host', async () => {
    const { relayWorker: worker } = command.opts<{ relayWorker?: number }>()
    if (worker !== undefined) {
      const { runRelayWorker } = await loadRelayWorker()
      return (config, signal) => runRelayWorker(config, worker, signal)
    }
    const { runExtHost } = await loadExtHost()
    const workerCommand = [process.execPath, ...process.execArgv, ...process.argv.slice(1), WORKER_OPTION]
    const followed = new AbortController()
    process.once('SIGUSR2', () => followed.abort())
    return (config, signal) =>
      runExtHost(config, { signal: AbortSignal.any([signal, followed.signal]), workerCommand, isFollowed: () => !signal.aborted })
  })
}
