// Completes package-lock.json with the platform packages of other platforms, for `npm run lock` after a dependency changed.
// `npm ci` insists on an entry for every optional dependency, also for platforms that it will never install here; a registry that
// carries only some platforms makes npm leave the others out, and the lock is then refused everywhere. An entry needs just the
// version and the platform for npm to skip it.
import { readFileSync, writeFileSync } from 'node:fs'

const path = new URL('../package-lock.json', import.meta.url)
const lock = JSON.parse(readFileSync(path, 'utf8'))
const systems = ['aix', 'android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'wasm32', 'win32']
const processors = ['arm64', 'armv7', 'arm', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64']
const libcs = { gnu: 'glibc', gnueabihf: 'glibc', musl: 'musl', musleabihf: 'musl' }

for (const parent of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(parent.optionalDependencies ?? {})) {
    if (lock.packages[`node_modules/${name}`] !== undefined) continue
    const words = name.split(/[/-]/)
    const os = systems.find((system) => words.includes(system))
    const cpu = processors.find((processor) => words.includes(processor))
    if (os === undefined || cpu === undefined) throw new Error(`cannot tell the platform of ${name}`)
    const libc = Object.entries(libcs).find(([word]) => words.includes(word))?.[1]
    lock.packages[`node_modules/${name}`] = {
      version,
      cpu: [cpu === 'armv7' ? 'arm' : cpu],
      ...(parent.dev ? { dev: true } : {}),
      ...(libc === undefined ? {} : { libc: [libc] }),
      optional: true,
      os: [os],
    }
    console.log(`added ${name} ${version} (${os}, ${cpu}${libc === undefined ? '' : `, ${libc}`})`)
  }
}
const [root, ...others] = Object.keys(lock.packages)
lock.packages = Object.fromEntries([root, ...others.sort()].map((key) => [key, lock.packages[key]]))
writeFileSync(path, `${JSON.stringify(lock, null, 2)}\n`)
