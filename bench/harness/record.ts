/** bench/RESULTS.md: every run that is reported, the bad ones too, newest last. */
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../test/support/machine.ts'
import type { Result } from './bench.ts'

export function record(result: Result): void {
  const { date, kernel, cpu, cores, commit, loadBefore, uncommittedFiles } = result.conditions
  const head = `## ${result.bench}: ${result.pass ? 'pass' : 'no pass'} (${result.verdict})`
  const dirty = uncommittedFiles === undefined ? '' : ` with ${uncommittedFiles} uncommitted files`
  const where = `${date} · kernel ${kernel} · ${cpu}, ${cores} cores · commit ${commit}${dirty} · load before ${loadBefore}`
  const figures = Object.entries(result)
    .filter(([name]) => name !== 'bench')
    .map(([name, value]) => `  "${name}": ${JSON.stringify(value)}`)
    .join(',\n')
  appendFileSync(join(ROOT, 'bench/RESULTS.md'), `\n${head}\n${where}\n\n\`\`\`json\n{\n${figures}\n}\n\`\`\`\n`)
}
