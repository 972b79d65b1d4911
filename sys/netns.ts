/**
 * Network namespaces: make, name, enter, and run something inside. setns(2) moves one thread, and all of our JavaScript runs on the
 * main one, so `inNetns` is safe as long as what it runs is synchronous; a socket keeps the namespace that it was made in.
 */
import { existsSync, mkdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { SystemCallError } from './errors.ts'
import {
  CLONE_NEWNET,
  close,
  getSocketOption,
  MS_BIND,
  MS_REC,
  MS_SHARED,
  mount,
  O_CLOEXEC,
  O_RDONLY,
  open,
  setns,
  unmount,
  unshare,
} from './libc.ts'
import { SOL_SOCKET } from './socket-options.ts'

const SO_NETNS_COOKIE = 71

/** Where iproute2 keeps named namespaces. */
export const NETNS_FOLDER = '/run/netns'

/** Path of a namespace given by name or by absolute path. */
export function netnsPath(nameOrPath: string): string {
  return nameOrPath.startsWith('/') ? nameOrPath : `${NETNS_FOLDER}/${nameOrPath}`
}

/** Device and inode: the same for every path that leads to one namespace. @throws ENOENT */
export function netnsInode(path: string): string {
  const stat = statSync(path, { bigint: true })
  return `${stat.dev}:${stat.ino}`
}

/** What tells the namespace of a socket from all others since the machine's start. @throws SystemCallError */
export function netnsCookie(socketFd: number): bigint {
  const cookie = Buffer.alloc(8)
  getSocketOption(socketFd, SOL_SOCKET, SO_NETNS_COOKIE, cookie)
  return cookie.readBigUInt64LE()
}

/** Moves this process into a namespace for good. Only for processes about to exec, or that make no sockets elsewhere. */
export function enterNetns(path: string): void {
  const fd = open(path, O_RDONLY | O_CLOEXEC)
  try {
    setns(fd, CLONE_NEWNET, path)
  } finally {
    close(fd)
  }
}

/** Runs a synchronous function inside a namespace and comes back, whatever happens. */
export function inNetns<T>(path: string, run: () => T): T {
  const home = open('/proc/thread-self/ns/net', O_RDONLY | O_CLOEXEC)
  try {
    enterNetns(path)
    try {
      const result = run()
      if (result instanceof Promise) throw new TypeError('inNetns takes synchronous functions only')
      return result
    } finally {
      setns(home, CLONE_NEWNET, 'own namespace')
    }
  } finally {
    close(home)
  }
}

/** Makes a named namespace, visible to `ip netns`; one that is there already is left as it is. @returns whether it was made */
export function createNetns(name: string): boolean {
  const path = netnsPath(name)
  if (isNetns(path)) return false
  if (!existsSync(NETNS_FOLDER)) mkdirSync(NETNS_FOLDER, { mode: 0o755, recursive: true })
  makeShared(NETNS_FOLDER)
  writeFileSync(path, '', { mode: 0o444 })
  const home = open('/proc/thread-self/ns/net', O_RDONLY | O_CLOEXEC)
  try {
    unshare(CLONE_NEWNET)
    try {
      mount('/proc/thread-self/ns/net', path, 'none', MS_BIND)
    } finally {
      setns(home, CLONE_NEWNET, 'own namespace')
    }
  } finally {
    close(home)
  }
  return true
}

/** Removes a name made by createNetns. The namespace itself lives until its last process and socket are gone. */
export function deleteNetns(name: string): boolean {
  const path = netnsPath(name)
  if (!existsSync(path)) return false
  if (isNetns(path)) unmount(path)
  unlinkSync(path)
  return true
}

/** Whether a path is a mounted namespace, not a stale or unrelated file. */
export function isNetns(path: string): boolean {
  if (!existsSync(path)) return false
  return statSync(path).dev === statSync('/proc/self/ns/net').dev
}

/** `ip netns` does the same: without a shared mount the names stay invisible in other mount namespaces. */
function makeShared(folder: string): void {
  try {
    mount('', folder, 'none', MS_SHARED | MS_REC)
  } catch (error) {
    if (!(error instanceof SystemCallError) || error.code !== 'EINVAL') throw error
    mount(folder, folder, 'none', MS_BIND | MS_REC)
    mount('', folder, 'none', MS_SHARED | MS_REC)
  }
}
