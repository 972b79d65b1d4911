import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { KeptDescriptors } from '#cli/supervisor/kept-descriptors.ts'
import { sendDescriptors } from '#sys/descriptor-passing.ts'

interface Scene {
  readonly kept: KeptDescriptors
  readonly path: string
  /** Sends a new file by its name. */
  readonly store: (name: string, text?: string) => void
}

function open(t: ExecutionContext): Scene {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-kept-'))
  const path = join(folder, 'up/dns-proxy.notify')
  const kept = new KeptDescriptors(path)
  t.teardown(() => {
    kept.close()
    rmSync(folder, { recursive: true, force: true })
  })
  const store = (name: string, text = name): void => {
    writeFileSync(join(folder, 'file'), text)
    const fd = openSync(join(folder, 'file'), 'r')
    rmSync(join(folder, 'file'))
    sendDescriptors(path, `FDSTORE=1\nFDNAME=${name}`, [fd])
    closeSync(fd)
  }
  return { kept, path, store }
}

/** What a child that is started with them sees. */
function childOf(kept: KeptDescriptors): string[] {
  const script = 'echo "$LISTEN_FDS $LISTEN_FDNAMES"; [ "$LISTEN_PID" = $$ ] && echo mine; cat <&3; echo; cat <&4'
  const { command, fds, environment } = kept.handedTo(['/bin/sh', '-c', script])
  const [file = '', ...args] = command
  const { stdout } = spawnSync(file, args, { stdio: ['ignore', 'pipe', 'ignore', ...fds], env: environment, encoding: 'utf8' })
  return stdout.split('\n')
}

test('what a child stores is handed to the next, in order and for it alone', (t) => {
  const { kept, path, store } = open(t)
  t.is(statSync(path).mode & 0o777, 0o600)
  t.deepEqual(kept.handedTo(['child']), { fds: [], environment: { NOTIFY_SOCKET: path }, command: ['child'] })
  store('dns-queries')
  store('other')
  t.deepEqual(childOf(kept), ['2 dns-queries:other', 'mine', 'dns-queries', 'other'])
  store('dns-queries', 'a newer one')
  sendDescriptors(path, 'FDSTOREREMOVE=1\nFDNAME=other', [])
  t.deepEqual(childOf(kept).slice(0, 3), ['1 dns-queries', 'mine', 'a newer one'])
})

test('messages without sense are ignored, the number is limited, and none stays open', (t) => {
  const count = () => readdirSync('/proc/self/fd').length
  const { kept, path, store } = open(t)
  const before = count()
  store('a name:with a colon')
  store('')
  sendDescriptors(path, 'READY=1', [0])
  sendDescriptors(path, '', [0, 1, 2])
  sendDescriptors(path, '=\n\n=1\nFDSTORE', [])
  t.deepEqual(kept.handedTo([]).fds, [])
  for (let index = 0; index < 100; index++) {
    store(`s-${index}`)
    // Its socket holds about ten messages.
    kept.handedTo([])
  }
  t.is(kept.handedTo([]).fds.length, 64)
  store('s-3', 'in place of one')
  t.is(kept.handedTo([]).fds.length, 64)
  t.is(count(), before + 64)
  kept.close()
  t.true(count() < before)
  t.false(existsSync(path))
})
