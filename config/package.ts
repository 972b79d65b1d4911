/** Where this package and the programs in it lie, as a checkout (config/package.ts) or installed (dist/config/package.js), and its version. */
import { readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const parent = dirname(dirname(fileURLToPath(import.meta.url)))

export const PACKAGE_ROOT = basename(parent) === 'dist' ? dirname(parent) : parent

/** The compiled programs of the kernel. Here, so that whoever only asks whether they are there does not load libbpf for it. */
export const PROGRAMS_PATH = join(PACKAGE_ROOT, 'bpf/objects/headgate.bpf.o')

export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string }).version
}
