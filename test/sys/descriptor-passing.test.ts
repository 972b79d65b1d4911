import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { DESCRIPTORS_MAX, DescriptorReceiver, sendDescriptors } from '#sys/descriptor-passing.ts'
import { DescriptorKeeping, takeKeptDescriptor } from '#sys/service-manager.ts'

interface Received {
  readonly text: string
  readonly fds: readonly number[]
}

class Mailbox {
  readonly messages: Received[] = []
  #wake: () => void = () => {}

  readonly push = (text: string, fds: readonly number[]): void => {
    this.messages.push({ text, fds })
    this.#wake()
  }

  async has(count: number): Promise<readonly Received[]> {
    while (this.messages.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.messages
  }
}

function folderOf(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-fds-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

function openFile(folder: string, name: string): number {
  writeFileSync(join(folder, name), name)
  return openSync(join(folder, name), 'r')
}

function receiverAt(t: ExecutionContext, path: string): { mailbox: Mailbox; receiver: DescriptorReceiver } {
  const mailbox = new Mailbox()
  const receiver = new DescriptorReceiver(path, mailbox.push)
  t.teardown(() => {
    receiver.close()
    for (const { fds } of mailbox.messages) for (const fd of fds) closeSync(fd)
  })
  return { mailbox, receiver }
}

test('descriptors arrive with their text, as copies that are closed on exec', async (t) => {
  const folder = folderOf(t)
  const { mailbox } = receiverAt(t, join(folder, 's'))
  const sent = Array.from({ length: DESCRIPTORS_MAX }, (_, index) => openFile(folder, `file ${index}`))
  sendDescriptors(join(folder, 's'), 'without any', [])
  sendDescriptors(join(folder, 's'), 'with é', sent)
  const [first, second] = await mailbox.has(2)
  t.deepEqual(first, { text: 'without any', fds: [] })
  t.is(second?.text, 'with é')
  for (const fd of sent) closeSync(fd)
  t.deepEqual(
    second?.fds.map((fd) => readFileSync(fd, 'utf8')),
    sent.map((_, index) => `file ${index}`),
  )
  for (const fd of second?.fds ?? []) t.regex(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'), /^flags:\t02/m, 'O_CLOEXEC')
  t.throws(() => sendDescriptors(join(folder, 's'), '', Array<number>(DESCRIPTORS_MAX + 1).fill(0)), { instanceOf: RangeError })
})

test('what waits is taken at once when it is asked for, and nobody listening is an error', (t) => {
  const folder = folderOf(t)
  const { mailbox, receiver } = receiverAt(t, join(folder, 's'))
  for (let index = 0; index < 5; index++) sendDescriptors(join(folder, 's'), String(index), [0])
  receiver.receivePending()
  t.is(mailbox.messages.map(({ text }) => text).join(''), '01234')
  t.throws(() => sendDescriptors(join(folder, 'nobody'), '', []), { message: /ENOENT|ECONNREFUSED/ })
  t.throws(() => sendDescriptors(join(folder, 'x'.repeat(120)), '', []), { instanceOf: RangeError })
})

test('a descriptor is kept by a service manager, and by one that was started anew', async (t) => {
  const folder = folderOf(t)
  const path = join(folder, 'notify')
  const problems: Error[] = []
  const first = receiverAt(t, path)
  const keeping = new DescriptorKeeping((error) => problems.push(error), { NOTIFY_SOCKET: path })
  t.teardown(() => keeping.close())
  const fd = openFile(folder, 'kept')
  t.teardown(() => closeSync(fd))
  keeping.keep('dns-queries', fd)
  t.deepEqual(
    (await first.mailbox.has(2)).map(({ text, fds }) => [text, fds.length]),
    [
      ['FDSTOREREMOVE=1\nFDNAME=dns-queries', 0],
      ['FDSTORE=1\nFDNAME=dns-queries', 1],
    ],
  )
  rmSync(path)
  const second = receiverAt(t, path)
  const [, again] = await second.mailbox.has(2)
  t.is(fstatSync(again?.fds[0] ?? -1).ino, statSync(join(folder, 'kept')).ino)
  t.deepEqual(problems, [])

  const none = new DescriptorKeeping((error) => problems.push(error), {})
  none.keep('dns-queries', fd)
  none.close()
  t.deepEqual(problems, [], 'nobody keeps, which is no problem')
  const lost = new DescriptorKeeping((error) => problems.push(error), { NOTIFY_SOCKET: join(folder, 'gone') })
  lost.keep('dns-queries', fd)
  lost.close()
  t.is(problems.length, 1)
  for (const path of [join(folder, 'no-folder/notify'), join(folder, 'x'.repeat(120))]) {
    const elsewhere = new DescriptorKeeping((error) => problems.push(error), { NOTIFY_SOCKET: path })
    t.notThrows(() => elsewhere.keep('dns-queries', fd))
    elsewhere.close()
  }
  t.is(problems.length, 4, 'nowhere to watch, nowhere to send, and no path of a socket')
})

test('descriptors that are meant for another process are left alone', (t) => {
  const environment = { LISTEN_PID: String(process.pid + 1), LISTEN_FDS: '1', LISTEN_FDNAMES: 'dns-queries' }
  t.is(takeKeptDescriptor('dns-queries', environment), undefined)
  t.deepEqual(environment, {} as typeof environment, 'and nobody after this process takes them for his')
  t.is(takeKeptDescriptor('dns-queries', {}), undefined)
})
