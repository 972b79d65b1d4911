/** A program of somebody else: two instructions under a name, for what Headgate makes of its neighbours on a hook. */
import koffi from 'koffi'
import { createLink } from '#sys/libbpf.ts'
import { inNetns, netnsPath } from '#sys/netns.ts'
import { withRoute } from '#sys/rtnetlink.ts'
import type { Machine, Workload } from './machine.ts'

const libbpf = koffi.load('libbpf.so.1')
const load = libbpf.func(
  'int bpf_prog_load(int type, const char *name, const char *license, const uint8_t *instructions, size_t count, const uint8_t *options)',
)
const testRun = libbpf.func('int bpf_prog_test_run_opts(int program, _Inout_ uint8_t *options)')
const attach = libbpf.func('int bpf_prog_attach(int program, int target, int type, unsigned int flags)')

const TYPES = { tc: 3, 'cgroup-skb': 8 } as const

/** @param returns what it answers to every packet @returns its descriptor, which is closed with the test's process */
export function loadProgram(type: keyof typeof TYPES, name: string, returns: number): number {
  // struct bpf_insn: opcode, registers, offset, immediate: r0 = returns; exit
  const instructions = Buffer.alloc(16)
  instructions[0] = 0xb7
  instructions.writeInt32LE(returns, 4)
  instructions[8] = 0x95
  return checked('bpf_prog_load', load(TYPES[type], name, 'GPL', instructions, 2, null))
}

/** Attaches to a cgroup, for as long as the cgroup lives. */
export function attachToCgroup(program: number, cgroup: number, attachType: number): void {
  checked('bpf_prog_attach', attach(program, cgroup, attachType, 0))
}

/** Attaches to the host's device of a workload. @returns the link's descriptor: closing it takes the program off */
export function attachToDevice(machine: Machine, { device }: Workload, program: number, attachType: number, flags = 0): number {
  return inNetns(netnsPath(machine.hostNetns), () => {
    const index = withRoute(undefined, (route) => route.link(device)?.index ?? 0)
    return createLink(program, index, attachType, device, flags)
  })
}

/** struct __sk_buff, as far as its ifindex. */
const SKB_BYTES = 44
const SKB_IFINDEX_OFFSET = 40

/**
 * What a tc program answers to a frame on a device of the current namespace (BPF_PROG_TEST_RUN): it runs on a packet of its own, and
 * nothing is sent wherever it redirects to.
 */
export function answerTo(program: number, ifindex: number, frame: Buffer): number {
  const context = Buffer.alloc(SKB_BYTES)
  context.writeUInt32LE(ifindex, SKB_IFINDEX_OFFSET)
  // struct bpf_test_run_opts: size, data in and out, their sizes, context in and out, their sizes, return value, repeat, and more
  const options = Buffer.alloc(80)
  options.writeBigUInt64LE(BigInt(options.length), 0)
  options.writeBigUInt64LE(koffi.address(frame), 8)
  options.writeUInt32LE(frame.length, 24)
  options.writeBigUInt64LE(koffi.address(context), 32)
  options.writeUInt32LE(context.length, 48)
  options.writeInt32LE(1, 60)
  checked('bpf_prog_test_run_opts', testRun(program, options))
  return options.readInt32LE(56)
}

function checked(call: string, result: number): number {
  if (result < 0) throw new Error(`${call} failed with errno ${koffi.errno()}`)
  return result
}
