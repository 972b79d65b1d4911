import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import test from 'ava'
import { spawnConfined } from '#sys/confined-process.ts'

async function inConfinement(script: string, dataBytesMax?: number): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'hgt-confined-'))
  try {
    mkdirSync(join(folder, 'given'))
    writeFileSync(join(folder, 'given/file'), 'what it was given')
    const child = spawnConfined({
      root: join(folder, 'root'),
      files: { '/given': join(folder, 'given') },
      command: ['/bin/sh', '-c', script],
      ...(dataBytesMax === undefined ? {} : { dataBytesMax }),
    })
    const [out] = await Promise.all([text(child.stdout as NonNullable<typeof child.stdout>), once(child, 'exit')])
    return out.trim().split('\n')
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('a confined process is nobody, and sees programs, libraries and what it was given', async (t) => {
  t.deepEqual(await inConfinement('id -u; id -G; cat /given/file; echo; ls / | tr "\\n" " "; echo'), [
    '65534',
    '65534',
    'what it was given',
    'bin given lib lib64 package.json usr',
  ])
})

test('it has no environment, no other processes and no files to write', async (t) => {
  const refusals = ['/x', '/given/x', '/given/file', '/tmp/x', '/usr/x'].map(
    (path) => `if (echo x >${path}); then echo written; else echo refused; fi`,
  )
  const lines = await inConfinement(['echo $$', '/usr/bin/env | grep -vc "^\\(PWD\\|_\\|SHLVL\\)="', ...refusals].join(';'))
  t.deepEqual(lines, ['1', '0', 'refused', 'refused', 'refused', 'refused', 'refused'])
})

test('nothing that it may start has more rights', async (t) => {
  t.deepEqual(
    await inConfinement('chroot / id || echo no root; mount -t tmpfs x /given || echo no mount; unshare -n true || echo no namespace'),
    ['no root', 'no mount', 'no namespace'],
  )
})
