/**
 * Processes that run what is not trusted: as nobody, without capabilities and without a way to get any, in namespaces of their own (files, network,
 * processes, IPC, host name), without environment and without descriptors but three pipes. Of files they see those that they are given and the
 * machine's programs and libraries, and can write none.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS, close, O_CLOEXEC, O_RDONLY, open, setns, unshare } from './libc.ts'

const NAMESPACES = [
  ['net', CLONE_NEWNET],
  ['pid', CLONE_NEWPID],
  ['ipc', CLONE_NEWIPC],
  ['uts', CLONE_NEWUTS],
] as const

/**
 * Makes a root of its own out of what it is given, in a mount namespace that only the process has, and becomes the command. What makes the
 * process nobody stands last: nothing of it would hold over a change of user (pdeathsig), or let it be changed (capabilities).
 * Arguments: root, count of files, then source and place of each, then the command.
 */
const ENTER = `
set -e
root=$1 count=$2
shift 2
mount -t tmpfs -o mode=755,size=64k,nosuid,nodev,noexec headgate "$root"
bind() { mount --bind "$1" "$root$2"; mount -o remount,bind,ro,nosuid,nodev "$root$2"; }
mkdir "$root/usr"
bind /usr /usr
for name in bin lib lib64; do
  if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$root/$name"
  elif [ -d "/$name" ]; then mkdir "$root/$name"; bind "/$name" "/$name"; fi
done
while [ "$count" -gt 0 ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"; else : >"$root$2"; fi
  bind "$1" "$2"
  shift 2
  count=$((count - 1))
done
echo '{"type":"module"}' >"$root/package.json"
mount -o remount,ro,mode=755,nosuid,nodev,noexec "$root"
cd /
exec chroot "$root" setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all --pdeathsig KILL \\
  prlimit --core=0 --fsize=0 --nofile=64 "$@"
`
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export interface Confined {
  /** An empty folder, made where it is not there, that becomes the root: several processes may have the same. */
  readonly root: string
  /** Files and folders by where the process sees them. */
  readonly files: Readonly<Record<string, string>>
  readonly command: readonly string[]
  /** Of memory that only it writes to: of more, allocations fail. */
  readonly dataBytesMax?: number
}

/**
 * Starts a command, by programs of util-linux and coreutils which become it. It is the first process of its namespace, and is killed when the thread
 * that calls this ends, whatever it does then.
 */
export function spawnConfined({ root, files, command, dataBytesMax }: Confined): ChildProcess {
  mkdirSync(root, { recursive: true, mode: 0o700 })
  const places = Object.entries(files).flatMap(([place, source]) => [source, place])
  const data = dataBytesMax === undefined ? [] : [`--data=${dataBytesMax}`]
  const enter = [root, String(places.length / 2), ...places, ...data, 'env', '-i', ...command]
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', ENTER, 'sh', ...enter]
  const homes = NAMESPACES.map(([name, type]) => ({ type, name, fd: open(`/proc/thread-self/ns/${name}`, O_RDONLY | O_CLOEXEC) }))
  try {
    unshare(NAMESPACES.reduce((flags, [, type]) => flags | type, 0))
    try {
      return spawn('unshare', args, { stdio: ['pipe', 'pipe', 'pipe'], env: { PATH }, cwd: '/' })
    } finally {
      for (const { fd, type, name } of homes) setns(fd, type, `own ${name} namespace`)
    }
  } finally {
    for (const { fd } of homes) close(fd)
  }
}

/** What a process has of memory that only it writes to, as RLIMIT_DATA counts it. @throws ENOENT when it is gone */
export function dataBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  return Number(/^VmData:\s*(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024
}
