/**
 * Taking over from another map layout: an upgrade or a changed map size. The new maps are made beside the old ones and filled; tracked
 * connections are carried over field by field, by the layout that the old agent left in the run folder; then every link is switched.
 * Nothing is cleared, and no connection notices.
 */
import { basename, join } from 'node:path'
import { type CtKey, type CtValue, ctKeyCodec, ctValueCodec } from '#bpf/gen/abi.ts'
import type { Kernel } from '#bpf/kernel.ts'
import { BpfMap } from '#bpf/map.ts'
import { StructCodec, type StructLayout } from '#bpf/struct.ts'
import { readFileIfPresent, writeFileAtomic } from '#sys/atomic-file.ts'
import { SystemCallError } from '#sys/errors.ts'
import { BPF_NOEXIST, getPinned } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'

interface RecordedLayout {
  readonly version: 1
  readonly conntrackKey: StructLayout
  readonly conntrackValue: StructLayout
}

function layoutPath(runFolder: string, folder: string): string {
  return join(runFolder, 'layouts', `${basename(folder)}.json`)
}

/** Leaves what a later agent needs to read this layout's connections. */
export function recordLayout(runFolder: string, kernel: Kernel): void {
  const layout: RecordedLayout = { version: 1, conntrackKey: ctKeyCodec.layout, conntrackValue: ctValueCodec.layout }
  writeFileAtomic(layoutPath(runFolder, kernel.folder), JSON.stringify(layout))
}

/** The coarse clock of the kernel's programs lags behind by a tick, 10 ms at most. */
const CLOCK_LAG_NS = 20_000_000n

/**
 * Copies the connections that the new map does not know.
 * @param sinceNs of the monotonic clock: those that saw nothing since then have been carried before
 * @returns how many; 0 when there is no older layout
 */
export function carryConnections(runFolder: string, kernel: Kernel, sinceNs = 0n): number {
  const from = kernel.takesOverFrom
  if (from === undefined) return 0
  const fd = getPinned(join(from, 'maps/conntrack'))
  const recorded = readFileIfPresent(layoutPath(runFolder, from))
  if (fd === undefined) return 0
  try {
    // Without the record the old entries cannot be read; connections are then judged anew, as after a reboot.
    if (recorded === undefined) return 0
    const layout = JSON.parse(recorded.toString('utf8')) as RecordedLayout
    const keyCodec = new StructCodec<CtKey>(layout.conntrackKey)
    const valueCodec = new StructCodec<CtValue>(layout.conntrackValue)
    const lastSeen = layout.conntrackValue.fields.find(({ name }) => name === 'lastSeenNs')?.offset
    let carried = 0
    for (const { keys, values, count } of new BpfMap('conntrack', fd, keyCodec, valueCodec).rawBatches()) {
      for (let index = 0; index < count; index++) {
        if (lastSeen !== undefined && values.readBigUInt64LE(index * valueCodec.size + lastSeen) + CLOCK_LAG_NS < sinceNs) continue
        const key = keyCodec.decode(keys.subarray(index * keyCodec.size))
        const value = valueCodec.decode(values.subarray(index * valueCodec.size))
        // Revision 0 is nobody's: the first packet has the connection judged. An older layout may not tell of twins: then look.
        if (addNew(kernel, key, { ...value, revision: 0, revokedRevision: 0, twin: 1 })) carried++
      }
    }
    return carried
  } finally {
    close(fd)
  }
}

function addNew(kernel: Kernel, key: CtKey, value: CtValue): boolean {
  try {
    kernel.maps.conntrack.set(key, value, BPF_NOEXIST)
    return true
  } catch (error) {
    if (error instanceof SystemCallError && error.code === 'EEXIST') return false
    throw error
  }
}
