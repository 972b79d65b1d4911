// Makes parsers/kafka/messages.ts from Kafka's own message definitions: node parsers/kafka/generate.mjs FOLDER VERSION, where FOLDER holds
// common/message/*.json of kafka-clients.jar. A new version of Kafka is a change of that data and of nothing else.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const [folder, kafkaVersion] = process.argv.slice(2)
if (folder === undefined || kafkaVersion === undefined) throw new Error('usage: node parsers/kafka/generate.mjs FOLDER VERSION')

const definitions = readdirSync(folder)
  .filter((file) => file.endsWith('.json'))
  .map((file) => JSON.parse(readFileSync(join(folder, file), 'utf8').replaceAll(/^\s*\/\/.*$/gm, '')))

/** The last version of these may still change, and brokers do not offer it. */
const unstable = new Set(definitions.filter(({ latestVersionUnstable }) => latestVersionUnstable).map(({ apiKey }) => apiKey))

function stableVersions({ apiKey, validVersions }) {
  if (!unstable.has(apiKey) || validVersions === 'none') return validVersions
  const [first, last = first] = validVersions.split('-').map(Number)
  return first === last ? 'none' : `${first}-${last - 1}`
}

const messages = definitions
  .map((definition) => ({ ...definition, validVersions: stableVersions(definition) }))
  // Those that were removed have no versions.
  .filter(
    ({ type, apiKey, validVersions }) => (type === 'request' || type === 'response') && apiKey !== undefined && validVersions !== 'none',
  )
  .sort((a, b) => a.apiKey - b.apiKey || a.type.localeCompare(b.type))

const camel = (name) => name.charAt(0).toLowerCase() + name.slice(1)

function linesOf(fields, structs, depth) {
  return fields.flatMap((field) => {
    const { name, type, versions, nullableVersions, tag, taggedVersions, entityType } = field
    const isArray = type.startsWith('[]')
    const item = isArray ? type.slice(2) : type
    const isStruct = /^[A-Z]/.test(item)
    const words = [camel(name), `${isArray ? '[]' : ''}${isStruct ? '{}' : item}`, versions]
    if (nullableVersions !== undefined && nullableVersions !== 'none') words.push(`?${nullableVersions}`)
    if (tag !== undefined) words.push(`#${tag}:${taggedVersions}`)
    if (entityType !== undefined) words.push(`@${entityType}`)
    const fallback = field.default === undefined || field.default === '' ? undefined : String(field.default)
    if (fallback !== undefined) words.push(`=${fallback}`)
    const inner = field.fields ?? (isStruct ? structs.get(item) : undefined)
    if (isStruct && inner === undefined) throw new Error(`${name} is of no known struct: ${item}`)
    return [`${' '.repeat(depth)}${words.join(' ')}`, ...(isStruct ? linesOf(inner, structs, depth + 1) : [])]
  })
}

const blocks = messages.map(({ apiKey, type, name, validVersions, flexibleVersions, fields, commonStructs = [] }) => {
  const structs = new Map(commonStructs.map((struct) => [struct.name, struct.fields]))
  for (const field of fields) collect(field)
  function collect(field) {
    const item = field.type.replace('[]', '')
    if (field.fields !== undefined) structs.set(item, field.fields)
    for (const inner of field.fields ?? []) collect(inner)
  }
  return [
    `${apiKey} ${type} ${name.replace(/(Request|Response)$/, '')} ${validVersions} ${flexibleVersions}`,
    ...linesOf(fields, structs, 1),
  ].join('\n')
})

const text = `/**
 * The messages of Apache Kafka ${kafkaVersion}, made by generate.mjs from its own definitions. A message is a line with its key, kind, name, versions and
 * flexible versions, then a line for each field, indented by its depth: name, type ([] an array, {} a struct), versions, and where they
 * apply: ?versions in which it can be null, #tag:versions in which it is a tagged field, @kind of what it names, =default.
 */
export const KAFKA_MESSAGES = \`
${blocks.join('\n\n')}
\`
`
writeFileSync(join(dirname(fileURLToPath(import.meta.url)), 'messages.ts'), text)
