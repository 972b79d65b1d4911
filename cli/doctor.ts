/** `headgate doctor` */
import type { Command } from 'commander'
import { EXIT_CODES } from './errors.ts'
import { addConfigOptions, addOutputOption, configOf, type OutputFormat } from './options.ts'
import { formatTable, print, printJson } from './output.ts'
import type { Finding } from './processes.ts'

const HELP = `
Checks kernel, privileges, Envoy, rp_filter, other programs on the same hooks, sockets and ports, and changes nothing. \`headgate up\`
does the same first. Exits with 1 when a check fails; warnings do not count.`

const MARKS = { ok: 'ok', warning: 'warning', error: 'ERROR' } as const

export function define(command: Command): void {
  addOutputOption(addConfigOptions(command))
    .addHelpText('after', HELP)
    .action(async (options: { output: OutputFormat }) => {
      const config = await configOf(command)
      const { checkMachine } = await import('./machine-checks.ts')
      const findings = await checkMachine(config)
      const isGood = findings.every((finding) => finding.level !== 'error')
      if (options.output === 'json') printJson({ ok: isGood, findings })
      else print(formatFindings(findings))
      process.exitCode = isGood ? EXIT_CODES.OK : EXIT_CODES.FAILED
    })
}

function formatFindings(findings: readonly Finding[]): string {
  const table = formatTable(
    ['CHECK', 'RESULT', 'DETAIL'],
    findings.map((finding) => [finding.name, MARKS[finding.level], finding.detail]),
  )
  const hints = findings.filter((finding) => finding.level !== 'ok' && finding.hint !== '')
  const count = (level: Finding['level']) => findings.filter((finding) => finding.level === level).length
  const lines = [table, '', ...hints.map((finding) => `${finding.name}: ${finding.hint}`)]
  if (hints.length > 0) lines.push('')
  lines.push(`${count('error')} errors, ${count('warning')} warnings`)
  return lines.join('\n')
}
