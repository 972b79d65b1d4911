/**
 * What the machine must have before anything is touched: used by `doctor`, by `up`, and by the agent itself. Nothing here may load
 * libbpf before its own check does.
 */
import { existsSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { PACKAGE_ROOT, PROGRAMS_PATH } from '#config/package.ts'
import type { Config } from '#config/schema.ts'
import { AgentError } from '../errors.ts'

export interface Finding {
  readonly name: string
  readonly level: 'ok' | 'warning' | 'error'
  readonly detail: string
  /** What to do about it; empty when ok. */
  readonly hint: string
}

/** tcx links, and bpf_sk_assign for SO_REUSEPORT listeners. */
export const KERNEL_FLOOR = [6, 6] as const

/** Bits of CapEff (linux/capability.h). */
const CAPABILITIES: ReadonlyMap<string, number> = new Map([
  ['CAP_NET_ADMIN', 12],
  ['CAP_NET_RAW', 13],
  ['CAP_SYS_ADMIN', 21],
])

/** All checks, the failed ones among them. Changes nothing. */
export async function probe(config: Config): Promise<Finding[]> {
  return [
    kernelFinding(),
    rootFinding(),
    capabilityFinding(),
    btfFinding(),
    bpfFsFinding(),
    objectFinding(),
    libbpfFinding(await libbpfProblem()),
    envoyFinding(config),
  ]
}

/** @throws AgentError HG-2010 with every check that failed */
export async function assertMachine(config: Config): Promise<void> {
  const failed = (await probe(config)).filter(({ level }) => level === 'error')
  if (failed.length > 0) throw new AgentError('HG-2010', failed.map(({ name, detail }) => `${name}: ${detail}`).join('\n'))
}

function ok(name: string, detail: string): Finding {
  return { name, level: 'ok', detail, hint: '' }
}

function kernelFinding(): Finding {
  const text = release()
  const [major = 0, minor = 0] = text.split('.').map((part) => Number.parseInt(part, 10))
  const [wantedMajor, wantedMinor] = KERNEL_FLOOR
  if (major > wantedMajor || (major === wantedMajor && minor >= wantedMinor)) return ok('kernel', text)
  return {
    name: 'kernel',
    level: 'error',
    detail: `Linux ${text} is older than ${KERNEL_FLOOR.join('.')}, which brought tcx links`,
    hint: `boot Linux ${KERNEL_FLOOR.join('.')} or newer`,
  }
}

function rootFinding(): Finding {
  if (process.getuid?.() === 0) return ok('root', 'running as root')
  return { name: 'root', level: 'error', detail: `running as user ${process.getuid?.()}`, hint: 'run as root, or with sudo' }
}

function capabilityFinding(): Finding {
  const text = /^CapEff:\s+([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'
  const effective = BigInt(`0x${text}`)
  const missing = [...CAPABILITIES].filter(([, bit]) => ((effective >> BigInt(bit)) & 1n) === 0n).map(([name]) => name)
  if (missing.length === 0) return ok('capabilities', [...CAPABILITIES.keys()].join(', '))
  return {
    name: 'capabilities',
    level: 'error',
    detail: `missing ${missing.join(', ')}`,
    hint: 'run with full root privileges, not in a restricted container',
  }
}

function btfFinding(): Finding {
  const path = '/sys/kernel/btf/vmlinux'
  if (existsSync(path)) return ok('btf', path)
  return { name: 'btf', level: 'error', detail: `no ${path}`, hint: 'use a kernel built with CONFIG_DEBUG_INFO_BTF' }
}

function bpfFsFinding(): Finding {
  if (existsSync('/sys/fs/bpf')) return ok('bpf file system', '/sys/fs/bpf')
  return {
    name: 'bpf file system',
    level: 'error',
    detail: 'no /sys/fs/bpf',
    hint: 'use a kernel built with CONFIG_BPF_SYSCALL, with /sys mounted',
  }
}

function objectFinding(): Finding {
  if (existsSync(PROGRAMS_PATH)) return ok('programs', PROGRAMS_PATH)
  return {
    name: 'programs',
    level: 'error',
    detail: `no ${PROGRAMS_PATH}`,
    hint: 'run `npm run setup` in the checkout, or install the package again',
  }
}

/** Loading the library fails where it is not installed: that must not keep the other checks from telling. */
async function libbpfProblem(): Promise<string | { version: string }> {
  try {
    const { libbpfVersion } = await import('#sys/libbpf.ts')
    return { version: libbpfVersion() }
  } catch (error) {
    return (error as Error).message
  }
}

function libbpfFinding(found: string | { version: string }): Finding {
  if (typeof found !== 'string') return ok('libbpf', found.version)
  return { name: 'libbpf', level: 'error', detail: found, hint: 'install the package libbpf1' }
}

function envoyFinding(config: Config): Finding {
  const name = 'envoy'
  const candidates =
    config.envoy.binary === ''
      ? [join(PACKAGE_ROOT, '.cache/envoy/1.40.0/envoy'), ...(process.env['PATH'] ?? '').split(':').map((folder) => join(folder, 'envoy'))]
      : [config.envoy.binary]
  const found = candidates.find((path) => existsSync(path))
  if (found !== undefined) return ok(name, found)
  return {
    name,
    level: 'error',
    detail: `no Envoy binary at ${candidates[0]}, nor on PATH`,
    hint: 'run `npm run setup`, or set envoy.binary',
  }
}
