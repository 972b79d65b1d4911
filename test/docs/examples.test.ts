import { globSync, readFileSync } from 'node:fs'
import test from 'ava'
import { configSchema } from '#config/schema.ts'
import { parseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'

const REFERENCE = 'docs/policy-reference.md'
const options = parseOptions(configSchema.parse({}))

function errorsOf(text: string, file: string): string[] {
  return parsePolicyFile(text, file, options)
    .problems.filter(({ severity }) => severity === 'error')
    .map(({ line, path, message }) => `${file}:${line}: ${path}: ${message}`)
}

test('every YAML block of the policy reference is a policy file that is accepted', (t) => {
  const blocks = [...readFileSync(REFERENCE, 'utf8').matchAll(/^```yaml\n(.*?)^```$/gms)]
  t.true(blocks.length > 0)
  for (const [index, [, text]] of blocks.entries()) t.deepEqual(errorsOf(text ?? '', `${REFERENCE}, block ${index + 1}`), [])
})

test('every example policy is accepted', (t) => {
  const files = globSync('examples/policies/*.yaml')
  t.true(files.length > 0)
  for (const file of files) t.deepEqual(errorsOf(readFileSync(file, 'utf8'), file), [])
})
