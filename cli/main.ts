/** Entry of the command line. Small on purpose: the compile cache has to be on before anything of size is loaded. */
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'
import { PACKAGE_ROOT } from '#config/package.ts'

// Beside the package, which only its owner can write: a cache in a shared folder would be a way to run code as root.
enableCompileCache(join(PACKAGE_ROOT, '.cache/compile'))

const [first, ...others] = process.argv.slice(2)
if (others.length === 0 && (first === '--help' || first === '-h' || first === 'help')) {
  const { rootHelp } = await import('./root-help.ts')
  process.stdout.write(rootHelp())
} else {
  const { runProgram } = await import('./program.ts')
  process.exitCode = await runProgram(process.argv.slice(2))
}
