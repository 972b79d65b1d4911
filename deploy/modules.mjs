// Exits with 0 when node_modules holds what package-lock.json asks for, else names what is missing and exits with 1.
// npm keeps the list of what it installed in node_modules/.package-lock.json. Asking it avoids an `npm ci`, which deletes
// node_modules under running processes, after somebody used `npm install`. Runs under the machine's own Node, from 18 up.
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const installedPath = join(root, 'node_modules/.package-lock.json')
if (!existsSync(installedPath)) process.exit(1)

const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
const installed = JSON.parse(readFileSync(installedPath, 'utf8')).packages

const missing = []
for (const [path, entry] of Object.entries(wanted)) {
  if (path === '') continue
  const fits = matches(entry.os, process.platform) && matches(entry.cpu, process.arch) && matchesLibc(entry.libc)
  // An optional package for this very machine is wanted: Node itself comes as one. Others may be absent.
  if (entry.optional && !(fits && entry.cpu !== undefined)) continue
  if (entry.devOptional && !fits) continue
  const there = installed[path]
  if (there === undefined || there.version !== entry.version || there.integrity !== entry.integrity || !existsSync(join(root, path))) {
    missing.push(`${path} ${entry.version}`)
  }
}
if (missing.length > 0) {
  console.error(`setup: not installed: ${missing.slice(0, 5).join(', ')}${missing.length > 5 ? ` and ${missing.length - 5} more` : ''}`)
  process.exit(1)
}

function matches(field, value) {
  if (field === undefined) return true
  const list = [field].flat()
  if (list.includes(`!${value}`)) return false
  return list.includes(value) || list.every((item) => item.startsWith('!'))
}

function matchesLibc(field) {
  return matches(field, process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc')
}
