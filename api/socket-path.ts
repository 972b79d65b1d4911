/** Listening on UNIX sockets, whatever is spoken over them. */
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, renameSync, statSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { ApiError } from './errors.ts'
import { isAnswering } from './unix-socket.ts'

export interface SocketOptions {
  /** Permission bits of the socket, such as 0o600. */
  readonly mode: number
  /** Group that owns the socket; root's if it does not exist or is empty. */
  readonly group?: string
  /** Whether a lock guards the name, so that who still answers there is about to let go of it. */
  readonly replaces?: boolean
}

/** sockaddr_un.sun_path has 108 bytes, one of them for the closing zero. */
const SOCKET_PATH_BYTES_MAX = 107

const TEMPORARY_SUFFIX = '.new'

/**
 * Has a socket bound under a temporary name and renames it when its mode and owner are right, so nobody ever sees it with wider
 * permissions, and a socket that a dead process left is replaced in one step.
 * @param bind makes a server listen on the path that it is given
 * @returns removes the socket, unless somebody else's has taken the path meanwhile
 * @throws ApiError when a living process answers on the path, and is not to be replaced
 */
export async function listenAtPath(path: string, options: SocketOptions, bind: (path: string) => Promise<void>): Promise<() => void> {
  const temporary = `${path}${TEMPORARY_SUFFIX}`
  if (Buffer.byteLength(temporary) > SOCKET_PATH_BYTES_MAX) {
    throw new ApiError('HG-5902', `a socket's path may have ${SOCKET_PATH_BYTES_MAX - TEMPORARY_SUFFIX.length} bytes`, path)
  }
  if (options.replaces !== true && (await isAnswering(path))) throw new ApiError('HG-5901', 'another process serves this socket', path)
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
    if (existsSync(temporary)) unlinkSync(temporary)
    const umask = process.umask(0o177)
    try {
      await bind(temporary)
    } finally {
      process.umask(umask)
    }
    chownSync(temporary, 0, groupId(options.group))
    chmodSync(temporary, options.mode)
    renameSync(temporary, path)
  } catch (cause) {
    throw new ApiError('HG-5903', 'the socket cannot be served', path, { cause })
  }
  const inode = inodeOf(path)
  return () => removeSocket(path, inode)
}

/** Removes a socket, unless somebody else's has taken the path meanwhile. */
export function removeSocket(path: string, inode: bigint | undefined): void {
  if (inode !== undefined && inodeOf(path) === inode) unlinkSync(path)
}

export function inodeOf(path: string): bigint | undefined {
  return statSync(path, { bigint: true, throwIfNoEntry: false })?.ino
}

/** @returns 0, root's group, for a group that does not exist */
function groupId(name: string | undefined): number {
  if (!name || !existsSync('/etc/group')) return 0
  for (const line of readFileSync('/etc/group', 'utf8').split('\n')) {
    const [group, , id] = line.split(':')
    if (group === name && id !== undefined) return Number.parseInt(id, 10)
  }
  return 0
}
