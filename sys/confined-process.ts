/**
 * Processes that run what is not trusted: as nobody, without capabilities and without a way to get any, in namespaces of their own (network,
 * processes, IPC, host name), without environment and without descriptors but three pipes. What they may read is up to file permissions: they see
 * the machine's files as nobody does.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS, close, O_CLOEXEC, O_RDONLY, open, setns, unshare } from './libc.ts'

/** nobody, by its number: the name is another's on some machines. */
const NOBODY = '65534'
const SETPRIV = [
  ...['--reuid', NOBODY, '--regid', NOBODY, '--clear-groups', '--no-new-privs', '--inh-caps=-all', '--bounding-set=-all'],
  // Whatever it is doing then: it may be in an endless loop.
  ...['--pdeathsig', 'KILL'],
]
const PRLIMIT = ['--core=0', '--fsize=0', '--nofile=64']
const NAMESPACES = [
  ['net', CLONE_NEWNET],
  ['pid', CLONE_NEWPID],
  ['ipc', CLONE_NEWIPC],
  ['uts', CLONE_NEWUTS],
] as const

/**
 * Starts a command, by setpriv and prlimit of util-linux, which become it. It is the first process of its namespace, and dies with the thread
 * that calls this.
 * @param dataBytesMax of memory that only it writes to: of more, allocations fail
 */
export function spawnConfined(command: readonly string[], dataBytesMax?: number): ChildProcess {
  const homes = NAMESPACES.map(([name, type]) => ({ type, name, fd: open(`/proc/thread-self/ns/${name}`, O_RDONLY | O_CLOEXEC) }))
  try {
    unshare(NAMESPACES.reduce((flags, [, type]) => flags | type, 0))
    try {
      const data = dataBytesMax === undefined ? [] : [`--data=${dataBytesMax}`]
      return spawn('setpriv', [...SETPRIV, 'prlimit', ...PRLIMIT, ...data, ...command], {
        stdio: ['pipe', 'pipe', 'pipe'],
        env: {},
        cwd: '/',
      })
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
