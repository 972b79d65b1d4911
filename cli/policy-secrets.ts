/**
 * Secrets for the simulator, from a folder of the same layout as the setting paths.secrets: NAMESPACE/NAME is a file, or a folder with
 * one file (as Kubernetes mounts a secret with one key). Read when they are asked for: policies name few of them.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { SceneInput } from '#policy/trace/scene.ts'
import { CliError } from './errors.ts'

const SECRET_BYTES_MAX = 64 * 1024

type SecretLookup = NonNullable<SceneInput['secretOf']>

/** @throws CliError HG-1111 for a folder that is none */
export function secretsIn(folder: string): SecretLookup {
  if (!isFolder(folder)) throw new CliError('HG-1111', `cannot read the folder of secrets ${folder}`)
  const known = new Map<string, string | undefined>()
  return (namespace, name) => {
    const path = `${namespace}/${name}`
    if (!known.has(path)) known.set(path, [namespace, name].every(isName) ? readSecret(join(folder, namespace, name)) : undefined)
    return known.get(path)
  }
}

/** Names come from policies: none of them leads out of the folder. */
function isName(text: string): boolean {
  return text !== '.' && text !== '..' && !/[/\\\0]/.test(text)
}

function readSecret(path: string): string | undefined {
  try {
    const [only, ...others] = isFolder(path) ? readdirSync(path).filter((name) => !name.startsWith('.')) : ['']
    if (only === undefined || others.length > 0) return undefined
    const file = join(path, only)
    if (statSync(file).size > SECRET_BYTES_MAX) return undefined
    // What an editor leaves at the end of a file is no part of it.
    const value = readFileSync(file, 'utf8').replace(/\r?\n$/, '')
    return value === '' ? undefined : value
  } catch {
    return undefined
  }
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}
