/** `headgate version` and `headgate --version`: every part that a bug report has to name. */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Command } from 'commander'
import { PACKAGE_ROOT, packageVersion } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { addConfigOptions, addOutputOption, configOf, type OutputFormat } from './options.ts'
import { print, printJson } from './output.ts'

const NOT_FOUND = 'not found'
const LIBRARY_FOLDERS = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/lib', '/usr/local/lib']

export function define(command: Command): void {
  addOutputOption(addConfigOptions(command)).action(async (options: { output: OutputFormat }) => {
    await printVersions(options.output, await configOf(command))
  })
}

/** @param config undefined: Envoy is looked for in its usual places */
export async function printVersions(format: OutputFormat, config: Config | undefined): Promise<void> {
  const versions = {
    headgate: packageVersion(),
    node: process.versions.node,
    envoy: await envoyVersion(config?.envoy.binary ?? ''),
    libbpf: libbpfVersion(),
    kernel: release(),
  }
  if (format === 'json') printJson(versions)
  else for (const [name, version] of Object.entries(versions)) print(`${name.padEnd(8)}  ${version}`)
}

async function envoyVersion(configured: string): Promise<string> {
  const cached = join(PACKAGE_ROOT, '.cache/envoy')
  const inCache = existsSync(cached) ? readdirSync(cached).map((version) => join(cached, version, 'envoy')) : []
  for (const binary of configured === '' ? [...inCache.filter((path) => existsSync(path)), 'envoy'] : [configured]) {
    try {
      const { stdout } = await promisify(execFile)(binary, ['--version'])
      // envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL
      return /version: [^/]*\/([^/]+)\//.exec(stdout)?.[1] ?? stdout.trim()
    } catch {
      // Try the next place.
    }
  }
  return NOT_FOUND
}

/** The library's file name carries its version; loading it would cost a native call. */
function libbpfVersion(): string {
  for (const folder of LIBRARY_FOLDERS) {
    const files = existsSync(folder) ? readdirSync(folder) : []
    const version = files.map((file) => /^libbpf\.so\.(\d+\.\d+\.\d+)$/.exec(file)?.[1]).find((found) => found !== undefined)
    if (version !== undefined) return version
  }
  return NOT_FOUND
}
