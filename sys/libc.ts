/**
 * The C library's calls that Node does not offer, bound once through koffi. Every wrapper throws SystemCallError on failure; none
 * blocks unless its name says so (those run on libuv's thread pool). Structures are built and read as Buffers by the callers.
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
  flock: libc.func('int flock(int fd, int operation)'),
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  bind: libc.func('int bind(int fd, const uint8_t *address, unsigned int length)'),
  setsockopt: libc.func('int setsockopt(int fd, int level, int name, const uint8_t *value, unsigned int length)'),
  send: libc.func('long send(int fd, const uint8_t *data, size_t length, int flags)'),
  recv: libc.func('long recv(int fd, _Out_ uint8_t *data, size_t length, int flags)'),
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

export const AF_INET = 2
export const AF_PACKET = 17
export const AF_NETLINK = 16
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

const POLLIN = 1

/**
 * Waits on the thread pool until `fd` is readable. libuv refuses to watch descriptors that it does not know (netlink, epoll, pidfd),
 * so each such wait occupies a pool thread; `timeoutMs` bounds how long a stopped waiter keeps one.
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

/** Raw system call for what the C library has no wrapper of. */
export function syscall(name: string, number: number, a = 0, b = 0, c = 0, d = 0): number {
  return check(name, Number(native.syscall(number, a, b, c, d)), `${a}`)
}
