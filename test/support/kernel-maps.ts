/** The maps that an agent has pinned, read past it: what tests believe of the kernel, they see in the kernel. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { KernelMaps } from '#bpf/maps.ts'
import { getPinned } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import type { Machine } from './machine.ts'

function pinFolder(machine: Machine): string {
  const root = `/sys/fs/bpf/${machine.id}`
  const folders = readdirSync(root)
  const [folder] = folders
  if (folder === undefined || folders.length > 1) throw new Error(`not one layout, but: ${folders.join(', ')}`)
  return join(root, folder)
}

/** Names of all pins, sorted. */
export function pinsOf(machine: Machine): { readonly maps: readonly string[]; readonly links: readonly string[] } {
  const folder = pinFolder(machine)
  return { maps: readdirSync(join(folder, 'maps')).sort(), links: readdirSync(join(folder, 'links')).sort() }
}

/** Reads the pinned maps, which are open meanwhile only. */
export function withKernelMaps<T>(machine: Machine, read: (maps: KernelMaps) => T): T {
  const folder = pinFolder(machine)
  const fds: number[] = []
  const maps = new KernelMaps((name) => {
    const fd = getPinned(join(folder, 'maps', name))
    if (fd === undefined) throw new Error(`no pin ${name} in ${folder}`)
    fds.push(fd)
    return fd
  })
  try {
    return read(maps)
  } finally {
    for (const fd of fds) close(fd)
  }
}
