/** Options that many subcommands share. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { LoadedConfig } from '#config/load.ts'
import type { Config } from '#config/schema.ts'
import { DIALECTS } from '#policy/model.ts'
import { CliError } from './errors.ts'

export type OutputFormat = 'text' | 'json'

interface ConfigOptions {
  readonly config?: string
  readonly set?: readonly string[]
}

/** Adds --config and --set. */
export function addConfigOptions(command: Command): Command {
  return command
    .option('--config <file>', 'configuration file (default: $HEADGATE_CONFIG, else /etc/headgate/config.yaml if there is one)')
    .option('--set <key=value>', 'one setting, over file and environment; may be repeated', collect)
}

/** Adds -o text|json. */
export function addOutputOption(command: Command): Command {
  return command.addOption(new Option('-o, --output <format>', 'how to print').choices(['text', 'json']).default('text'))
}

/** Adds --dialect, for commands that read policy files. */
export function addDialectOption(command: Command): Command {
  return command.addOption(
    new Option('--dialect <dialect>', 'language of the policies (default: the setting policy.dialect)').choices(DIALECTS),
  )
}

/** Loads the configuration that the command's own and the program's options ask for. */
export async function loadConfigOf(command: Command): Promise<LoadedConfig> {
  const { loadConfig } = await import('#config/load.ts')
  return loadConfig(configArguments(command))
}

export async function configOf(command: Command): Promise<Config> {
  return (await loadConfigOf(command)).config
}

function configArguments(command: Command): { file: string | undefined; set: readonly string[] } {
  let file: string | undefined
  const set: string[] = []
  // Options given before the subcommand belong to the program; the nearer ones win.
  for (let current: Command | null = command; current !== null; current = current.parent) {
    const options = current.opts<ConfigOptions>()
    file ??= options.config
    set.unshift(...(options.set ?? []))
  }
  return { file, set }
}

/** Collects a repeatable option. */
export function collect(value: string, previous: readonly string[] | undefined): string[] {
  return [...(previous ?? []), value]
}

/** A repeatable option whose every value is one of the choices. */
export function repeatableChoice(flags: string, description: string, choices: readonly string[]): Option {
  // Commander's own choices and its own parser exclude each other; the choices stay for help and completion.
  return new Option(flags, description).choices(choices).argParser<string[]>((value, previous) => {
    if (!choices.includes(value)) throw new InvalidArgumentError(`Allowed choices are ${choices.join(', ')}.`)
    return collect(value, previous)
  })
}

/** `500ms`, `30s`, `5m`, or seconds without a unit; in milliseconds. */
export function parseDurationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text)
  if (match === null) throw new InvalidArgumentError('expected a duration like 30s, 500ms or 5m')
  const unitMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[match[2] ?? 's'] ?? 1000
  return Number(match[1]) * unitMs
}

export function parseCount(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('expected a whole number')
  return Number(text)
}

export function assertRoot(what: string): void {
  if (process.getuid?.() !== 0) throw new CliError('HG-1102', `root is needed to ${what}`)
}
