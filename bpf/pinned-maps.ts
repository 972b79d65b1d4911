/** The maps of a layout as processes beside the agent find them: by their pins. */
import { join } from 'node:path'
import { getPinned } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { KernelMaps } from './maps.ts'

export interface PinnedMaps {
  readonly maps: KernelMaps
  close(): void
}

/** @param folder of a layout, as the agent tells it @throws RangeError when a map is not there, SystemCallError when one cannot be opened */
export function openPinnedMaps(folder: string): PinnedMaps {
  const fds: number[] = []
  const closeAll = (): void => {
    for (const fd of fds.splice(0)) close(fd)
  }
  try {
    const maps = new KernelMaps((name) => {
      const path = join(folder, 'maps', name)
      const fd = getPinned(path)
      if (fd === undefined) throw new RangeError(`no pinned map: ${path}`)
      fds.push(fd)
      return fd
    })
    return { maps, close: closeAll }
  } catch (error) {
    closeAll()
    throw error
  }
}
