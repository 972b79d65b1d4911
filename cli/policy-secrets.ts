/** Secrets for the simulator, from a folder laid out as the setting paths.secrets says and read as the extension host reads it. */
import { statSync } from 'node:fs'
import type { SceneInput } from '#policy/trace/scene.ts'
import { CliError } from './errors.ts'
import { loadSecretReader } from './processes.ts'

/** What a scene needs to know of secrets: nothing without a folder. */
export type KnownSecrets = Pick<SceneInput, 'secretOf'>

/** Secrets are read when they are asked for: policies name few of them. @throws CliError HG-1111 for a folder that is none */
export async function secretsIn(folder: string | undefined): Promise<KnownSecrets> {
  if (folder === undefined) return {}
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new CliError('HG-1111', `cannot read the folder of secrets ${folder}`)
  const { readSecret } = await loadSecretReader()
  const known = new Map<string, string | undefined>()
  const secretOf = (namespace: string, name: string): string | undefined => {
    const key = `${namespace}/${name}`
    if (!known.has(key)) {
      const found = readSecret(folder, { namespace, name })
      known.set(key, 'value' in found ? found.value : undefined)
    }
    return known.get(key)
  }
  return { secretOf }
}
