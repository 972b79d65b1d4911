/** `headgate completion`: scripts made from the commands themselves, so that they know every option. */
import type { Command } from 'commander'

const SHELLS = ['bash', 'zsh', 'fish'] as const
type Shell = (typeof SHELLS)[number]

const HELP = `
  bash: headgate completion bash > /etc/bash_completion.d/headgate
  zsh:  headgate completion zsh > "\${fpath[1]}/_headgate"
  fish: headgate completion fish > ~/.config/fish/completions/headgate.fish`

export function define(command: Command, wholeProgram: () => Promise<Command>): void {
  command
    .argument('<shell>', SHELLS.join(', '))
    .addHelpText('after', HELP)
    .action(async (shell: string) => {
      const { CliError } = await import('./errors.ts')
      if (!isShell(shell)) throw new CliError('HG-1108', `expected one of ${SHELLS.join(', ')}, not ${shell}`)
      process.stdout.write(completionScript(shell, await wholeProgram()))
    })
}

function isShell(text: string): text is Shell {
  return (SHELLS as readonly string[]).includes(text)
}

/** What may follow one command: words and options. */
interface Node {
  /** `policy apply`; empty for the program. */
  readonly path: string
  readonly summary: string
  readonly words: readonly { readonly name: string; readonly summary: string }[]
  readonly options: readonly CompletionOption[]
}

interface CompletionOption {
  readonly flags: readonly string[]
  readonly summary: string
  readonly takesValue: boolean
  readonly choices: readonly string[]
}

export function completionScript(shell: Shell, program: Command): string {
  const nodes = [...nodesOf(program, '')]
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](nodes)
}

function* nodesOf(command: Command, path: string): Generator<Node> {
  const words = command.commands.map((child) => ({ name: child.name(), summary: child.description() }))
  const shells = path === 'completion' ? SHELLS.map((name) => ({ name, summary: `for ${name}` })) : []
  yield {
    path,
    summary: command.description(),
    words: [...words, ...shells, ...(path === '' ? [{ name: 'help', summary: 'explain a command' }] : [])],
    options: [
      ...command.options.map((option) => ({
        flags: [option.short, option.long].filter((flag) => flag !== undefined),
        summary: option.description,
        takesValue: option.required || option.optional,
        choices: option.argChoices ?? [],
      })),
      { flags: ['-h', '--help'], summary: 'explain this command', takesValue: false, choices: [] },
    ],
  }
  for (const child of command.commands) yield* nodesOf(child, path === '' ? child.name() : `${path} ${child.name()}`)
}

function bashScript(nodes: readonly Node[]): string {
  const cases = nodes.map((node) => {
    const words = [...node.words.map((word) => word.name), ...node.options.flatMap((option) => option.flags)]
    return `    '${node.path}') words='${words.join(' ')}' ;;`
  })
  return `# bash completion for headgate
_headgate() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} path='' words='' index
  case $previous in
${valueCases(nodes)
  .map(
    ({ flags, choices }) =>
      `    ${flags.join('|')}) ${choices.length > 0 ? `COMPREPLY=($(compgen -W '${choices.join(' ')}' -- "$current"))` : 'COMPREPLY=($(compgen -f -- "$current"))'}; return ;;`,
  )
  .join('\n')}
  esac
  for ((index = 1; index < COMP_CWORD; index++)); do
    case "$path \${COMP_WORDS[index]}" in
${pathCases(nodes)
  .map((path) => `      ' ${path}'|'${path}') path='${path}' ;;`)
  .join('\n')}
    esac
  done
  case $path in
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ \${#COMPREPLY[@]} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$current")); fi
}
complete -o filenames -F _headgate headgate
`
}

function zshScript(nodes: readonly Node[]): string {
  const quote = (text: string) => text.replaceAll("'", '’').replaceAll(/[[\]:]/g, (character) => `\\${character}`)
  const cases = nodes.map((node) => {
    const words = node.words.map((word) => `'${word.name}:${quote(word.summary)}'`)
    const options = node.options.flatMap((option) => option.flags.map((flag) => `'${flag}:${quote(option.summary)}'`))
    return `    '${node.path}') words=(${words.join(' ')}); options=(${options.join(' ')}) ;;`
  })
  return `#compdef headgate
_headgate() {
  local location='' index
  local -a words_before words options
  words_before=(\${words[2,CURRENT-1]})
  case \${words_before[-1]} in
${valueCases(nodes)
  .map(({ flags, choices }) => `    ${flags.join('|')}) ${choices.length > 0 ? `compadd -- ${choices.join(' ')}` : '_files'}; return ;;`)
  .join('\n')}
  esac
  for index in \${words_before}; do
    case "\${location:+$location }$index" in
${pathCases(nodes)
  .map((path) => `      '${path}') location='${path}' ;;`)
  .join('\n')}
    esac
  done
  words=(); options=()
  case $location in
${cases.join('\n')}
  esac
  if [[ $PREFIX == -* ]]; then _describe option options; else (( \${#words} )) && _describe command words || _files; fi
}
if [ "$funcstack[1]" = _headgate ]; then _headgate "$@"; else compdef _headgate headgate; fi
`
}

function fishScript(nodes: readonly Node[]): string {
  const quote = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
  const lines = nodes.flatMap((node) => {
    const parts = node.path === '' ? [] : node.path.split(' ')
    const siblings = nodes.find((other) => other.path === node.path)?.words.map((word) => word.name) ?? []
    const seen = parts.map((part) => `__fish_seen_subcommand_from ${part}`)
    const notDeeper = siblings.length === 0 ? [] : [`not __fish_seen_subcommand_from ${siblings.join(' ')}`]
    const wordCondition = quote([...seen, ...notDeeper].join('; and ') || '__fish_use_subcommand')
    const optionCondition = parts.length === 0 ? '' : ` -n ${quote([...seen, ...notDeeper].join('; and '))}`
    return [
      ...node.words.map((word) => `complete -c headgate -f -n ${wordCondition} -a ${word.name} -d ${quote(word.summary)}`),
      ...node.options.map((option) => {
        const flags = option.flags.map((flag) => (flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`)).join(' ')
        const value = option.choices.length > 0 ? ` -x -a ${quote(option.choices.join(' '))}` : option.takesValue ? ' -r' : ''
        return `complete -c headgate${optionCondition} ${flags}${value} -d ${quote(option.summary)}`
      }),
    ]
  })
  return `# fish completion for headgate\n${lines.join('\n')}\n`
}

function pathCases(nodes: readonly Node[]): string[] {
  return nodes.map((node) => node.path).filter((path) => path !== '')
}

/** Options that take a value, each flag once; a flag whose choices differ between commands offers all of them. */
function valueCases(nodes: readonly Node[]): { flags: readonly string[]; choices: readonly string[] }[] {
  const byFlags = new Map<string, { flags: readonly string[]; choices: Set<string> }>()
  const taken = new Set<string>()
  for (const option of nodes.flatMap((node) => node.options).filter((candidate) => candidate.takesValue)) {
    const key = option.flags.join(' ')
    const known = byFlags.get(key)
    if (known !== undefined) for (const choice of option.choices) known.choices.add(choice)
    else if (option.flags.some((flag) => !taken.has(flag))) {
      byFlags.set(key, { flags: option.flags.filter((flag) => !taken.has(flag)), choices: new Set(option.choices) })
      for (const flag of option.flags) taken.add(flag)
    }
  }
  return [...byFlags.values()].map(({ flags, choices }) => ({ flags, choices: [...choices] }))
}
