// Makes dist/, what the npm package runs: Node refuses to strip types under node_modules.
// Types are stripped with Node's own stripper, which keeps lines and columns, so stack traces point into the sources as they are;
// declarations come from the compiler. `./x.ts` and `#layer/x.ts` become `.js` in both; package.json's imports map does the rest.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const out = join(root, 'dist')
const layers = ['config', 'sys', 'api', 'parsers', 'tls', 'bpf', 'policy', 'flows', 'proxy', 'dns-proxy', 'agent', 'cli']

// In import and export statements, import() calls and import types; never in other strings.
const SPECIFIER = /(\bfrom\s*|\bimport\s*\(\s*|\bimport\s+)(['"])((?:\.{1,2}\/|#)[^'"\n]+)\.ts\2/g

rmSync(out, { recursive: true, force: true })

const compiler = spawnSync(
  process.execPath,
  [join(root, 'node_modules/typescript/bin/tsc'), '--project', join(root, 'tsconfig.dist.json')],
  { cwd: root, stdio: 'inherit' },
)
if (compiler.status !== 0) process.exit(compiler.status ?? 1)

let count = 0
for (const path of globSync(`{${layers.join(',')}}/**/*.ts`, { cwd: root, exclude: ['api/gen/**'] })) {
  if (path.endsWith('.d.ts')) continue
  const javascript = stripTypeScriptTypes(readFileSync(join(root, path), 'utf8'), { mode: 'strip' })
  write(path.replace(/\.ts$/, '.js'), rewrite(javascript))
  count += 1
}
for (const path of globSync('**/*.d.ts', { cwd: out })) write(path, rewrite(readFileSync(join(out, path), 'utf8')))
cpSync(join(root, 'api/gen'), join(out, 'api/gen'), { recursive: true })
for (const path of globSync(`{${layers.join(',')}}/**/*.proto`, { cwd: root, exclude: ['api/gen/**'] })) {
  mkdirSync(dirname(join(out, path)), { recursive: true })
  cpSync(join(root, path), join(out, path))
}
if (!existsSync(join(root, 'bpf/objects'))) console.error('dist: warning: there are no BPF objects to pack; run sh deploy/build.sh --bpf')
console.log(`dist: ${count} modules`)

function rewrite(text) {
  return text.replace(SPECIFIER, (_, before, quote, specifier) => `${before}${quote}${specifier}.js${quote}`)
}

function write(path, text) {
  mkdirSync(dirname(join(out, path)), { recursive: true })
  writeFileSync(join(out, path), text)
}
