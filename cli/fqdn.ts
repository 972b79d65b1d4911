/** `headgate fqdn` */
import type { Command } from 'commander'
import { addConfigOptions, addOutputOption, configOf, type OutputFormat } from './options.ts'
import { formatTable, print, printJson } from './output.ts'

const HELP = `
Answered by the DNS process itself, with or without an agent. PATTERN is as matchPattern of rules.dns: api.example.com, *.example.com,
**.example.com.`

const LIST_HELP = `
TTL: how long the address is known by that name; connections: its answer ran out, and its connections keep it. ENDPOINT: the only one that
knows, because it asked a server that is not trusted. A name of - was learned just before a crash.`

const NAMES_HELP = `
What policies name in toFQDNs, with how many names and addresses are known for each, and counters.`

interface NameOptions {
  readonly output: OutputFormat
  readonly name?: string
}

export function define(command: Command): void {
  command.addHelpText('after', HELP)
  const cache = command.command('cache').description('addresses that names are known to have')
  addOutputOption(addConfigOptions(cache.command('list').description('names with their addresses')))
    .option('--name <pattern>', 'only names that match')
    .addHelpText('after', LIST_HELP)
    .action(async (options: NameOptions, list: Command) => listNames(list, options))
  addOutputOption(
    addConfigOptions(cache.command('clean').description('forget names at once; connections to their addresses are judged again')),
  )
    .option('--name <pattern>', 'only names that match')
    .action(async (options: NameOptions, clean: Command) => cleanNames(clean, options))
  addOutputOption(addConfigOptions(command.command('names').description('selectors of names, and what is known for each')))
    .addHelpText('after', NAMES_HELP)
    .action(async (options: NameOptions, names: Command) => listSelectors(names, options.output))
}

async function listNames(command: Command, { output, name = '' }: NameOptions): Promise<void> {
  const config = await configOf(command)
  const { create, KnownNameSchema, ListNamesRequestSchema, messageJson, withNames } = await import('./names-client.ts')
  const found = await withNames(config, (names) => names.list(create(ListNamesRequestSchema, { pattern: name })))
  // By code units: the order is the same whatever the locale.
  const keyOf = (known: (typeof found)[number]): string => `${known.name} ${known.address} ${known.endpointId}`
  found.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
  if (output === 'json') {
    printJson({ names: found.map((known) => messageJson(KnownNameSchema, known)) })
    return
  }
  const rows = found.map((known) => [
    known.name || '-',
    known.address,
    known.endpointId === 0 ? '' : String(known.endpointId),
    known.zombie ? 'connections' : `${known.ttlSeconds}s`,
    known.selectors.join(' '),
  ])
  print(formatTable(['NAME', 'ADDRESS', 'ENDPOINT', 'TTL', 'SELECTORS'], rows))
}

async function cleanNames(command: Command, { output, name = '' }: NameOptions): Promise<void> {
  const config = await configOf(command)
  const { create, ForgetNamesRequestSchema, ForgetNamesResponseSchema, messageJson, withNames } = await import('./names-client.ts')
  const response = await withNames(config, (names) => names.forget(create(ForgetNamesRequestSchema, { pattern: name })))
  if (output === 'json') printJson(messageJson(ForgetNamesResponseSchema, response))
  else print(`${response.nameCount} ${response.nameCount === 1 ? 'name' : 'names'} forgotten`)
}

async function listSelectors(command: Command, format: OutputFormat): Promise<void> {
  const config = await configOf(command)
  const { create, ListNameSelectorsRequestSchema, ListNameSelectorsResponseSchema, messageJson, withNames } = await import(
    './names-client.ts'
  )
  const response = await withNames(config, (names) => names.selectors(create(ListNameSelectorsRequestSchema)))
  if (format === 'json') {
    printJson(messageJson(ListNameSelectorsResponseSchema, response))
    return
  }
  const rows = response.selectors.map(({ selector, nameCount, addressCount }) => [
    String(selector?.id ?? 0),
    String(nameCount),
    String(addressCount),
    [selector?.matchName, selector?.matchPattern].filter((text) => text !== undefined).join(' or '),
  ])
  print(formatTable(['ID', 'NAMES', 'ADDRESSES', 'PATTERN'], rows))
  print('')
  print(
    formatTable(
      ['COUNTER', 'VALUE'],
      response.metrics.map(({ name, value }) => [name, String(value)]),
    ),
  )
}
