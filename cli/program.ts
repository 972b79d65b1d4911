/**
 * The program: commander with every subcommand's name, and options only of the one that is asked for. Errors become the exit code
 * and text on standard error here and nowhere else.
 */
import { Command, CommanderError } from 'commander'
import { COMMANDS, type CommandEntry } from './commands.ts'
import { CliError, EXIT_CODES } from './errors.ts'
import { addConfigOptions } from './options.ts'
import { sanitize } from './output.ts'
import { rootHelp } from './root-help.ts'

const VALUE_OPTIONS = new Set(['--config', '--set', '-o', '--output'])

/** @returns the exit code */
export async function runProgram(argv: readonly string[]): Promise<number> {
  process.stdout.on('error', exitOnClosedPipe)
  try {
    const wanted = wantedCommand(argv)
    if (wanted !== undefined) await assertCommand(wanted)
    const program = await createProgram((entry) => entry.name === wanted)
    await program.parseAsync(argv, { from: 'user' })
    return Number(process.exitCode ?? EXIT_CODES.OK)
  } catch (error) {
    return reportError(error)
  }
}

/** @param isNeeded which subcommands to load with their options */
export async function createProgram(isNeeded: (entry: CommandEntry) => boolean): Promise<Command> {
  const program = addConfigOptions(new RootCommand('headgate'))
    .description('Network policy from L3 to L7 for any workload on this machine, on eBPF and stock Envoy.')
    .helpCommand('help [command]', 'explain a command')
    .option('-V, --version', 'versions of all parts')
    .configureHelp({ showGlobalOptions: false, sortSubcommands: false })
    .exitOverride()
  for (const entry of COMMANDS) {
    const command = program.command(entry.name).description(entry.summary).helpGroup(entry.group).exitOverride()
    if (isNeeded(entry)) (await entry.load()).define(command, () => createProgram(() => true))
    for (const child of command.commands) child.exitOverride()
  }
  program.action(async () => {
    if (program.opts<{ version?: boolean }>().version) {
      const { printVersions } = await import('./version.ts')
      await printVersions('text', undefined)
    } else {
      program.outputHelp({ error: true })
      process.exitCode = EXIT_CODES.COULD_NOT_RUN
    }
  })
  return program
}

/** Its help is the one text that needs no commander. */
class RootCommand extends Command {
  override helpInformation(): string {
    return rootHelp()
  }
}

/** First word that is neither an option nor an option's value; after `help`, the word it explains. */
function wantedCommand(argv: readonly string[]): string | undefined {
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index] ?? ''
    if (VALUE_OPTIONS.has(word)) index += 1
    else if (!word.startsWith('-') && word !== 'help') return word
  }
  return undefined
}

async function assertCommand(name: string): Promise<void> {
  const names = COMMANDS.map((entry) => entry.name)
  if (names.includes(name)) return
  const { nearest } = await import('#config/suggest.ts')
  const suggestion = nearest(name, names)
  const details = [suggestion === undefined ? `commands: ${names.join(', ')}` : `did you mean ${suggestion}`]
  throw new CliError('HG-1108', `there is no command ${name}`, { details })
}

async function reportError(error: unknown): Promise<number> {
  if (error instanceof CommanderError) {
    // Commander has printed it; help and version end in 0.
    return error.exitCode === 0 ? EXIT_CODES.OK : EXIT_CODES.COULD_NOT_RUN
  }
  const lines: string[] = []
  let exitCode: number = EXIT_CODES.FAILED
  if (hasCode(error)) {
    lines.push(`error ${error.code}: ${error.message}`)
    if (error instanceof CliError) {
      lines.push(...error.details.map((line) => `  ${line}`))
      exitCode = error.exitCode
    } else if (error.name === 'ConfigError') {
      const { ConfigError, formatProblem } = await import('#config/errors.ts')
      if (error instanceof ConfigError) lines.push(...error.problems.map((problem) => `  ${formatProblem(problem)}`))
      exitCode = EXIT_CODES.COULD_NOT_RUN
    }
    for (let cause = error.cause; cause instanceof Error; cause = cause.cause) lines.push(`  because: ${cause.message}`)
    lines.push(`next: ${error.next ?? 'look the code up in docs/errors.md'}`)
  } else if (error instanceof Error) {
    // Not one of ours: a bug, or an error that its folder does not name yet. The stack is what is left to help.
    lines.push(`error: ${error.stack ?? error.message}`)
  } else {
    lines.push(`error: ${String(error)}`)
  }
  process.stderr.write(`${lines.flatMap((line) => line.split('\n').map(sanitize)).join('\n')}\n`)
  return exitCode
}

/** Errors of every folder, and the agent's own by way of its socket. */
function hasCode(error: unknown): error is Error & { readonly code: string; readonly next?: string } {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('HG-')
}

/** `headgate observe | head` ends quietly. */
function exitOnClosedPipe(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(EXIT_CODES.OK)
  throw error
}
