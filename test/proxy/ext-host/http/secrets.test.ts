import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { readSecret, SECRET_BYTES_MAX, SecretFolder } from '#proxy/ext-host/http/secrets.ts'

const TOKEN = { namespace: 'shop', name: 'token' }

function folder(t: ExecutionContext, files: Record<string, string | Buffer> = {}): string {
  const base = mkdtempSync(join(tmpdir(), 'headgate-secrets-'))
  t.teardown(() => rmSync(base, { recursive: true, force: true }))
  const root = join(base, 'secrets')
  mkdirSync(root)
  for (const [path, content] of Object.entries(files)) write(join(root, path), content)
  return root
}

function write(path: string, content: string | Buffer): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content)
}

test('a secret is a file, or the one file of a folder', (t) => {
  const root = folder(t, { 'shop/token': 'one', 'shop/other/key': 'two' })
  t.deepEqual(readSecret(root, TOKEN), { value: 'one' })
  t.deepEqual(readSecret(root, { namespace: 'shop', name: 'other' }), { value: 'two' })
})

test('one line break at the end is no part of it', (t) => {
  for (const [content, value] of [
    ['s\n', 's'],
    ['s\r\n', 's'],
    ['é', 'é'],
    ['a b', 'a b'],
    [`${'x'.repeat(SECRET_BYTES_MAX)}\r\n`, 'x'.repeat(SECRET_BYTES_MAX)],
  ] as const)
    t.deepEqual(readSecret(folder(t, { 'shop/token': content }), TOKEN), { value })
})

test('what cannot be the value of a header is no secret, and is not told', (t) => {
  for (const content of [
    '',
    '\n',
    's\n\n',
    'a\tb',
    'a\0b',
    'a\x7fb',
    ' s',
    's ',
    'x'.repeat(SECRET_BYTES_MAX + 1),
    'x'.repeat(100_000),
    Buffer.from([0x73, 0xff]),
  ]) {
    const found = readSecret(folder(t, { 'shop/token': content }), TOKEN)
    t.true('reason' in found)
    if ('reason' in found) t.true(found.reason.length < 80 && !found.reason.includes('xx'), found.reason)
  }
})

test('what is not there, and folders with none or several files, are told apart', (t) => {
  const root = folder(t, { 'shop/two/a': '1', 'shop/two/b': '2', 'shop/none/..data/x': '1', file: 'x' })
  const reason = (namespace: string, name: string) => {
    const found = readSecret(root, { namespace, name })
    return 'reason' in found ? found.reason : found.value
  }
  t.is(reason('shop', 'token'), 'there is no such file')
  t.is(reason('file', 'token'), 'there is no such file')
  t.is(reason('shop', 'two'), 'the folder has 2 entries instead of one')
  t.is(reason('shop', 'none'), 'the folder has 0 entries instead of one')
  execFileSync('mkfifo', [join(root, 'shop/pipe')])
  t.is(reason('shop', 'pipe'), 'is no file')
  t.regex(readReason('/nonexistent'), /no such file/)
})

function readReason(root: string): string {
  const found = readSecret(root, TOKEN)
  return 'reason' in found ? found.reason : ''
}

test('neither a name nor a link leads out of the folder', (t) => {
  const root = folder(t, { 'shop/in': 'inside' })
  writeFileSync(join(dirname(root), 'outside'), 'outside')
  mkdirSync(`${root}-sibling`)
  writeFileSync(join(`${root}-sibling`, 'x'), 'outside')
  symlinkSync('../../outside', join(root, 'shop/link'))
  symlinkSync('/etc', join(root, 'etc'))
  symlinkSync('../../secrets-sibling', join(root, 'shop/sibling'))
  mkdirSync(join(root, 'shop/folder'))
  symlinkSync('../../../outside', join(root, 'shop/folder/key'))
  for (const [namespace, name] of [
    ['shop', '../../outside'],
    ['..', 'outside'],
    ['shop/..', 'x'],
    ['', 'shop'],
    ['.', 'shop'],
    ['shop', ''],
    ['shop', '..data'],
    ['shop', 'a\0b'],
    ['shop', 'x'.repeat(300)],
  ] as const)
    t.deepEqual(readSecret(root, { namespace, name }), { reason: 'not the name of a secret' }, JSON.stringify([namespace, name]))
  for (const [namespace, name] of [
    ['shop', 'link'],
    ['etc', 'hostname'],
    ['shop', 'sibling'],
    ['shop', 'folder'],
  ] as const)
    t.deepEqual(readSecret(root, { namespace, name }), { reason: 'leads out of the folder of secrets' }, name)
  symlinkSync('in', join(root, 'shop/alias'))
  t.deepEqual(readSecret(root, { namespace: 'shop', name: 'alias' }), { value: 'inside' })
})

/** As the kubelet mounts a secret: each version a folder of its own, and one link that is swapped. */
function mountVersion(root: string, version: string, value: string): void {
  const mount = join(root, 'shop/token')
  write(join(mount, `..${version}`, 'key'), value)
  symlinkSync(`..${version}`, join(mount, '..data_tmp'))
  renameSync(join(mount, '..data_tmp'), join(mount, '..data'))
}

/** Resolves when a condition holds after a change. */
function watched(t: ExecutionContext, root: string) {
  let wake = Promise.withResolvers<void>()
  const secrets = new SecretFolder(root, () => {
    wake.resolve()
    wake = Promise.withResolvers()
  })
  t.teardown(() => secrets.close())
  const until = async (isThere: () => boolean) => {
    const { promise, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => reject(new Error('nothing came')), 5000)
    while (!isThere()) await Promise.race([wake.promise, promise])
    clearTimeout(timer)
  }
  return { secrets, until, held: () => secrets.valueOf('shop', 'token') }
}

test('only secrets that are asked for are read, and what is wrong with them is told', (t) => {
  const root = folder(t, { 'shop/token': 'one', 'shop/other': 'two' })
  const { secrets, held } = watched(t, root)
  t.is(held(), undefined)
  secrets.want([TOKEN, { namespace: 'shop', name: 'missing' }])
  t.is(held(), 'one')
  t.is(secrets.valueOf('shop', 'other'), undefined)
  t.deepEqual(secrets.problems, [{ secret: { namespace: 'shop', name: 'missing' }, reason: 'there is no such file' }])
  secrets.want([])
  t.is(held(), undefined)
  t.deepEqual(secrets.problems, [])
})

test('a file that is written, replaced, removed or made again is noticed', async (t) => {
  const root = folder(t, { 'shop/token': 'one' })
  const { secrets, until, held } = watched(t, root)
  secrets.want([TOKEN])
  writeFileSync(join(root, 'shop/token'), 'two')
  await until(() => held() === 'two')
  writeFileSync(join(root, 'shop/token.tmp'), 'three')
  renameSync(join(root, 'shop/token.tmp'), join(root, 'shop/token'))
  await until(() => held() === 'three')
  unlinkSync(join(root, 'shop/token'))
  await until(() => held() === undefined)
  t.is(secrets.problems.length, 1)
  rmSync(join(root, 'shop'), { recursive: true })
  write(join(root, 'shop/token'), 'four')
  await until(() => held() === 'four')
  t.deepEqual(secrets.problems, [])
})

test('a folder of secrets that is not there yet is noticed when it comes', async (t) => {
  const root = join(folder(t), 'later')
  const { secrets, until, held } = watched(t, root)
  secrets.want([TOKEN])
  t.is(held(), undefined)
  write(join(root, 'shop/token'), 'one')
  await until(() => held() === 'one')
  t.pass()
})

test('a secret that Kubernetes mounts and swaps is read anew', async (t) => {
  const root = folder(t)
  mkdirSync(join(root, 'shop/token'), { recursive: true })
  symlinkSync('..data/key', join(root, 'shop/token/key'))
  mountVersion(root, 'v1', 'one')
  const { secrets, until, held } = watched(t, root)
  secrets.want([TOKEN])
  t.is(held(), 'one')
  for (const value of ['two', 'three', 'four']) {
    mountVersion(root, `of-${value}`, value)
    await until(() => held() === value)
  }
  t.pass()
})
