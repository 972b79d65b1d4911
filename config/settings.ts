/**
 * The schema as a flat list of settings: what names them in the environment and on the command line, and what the documentation
 * says of them. Made from the schema's JSON form, so that nothing is written twice.
 */
import { z } from 'zod'
import { configSchema } from './schema.ts'

export interface Setting {
  /** paths.run */
  readonly key: string
  readonly path: readonly string[]
  /** HEADGATE_PATHS_RUN */
  readonly variable: string
  readonly type: 'string' | 'integer' | 'number' | 'boolean' | 'object' | 'array'
  readonly description: string
  readonly default: unknown
  /** Allowed values in words: `one of a, b`, `1 to 65535`; empty when any. */
  readonly allowed: string
  /** Never shown or logged; `.meta({ secret: true })` in the schema. */
  readonly secret: boolean
  /** Takes effect without a restart; `.meta({ live: true })` in the schema. */
  readonly live: boolean
}

interface SchemaNode {
  readonly type?: Setting['type']
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly description?: string
  readonly default?: unknown
  readonly enum?: readonly string[]
  readonly const?: unknown
  readonly minimum?: number
  readonly maximum?: number
  readonly maxLength?: number
  readonly secret?: boolean
  readonly live?: boolean
}

/** Of every setting's environment variable. */
export const VARIABLE_PREFIX = 'HEADGATE_'

const root = z.toJSONSchema(configSchema, { io: 'input' }) as SchemaNode

/** Every setting, in the order of the schema. */
export const SETTINGS: readonly Setting[] = [...leaves(root, [])]

/** By key. */
export const SETTINGS_BY_KEY: ReadonlyMap<string, Setting> = new Map(SETTINGS.map((setting) => [setting.key, setting]))

/** By environment variable. */
export const SETTINGS_BY_VARIABLE: ReadonlyMap<string, Setting> = new Map(SETTINGS.map((setting) => [setting.variable, setting]))

/** Keys directly under a section; empty for what is no section. */
export function keysOfSection(path: readonly PropertyKey[]): readonly string[] {
  let node: SchemaNode | undefined = root
  for (const step of path) node = node?.properties?.[String(step)]
  return Object.keys(node?.properties ?? {})
}

function* leaves(node: SchemaNode, path: readonly string[]): Generator<Setting> {
  for (const [name, child] of Object.entries(node.properties ?? {})) {
    const childPath = [...path, name]
    if (child.properties !== undefined) yield* leaves(child, childPath)
    else yield settingOf(child, childPath)
  }
}

function settingOf(node: SchemaNode, path: readonly string[]): Setting {
  return {
    key: path.join('.'),
    path,
    variable: VARIABLE_PREFIX + path.map((step) => step.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()).join('_'),
    type: node.type ?? 'string',
    description: node.description ?? '',
    default: node.default,
    allowed: allowedValues(node),
    secret: node.secret === true,
    live: node.live === true,
  }
}

function allowedValues(node: SchemaNode): string {
  if (node.const !== undefined) return `only ${String(node.const)}`
  if (node.enum !== undefined) return `one of ${node.enum.join(', ')}`
  if (node.minimum !== undefined && node.maximum !== undefined) return `${node.minimum} to ${node.maximum}`
  if (node.maxLength !== undefined) return `at most ${node.maxLength} characters`
  return ''
}
