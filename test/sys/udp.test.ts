import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setImmediate } from 'node:timers/promises'
import test from 'ava'
import { addressToBytes, bytesToAddress } from '#sys/addresses.ts'
import { close, syscall } from '#sys/libc.ts'
import { createNetns, deleteNetns, inNetns, netnsPath } from '#sys/netns.ts'
import { type UdpOptions, UdpSocket } from '#sys/udp.ts'
import { DATAGRAM_BYTES_MAX } from '#sys/udp-batch.ts'
import { ip } from '../support/machine.ts'
import { withMachine } from '../support/running.ts'

const SYS_PIDFD_OPEN = 434
const SYS_PIDFD_GETFD = 438
const ANY = addressToBytes('0.0.0.0')
const LOOPBACK = addressToBytes('127.0.0.1')

interface Datagram {
  readonly text: string
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
  readonly mark: number
  readonly isTruncated: boolean
}

/** A namespace with nothing but loopback. */
class Namespace {
  readonly name = `hgt${randomBytes(3).toString('hex')}-udp`
  readonly #sockets: UdpSocket[] = []
  readonly #children: ChildProcess[] = []

  constructor() {
    createNetns(this.name)
    this.ip('link', 'set', 'lo', 'up')
  }

  ip(...args: string[]): void {
    ip('-n', this.name, ...args)
  }

  bind(address: Uint8Array, options: UdpOptions = {}, port = 0): UdpSocket {
    const socket = inNetns(netnsPath(this.name), () => UdpSocket.bind(address, port, options))
    this.#sockets.push(socket)
    return socket
  }

  /** A socket `s` that another process made in the namespace; the process lives until endChildren. */
  async adopt(python: string, options: UdpOptions = {}): Promise<UdpSocket> {
    const source = `import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n${python}\nprint(s.fileno(), flush=True)\nsys.stdin.read()`
    const child = spawn('nsenter', [`--net=${netnsPath(this.name)}`, 'python3', '-c', source], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.#children.push(child)
    const [line] = (await once(createInterface(child.stdout), 'line')) as [string]
    const pidfd = syscall('pidfd_open', SYS_PIDFD_OPEN, child.pid)
    const socket = UdpSocket.adopt(syscall('pidfd_getfd', SYS_PIDFD_GETFD, pidfd, Number(line)), options)
    close(pidfd)
    this.#sockets.push(socket)
    return socket
  }

  async endChildren(): Promise<void> {
    for (const child of this.#children.splice(0)) {
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  }

  async dispose(): Promise<void> {
    for (const socket of this.#sockets) socket.close()
    await this.endChildren()
    deleteNetns(this.name)
  }
}

async function withNamespace(run: (namespace: Namespace) => void | Promise<void>): Promise<void> {
  const namespace = new Namespace()
  try {
    await run(namespace)
  } finally {
    await namespace.dispose()
  }
}

/** Copies of the next datagrams, and stops then. */
function take(socket: UdpSocket, count: number): Promise<Datagram[]> {
  return new Promise((resolve) => {
    const taken: Datagram[] = []
    socket.receive((batch) => {
      for (let index = 0; index < batch.count; index++) {
        taken.push({
          text: batch.data(index).toString('latin1'),
          source: bytesToAddress(batch.source(index)),
          sourcePort: batch.sourcePort(index),
          destination: bytesToAddress(batch.destination(index)),
          destinationPort: batch.destinationPort(index),
          mark: batch.mark(index),
          isTruncated: batch.isTruncated(index),
        })
      }
      if (taken.length < count) return
      socket.stop()
      resolve(taken)
    })
  })
}

test('a batch tells where each datagram comes from, where it was addressed to, and its mark', async (t) => {
  await withNamespace(async (namespace) => {
    namespace.ip('route', 'add', 'local', '192.0.2.0/24', 'dev', 'lo')
    const receiver = namespace.bind(ANY, { receiveMark: true, receiveOriginalDestination: true })
    const plain = namespace.bind(addressToBytes('127.0.0.2'))
    const marked = namespace.bind(addressToBytes('127.0.0.3'), { mark: 0x80001234 })
    plain.send(Buffer.from('first'), addressToBytes('192.0.2.53'), receiver.localPort)
    plain.send(Buffer.from(''), addressToBytes('127.0.0.1'), receiver.localPort)
    plain.flush()
    marked.send(Buffer.from('third'), addressToBytes('192.0.2.54'), receiver.localPort)
    marked.flush()
    const common = { destinationPort: receiver.localPort, isTruncated: false }
    const fromPlain = { ...common, source: '127.0.0.2', sourcePort: plain.localPort, mark: 0 }
    t.deepEqual(await take(receiver, 3), [
      { ...fromPlain, text: 'first', destination: '192.0.2.53' },
      { ...fromPlain, text: '', destination: '127.0.0.1' },
      { ...common, text: 'third', source: '127.0.0.3', sourcePort: marked.localPort, destination: '192.0.2.54', mark: 0x80001234 },
    ])
  })
})

test('what a socket was not asked to report is zero', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK)
    const sender = namespace.bind(LOOPBACK, { mark: 7 })
    sender.send(Buffer.from('x'), LOOPBACK, receiver.localPort)
    sender.flush()
    t.like((await take(receiver, 1))[0], { destination: '::', destinationPort: 0, mark: 0 })
  })
})

test('more datagrams than a batch holds arrive in order, in several batches', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK, { batchCount: 16, receiveBufferBytes: 1 << 20 })
    const sender = namespace.bind(LOOPBACK, { batchCount: 7 })
    const sent = Array.from({ length: 100 }, (_, index) => `datagram ${index}`)
    for (const text of sent) sender.send(Buffer.from(text), LOOPBACK, receiver.localPort)
    sender.flush()
    const counts: number[] = []
    const received: string[] = []
    await new Promise<void>((resolve) => {
      receiver.receive((batch) => {
        counts.push(batch.count)
        for (let index = 0; index < batch.count; index++) received.push(batch.data(index).toString())
        if (received.length === sent.length) resolve()
      })
    })
    t.deepEqual(received, sent)
    t.deepEqual(counts, [16, 16, 16, 16, 16, 16, 4])
  })
})

test('ten thousand datagrams at once are held by a large buffer, and what a small one drops is counted', async (t) => {
  await withNamespace(async (namespace) => {
    const large = namespace.bind(LOOPBACK, { receiveBufferBytes: 16 << 20 })
    const small = namespace.bind(LOOPBACK, { receiveBufferBytes: 1 << 16 })
    const sender = namespace.bind(LOOPBACK)
    for (let index = 0; index < 10_000; index++) {
      const data = Buffer.alloc(60)
      data.writeUInt32LE(index)
      sender.send(data, LOOPBACK, large.localPort)
      sender.send(data, LOOPBACK, small.localPort)
    }
    sender.flush()
    const indexes = (await take(large, 10_000)).map(({ text }) => Buffer.from(text, 'latin1').readUInt32LE(0))
    t.deepEqual(
      indexes,
      Array.from({ length: 10_000 }, (_, index) => index),
    )
    t.is(large.droppedCount(), 0)
    const dropped = small.droppedCount()
    t.true(dropped > 0 && dropped < 10_000, `${dropped}`)
    t.is((await take(small, 10_000 - dropped)).length, 10_000 - dropped)
    t.is(sender.errorCounts.size, 0)
  })
})

test('datagrams longer than a slot are flagged, and slots of full size take the longest', async (t) => {
  await withNamespace(async (namespace) => {
    const buffer = { receiveBufferBytes: 8 << 20 }
    const queries = namespace.bind(LOOPBACK, { ...buffer, datagramBytesMax: 1000 })
    const replies = namespace.bind(LOOPBACK, { ...buffer, datagramBytesMax: DATAGRAM_BYTES_MAX })
    const sender = namespace.bind(LOOPBACK)
    const lengths = [1000, 1001, 65_507, 12]
    for (const length of lengths) {
      const data = Buffer.alloc(length, String(length))
      sender.send(data, LOOPBACK, queries.localPort)
      sender.send(data, LOOPBACK, replies.localPort)
    }
    sender.flush()
    const cut = await take(queries, lengths.length)
    t.deepEqual(
      cut.map(({ text, isTruncated }) => [text.length, isTruncated]),
      [
        [1000, false],
        [1000, true],
        [1000, true],
        [12, false],
      ],
    )
    const whole = await take(replies, lengths.length)
    t.deepEqual(
      whole.map(({ text }) => text),
      lengths.map((length) => Buffer.alloc(length, String(length)).toString()),
    )
    t.true(whole.every(({ isTruncated }) => !isTruncated))
  })
})

test('a transparent socket sends from addresses that its machine does not have, each datagram from its own', async (t) => {
  await withMachine(async (machine) => {
    const client = machine.addWorkload('client')
    const [receiver, proxy] = [
      inNetns(netnsPath(client.netns), () => UdpSocket.bind(ANY, 0)),
      inNetns(netnsPath(machine.hostNetns), () => UdpSocket.bind(ANY, 53, { transparent: true })),
    ]
    try {
      const servers = ['192.0.2.53', '198.51.100.53', '192.0.2.54']
      for (const server of servers) {
        proxy.send(Buffer.from(`answer of ${server}`), addressToBytes(client.address), receiver.localPort, addressToBytes(server))
      }
      proxy.flush()
      t.deepEqual(
        (await take(receiver, servers.length)).map(({ text, source, sourcePort }) => ({ text, source, sourcePort })),
        servers.map((server) => ({ text: `answer of ${server}`, source: server, sourcePort: 53 })),
      )
      t.is(proxy.errorCounts.size, 0)
    } finally {
      receiver.close()
      proxy.close()
    }
  })
})

test('transparent sockets receive for addresses that are not of their machine and answer from them, over IPv6 too', async (t) => {
  await withNamespace(async (namespace) => {
    namespace.ip('-6', 'route', 'add', 'local', '2001:db8::/64', 'dev', 'lo')
    const options = { transparent: true, receiveMark: true, receiveOriginalDestination: true, mark: 9 }
    const server = namespace.bind(addressToBytes('::'), options, 53)
    const client = namespace.bind(addressToBytes('::'), options)
    server.receive((batch) => {
      for (let index = 0; index < batch.count; index++) {
        server.send(batch.data(index), batch.source(index), batch.sourcePort(index), batch.destination(index))
      }
      server.flush()
    })
    client.send(Buffer.from('question'), addressToBytes('2001:db8::53'), 53, addressToBytes('2001:db8::1:2'))
    client.flush()
    t.deepEqual(await take(client, 1), [
      {
        text: 'question',
        source: '2001:db8::53',
        sourcePort: 53,
        destination: '2001:db8::1:2',
        destinationPort: client.localPort,
        mark: 9,
        isTruncated: false,
      },
    ])
  })
})

test('each datagram that cannot be sent is reported by its tag, and those around it leave', async (t) => {
  await withNamespace(async (namespace) => {
    namespace.ip('route', 'add', 'prohibit', '203.0.113.0/24')
    const failures: [number, string][] = []
    const receiver = namespace.bind(LOOPBACK)
    const sender = namespace.bind(ANY, { onSendError: (tag, code) => failures.push([tag, code]) })
    const send = (tag: number, destination: string, data = Buffer.from(`${tag}`), source?: string): void =>
      sender.send(data, addressToBytes(destination), receiver.localPort, source === undefined ? undefined : addressToBytes(source), tag)
    send(1, '192.0.2.1')
    send(2, '127.0.0.1')
    send(3, '203.0.113.1')
    send(4, '192.0.2.1')
    send(5, '127.0.0.1')
    send(6, '127.0.0.1', Buffer.alloc(65_508))
    send(7, '127.0.0.1', undefined, '198.51.100.1')
    send(8, '127.0.0.1')
    t.deepEqual(failures, [], 'nothing is sent before the flush')
    sender.flush()
    t.deepEqual(failures, [
      [1, 'ENETUNREACH'],
      [3, 'EACCES'],
      [4, 'ENETUNREACH'],
      [6, 'EMSGSIZE'],
      [7, 'ENETUNREACH'],
    ])
    failures.length = 0
    send(9, '::1')
    send(10, '127.0.0.1', undefined, '::1')
    send(11, '127.0.0.1', Buffer.alloc(DATAGRAM_BYTES_MAX + 1))
    t.deepEqual(failures, [
      [9, 'EAFNOSUPPORT'],
      [10, 'EAFNOSUPPORT'],
      [11, 'EMSGSIZE'],
    ])
    t.deepEqual(
      (await take(receiver, 3)).map(({ text }) => text),
      ['2', '5', '8'],
    )
    t.deepEqual([...sender.errorCounts].sort(), Object.entries({ EACCES: 1, EAFNOSUPPORT: 2, EMSGSIZE: 2, ENETUNREACH: 3 }))
  })
})

test('a full send buffer fails the rest of the queue, and the socket goes on', async (t) => {
  await withNamespace(async (namespace) => {
    // Nobody answers for the neighbour, so what is sent to it waits, and counts.
    namespace.ip('link', 'add', 'left', 'type', 'veth', 'peer', 'name', 'right')
    for (const device of ['left', 'right']) namespace.ip('link', 'set', device, 'up')
    namespace.ip('addr', 'add', '198.51.100.1/24', 'dev', 'left')
    const failures: [number, string][] = []
    const sender = namespace.bind(ANY, { sendBufferBytes: 4096, onSendError: (tag, code) => failures.push([tag, code]) })
    for (let tag = 0; tag < 40; tag++) sender.send(Buffer.alloc(500), addressToBytes('198.51.100.2'), 53, undefined, tag)
    sender.flush()
    t.true(failures.length > 0 && failures.length < 40, `${failures.length}`)
    t.deepEqual(
      failures,
      Array.from({ length: failures.length }, (_, index) => [40 - failures.length + index, 'EAGAIN']),
    )
    namespace.ip('link', 'del', 'left')
    const receiver = namespace.bind(LOOPBACK)
    sender.send(Buffer.from('later'), LOOPBACK, receiver.localPort)
    sender.flush()
    t.is((await take(receiver, 1))[0]?.text, 'later')
  })
})

test('what is sent in answer to a failure waits for the next flush', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK)
    const sender = namespace.bind(ANY, { onSendError: () => sender.send(Buffer.from('instead'), LOOPBACK, receiver.localPort) })
    sender.send(Buffer.from('lost'), addressToBytes('192.0.2.1'), 53)
    sender.flush()
    sender.flush()
    t.is((await take(receiver, 1))[0]?.text, 'instead')
  })
})

test('a queue longer than its memory is flushed on the way', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK, { receiveBufferBytes: 8 << 20, datagramBytesMax: DATAGRAM_BYTES_MAX })
    const sender = namespace.bind(LOOPBACK, { sendBufferBytes: 4 << 20 })
    const lengths = [30_000, 30_000, 30_000, 65_507, 1, 0, 65_507]
    for (const length of lengths) sender.send(Buffer.alloc(length), LOOPBACK, receiver.localPort)
    sender.flush()
    t.deepEqual(
      (await take(receiver, lengths.length)).map(({ text }) => text.length),
      lengths,
    )
  })
})

test('a stopped socket keeps what arrives for the next receive', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK)
    const sender = namespace.bind(LOOPBACK)
    receiver.receive(() => t.fail('received after stop'))
    t.throws(() => receiver.receive(() => {}), { instanceOf: TypeError })
    sender.send(Buffer.from('kept'), LOOPBACK, receiver.localPort)
    sender.flush()
    receiver.stop()
    receiver.stop()
    await setImmediate()
    t.is((await take(receiver, 1))[0]?.text, 'kept')
  })
})

test('close ends a wait at once, sends what is queued, and frees the port', async (t) => {
  await withNamespace(async (namespace) => {
    const sender = namespace.bind(LOOPBACK)
    const first = namespace.bind(LOOPBACK)
    const { localPort } = first
    first.receive(() => t.fail('received after close'))
    await setImmediate()
    first.send(Buffer.from('farewell'), LOOPBACK, sender.localPort)
    sender.send(Buffer.from('unread'), LOOPBACK, localPort)
    sender.flush()
    first.close()
    first.close()
    const second = namespace.bind(LOOPBACK, {}, localPort)
    sender.send(Buffer.from('for the second'), LOOPBACK, localPort)
    sender.flush()
    t.is((await take(second, 1))[0]?.text, 'for the second')
    t.is((await take(sender, 1))[0]?.text, 'farewell')
  })
})

test('a callback may close its own socket and goes on with its batch', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK)
    const sender = namespace.bind(LOOPBACK)
    for (const text of ['one', 'two']) sender.send(Buffer.from(text), LOOPBACK, receiver.localPort)
    sender.flush()
    const texts = await new Promise<string[]>((resolve) => {
      receiver.receive((batch) => {
        receiver.close()
        resolve([batch.data(0).toString(), batch.data(1).toString()])
      })
    })
    t.deepEqual(texts, ['one', 'two'])
  })
})

test('a port taken is EADDRINUSE, unless both sockets share it', async (t) => {
  await withNamespace((namespace) => {
    const { localPort } = namespace.bind(LOOPBACK)
    t.throws(() => namespace.bind(LOOPBACK, {}, localPort), { message: /^bind failed with EADDRINUSE: / })
    const shared = namespace.bind(LOOPBACK, { reuseAddress: true })
    t.is(namespace.bind(LOOPBACK, { reuseAddress: true }, shared.localPort).localPort, shared.localPort)
  })
})

test('a socket is taken over from another process with what waits in it, and outlives its maker', async (t) => {
  await withNamespace(async (namespace) => {
    const adopted = await namespace.adopt("s.bind(('127.0.0.1', 5353))", { receiveOriginalDestination: true })
    t.false(adopted.isIpv6)
    t.is(adopted.localPort, 5353)
    const client = namespace.bind(LOOPBACK)
    client.send(Buffer.from('before'), LOOPBACK, 5353)
    client.flush()
    await namespace.endChildren()
    client.send(Buffer.from('after'), LOOPBACK, 5353)
    client.flush()
    const received = await take(adopted, 2)
    t.deepEqual(
      received.map(({ text, destination }) => [text, destination]),
      [
        ['before', '127.0.0.1'],
        ['after', '127.0.0.1'],
      ],
    )
    adopted.send(Buffer.from('answer'), LOOPBACK, client.localPort)
    adopted.flush()
    t.like((await take(client, 1))[0], { text: 'answer', sourcePort: 5353 })
  })
})

test('news of an earlier datagram that nobody took is counted, and neither sending nor receiving ends with it', async (t) => {
  await withNamespace(async (namespace) => {
    const failures: string[] = []
    // Only connected sockets get such news.
    const python = "s.bind(('127.0.0.1', 5353)); s.connect(('127.0.0.1', 5354))"
    const socket = await namespace.adopt(python, { onSendError: (_tag, code) => failures.push(code) })
    const refused = (text: string): void => {
      socket.send(Buffer.from(text), LOOPBACK, 5354)
      socket.flush()
    }
    refused('the kernel answers with ICMP')
    refused('so this is refused, and tried again')
    t.deepEqual(failures, [])
    const received = take(socket, 1)
    while (!socket.errorCounts.has('ECONNREFUSED')) await setImmediate()
    const peer = namespace.bind(LOOPBACK, {}, 5354)
    refused('now there is somebody')
    t.is((await take(peer, 1))[0]?.text, 'now there is somebody')
    peer.send(Buffer.from('hello'), LOOPBACK, 5353)
    peer.flush()
    t.is((await received)[0]?.text, 'hello')
  })
})

test('microtasks of a callback run before the next one', async (t) => {
  await withNamespace(async (namespace) => {
    const receiver = namespace.bind(LOOPBACK, { batchCount: 1 })
    const sender = namespace.bind(LOOPBACK)
    for (const text of ['one', 'two']) sender.send(Buffer.from(text), LOOPBACK, receiver.localPort)
    sender.flush()
    const order: string[] = []
    await new Promise<void>((resolve) => {
      receiver.receive((batch) => {
        const text = batch.data(0).toString()
        order.push(text)
        queueMicrotask(() => {
          order.push(`after ${text}`)
          if (text === 'two') resolve()
        })
      })
    })
    t.deepEqual(order, ['one', 'after one', 'two', 'after two'])
  })
})
