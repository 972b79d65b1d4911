/** `headgate identity` */
import type { Command } from 'commander'
import { addConfigOptions, addOutputOption, configOf, type OutputFormat } from './options.ts'
import { formatTable, print, printJson } from './output.ts'

export function define(command: Command): void {
  addOutputOption(addConfigOptions(command.command('list').description('numbers and the labels that they stand for'))).action(
    async (options: { output: OutputFormat }, list: Command) => listIdentities(list, options.output),
  )
}

async function listIdentities(command: Command, format: OutputFormat): Promise<void> {
  const config = await configOf(command)
  const { call, create, ListIdentitiesRequestSchema, ListIdentitiesResponseSchema, messageJson, withAgent } = await import(
    './agent-client.ts'
  )
  const response = await withAgent(config, (agent) => call(agent, 'listIdentities', create(ListIdentitiesRequestSchema)))
  if (format === 'json') {
    printJson(messageJson(ListIdentitiesResponseSchema, response))
    return
  }
  const rows = response.identities.map(({ id, endpointCount, labels }) => [String(id), String(endpointCount), labels.join(' ')])
  print(formatTable(['ID', 'ENDPOINTS', 'LABELS'], rows))
}
