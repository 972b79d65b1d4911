/** `headgate config` */
import type { Command } from 'commander'
import { EXIT_CODES } from './errors.ts'
import { addConfigOptions, addOutputOption, loadConfigOf, type OutputFormat } from './options.ts'
import { print, printJson } from './output.ts'

const HELP = `
Order of strength: defaults, then the file, then the environment (HEADGATE_PATHS_RUN for paths.run), then --set paths.run=VALUE.
Every setting: docs/configuration.md.`

const SECRET = '(secret)'

export function define(command: Command): void {
  command.addHelpText('after', HELP)
  addOutputOption(addConfigOptions(command.command('show').description('print every setting that is in force')))
    .option('--origin', 'say where each value comes from')
    .action(async (options: { output: OutputFormat; origin?: boolean }, show: Command) => showConfig(show, options))
  addOutputOption(addConfigOptions(command.command('validate').description('check the configuration and say what is wrong')))
    .argument('[file]', 'file to check instead of the one in force')
    .action(async (file: string | undefined, options: { output: OutputFormat }, validate: Command) => {
      await validateConfig(validate, file, options.output)
    })
}

async function showConfig(command: Command, options: { output: OutputFormat; origin?: boolean }): Promise<void> {
  const { formatOrigin, valueAt } = await import('#config/load.ts')
  const { SETTINGS } = await import('#config/settings.ts')
  const { config, file, origins } = await loadConfigOf(command)
  const settings = SETTINGS.map((setting) => {
    const value = valueAt(config, setting.path)
    const origin = origins.get(setting.key)
    return {
      ...setting,
      value: setting.secret && value !== undefined ? SECRET : value,
      origin: origin === undefined ? '' : formatOrigin(origin),
    }
  }).filter((setting) => setting.value !== undefined)

  if (options.output === 'json') {
    const values = Object.fromEntries(settings.map(({ key, value }) => [key, value]))
    const from = Object.fromEntries(settings.map(({ key, origin }) => [key, origin]))
    printJson({ file: file ?? null, settings: values, ...(options.origin ? { origins: from } : {}) })
    return
  }
  // As YAML that could be a configuration file.
  const lines: string[] = []
  let section: readonly string[] = []
  for (const { path, value, origin } of settings) {
    const parents = path.slice(0, -1)
    for (const [depth, name] of parents.entries()) {
      if (section[depth] !== name) {
        lines.push(`${'  '.repeat(depth)}${name}:`)
        section = parents.slice(0, depth + 1)
      }
    }
    section = parents
    const text = `${'  '.repeat(parents.length)}${path.at(-1)}: ${yamlScalar(value)}`
    lines.push(options.origin ? `${text.padEnd(56)}  # ${origin}` : text)
  }
  print(lines.join('\n'))
}

async function validateConfig(command: Command, file: string | undefined, format: OutputFormat): Promise<void> {
  const { loadConfig } = await import('#config/load.ts')
  const { ConfigError } = await import('#config/errors.ts')
  try {
    const loaded = file === undefined ? await loadConfigOf(command) : loadConfig({ file, environment: {} })
    if (format === 'json') printJson({ valid: true, file: loaded.file ?? null, problems: [] })
    else print(`${loaded.file ?? 'no configuration file; defaults, environment and flags'}: valid`)
  } catch (error) {
    if (format !== 'json' || !(error instanceof ConfigError)) throw error
    printJson({ valid: false, problems: error.problems })
    process.exitCode = EXIT_CODES.COULD_NOT_RUN
  }
}

function yamlScalar(value: unknown): string {
  if (typeof value !== 'string') return JSON.stringify(value)
  return /^[A-Za-z/][\w./-]*$/.test(value) && !/^(true|false|null|off|on|yes|no|y|n)$/i.test(value) ? value : JSON.stringify(value)
}
