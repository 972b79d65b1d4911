/**
 * The datapath in the kernel: loads the object over maps that are pinned already or makes and pins them, and keeps one pinned tcx link
 * per device and direction. Pins outlive the process, so the datapath goes on without it. The folder carries the digest of the map
 * layouts: another layout is another folder, beside the first.
 */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, rmdirSync, statfsSync, unlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { SystemCallError } from '#sys/errors.ts'
import {
  BPF_F_BEFORE,
  BPF_TCX_EGRESS,
  BPF_TCX_INGRESS,
  closeObject,
  createLink,
  detachLink,
  getPinned,
  loadObject,
  mapFd,
  mapShape,
  mapsOf,
  type OpenedObject,
  objectInfo,
  openObject,
  type Pointer,
  pin,
  programsOf,
  reuseMapFd,
  setMaxEntries,
  updateLink,
} from '#sys/libbpf.ts'
import { close, mount } from '#sys/libc.ts'
import { inNetns } from '#sys/netns.ts'
import { LAYOUT_DIGEST } from './gen/abi.ts'
import { KernelMaps } from './maps.ts'

const BPF_FS_MAGIC = 0xcafe4a11

export type HookDirection = 'ingress' | 'egress'

/** Whose device it is: indexes mean something in their own namespace only. */
export type HookPlace = 'host' | 'egress-proxy' | 'ingress-proxy'

/** Sizes that the configuration sets; the rest stand in bpf/src/maps.h. */
export interface MapSizes {
  readonly conntrack: number
  readonly ipcache: number
}

/** A link as found in the pin folder. */
export interface PinnedLink {
  readonly place: HookPlace
  readonly ifindex: number
  readonly direction: HookDirection
  readonly path: string
}

/** A program on a device. */
interface Attachment {
  readonly program: string
  readonly place: HookPlace
  readonly ifindex: number
  readonly direction: HookDirection
  /** Namespace of the device; undefined: the current one. */
  readonly netnsPath: string | undefined
}

export class Kernel {
  readonly maps: KernelMaps
  /** Folder of this layout's pins. */
  readonly folder: string
  readonly #object: OpenedObject
  readonly #programs: ReadonlyMap<string, number>
  /** Pins of another layout, whose programs still run. */
  readonly #previous: string | undefined
  /** Attachments that wait until the maps of this layout are filled. */
  #waiting: Attachment[] | undefined

  private constructor(object: OpenedObject, folder: string, previous: string | undefined) {
    this.#object = object
    this.folder = folder
    this.#previous = previous
    this.#waiting = previous === undefined ? undefined : []
    this.#programs = programsOf(object)
    const maps = mapsOf(object)
    this.maps = new KernelMaps((name) => {
      const map = maps.get(name)
      if (map === undefined) throw new RangeError(`no map ${name} in ${object.path}`)
      return mapFd(map)
    })
  }

  /**
   * @param root the setting paths.bpf; the BPF file system is mounted there or above
   * @throws SystemCallError when the kernel refuses; the verifier's log is in it
   */
  static load(objectPath: string, root: string, sizes: MapSizes): Kernel {
    mountBpfFs(root)
    const folder = join(root, pinFolderName(sizes))
    const previous = otherFolder(root, folder)
    for (const name of ['maps', 'links']) mkdirSync(join(folder, name), { recursive: true, mode: 0o700 })
    let object = openWithMaps(objectPath, folder, previous, sizes, false)
    try {
      loadObject(object)
    } catch (error) {
      if (!(error instanceof SystemCallError)) throw error
      closeObject(object)
      object = openWithMaps(objectPath, folder, previous, sizes, true)
      loadObject(object)
    }
    for (const [name, map] of mapsOf(object)) {
      // Constants of the programs (headgate.rodata) belong to the object; the BPF file system takes no dots in names anyway.
      if (name.includes('.')) continue
      const path = join(folder, 'maps', name)
      if (!existsSync(path)) pin(mapFd(map), path)
    }
    return new Kernel(object, folder, previous)
  }

  /** Folder of the layout that this one takes over from; undefined after finishTakeover, and mostly. */
  get takesOverFrom(): string | undefined {
    return this.#waiting === undefined ? undefined : this.#previous
  }

  /**
   * Puts a program on a device, in place of the one that is there by our own pin, without a gap. While another layout's programs
   * still run, it waits for finishTakeover.
   * @param netnsPath namespace of the device; undefined: the current one
   * @throws SystemCallError ENODEV when the device is gone
   */
  attach(program: string, place: HookPlace, ifindex: number, direction: HookDirection, netnsPath?: string): void {
    const attachment: Attachment = { program, place, ifindex, direction, netnsPath }
    if (this.#waiting === undefined) this.#attachNow(attachment)
    else this.#waiting.push(attachment)
  }

  /**
   * All maps are filled: switches every link to the programs of this layout, one after the other at once, and removes the old pins.
   * @param beforeSwitch the last moment in which only the old programs run
   * @param beforeRemoval the last moment in which the old maps can be read, now that nothing writes them any more
   */
  finishTakeover(beforeSwitch: () => void, beforeRemoval: () => void): void {
    const waiting = this.#waiting?.splice(0) ?? []
    // Everything that takes time comes before or after: a packet that crosses programs of both layouts meets maps of both.
    const taken = waiting.map((attachment) => ({ attachment, link: this.#previousLink(attachment) }))
    beforeSwitch()
    for (const { attachment, link } of taken) {
      if (link !== undefined) updateLink(link.fd, this.#programFd(attachment.program), link.pin)
    }
    beforeRemoval()
    for (const { attachment, link } of taken) {
      if (link === undefined) {
        this.#attachNow(attachment)
        continue
      }
      pin(link.fd, this.#linkPath(attachment))
      close(link.fd)
      unlinkSync(link.pin)
    }
    this.#waiting = undefined
    if (this.#previous !== undefined) removeFolder(this.#previous)
  }

  #programFd(name: string): number {
    const fd = this.#programs.get(name)
    if (fd === undefined) throw new RangeError(`no program ${name}`)
    return fd
  }

  #attachNow(attachment: Attachment): void {
    const { program, ifindex, direction, netnsPath } = attachment
    const programFd = this.#programFd(program)
    const path = this.#linkPath(attachment)
    const pinned = openLink(path, ifindex)
    if (pinned !== undefined) {
      try {
        updateLink(pinned, programFd, path)
        return
      } finally {
        close(pinned)
      }
    }
    const create = (): number =>
      createLink(
        programFd,
        ifindex,
        direction === 'ingress' ? BPF_TCX_INGRESS : BPF_TCX_EGRESS,
        `${program} on device ${ifindex}`,
        // Behind a program that passes a packet for good, ours would never see it.
        BPF_F_BEFORE,
      )
    const link = netnsPath === undefined ? create() : inNetns(netnsPath, create)
    try {
      pin(link, path)
    } finally {
      close(link)
    }
  }

  /** The link of the previous layout that does the same. */
  #previousLink(attachment: Attachment): { readonly fd: number; readonly pin: string } | undefined {
    if (this.#previous === undefined) return undefined
    const path = join(this.#previous, 'links', linkName(attachment))
    const fd = openLink(path, attachment.ifindex)
    return fd === undefined ? undefined : { fd, pin: path }
  }

  /** Takes our program off a device. @returns whether there was one */
  detach(place: HookPlace, ifindex: number, direction: HookDirection): boolean {
    return removeLink(this.#linkPath({ place, ifindex, direction }))
  }

  links(): PinnedLink[] {
    return pinnedLinks(this.folder)
  }

  /** Gives the descriptors back; pins and links stay. */
  close(): void {
    closeObject(this.#object)
  }

  #linkPath(hook: Pick<Attachment, 'place' | 'ifindex' | 'direction'>): string {
    return join(this.folder, 'links', linkName(hook))
  }
}

function linkName({ place, ifindex, direction }: Pick<Attachment, 'place' | 'ifindex' | 'direction'>): string {
  return `${place}_${ifindex}_${direction}`
}

/** Sizes are part of the name: a map of another size is another map. */
export function pinFolderName(sizes: MapSizes): string {
  return createHash('sha256')
    .update(JSON.stringify([LAYOUT_DIGEST, sizes.conntrack, sizes.ipcache]))
    .digest('hex')
    .slice(0, 16)
}

/** Removes every pin below the root, links first. @returns what was removed */
export function removePins(root: string): string[] {
  const removed: string[] = []
  if (!existsSync(root)) return removed
  for (const name of readdirSync(root)) removed.push(...removeFolder(join(root, name)))
  rmdirSync(root)
  return removed
}

/** Removes one layout's pins: links first, so that no program outlives its maps' names. */
function removeFolder(folder: string): string[] {
  const removed: string[] = []
  for (const { path } of pinnedLinks(folder)) if (removeLink(path)) removed.push(path)
  for (const kind of ['links', 'maps']) {
    const inside = join(folder, kind)
    if (!existsSync(inside)) continue
    for (const entry of readdirSync(inside)) {
      unlinkSync(join(inside, entry))
      removed.push(join(inside, entry))
    }
    rmdirSync(inside)
  }
  rmdirSync(folder)
  return removed
}

/** The pin folder of another layout, if there is one with links in it. Folders without any are leftovers of a start that failed. */
function otherFolder(root: string, current: string): string | undefined {
  if (!existsSync(root)) return undefined
  const others = readdirSync(root)
    .map((name) => join(root, name))
    .filter((folder) => folder !== current)
  const [previous, ...rest] = others.sort((a, b) => pinnedLinks(b).length - pinnedLinks(a).length)
  for (const folder of rest) removeFolder(folder)
  return previous
}

function pinnedLinks(folder: string): PinnedLink[] {
  const links = join(folder, 'links')
  if (!existsSync(links)) return []
  return readdirSync(links).flatMap((name) => {
    const match = /^(host|egress-proxy|ingress-proxy)_(\d+)_(ingress|egress)$/.exec(name)
    if (match === null) return []
    return [{ place: match[1] as HookPlace, ifindex: Number(match[2]), direction: match[3] as HookDirection, path: join(links, name) }]
  })
}

function removeLink(path: string): boolean {
  const link = getPinned(path)
  if (link === undefined) return false
  try {
    detachLink(link, path)
  } catch (error) {
    // The device is gone, and the attachment with it.
    if (!(error instanceof SystemCallError && (error.code === 'ENOLINK' || error.code === 'ENODEV'))) throw error
  } finally {
    close(link)
  }
  unlinkSync(path)
  return true
}

/** Device of a tcx link, 0 when it is dead. */
/** @returns a pinned link's descriptor; undefined when there is none, or only what a device left behind that went away */
function openLink(path: string, ifindex: number): number | undefined {
  const link = getPinned(path)
  if (link === undefined || linkIfindex(link) === ifindex) return link
  close(link)
  unlinkSync(path)
  return undefined
}

function linkIfindex(fd: number): number {
  // struct bpf_link_info: type, id, prog_id, (pad), tcx { ifindex, attach_type }
  return objectInfo(fd, 32).readUInt32LE(16)
}

/** Maps that hold no state of policy: they go over to another layout as they are, if their own did not change. */
const CARRIED_MAPS: ReadonlySet<string> = new Set([
  'handovers',
  'neighbors',
  'counters',
  'events',
  'event_budgets',
  // Of the DNS process, which goes on writing them.
  'learned_addresses',
  'learned_state',
])

function openWithMaps(path: string, folder: string, previous: string | undefined, sizes: MapSizes, withLog: boolean): OpenedObject {
  const object = openObject(path, withLog)
  for (const [name, map] of mapsOf(object)) {
    if (name === 'conntrack') setMaxEntries(map, sizes.conntrack, name)
    if (name === 'ipcache') setMaxEntries(map, sizes.ipcache, name)
    if (name.includes('.')) continue
    const pinned =
      getPinned(join(folder, 'maps', name)) ??
      (previous !== undefined && CARRIED_MAPS.has(name) ? getPinned(join(previous, 'maps', name)) : undefined)
    if (pinned === undefined) continue
    try {
      if (sameShape(map, pinned)) reuseMapFd(map, pinned, name)
    } finally {
      close(pinned)
    }
  }
  return object
}

/** Whether a pinned map is what the object would make. */
function sameShape(map: Pointer, fd: number): boolean {
  // struct bpf_map_info: type, id, key size, value size, max_entries
  const info = objectInfo(fd, 20)
  const { keyBytes, valueBytes } = mapShape(map)
  return info.readUInt32LE(8) === keyBytes && info.readUInt32LE(12) === valueBytes
}

/** Mounts the BPF file system at the nearest place above `root` that Linux reserves for it, unless it is there. */
function mountBpfFs(root: string): void {
  const parent = dirname(root)
  if (existsSync(parent) && isBpfFs(parent)) return
  const MOUNT_POINT = '/sys/fs/bpf'
  if (!root.startsWith(`${MOUNT_POINT}/`)) throw new RangeError(`not on a BPF file system: ${root}`)
  mount('bpf', MOUNT_POINT, 'bpf', 0)
}

function isBpfFs(path: string): boolean {
  return Number(statfsSync(path).type) === BPF_FS_MAGIC
}
