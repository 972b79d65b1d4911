/** Finds the Envoy to run: the one that is configured, the one that set-up fetched, or the one on PATH. */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { PACKAGE_ROOT } from '#config/package.ts'
import { ProxyError } from '../errors.ts'

/** The version that set-up fetches and that this program is tested with. */
export const ENVOY_VERSION = '1.40.0'

/** @param configured envoy.binary; empty to look for it @throws ProxyError when there is none that can be run */
export function findEnvoy(configured: string): string {
  const candidates = configured !== '' ? [configured] : [join(PACKAGE_ROOT, '.cache/envoy', ENVOY_VERSION, 'envoy'), ...onPath()]
  const found = candidates.find(isExecutable)
  if (found !== undefined) return found
  throw new ProxyError(
    'HG-5004',
    configured === '' ? 'no envoy found in the cache of the set-up or on PATH' : `envoy cannot be run: ${configured}`,
  )
}

function onPath(): string[] {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .filter(Boolean)
    .map((folder) => join(folder, 'envoy'))
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
