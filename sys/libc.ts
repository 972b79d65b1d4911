/**
 * The C library's calls that Node does not offer, bound once through koffi. Every wrapper throws SystemCallError on failure unless
 * it says otherwise; none blocks unless its name says so (those run on libuv's thread pool). Structures are built and read as Buffers by
 * the callers.
 */
import koffi from 'koffi'
import { SystemCallError } from './errors.ts'

const libc = koffi.load('libc.so.6')

const native = {
  close: libc.func('int close(int fd)'),
  open: libc.func('int open(const char *path, int flags, unsigned int mode)'),
  setns: libc.func('int setns(int fd, int type)'),
  unshare: libc.func('int unshare(int flags)'),
  mount: libc.func('int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)'),
  umount2: libc.func('int umount2(const char *target, int flags)'),
  fcntl: libc.func('int fcntl(int fd, int command, ...)'),
  flock: libc.func('int flock(int fd, int operation)'),
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  bind: libc.func('int bind(int fd, const uint8_t *address, unsigned int length)'),
  setsockopt: libc.func('int setsockopt(int fd, int level, int name, const uint8_t *value, unsigned int length)'),
  getsockopt: libc.func('int getsockopt(int fd, int level, int name, _Out_ uint8_t *value, _Inout_ uint8_t *length)'),
  getsockname: libc.func('int getsockname(int fd, _Out_ uint8_t *address, _Inout_ uint8_t *length)'),
  send: libc.func('long send(int fd, const uint8_t *data, size_t length, int flags)'),
  recv: libc.func('long recv(int fd, _Out_ uint8_t *data, size_t length, int flags)'),
  recvmmsg: libc.func('int recvmmsg(int fd, _Inout_ uint8_t *messages, unsigned int count, int flags, void *timeout)'),
  sendmmsg: libc.func('int sendmmsg(int fd, _Inout_ uint8_t *messages, unsigned int count, int flags)'),
  pipe2: libc.func('int pipe2(_Out_ int *fds, int flags)'),
  splice: libc.func('long splice(int from, void *fromOffset, int to, void *toOffset, size_t length, unsigned int flags)'),
  poll: libc.func('int poll(_Inout_ uint8_t *fds, unsigned long count, int timeout)'),
  syscall: libc.func('long syscall(long number, long a, long b, long c, long d)'),
  mallocTrim: libc.func('int malloc_trim(size_t pad)'),
}

function check(syscall: string, result: number, detail: string): number {
  if (result < 0) throw new SystemCallError(syscall, koffi.errno(), detail)
  return result
}

/** Gives memory that was freed back to the kernel. */
export function trimAllocator(): void {
  native.mallocTrim(0)
}

export const O_RDONLY = 0
export const O_RDWR = 2
export const O_CREAT = 0o100
export const O_CLOEXEC = 0o2000000

/** Opens a file. Unlike Node's own descriptors, one opened without O_CLOEXEC survives exec. */
export function open(path: string, flags: number, mode = 0): number {
  return check('open', native.open(path, flags, mode), path)
}

export function close(fd: number): void {
  check('close', native.close(fd), `fd ${fd}`)
}

const F_SETFD = 2
const F_DUPFD_CLOEXEC = 1030
const F_SETPIPE_SZ = 1031
const FD_CLOEXEC = 1

export function closeOnExec(fd: number): void {
  check('fcntl', native.fcntl(fd, F_SETFD, 'int', FD_CLOEXEC), `fd ${fd}`)
}

/** @returns another descriptor of the same file, closed by exec */
export function duplicate(fd: number): number {
  return check('fcntl', native.fcntl(fd, F_DUPFD_CLOEXEC, 'int', 0), `fd ${fd}`)
}

/** Closed by exec; reading from it blocks where it is empty. */
export function pipe(): { readonly read: number; readonly write: number } {
  const fds = new Int32Array(2)
  check('pipe2', native.pipe2(fds, O_CLOEXEC), '')
  const [read = -1, write = -1] = fds
  return { read, write }
}

export function setPipeBytes(fd: number, bytes: number): void {
  check('fcntl', native.fcntl(fd, F_SETPIPE_SZ, 'int', bytes), `fd ${fd}`)
}

export const SPLICE_F_MOVE = 1
export const SPLICE_F_NONBLOCK = 2

/** One of both is a pipe. Failure is an ordinary outcome of a hot path, so it is a value. @returns the count, or the errno as a negative number */
export function splice(from: number, to: number, length: number, flags: number): number {
  const count = Number(native.splice(from, null, to, null, length, flags))
  return count < 0 ? -koffi.errno() : count
}

export const CLONE_NEWUTS = 0x04000000
export const CLONE_NEWIPC = 0x08000000
export const CLONE_NEWPID = 0x20000000
export const CLONE_NEWNET = 0x40000000

/** Moves the calling (main) thread into a namespace. */
export function setns(fd: number, type: number, detail: string): void {
  check('setns', native.setns(fd, type), detail)
}

export function unshare(flags: number): void {
  check('unshare', native.unshare(flags), `flags 0x${flags.toString(16)}`)
}

export const MS_BIND = 4096
export const MS_REC = 16384
export const MS_SHARED = 1 << 20
export const MNT_DETACH = 2

export function mount(source: string, target: string, type: string, flags: number, data = ''): void {
  check('mount', native.mount(source, target, type, flags, data), `${source} on ${target}`)
}

export function unmount(target: string): void {
  check('umount', native.umount2(target, MNT_DETACH), target)
}

export const LOCK_EX = 2
export const LOCK_NB = 4

/** @returns false when another open file holds the lock */
export function tryFlock(fd: number, path: string): boolean {
  if (native.flock(fd, LOCK_EX | LOCK_NB) === 0) return true
  const errno = koffi.errno()
  if (errno === koffi.os.errno.EWOULDBLOCK) return false
  throw new SystemCallError('flock', errno, path)
}

export const AF_UNIX = 1
export const AF_INET = 2
export const AF_INET6 = 10
export const AF_PACKET = 17
export const AF_NETLINK = 16
export const SOCK_STREAM = 1
export const SOCK_DGRAM = 2
export const SOCK_RAW = 3
export const SOCK_CLOEXEC = 0o2000000

/** Makes a socket in the network namespace that the main thread is in. */
export function socket(domain: number, type: number, protocol: number): number {
  return check('socket', native.socket(domain, type | SOCK_CLOEXEC, protocol), `domain ${domain} type ${type} protocol ${protocol}`)
}

export function bind(fd: number, address: Uint8Array): void {
  check('bind', native.bind(fd, address, address.length), Buffer.from(address).toString('hex'))
}

export function setSocketOption(fd: number, level: number, name: number, value: number): void {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(value)
  check('setsockopt', native.setsockopt(fd, level, name, bytes, 4), `level ${level} option ${name}`)
}

/** Fills `value` from its start. @returns bytes of it that the kernel wrote */
export function getSocketOption(fd: number, level: number, name: number, value: Uint8Array): number {
  const length = lengthCell(value)
  check('getsockopt', native.getsockopt(fd, level, name, value, length), `level ${level} option ${name}`)
  return length.readUInt32LE()
}

/** Writes the sockaddr that a socket is bound to into `address`, which has to be large enough for its family. */
export function getSocketName(fd: number, address: Uint8Array): void {
  check('getsockname', native.getsockname(fd, address, lengthCell(address)), `fd ${fd}`)
}

/** A socklen_t that says how much room there is, for the kernel to say how much of it was used. */
function lengthCell(value: Uint8Array): Buffer {
  const cell = Buffer.alloc(4)
  cell.writeUInt32LE(value.length)
  return cell
}

export function send(fd: number, data: Uint8Array): number {
  return check('send', Number(native.send(fd, data, data.length, 0)), `${data.length} bytes`)
}

export const MSG_DONTWAIT = 0x40

/** Reads into `buffer`. @returns bytes read, or -1 when nothing is there and MSG_DONTWAIT is set */
export function receive(fd: number, buffer: Uint8Array, flags: number): number {
  for (;;) {
    const length = Number(native.recv(fd, buffer, buffer.length, flags))
    if (length >= 0) return length
    const errno = koffi.errno()
    if (errno === koffi.os.errno.EINTR) continue
    if (errno === koffi.os.errno.EAGAIN) return -1
    throw new SystemCallError('recv', errno, `fd ${fd}`)
  }
}

/**
 * Receives up to `count` datagrams with one call. Here and in `sendMessages` failure is an ordinary outcome of a hot path, so it is a
 * value. koffi hands a Buffer over where it lies, without a copy.
 * @param messages struct mmsghdr, 64 bytes each
 * @returns the count, or the errno as a negative number
 */
export function receiveMessages(fd: number, messages: Uint8Array, count: number, flags: number): number {
  const received: number = native.recvmmsg(fd, messages, count, flags, null)
  return received < 0 ? -koffi.errno() : received
}

/** Sends up to `count` datagrams with one call; the kernel stops before the first that fails. @returns as `receiveMessages` does */
export function sendMessages(fd: number, messages: Uint8Array, count: number, flags: number): number {
  const sent: number = native.sendmmsg(fd, messages, count, flags)
  return sent < 0 ? -koffi.errno() : sent
}

/** Where the kernel finds a buffer's bytes. V8 does not move them, but the caller has to keep the buffer for as long as it is used. */
export function addressOf(buffer: Uint8Array): number {
  return Number(koffi.address(buffer))
}

const POLLIN = 1

/**
 * Waits on the thread pool until `fd` is readable. Each such wait occupies a pool thread, which watchReadable does not; `timeoutMs`
 * bounds how long a stopped waiter keeps one.
 * @returns false on timeout
 */
export function waitReadable(fd: number, timeoutMs: number): Promise<boolean> {
  const fds = Buffer.alloc(8)
  fds.writeInt32LE(fd, 0)
  fds.writeInt16LE(POLLIN, 4)
  return new Promise((resolve, reject) => {
    native.poll.async(fds, 1, timeoutMs, (error: Error | null, result: number) => {
      if (error) reject(error)
      // EINTR counts as a timeout: the caller's loop comes back.
      else resolve(result > 0)
    })
  })
}

/**
 * Watches a descriptor on the event loop itself, without a thread: koffi reaches uv_poll, which takes whatever epoll takes. (It exports
 * that without documenting it; the arguments of its callback are not what its types say, and none are used but the first.)
 * `onReadable` runs for as long as there is something to read, once in each turn of the loop; the process lives until close. libuv calls
 * from outside of Node's callback scope, where microtasks wait and an exception stays stuck in the addon, so the work itself is an
 * immediate: same turn.
 */
export function watchReadable(fd: number, onReadable: () => void): { close(): void } {
  let isClosed = false
  const handle = koffi.node.poll(fd, wake)
  function wake(status: unknown): void {
    setImmediate(run, status)
  }
  function run(status: unknown): void {
    if (isClosed) return
    // libuv stops a handle that epoll reports an error for, such as an ICMP message that reading takes off a connected socket.
    if (typeof status === 'number' && status < 0) handle.start(wake)
    onReadable()
  }
  return {
    close() {
      // koffi's handle does not survive a second call.
      if (isClosed) return
      isClosed = true
      handle.close()
    },
  }
}

/** Raw system call for what the C library has no wrapper of. */
export function syscall(name: string, number: number, a = 0, b = 0, c = 0, d = 0): number {
  return check(name, Number(native.syscall(number, a, b, c, d)), `${a}`)
}
