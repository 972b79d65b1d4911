/** Addresses of this machine and of the other nodes, as the ipcache is to know them. */
import { RESERVED_IDENTITIES } from '#policy/reserved.ts'
import { bytesToAddress } from '#sys/addresses.ts'
import type { Route } from '#sys/rtnetlink.ts'
import type { Workloads } from './file.ts'
import type { Ipcache } from './ipcache.ts'

export class NodeAddresses {
  readonly #host: Route
  readonly #ipcache: Ipcache
  #known = new Map<string, number>()

  constructor(host: Route, ipcache: Ipcache) {
    this.#host = host
    this.#ipcache = ipcache
  }

  /** Reads the machine's addresses anew and brings the ipcache up to date. */
  refresh(workloads: Workloads): void {
    const wanted = new Map<string, number>()
    for (const node of workloads.nodes) {
      for (const address of node.addresses) wanted.set(address, RESERVED_IDENTITIES['remote-node'])
    }
    // An address of this machine is the host, whatever the file calls the node.
    for (const { bytes } of this.#host.addresses()) wanted.set(bytesToAddress(bytes), RESERVED_IDENTITIES.host)
    for (const address of this.#known.keys()) if (!wanted.has(address)) this.#ipcache.delete(address, 'node')
    for (const [address, identity] of wanted) {
      if (this.#known.get(address) !== identity) this.#ipcache.set(address, 'node', identity)
    }
    this.#known = wanted
  }
}
