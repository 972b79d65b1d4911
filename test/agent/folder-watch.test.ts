import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type ChangedNames, FolderWatch } from '#agent/policies/folder-watch.ts'

interface Watched {
  readonly folder: string
  readonly watch: FolderWatch
  readonly told: ChangedNames[]
  readonly written: string[]
}

function watched(t: ExecutionContext, isThere = true): Watched {
  const parent = mkdtempSync(join(tmpdir(), 'headgate-watch-'))
  const folder = join(parent, 'policies')
  if (isThere) mkdirSync(folder)
  const told: ChangedNames[] = []
  const written: string[] = []
  const watch = new FolderWatch(folder, { onChange: (names) => told.push(names), onWrite: (name) => written.push(name) })
  t.teardown(() => {
    watch.close()
    rmSync(parent, { recursive: true, force: true })
  })
  return { folder, watch, told, written }
}

const put = (folder: string, name: string) => {
  writeFileSync(join(folder, `.${name}.tmp`), '{}')
  renameSync(join(folder, `.${name}.tmp`), join(folder, name))
}

test('whoever asks is told at once what was put in place, once', async (t) => {
  const { folder, watch, told } = watched(t)
  for (let round = 0; round < 50; round++) {
    put(folder, `p${round}.yaml`)
    t.true((await watch.take())?.has(`p${round}.yaml`))
    t.is((await watch.take())?.size, 0)
  }
  unlinkSync(join(folder, 'p0.yaml'))
  t.true((await watch.take())?.has('p0.yaml'))
  t.deepEqual(told, [])
})

test('nobody asks, and it is told after a moment, with those that are written in place', async (t) => {
  const { folder, told, written } = watched(t)
  put(folder, 'a.yaml')
  writeFileSync(join(folder, 'a.yaml'), '{ }')
  symlinkSync('elsewhere', join(folder, '..data'))
  for (let left = 200; told.length === 0 && left > 0; left--) await new Promise((resolve) => setTimeout(resolve, 5))
  t.true(told[0]?.has('a.yaml'))
  t.true(told[0]?.has('..data'))
  t.true(written.includes('a.yaml'))
})

test('where it is not known which files changed, all may have', async (t) => {
  const missing = watched(t, false)
  t.is(await missing.watch.take(), undefined)
  mkdirSync(missing.folder)
  t.is(await missing.watch.take(), undefined)
  put(missing.folder, 'a.yaml')
  t.true((await missing.watch.take())?.has('a.yaml'))

  const replaced = watched(t)
  renameSync(replaced.folder, `${replaced.folder}.old`)
  mkdirSync(replaced.folder)
  t.is(await replaced.watch.take(), undefined)
  put(replaced.folder, 'b.yaml')
  t.true((await replaced.watch.take())?.has('b.yaml'))

  const flooded = watched(t)
  for (let index = 0; index < 1200; index++) put(flooded.folder, `f${index}.yaml`)
  t.is(await flooded.watch.take(), undefined)
})
