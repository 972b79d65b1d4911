/**
 * The help of `headgate` itself. Written without commander, whose loading would be a third of the time that this takes: the first
 * thing that anybody types should answer at once.
 */
import { COMMANDS } from './commands.ts'

const GUIDE = `Start here:
  headgate doctor                      can this machine run it?
  headgate up                          run everything, in the foreground
  headgate endpoint add web --netns web --label app=web
  headgate policy apply -f web.yaml    put a policy in force and wait for it
  headgate observe --follow            watch verdicts as they happen

\`headgate help COMMAND\` explains a command. Exit codes: 0 done; 1 refused or failed; 2 could not run (usage, configuration,
privileges, no agent). Every error has a code HG-…; docs/errors.md tells cause and next step.`

const OPTIONS = `Options:
  --config FILE    configuration file (default: $HEADGATE_CONFIG, else /etc/headgate/config.yaml if there is one)
  --set KEY=VALUE  one setting, over file and environment; may be repeated
  -V, --version    versions of all parts
  -h, --help       this text`

export function rootHelp(): string {
  const width = Math.max(...COMMANDS.map((entry) => entry.name.length))
  const groups = [...Map.groupBy(COMMANDS, (entry) => entry.group)].map(
    ([title, entries]) => `${title}\n${entries.map((entry) => `  ${entry.name.padEnd(width)}  ${entry.summary}`).join('\n')}\n`,
  )
  return `Usage: headgate [options] COMMAND

Network policy from L3 to L7 for any workload on this machine, on eBPF and stock Envoy.

${groups.join('\n')}
${GUIDE}

${OPTIONS}
`
}
