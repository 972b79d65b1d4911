/**
 * The kernel's rows of local endpoints, and the programs on their devices. An endpoint's row is written before its programs are put on
 * the device, and taken away after them: a program without a row drops everything.
 */
import { ENDPOINT_ADDRESSES_MAX, ENDPOINT_ALLOW_LOCALHOST, ENDPOINT_ENFORCE_EGRESS, ENDPOINT_ENFORCE_INGRESS } from '#bpf/gen/abi.ts'
import type { Kernel } from '#bpf/kernel.ts'
import type { Direction } from '#policy/resolved.ts'
import { addressToBytes } from '#sys/addresses.ts'
import type { Attachment } from '../workloads/attachment.ts'

export interface EndpointRowSpec {
  readonly id: number
  readonly identity: number
  readonly attachment: Attachment
}

export class EndpointRows {
  readonly #kernel: Kernel
  readonly #allowLocalhost: boolean
  readonly #rows = new Map<number, { spec: EndpointRowSpec; revision: number; enforced: Readonly<Record<Direction, boolean>> }>()

  constructor(kernel: Kernel, allowLocalhost: boolean) {
    this.#kernel = kernel
    this.#allowLocalhost = allowLocalhost
  }

  /** Writes the row and its addresses, then attaches. */
  add(spec: EndpointRowSpec, enforced: Readonly<Record<Direction, boolean>>): void {
    const { index } = spec.attachment.hostLink
    this.#rows.set(spec.id, { spec, revision: nextRevision(this.#kernel.maps.endpoints.get(index)?.revision ?? 0), enforced })
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
    this.#rows.delete(id)
    const isTaken = [...this.#rows.values()].some(({ spec }) => spec.attachment.hostLink.index === index)
    if (!isTaken) {
      this.#kernel.detach('host', index, 'ingress')
      this.#kernel.detach('host', index, 'egress')
      this.#kernel.maps.endpoints.delete(index)
    }
    for (const address of row.spec.attachment.addresses) {
      const bytes = addressToBytes(address)
      if (this.#kernel.maps.endpointAddresses.get(bytes)?.endpointId === id) this.#kernel.maps.endpointAddresses.delete(bytes)
    }
  }

  /** Policy of an identity changed: its endpoints' connections are judged again from their next packet on. */
  bump(identity: number, enforced: Readonly<Record<Direction, boolean>>): void {
    for (const [id, row] of this.#rows) {
      if (row.spec.identity !== identity) continue
      row.revision = nextRevision(row.revision)
      row.enforced = enforced
      this.#write(id)
    }
  }

  /** Which directions an identity's endpoints are judged in, by the rows in the kernel: both where there are none. */
  enforcedInKernel(identity: number): Record<Direction, boolean> {
    for (const index of this.#kernel.maps.endpoints.keys()) {
      const row = this.#kernel.maps.endpoints.get(index)
      if (row?.identity !== identity) continue
      return { ingress: (row.flags & ENDPOINT_ENFORCE_INGRESS) !== 0, egress: (row.flags & ENDPOINT_ENFORCE_EGRESS) !== 0 }
    }
    return { ingress: true, egress: true }
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

  #write(id: number): void {
    const row = this.#rows.get(id)
    if (row === undefined) return
    const { spec, revision, enforced } = row
    const addresses = spec.attachment.addresses.slice(0, ENDPOINT_ADDRESSES_MAX).map((address) => ({ bytes: addressToBytes(address) }))
    this.#kernel.maps.endpoints.set(spec.attachment.hostLink.index, {
      id: spec.id,
      identity: spec.identity,
      policyGroup: spec.identity,
      revision,
      flags:
        (enforced.ingress ? ENDPOINT_ENFORCE_INGRESS : 0) |
        (enforced.egress ? ENDPOINT_ENFORCE_EGRESS : 0) |
        (this.#allowLocalhost ? ENDPOINT_ALLOW_LOCALHOST : 0),
      ifindex: spec.attachment.hostLink.index,
      mac: spec.attachment.mac,
      hostMac: spec.attachment.hostLink.mac,
      addressCount: addresses.length,
      addresses,
    })
  }
}

/**
 * A revision that no connection of this boot has seen: tracked connections must notice every change, those of an earlier agent and of an
 * endpoint that was away for a while too. Milliseconds since boot grow over all of them.
 */
function nextRevision(before: number): number {
  const sinceBootMs = Number(process.hrtime.bigint() / 1_000_000n) >>> 0
  return Math.max(before + 1, sinceBootMs) >>> 0
}
