/**
 * libbpf through koffi: objects, programs, maps, links, ring buffers. Thin: names and order of arguments are libbpf's, failures throw
 * SystemCallError. The typed face of it is bpf/.
 */
import koffi from 'koffi'
import { SystemCallError } from './errors.ts'
import { close } from './libc.ts'

const lib = koffi.load('libbpf.so.1')

/** An opaque pointer of libbpf. */
export type Pointer = bigint

const ringBufferCallback = koffi.proto('int ring_buffer_sample(void *context, void *data, size_t size)')

const native = {
  setPrint: lib.func('void *libbpf_set_print(void *callback)'),
  versionString: lib.func('const char *libbpf_version_string(void)'),
  objectOpenFile: lib.func('void *bpf_object__open_file(const char *path, const uint8_t *options)'),
  objectLoad: lib.func('int bpf_object__load(void *object)'),
  objectClose: lib.func('void bpf_object__close(void *object)'),
  nextProgram: lib.func('void *bpf_object__next_program(void *object, void *previous)'),
  programName: lib.func('const char *bpf_program__name(void *program)'),
  programFd: lib.func('int bpf_program__fd(void *program)'),
  nextMap: lib.func('void *bpf_object__next_map(void *object, void *previous)'),
  mapName: lib.func('const char *bpf_map__name(void *map)'),
  mapFd: lib.func('int bpf_map__fd(void *map)'),
  mapKeySize: lib.func('unsigned int bpf_map__key_size(void *map)'),
  mapValueSize: lib.func('unsigned int bpf_map__value_size(void *map)'),
  mapReuseFd: lib.func('int bpf_map__reuse_fd(void *map, int fd)'),
  mapMaxEntries: lib.func('unsigned int bpf_map__max_entries(void *map)'),
  mapSetMaxEntries: lib.func('int bpf_map__set_max_entries(void *map, unsigned int count)'),
  objPin: lib.func('int bpf_obj_pin(int fd, const char *path)'),
  objGet: lib.func('int bpf_obj_get(const char *path)'),
  mapFdById: lib.func('int bpf_map_get_fd_by_id(unsigned int id)'),
  progFdById: lib.func('int bpf_prog_get_fd_by_id(unsigned int id)'),
  progQuery: lib.func(
    'int bpf_prog_query(int target, int attachType, unsigned int flags, _Out_ uint8_t *attachFlags, _Out_ uint8_t *ids, _Inout_ uint8_t *count)',
  ),
  objInfo: lib.func('int bpf_obj_get_info_by_fd(int fd, _Inout_ uint8_t *info, _Inout_ uint8_t *length)'),
  mapCreate: lib.func(
    'int bpf_map_create(int type, const char *name, unsigned int keyBytes, unsigned int valueBytes, unsigned int count, const uint8_t *options)',
  ),
  mapUpdate: lib.func('int bpf_map_update_elem(int fd, const uint8_t *key, const uint8_t *value, uint64_t flags)'),
  mapLookup: lib.func('int bpf_map_lookup_elem(int fd, const uint8_t *key, _Out_ uint8_t *value)'),
  mapDelete: lib.func('int bpf_map_delete_elem(int fd, const uint8_t *key)'),
  mapNextKey: lib.func('int bpf_map_get_next_key(int fd, const uint8_t *key, _Out_ uint8_t *next)'),
  mapLookupBatch: lib.func(
    'int bpf_map_lookup_batch(int fd, _Inout_ uint8_t *inBatch, _Out_ uint8_t *outBatch, _Out_ uint8_t *keys, _Out_ uint8_t *values, _Inout_ uint8_t *count, const uint8_t *options)',
  ),
  mapUpdateBatch: lib.func(
    'int bpf_map_update_batch(int fd, const uint8_t *keys, const uint8_t *values, _Inout_ uint8_t *count, const uint8_t *options)',
  ),
  linkCreate: lib.func('int bpf_link_create(int programFd, int targetFd, int attachType, const uint8_t *options)'),
  linkUpdate: lib.func('int bpf_link_update(int linkFd, int programFd, const uint8_t *options)'),
  linkDetach: lib.func('int bpf_link_detach(int linkFd)'),
  ringBufferNew: lib.func('void *ring_buffer__new(int fd, ring_buffer_sample *callback, void *context, const void *options)'),
  ringBufferFree: lib.func('void ring_buffer__free(void *ring)'),
  ringBufferConsume: lib.func('int ring_buffer__consume(void *ring)'),
  ringBufferEpollFd: lib.func('int ring_buffer__epoll_fd(void *ring)'),
}

// libbpf writes its troubles to stderr on its own; ours go through errors.
native.setPrint(null)

function failed(call: string, detail: string): SystemCallError {
  return new SystemCallError(call, koffi.errno(), detail)
}

function check(call: string, result: number, detail: string): number {
  if (result < 0) throw failed(call, detail)
  return result
}

/** As `v1.1`. */
export function libbpfVersion(): string {
  return native.versionString() as string
}

const VERIFIER_LOG_BYTES = 1 << 24

/** An object file that is open, loaded or not. */
export interface OpenedObject {
  readonly pointer: Pointer
  readonly path: string
  /** Where the verifier writes, if it was asked to. */
  readonly log: Buffer | undefined
}

/** Opens an object file; nothing is in the kernel yet. @param withLog the verifier keeps a log: ten times slower, for after a failure */
export function openObject(path: string, withLog = false): OpenedObject {
  const log = withLog ? Buffer.alloc(VERIFIER_LOG_BYTES) : undefined
  // struct bpf_object_open_opts: size, name, relaxed_maps, pin_root, reserved, kconfig, btf_custom_path, log buffer, log size, log level
  const options = Buffer.alloc(80)
  options.writeBigUInt64LE(80n, 0)
  if (log !== undefined) {
    options.writeBigUInt64LE(koffi.address(log), 56)
    options.writeBigUInt64LE(BigInt(log.length), 64)
    options.writeUInt32LE(1, 72)
  }
  const pointer = native.objectOpenFile(path, options) as Pointer | null
  if (pointer === null) throw failed('bpf_object__open_file', path)
  return { pointer, path, log }
}

/** @throws SystemCallError; with a log, its detail is the end of it */
export function loadObject(object: OpenedObject): void {
  if (native.objectLoad(object.pointer) === 0) return
  const errno = koffi.errno()
  const text = object.log?.toString('utf8', 0, Math.max(0, object.log.indexOf(0))).trim() ?? ''
  throw new SystemCallError('bpf_object__load', errno, `${object.path}${text === '' ? '' : `\n${text.slice(-8192)}`}`)
}

export function closeObject(object: OpenedObject): void {
  native.objectClose(object.pointer)
}

/** File descriptors of the loaded programs by name. They belong to the object. */
export function programsOf(object: OpenedObject): Map<string, number> {
  const programs = new Map<string, number>()
  for (let program = native.nextProgram(object.pointer, null); program !== null; program = native.nextProgram(object.pointer, program)) {
    programs.set(native.programName(program) as string, native.programFd(program))
  }
  return programs
}

export function mapsOf(object: OpenedObject): Map<string, Pointer> {
  const maps = new Map<string, Pointer>()
  for (let map = native.nextMap(object.pointer, null); map !== null; map = native.nextMap(object.pointer, map)) {
    maps.set(native.mapName(map) as string, map)
  }
  return maps
}

export const mapFd = (map: Pointer): number => native.mapFd(map)

/** Bytes of a map's keys and values. */
export function mapShape(map: Pointer): { readonly keyBytes: number; readonly valueBytes: number } {
  return { keyBytes: native.mapKeySize(map), valueBytes: native.mapValueSize(map) }
}

/** Before load: use a map that exists instead of making one. */
export function reuseMapFd(map: Pointer, fd: number, name: string): void {
  check('bpf_map__reuse_fd', native.mapReuseFd(map, fd), name)
}

/** Before load. */
export function setMaxEntries(map: Pointer, count: number, name: string): void {
  check('bpf_map__set_max_entries', native.mapSetMaxEntries(map, count), name)
}

export function pin(fd: number, path: string): void {
  check('bpf_obj_pin', native.objPin(fd, path), path)
}

/** Opens a pinned object. @returns undefined when there is none */
export function getPinned(path: string): number | undefined {
  const fd = native.objGet(path)
  if (fd >= 0) return fd
  if (koffi.errno() === koffi.os.errno.ENOENT) return undefined
  throw failed('bpf_obj_get', path)
}

/** The kernel's info block of a map, program or link. */
export function objectInfo(fd: number, bytes: number): Buffer {
  const info = Buffer.alloc(bytes)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(bytes)
  check('bpf_obj_get_info_by_fd', native.objInfo(fd, info, length), `fd ${fd}`)
  return info
}

export const BPF_MAP_TYPE_LPM_TRIE = 11
export const BPF_F_NO_PREALLOC = 1

export function createMap(type: number, name: string, keyBytes: number, valueBytes: number, maxEntries: number, flags: number): number {
  // struct bpf_map_create_opts: size, btf_fd, btf_key, btf_value, vmlinux value, inner fd, flags, extra, numa, ifindex
  const options = Buffer.alloc(56)
  options.writeBigUInt64LE(56n, 0)
  options.writeUInt32LE(flags, 28)
  return check('bpf_map_create', native.mapCreate(type, name, keyBytes, valueBytes, maxEntries, options), name)
}

/** @returns undefined when there is no such map any more */
export function mapFdById(id: number): number | undefined {
  const fd = native.mapFdById(id)
  if (fd >= 0) return fd
  if (koffi.errno() === koffi.os.errno.ENOENT) return undefined
  throw failed('bpf_map_get_fd_by_id', `map ${id}`)
}

export const BPF_ANY = 0
export const BPF_NOEXIST = 1

export function updateElement(fd: number, key: Uint8Array, value: Uint8Array, flags: number, name: string): void {
  check('bpf_map_update_elem', native.mapUpdate(fd, key, value, flags), name)
}

/** @returns false when there is no such key */
export function lookupElement(fd: number, key: Uint8Array, value: Uint8Array, name: string): boolean {
  if (native.mapLookup(fd, key, value) === 0) return true
  if (koffi.errno() === koffi.os.errno.ENOENT) return false
  throw failed('bpf_map_lookup_elem', name)
}

/** @returns false when there was no such key */
export function deleteElement(fd: number, key: Uint8Array, name: string): boolean {
  if (native.mapDelete(fd, key) === 0) return true
  if (koffi.errno() === koffi.os.errno.ENOENT) return false
  throw failed('bpf_map_delete_elem', name)
}

/** @returns false after the last key */
export function nextKey(fd: number, key: Uint8Array | null, next: Uint8Array, name: string): boolean {
  if (native.mapNextKey(fd, key, next) === 0) return true
  if (koffi.errno() === koffi.os.errno.ENOENT) return false
  throw failed('bpf_map_get_next_key', name)
}

/**
 * Reads a batch of a hash map.
 * @param cursor opaque, at least 8 bytes; written for the next call @param first no cursor yet
 * @returns entries read, and whether more may follow
 */
export function lookupBatch(
  fd: number,
  cursor: Buffer,
  first: boolean,
  keys: Buffer,
  values: Buffer,
  count: number,
  name: string,
): { count: number; more: boolean } {
  const counter = Buffer.alloc(4)
  counter.writeUInt32LE(count)
  const result = native.mapLookupBatch(fd, first ? null : Buffer.from(cursor), cursor, keys, values, counter, null)
  if (result === 0) return { count: counter.readUInt32LE(0), more: true }
  if (koffi.errno() === koffi.os.errno.ENOENT) return { count: counter.readUInt32LE(0), more: false }
  throw failed('bpf_map_lookup_batch', name)
}

export function updateBatch(fd: number, keys: Buffer, values: Buffer, count: number, name: string): void {
  const counter = Buffer.alloc(4)
  counter.writeUInt32LE(count)
  check('bpf_map_update_batch', native.mapUpdateBatch(fd, keys, values, counter, null), name)
}

/** Attach types of tcx. */
export const BPF_TCX_INGRESS = 46
export const BPF_TCX_EGRESS = 47

/** Asks for the programs of a cgroup and of those above it, as they run. */
export const BPF_F_QUERY_EFFECTIVE = 1

/** The kernel takes 64 on a tcx hook, and as many on each level of cgroups. */
const QUERIED_PROGRAMS_MAX = 256

/**
 * Programs on a hook, in the order in which they run.
 * @param target index of a device in the current namespace, or descriptor of a cgroup
 * @returns their ids
 */
export function queryPrograms(target: number, attachType: number, flags: number, detail: string): number[] {
  const ids = Buffer.alloc(4 * QUERIED_PROGRAMS_MAX)
  const count = Buffer.alloc(4)
  count.writeUInt32LE(QUERIED_PROGRAMS_MAX)
  check('bpf_prog_query', native.progQuery(target, attachType, flags, Buffer.alloc(4), ids, count), detail)
  return Array.from({ length: count.readUInt32LE(0) }, (_, index) => ids.readUInt32LE(4 * index))
}

/** Name of a loaded program, of which the kernel keeps 15 characters. @returns undefined when there is no such program any more */
export function programNameById(id: number): string | undefined {
  const fd = native.progFdById(id)
  if (fd < 0) {
    if (koffi.errno() === koffi.os.errno.ENOENT) return undefined
    throw failed('bpf_prog_get_fd_by_id', `program ${id}`)
  }
  try {
    // struct bpf_prog_info: 64 bytes of other things, then the name.
    return objectInfo(fd, 80).toString('latin1', 64).replace(/\0.*$/s, '')
  } finally {
    close(fd)
  }
}

/** To be ahead of the programs that are on the hook already. */
export const BPF_F_BEFORE = 1 << 3

/** Attaches a program, by default behind those that are there; the link lives as long as a descriptor or a pin of it. */
export function createLink(programFd: number, target: number, attachType: number, detail: string, flags = 0): number {
  // struct bpf_link_create_opts, as far as its flags: size_t sz; __u32 flags
  const options = Buffer.alloc(16)
  options.writeBigUInt64LE(BigInt(options.length))
  options.writeUInt32LE(flags, 8)
  return check('bpf_link_create', native.linkCreate(programFd, target, attachType, options), detail)
}

/** Replaces a link's program in one step. */
export function updateLink(linkFd: number, programFd: number, detail: string): void {
  check('bpf_link_update', native.linkUpdate(linkFd, programFd, null), detail)
}

export function detachLink(linkFd: number, detail: string): void {
  check('bpf_link_detach', native.linkDetach(linkFd), detail)
}

/** A ring buffer's consumer. Records are handed over as copies. */
export class RingBuffer {
  readonly #ring: Pointer
  readonly #callback: bigint
  readonly epollFd: number

  constructor(mapFileDescriptor: number, onRecord: (record: Buffer) => void) {
    this.#callback = koffi.register((_context: unknown, data: Pointer, size: number | bigint) => {
      onRecord(Buffer.from(koffi.decode(data, koffi.array('uint8_t', Number(size), 'Typed')) as Uint8Array))
      return 0
    }, koffi.pointer(ringBufferCallback)) as unknown as bigint
    this.#ring = native.ringBufferNew(mapFileDescriptor, this.#callback, null, null)
    if (this.#ring === null) throw failed('ring_buffer__new', `map fd ${mapFileDescriptor}`)
    this.epollFd = native.ringBufferEpollFd(this.#ring)
  }

  /** Hands over what is there now. @returns number of records */
  consume(): number {
    return check('ring_buffer__consume', native.ringBufferConsume(this.#ring), 'events')
  }

  close(): void {
    native.ringBufferFree(this.#ring)
    koffi.unregister(this.#callback as never)
  }
}
