import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type FolderChange, IN_PLACE_QUIET_MS, PolicyFolder } from '#agent/policies/folder.ts'
import { EMPTY_FOLDER_MARKER } from '#policy/files.ts'
import type { ParseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { LIMITS } from '../policy/world.ts'

const policy = (name: string, port = '80'): string => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}}
spec:
  endpointSelector: {matchLabels: {app: ${name}}}
  ingress:
    - toPorts: [{ports: [{port: "${port}", protocol: TCP}]}]
`

interface Scene {
  readonly policies: string
  readonly state: string
  /** Files that went through the parser, in order. */
  readonly parsed: string[]
  readonly open: (emptyMeans?: 'keep' | 'apply', options?: ParseOptions) => PolicyFolder
  readonly write: (file: string, text: string) => void
}

function scene(t: ExecutionContext): Scene {
  const root = mkdtempSync(join(tmpdir(), 'headgate-folder-'))
  t.teardown(() => rmSync(root, { recursive: true, force: true }))
  const [policies, state] = [join(root, 'policies'), join(root, 'state')]
  mkdirSync(policies)
  const parsed: string[] = []
  const parseWith = (options: ParseOptions) => (text: string, file: string) => {
    parsed.push(file)
    return parsePolicyFile(text, file, options)
  }
  return {
    policies,
    state,
    parsed,
    open: (emptyMeans = 'keep', options = LIMITS) => new PolicyFolder(policies, state, emptyMeans, parseWith(options), options),
    write: (file, text) => {
      writeFileSync(join(policies, file), text)
      // As one that was written some time ago, and has come by rename.
      utimesSync(join(policies, file), 1, 1)
    },
  }
}

/** Scans, and takes what is good as the agent does. */
function scan(folder: PolicyFolder): FolderChange {
  const change = folder.scan()
  folder.accept(change.changed.map(({ file }) => file))
  return change
}

/** Names in force by file. */
function inForce(folder: PolicyFolder): Record<string, string[]> {
  return Object.fromEntries(folder.states.map(({ file, documents }) => [file, documents.map(({ name }) => name)]))
}

const files = ({ changed }: FolderChange): string[] => changed.map(({ file }) => file)

test('a file is read once, again when its content changed, and forgotten when it is removed', (t) => {
  const { open, write, policies } = scene(t)
  const folder = open()
  write('a.yaml', policy('a'))
  write('b.yaml', policy('b'))
  t.deepEqual(files(scan(folder)), ['a.yaml', 'b.yaml'])
  t.deepEqual(files(scan(folder)), [])
  write('a.yaml', policy('a', '81'))
  t.deepEqual(files(scan(folder)), ['a.yaml'])
  rmSync(join(policies, 'a.yaml'))
  t.deepEqual(scan(folder).removed, ['a.yaml'])
  t.deepEqual(inForce(folder), { 'b.yaml': ['b'] })
})

for (const [what, text] of [
  ['truncated', policy('a').slice(0, 120)],
  ['empty', ''],
  ['not YAML', '{]'],
  ['refused', policy('a').replace('"80"', '"eighty thousand"')],
] as const) {
  test(`a file that becomes ${what} leaves its last accepted version in force, after a restart too`, (t) => {
    const { open, write } = scene(t)
    const folder = open()
    write('a.yaml', policy('a'))
    scan(folder)
    write('a.yaml', text)
    const [state] = scan(folder).changed
    t.is(state?.state, 'last-accepted')
    t.true((state?.problems.length ?? 0) > 0)
    t.deepEqual(inForce(folder), { 'a.yaml': ['a'] })
    const restarted = open()
    restarted.restore()
    t.deepEqual(inForce(restarted), { 'a.yaml': ['a'] })
    scan(restarted)
    t.deepEqual(inForce(restarted), { 'a.yaml': ['a'] })
  })
}

test('a document that was refused and never accepted is handed over as such, one that was accepted is not', (t) => {
  const { open, write } = scene(t)
  const folder = open()
  write('new.yaml', policy('fresh').replace('"80"', '"-1"'))
  const [state] = scan(folder).changed
  t.is(state?.state, 'refused')
  t.deepEqual(
    state?.refused.map(({ name }) => name),
    ['fresh'],
  )
  write('old.yaml', policy('old'))
  scan(folder)
  write('old.yaml', `${policy('old').replace('"80"', '"-1"')}---\n${policy('added')}`)
  const [changed] = scan(folder).changed
  t.deepEqual(
    changed?.refused.map(({ name }) => name),
    ['added'],
  )
})

test('an emptied, removed or replaced folder does not drop everything at once', (t) => {
  const { open, write, policies } = scene(t)
  const folder = open()
  write('a.yaml', policy('a'))
  scan(folder)
  rmSync(join(policies, 'a.yaml'))
  t.regex(scan(folder).warning, /empty/)
  t.deepEqual(inForce(folder), { 'a.yaml': ['a'] })
  renameSync(policies, `${policies}-away`)
  t.regex(scan(folder).warning, /cannot be read \(ENOENT\)/)
  t.deepEqual(inForce(folder), { 'a.yaml': ['a'] })
})

test('an emptied folder means it when the marker or the setting says so', (t) => {
  const marked = scene(t)
  const folder = marked.open()
  marked.write('a.yaml', policy('a'))
  scan(folder)
  rmSync(join(marked.policies, 'a.yaml'))
  marked.write(EMPTY_FOLDER_MARKER, '')
  t.deepEqual(scan(folder).removed, ['a.yaml'])

  const set = scene(t)
  const meant = set.open('apply')
  set.write('a.yaml', policy('a'))
  scan(meant)
  rmSync(join(set.policies, 'a.yaml'))
  t.deepEqual(scan(meant).removed, ['a.yaml'])
})

test('hidden and foreign files are left alone', (t) => {
  const { open, write } = scene(t)
  write('.a.yaml.tmp', policy('a'))
  write('.hidden.yaml', policy('a'))
  write('README.md', 'no policy')
  t.deepEqual(files(scan(open())), [])
})

test('a candidate that cannot be enforced is refused, and what was before it holds, after a restart too', (t) => {
  const { open, write } = scene(t)
  const folder = open()
  write('a.yaml', policy('a'))
  scan(folder)
  write('a.yaml', policy('a', '81'))
  write('new.yaml', policy('new'))
  folder.scan()
  const kept = folder.reject('a.yaml', 'too many rows')
  t.deepEqual([kept.state, kept.problems[0]?.message], ['last-accepted', 'too many rows'])
  const refused = folder.reject('new.yaml', 'too many rows')
  t.deepEqual([refused.state, refused.refused[0]?.name, refused.refused[0]?.subjects[0]?.directions], ['refused', 'new', ['ingress']])
  const restarted = open()
  restarted.restore()
  t.deepEqual(inForce(restarted), { 'a.yaml': ['a'] })
})

test('a file that is written in place is read when it has been left alone for a while, the others at once', async (t) => {
  const { open, write } = scene(t)
  const folder = open()
  write('a.yaml', policy('a'))
  write('b.yaml', policy('b'))
  scan(folder)
  write('a.yaml', policy('a', '81'))
  folder.noteWrite('a.yaml')
  write('b.yaml', policy('b', '81'))
  const first = scan(folder)
  t.deepEqual(files(first), ['b.yaml'])
  t.true((first.lookAgainMs ?? 0) > 0 && (first.lookAgainMs ?? 0) <= IN_PLACE_QUIET_MS)
  await delay(first.lookAgainMs)
  folder.noteWrite('a.yaml')
  t.deepEqual(files(scan(folder)), [])
  await delay(IN_PLACE_QUIET_MS + 1)
  const last = scan(folder)
  t.deepEqual([files(last), last.lookAgainMs], [['a.yaml'], undefined])
})

test('what may be half-written when the agent starts is looked at again, and what was accepted before holds meanwhile', async (t) => {
  const { open, write, policies } = scene(t)
  write('a.yaml', policy('a'))
  scan(open())
  const restarted = open()
  restarted.restore()
  // Last of all, so that no pause of this machine makes it an old one.
  writeFileSync(join(policies, 'a.yaml'), policy('other'))
  const first = scan(restarted)
  t.deepEqual([files(first), inForce(restarted)], [[], { 'a.yaml': ['a'] }])
  await delay((first.lookAgainMs ?? 0) + 1)
  t.deepEqual(files(scan(restarted)), ['a.yaml'])
  t.deepEqual(inForce(restarted), { 'a.yaml': ['other'] })
})

test('a file that is removed while it is written is waited for no longer', (t) => {
  const { open, write, policies } = scene(t)
  const folder = open()
  write('a.yaml', policy('a'))
  write('b.yaml', policy('b'))
  scan(folder)
  folder.noteWrite('a.yaml')
  rmSync(join(policies, 'a.yaml'))
  const { removed, lookAgainMs } = scan(folder)
  t.deepEqual([removed, lookAgainMs], [['a.yaml'], undefined])
})

for (const emptyMeans of ['keep', 'apply'] as const) {
  test(`a folder that is gone leaves what was accepted in force with emptyFolder ${emptyMeans}, at run time and at the next start`, (t) => {
    const { open, write, policies } = scene(t)
    const folder = open(emptyMeans)
    write('a.yaml', policy('a'))
    scan(folder)
    rmSync(policies, { recursive: true })
    t.regex(scan(folder).warning, /cannot be read \(ENOENT\)/)
    t.deepEqual(inForce(folder), { 'a.yaml': ['a'] })
    const restarted = open(emptyMeans)
    restarted.restore()
    t.regex(scan(restarted).warning, /cannot be read \(ENOENT\)/)
    t.deepEqual(inForce(restarted), { 'a.yaml': ['a'] })
  })

  test(`a folder that is found empty at the start means with emptyFolder ${emptyMeans} what it means at run time`, (t) => {
    const { open, write, policies } = scene(t)
    write('a.yaml', policy('a'))
    scan(open(emptyMeans))
    rmSync(join(policies, 'a.yaml'))
    const restarted = open(emptyMeans)
    restarted.restore()
    const { removed } = scan(restarted)
    t.deepEqual([removed, inForce(restarted)], emptyMeans === 'keep' ? [[], { 'a.yaml': ['a'] }] : [['a.yaml'], {}])
  })
}

test('what is unchanged since the last start is not parsed again, and means the same', (t) => {
  const { open, write, parsed } = scene(t)
  write('a.yaml', policy('a'))
  write('b.yaml', policy('b'))
  const first = open()
  scan(first)
  parsed.length = 0
  const restarted = open()
  restarted.restore()
  scan(restarted)
  t.deepEqual(parsed, [])
  t.deepEqual(
    restarted.states.map(({ state, documents }) => ({ state, documents })),
    first.states.map(({ state, documents }) => ({ state, documents })),
  )
  write('b.yaml', policy('b', '81'))
  scan(restarted)
  t.deepEqual(parsed, ['b.yaml'])
})

test('what was parsed for another text or with other options, or was damaged, is parsed again', (t) => {
  const { open, write, parsed, state } = scene(t)
  write('a.yaml', policy('a'))
  write('b.yaml', policy('b'))
  scan(open())
  const restart = (options?: ParseOptions): string[] => {
    parsed.length = 0
    open('keep', options).restore()
    return parsed
  }
  t.deepEqual(restart({ ...LIMITS, l7Proxy: false }), ['a.yaml', 'b.yaml'])
  t.deepEqual(restart({ ...LIMITS, l7Proxy: false }), [])
  t.deepEqual(restart(), ['a.yaml', 'b.yaml'])
  const path = join(state, 'policies/a.yaml.parsed')
  const kept = readFileSync(path, 'utf8')
  for (const damaged of [kept.replace('"name":"a"', '"name":"c"'), kept.slice(0, -20), '']) {
    writeFileSync(path, damaged)
    t.deepEqual(restart(), ['a.yaml'])
  }
  writeFileSync(join(state, 'policies/b.yaml.parsed'), kept)
  t.deepEqual(restart(), ['b.yaml'])
})
