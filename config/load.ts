/**
 * The one configuration: defaults < file < environment < flags, each value with its origin. Layers are merged first and judged once
 * by the schema, and every problem is reported with the place that it comes from.
 */
import { readFileSync } from 'node:fs'
import { parse as parseYaml } from 'yaml'
import { ConfigError, type ConfigProblem } from './errors.ts'
import { type ConfigFile, isPlainObject, parseConfigFile } from './file.ts'
import { type Config, configSchema } from './schema.ts'
import { keysOfSection, SETTINGS, SETTINGS_BY_KEY, SETTINGS_BY_VARIABLE, type Setting, VARIABLE_PREFIX } from './settings.ts'
import { nearest } from './suggest.ts'

export const DEFAULT_CONFIG_FILE = '/etc/headgate/config.yaml'
/** Names the file when no flag does. */
export const CONFIG_FILE_VARIABLE = 'HEADGATE_CONFIG'

export interface LoadOptions {
  /** --config; undefined: HEADGATE_CONFIG, else the default file if there is one. */
  readonly file?: string | undefined
  readonly environment?: Readonly<Record<string, string | undefined>>
  /** --set KEY=VALUE, in order; the last one wins. */
  readonly set?: readonly string[]
}

/** Where a value comes from. */
export type Origin =
  | { readonly kind: 'default' }
  | { readonly kind: 'file'; readonly file: string; readonly line: number }
  | { readonly kind: 'environment'; readonly variable: string }
  | { readonly kind: 'flag'; readonly flag: string }

export interface LoadedConfig {
  readonly config: Config
  /** The file that was read; undefined when there is none. */
  readonly file: string | undefined
  /** By setting key; every setting has one. */
  readonly origins: ReadonlyMap<string, Origin>
}

/** @throws ConfigError with every problem that was found */
export function loadConfig(options: LoadOptions = {}): LoadedConfig {
  const environment = options.environment ?? process.env
  const file = readConfigFile(options.file ?? (environment[CONFIG_FILE_VARIABLE] || undefined))
  const problems: ConfigProblem[] = [...(file?.problems ?? [])]
  const origins = new Map<string, Origin>(SETTINGS.map((setting) => [setting.key, { kind: 'default' }]))
  const merged: Record<string, unknown> = {}

  if (file !== undefined && problems.length === 0) {
    Object.assign(merged, withoutEmptySections(file.value, []))
    for (const setting of SETTINGS) {
      if (valueAt(merged, setting.path) !== undefined) {
        origins.set(setting.key, { kind: 'file', file: file.file, line: file.positionOf(setting.path, true).line })
      }
    }
  }
  for (const [variable, text] of Object.entries(environment)) {
    if (text === undefined || !variable.startsWith(VARIABLE_PREFIX) || variable === CONFIG_FILE_VARIABLE) continue
    const setting = SETTINGS_BY_VARIABLE.get(variable)
    if (setting === undefined) problems.push(...unknownVariable(variable))
    else apply(setting, text, { kind: 'environment', variable })
  }
  for (const assignment of options.set ?? []) {
    const separator = assignment.indexOf('=')
    const key = separator === -1 ? assignment : assignment.slice(0, separator)
    const source = `--set ${key}`
    const setting = SETTINGS_BY_KEY.get(key)
    if (setting === undefined) problems.push({ source, path: key, message: 'unknown setting', ...hintFor(key, SETTINGS_BY_KEY.keys()) })
    else if (separator === -1) problems.push({ source, path: key, message: 'no value given', hint: `write --set ${key}=VALUE` })
    else apply(setting, assignment.slice(separator + 1), { kind: 'flag', flag: source })
  }

  const parsed = configSchema.safeParse(merged)
  if (!parsed.success) {
    for (const issue of parsed.error.issues) problems.push(...problemsOf(issue as SchemaIssue, merged, origins, file))
  }
  if (!parsed.success || problems.length > 0) {
    const count = `${problems.length} ${problems.length === 1 ? 'problem' : 'problems'}`
    throw new ConfigError('HG-1002', `the configuration is not valid: ${count}`, problems)
  }
  return { config: deepFreeze(parsed.data), file: file?.file, origins }

  function apply(setting: Setting, text: string, origin: Origin): void {
    setAt(merged, setting.path, parseValue(setting, text))
    origins.set(setting.key, origin)
  }
}

/** `default`, `file:line`, the variable, or the flag. */
export function formatOrigin(origin: Origin): string {
  switch (origin.kind) {
    case 'default':
      return 'default'
    case 'file':
      return `${origin.file}:${origin.line}`
    case 'environment':
      return origin.variable
    case 'flag':
      return origin.flag
  }
}

/** Value of a setting in a configuration. */
export function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let current = value
  for (const step of path) {
    if (!isPlainObject(current)) return undefined
    current = current[String(step)]
  }
  return current
}

function readConfigFile(named: string | undefined): ConfigFile | undefined {
  const path = named ?? DEFAULT_CONFIG_FILE
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (named === undefined && code === 'ENOENT') return undefined
    const message = code === 'ENOENT' ? 'no such file' : `cannot be read (${code})`
    throw new ConfigError('HG-1001', `the configuration file ${code === 'ENOENT' ? 'does not exist' : message}: ${path}`, [], {
      cause,
    })
  }
  return parseConfigFile(path, text)
}

/** A section whose settings are all commented out reads as null; it means no settings, not an error. */
function withoutEmptySections(value: Readonly<Record<string, unknown>>, path: readonly string[]): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [key, child] of Object.entries(value)) {
    const childPath = [...path, key]
    const isSection = keysOfSection(childPath).length > 0
    if (isSection && child === null) continue
    result[key] = isSection && isPlainObject(child) ? withoutEmptySections(child, childPath) : child
  }
  return result
}

/** Text of the environment or a flag as the setting's type; what does not fit stays text and is refused by the schema. */
function parseValue(setting: Setting, text: string): unknown {
  switch (setting.type) {
    case 'string':
      return text
    case 'integer':
    case 'number':
      return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text
    case 'boolean':
      return text === 'true' ? true : text === 'false' ? false : text
    default:
      try {
        return parseYaml(text, { version: '1.2', schema: 'core' })
      } catch {
        return text
      }
  }
}

/** What Kubernetes puts into a container for each service whose name begins with headgate: not ours, never an error. */
const SERVICE_VARIABLE = /_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$/

/** A variable that is no setting is an error when it begins like a section or is nearly a setting; else it is somebody else's. */
function unknownVariable(variable: string): ConfigProblem[] {
  if (SERVICE_VARIABLE.test(variable)) return []
  const names = SETTINGS.map((setting) => setting.variable.slice(VARIABLE_PREFIX.length))
  const suggestion = nearest(variable.slice(VARIABLE_PREFIX.length), names)
  const isSection = SETTINGS.some(
    (setting) => setting.path.length > 1 && variable.startsWith(`${VARIABLE_PREFIX}${setting.path[0]?.toUpperCase()}_`),
  )
  if (suggestion === undefined && !isSection) return []
  const hint = suggestion === undefined ? {} : { hint: `did you mean ${VARIABLE_PREFIX}${suggestion}` }
  return [{ source: variable, path: '', message: 'unknown setting', ...hint }]
}

/** What this module uses of a schema's issue. */
interface SchemaIssue {
  readonly code: string
  readonly path: readonly PropertyKey[]
  readonly message: string
  readonly keys?: readonly string[]
  readonly expected?: string
  readonly values?: readonly unknown[]
  readonly minimum?: number
  readonly maximum?: number
  readonly origin?: string
}

function problemsOf(
  issue: SchemaIssue,
  merged: unknown,
  origins: ReadonlyMap<string, Origin>,
  file: ConfigFile | undefined,
): ConfigProblem[] {
  if (issue.code === 'unrecognized_keys') {
    return (issue.keys ?? []).map((key) => {
      const path = [...issue.path, key]
      const known = keysOfSection(issue.path)
      const suggestion = nearest(key, known)
      const elsewhere = SETTINGS.find((setting) => setting.path.at(-1) === key)?.key
      const hint = suggestion === undefined ? elsewhere : [...issue.path, suggestion].join('.')
      return {
        source: file?.file ?? '',
        ...(file?.positionOf(path, true) ?? {}),
        path: path.join('.'),
        message: 'unknown setting',
        hint: hint === undefined ? `known here: ${known.join(', ')}` : `did you mean ${hint}`,
      }
    })
  }
  const key = issue.path.join('.')
  const origin = origins.get(key)
  const source =
    origin === undefined || origin.kind === 'file' || origin.kind === 'default' ? (file?.file ?? 'default') : formatOrigin(origin)
  const isInFile = file !== undefined && source === file.file
  const value = SETTINGS_BY_KEY.get(key)?.secret ? '(secret)' : JSON.stringify(valueAt(merged, issue.path))
  // What is wrong with several settings together says their values itself.
  const message = issue.code === 'custom' ? issue.message : `${describeIssue(issue)}, not ${value ?? 'nothing'}`
  return [{ source, ...(isInFile ? file.positionOf(issue.path) : {}), path: key, message }]
}

function describeIssue(issue: SchemaIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `expected ${issue.expected === 'int' ? 'a whole number' : issue.expected}`
    case 'invalid_value':
      return `expected ${issue.values?.length === 1 ? '' : 'one of '}${issue.values?.map(String).join(', ')}`
    case 'too_small':
      return `expected at least ${issue.minimum}${issue.origin === 'string' ? ' characters' : ''}`
    case 'too_big':
      return `expected at most ${issue.maximum}${issue.origin === 'string' ? ' characters' : ''}`
    default:
      return issue.message.charAt(0).toLowerCase() + issue.message.slice(1)
  }
}

function hintFor(word: string, candidates: Iterable<string>): { hint?: string } {
  const suggestion = nearest(word, candidates)
  return suggestion === undefined ? {} : { hint: `did you mean ${suggestion}` }
}

function setAt(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  let current = target
  for (const step of path.slice(0, -1)) {
    const next = current[step]
    if (isPlainObject(next)) current = next
    else {
      const created: Record<string, unknown> = {}
      current[step] = created
      current = created
    }
  }
  current[path.at(-1) ?? ''] = value
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const child of Object.values(value)) deepFreeze(child)
    Object.freeze(value)
  }
  return value
}
