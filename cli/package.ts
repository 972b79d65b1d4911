/** Where this package lies, as a checkout (cli/package.ts) or installed (dist/cli/package.js). */
import { readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const parent = dirname(dirname(fileURLToPath(import.meta.url)))

export const PACKAGE_ROOT = basename(parent) === 'dist' ? dirname(parent) : parent

export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string }).version
}
