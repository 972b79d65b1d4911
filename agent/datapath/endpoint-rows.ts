/**
 * The kernel's rows of local endpoints, and the programs on their devices. An endpoint's row is written before its programs are put on
 * the device, and taken away after them: a program without a row drops everything.
 */
import {
  ENDPOINT_ADDRESSES_MAX,
  ENDPOINT_ALLOW_LOCALHOST,
  ENDPOINT_AUDIT,
  ENDPOINT_ENFORCE_EGRESS,
  ENDPOINT_ENFORCE_INGRESS,
} from '#bpf/gen/abi.ts'
import type { Kernel } from '#bpf/kernel.ts'
import type { Direction } from '#policy/resolved.ts'
import { addressToBytes } from '#sys/addresses.ts'
import type { Attachment } from '../workloads/attachment.ts'

export interface EndpointRowSpec {
  readonly id: number
  readonly identity: number
  /** Policy group. */
  readonly group: number
  readonly attachment: Attachment
}

/** How a group's endpoints are judged. */
export interface Enforcement extends Readonly<Record<Direction, boolean>> {
  /** All policies that restrict them are in audit: nothing is dropped for their sake. */
  readonly onlyAudit: boolean
}

export class EndpointRows {
  readonly #kernel: Kernel
  readonly #allowLocalhost: boolean
  readonly #rows = new Map<number, { spec: EndpointRowSpec; revision: number; enforcement: Enforcement }>()
  /** Of each group, as an earlier agent left its endpoints' rows. */
  readonly #flagsFound = new Map<number, number>()
  /** Endpoints of each group, and of each device. */
  readonly #byGroup = new Map<number, Set<number>>()
  readonly #byDevice = new Map<number, Set<number>>()

  constructor(kernel: Kernel, allowLocalhost: boolean) {
    this.#kernel = kernel
    this.#allowLocalhost = allowLocalhost
    for (const index of kernel.maps.endpoints.keys()) {
      const row = kernel.maps.endpoints.get(index)
      if (row !== undefined) this.#flagsFound.set(row.policyGroup, row.flags)
    }
  }

  /** Writes the row and its addresses, then attaches. */
  add(spec: EndpointRowSpec, enforcement: Enforcement): void {
    const { index } = spec.attachment.hostLink
    this.#forget(spec.id)
    this.#rows.set(spec.id, { spec, revision: nextRevision(this.#kernel.maps.endpoints.get(index)?.revision ?? 0), enforcement })
    addTo(this.#byGroup, spec.group, spec.id)
    addTo(this.#byDevice, index, spec.id)
    this.#write(spec.id)
    for (const address of spec.attachment.addresses) {
      this.#kernel.maps.endpointAddresses.set(addressToBytes(address), { ifindex: index, endpointId: spec.id })
    }
    this.#kernel.attach('from_workload', 'host', index, 'ingress')
    this.#kernel.attach('to_workload', 'host', index, 'egress')
  }

  remove(id: number): void {
    const row = this.#rows.get(id)
    if (row === undefined) return
    const { index } = row.spec.attachment.hostLink
    this.#forget(id)
    if (!this.#byDevice.has(index)) {
      this.#kernel.detach('host', index, 'ingress')
      this.#kernel.detach('host', index, 'egress')
      this.#kernel.maps.endpoints.delete(index)
    }
    for (const address of row.spec.attachment.addresses) {
      const bytes = addressToBytes(address)
      if (this.#kernel.maps.endpointAddresses.get(bytes)?.endpointId === id) this.#kernel.maps.endpointAddresses.delete(bytes)
    }
  }

  /** Policy of a group changed: its endpoints' connections are judged again from their next packet on. */
  bump(group: number, enforcement: Enforcement): void {
    for (const id of this.#byGroup.get(group) ?? []) {
      const row = this.#rows.get(id)
      if (row === undefined) continue
      row.revision = nextRevision(row.revision)
      row.enforcement = enforcement
      this.#write(id)
    }
  }

  /** Which directions a group's endpoints were judged in when this agent began: both where there were none. */
  enforcedInKernel(group: number): Record<Direction, boolean> {
    const flags = this.#flagsFound.get(group)
    if (flags === undefined) return { ingress: true, egress: true }
    return { ingress: (flags & ENDPOINT_ENFORCE_INGRESS) !== 0, egress: (flags & ENDPOINT_ENFORCE_EGRESS) !== 0 }
  }

  /** Removes rows and links that no endpoint claims, after a start. */
  reconcile(): void {
    const indexes = new Set([...this.#rows.values()].map(({ spec }) => spec.attachment.hostLink.index))
    const ids = new Set(this.#rows.keys())
    for (const { place, ifindex, direction } of this.#kernel.links()) {
      if (place === 'host' && direction === 'ingress' && !indexes.has(ifindex) && this.#kernel.maps.endpoints.get(ifindex) !== undefined) {
        this.#kernel.detach('host', ifindex, 'ingress')
        this.#kernel.detach('host', ifindex, 'egress')
      }
    }
    for (const index of this.#kernel.maps.endpoints.keys()) if (!indexes.has(index)) this.#kernel.maps.endpoints.delete(index)
    for (const address of this.#kernel.maps.endpointAddresses.keys()) {
      const ref = this.#kernel.maps.endpointAddresses.get(address)
      if (ref !== undefined && !ids.has(ref.endpointId)) this.#kernel.maps.endpointAddresses.delete(address)
    }
  }

  #forget(id: number): void {
    const row = this.#rows.get(id)
    if (row === undefined) return
    this.#rows.delete(id)
    deleteFrom(this.#byGroup, row.spec.group, id)
    deleteFrom(this.#byDevice, row.spec.attachment.hostLink.index, id)
  }

  #write(id: number): void {
    const row = this.#rows.get(id)
    if (row === undefined) return
    const { spec, revision, enforcement } = row
    const addresses = spec.attachment.addresses.slice(0, ENDPOINT_ADDRESSES_MAX).map((address) => ({ bytes: addressToBytes(address) }))
    this.#kernel.maps.endpoints.set(spec.attachment.hostLink.index, {
      id: spec.id,
      identity: spec.identity,
      policyGroup: spec.group,
      revision,
      flags:
        (enforcement.ingress ? ENDPOINT_ENFORCE_INGRESS : 0) |
        (enforcement.egress ? ENDPOINT_ENFORCE_EGRESS : 0) |
        (enforcement.onlyAudit ? ENDPOINT_AUDIT : 0) |
        (this.#allowLocalhost ? ENDPOINT_ALLOW_LOCALHOST : 0),
      ifindex: spec.attachment.hostLink.index,
      mac: spec.attachment.mac,
      hostMac: spec.attachment.hostLink.mac,
      addressCount: addresses.length,
      addresses,
    })
  }
}

function addTo(sets: Map<number, Set<number>>, key: number, id: number): void {
  const ids = sets.get(key)
  if (ids === undefined) sets.set(key, new Set([id]))
  else ids.add(id)
}

function deleteFrom(sets: Map<number, Set<number>>, key: number, id: number): void {
  const ids = sets.get(key)
  ids?.delete(id)
  if (ids?.size === 0) sets.delete(key)
}

/**
 * A revision that no connection of this boot has seen: tracked connections must notice every change, those of an earlier agent and of an
 * endpoint that was away for a while too. Milliseconds since boot grow over all of them.
 */
function nextRevision(before: number): number {
  const sinceBootMs = Number(process.hrtime.bigint() / 1_000_000n) >>> 0
  return Math.max(before + 1, sinceBootMs) >>> 0
}
