/**
 * Writes the documentation that is made from the source: docs/errors.md (every errors.ts) and docs/configuration.md (the schema).
 * `npm run docs`; a test fails when a file is not current.
 */
import { globSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { ErrorTable } from '#config/define-errors.ts'
import { SETTINGS } from '#config/settings.ts'

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const LAYERS = ['config', 'sys', 'api', 'parsers', 'tls', 'bpf', 'policy', 'flows', 'proxy', 'dns-proxy', 'agent', 'cli']

/** Every generated file with its content. */
export async function generateDocs(): Promise<ReadonlyMap<string, string>> {
  return new Map([
    ['docs/errors.md', errorsPage(await errorTables())],
    ['docs/configuration.md', configurationPage()],
  ])
}

/** Text of a generated file as it is on disk; empty when there is none. */
export function currentDoc(path: string): string {
  try {
    return readFileSync(join(ROOT, path), 'utf8')
  } catch {
    return ''
  }
}

/** All tables that errors.ts files export, in the order of their codes. */
export async function errorTables(): Promise<ErrorTable[]> {
  const tables: ErrorTable[] = []
  for (const path of globSync(`{${LAYERS.join(',')}}/**/errors.ts`, { cwd: ROOT }).sort()) {
    const module = (await import(pathToFileURL(join(ROOT, path)).href)) as Record<string, unknown>
    tables.push(...Object.values(module).filter((value) => value instanceof ErrorTable))
  }
  return tables.sort((a, b) => firstCode(a).localeCompare(firstCode(b)))
}

function firstCode(table: ErrorTable): string {
  return Object.keys(table.entries).sort()[0] ?? ''
}

function errorsPage(tables: readonly ErrorTable[]): string {
  const sections = tables.map((table) => {
    const rows = Object.entries(table.entries)
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([code, { cause, next }]) => `| ${code} | ${cell(cause)} | ${cell(next)} |`)
    return `## ${table.area}\n| code | cause | next step |\n|---|---|---|\n${rows.join('\n')}\n`
  })
  return `# Error codes

Made from the source by \`npm run docs\`. The message beside a code names the file, endpoint or value that it is about.

Exit codes of \`headgate\`: 0 done; 1 refused, not found, failed or not in time; 2 could not run: usage, configuration, privileges,
no agent.

${sections.join('\n')}`
}

function configurationPage(): string {
  const groups = Map.groupBy(SETTINGS, (setting) => (setting.path.length === 1 ? '' : (setting.path[0] ?? '')))
  const sections = [...groups].map(([section, settings]) => {
    const rows = settings.map(({ key, type, allowed, description, default: value, live }) => {
      const shown = value === undefined ? '' : `\`${JSON.stringify(value)}\``
      return `| \`${key}\` | ${allowed === '' ? type : cell(allowed)} | ${shown} | ${cell(description)}${live ? ' Live.' : ''} |`
    })
    return `## ${section === '' ? 'Top level' : `\`${section}\``}\n| setting | value | default | meaning |\n|---|---|---|---|\n${rows.join('\n')}\n`
  })
  const example = SETTINGS.find((setting) => setting.key === 'paths.run')
  return `# Configuration

Made from the schema (config/schema.ts) by \`npm run docs\`.

One file, \`/etc/headgate/config.yaml\`, or the one that \`--config\` or \`HEADGATE_CONFIG\` names. In order of strength: defaults, the file,
the environment, flags. A setting's variable is its name in capitals (\`${example?.key}\`: \`${example?.variable}\`,
\`flows.ringSize\`: \`HEADGATE_FLOWS_RING_SIZE\`); its flag is \`--set ${example?.key}=VALUE\`. An unknown setting is an error, wherever it stands.
The file is YAML 1.2 (\`off\` and \`no\` are words), one document, each key once:

\`\`\`yaml
apiVersion: headgate.io/v1
paths:
  policies: /etc/headgate/policies
log:
  level: info
  levels: {proxy: debug}
\`\`\`

\`headgate config show --origin\` prints what is in force and where each value comes from; \`headgate config validate [FILE]\` says what is wrong.

**What reloads live:** the contents of the policy folder and of the workloads file, always. No setting of this file does: restart
\`headgate up\`, which replaces the processes that run with another configuration. Policy in the kernel stays in force meanwhile.

${sections.join('\n')}`
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [path, text] of await generateDocs()) {
    if (currentDoc(path) === text) continue
    writeFileSync(join(ROOT, path), text)
    console.log(`wrote ${path}`)
  }
}
