/**
 * What `tc qdisc` and `tc filter` show of the hooks before and after a device: reading only. Source: linux/rtnetlink.h,
 * linux/pkt_sched.h and linux/pkt_cls.h.
 */
import { SystemCallError } from './errors.ts'
import { decodeAttributes, decodeText, NETLINK_ROUTE, NetlinkSocket, NLM_F_DUMP } from './netlink.ts'

const RTM_GETQDISC = 38
const RTM_GETTFILTER = 46
const TCMSG_BYTES = 20
const TCA_KIND = 1
const TCA_OPTIONS = 2
const TCA_BPF_NAME = 7
const TCA_BPF_ID = 11

/** TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and the same for egress. */
const PARENTS = { ingress: 0xfffffff2, egress: 0xfffffff3 } as const

/** Qdiscs that hold filters only, which see every packet. */
export type HookQdisc = 'clsact' | 'ingress'

/** A filter on a device. */
export interface Filter {
  readonly direction: keyof typeof PARENTS
  /** bpf, flower, matchall, … */
  readonly kind: string
  /** Of an eBPF filter: as its owner called it, and its program's id; 0 when there is none. */
  readonly name: string
  readonly programId: number
}

/** A view of the current network namespace. */
export class TrafficControl {
  readonly #socket = new NetlinkSocket(NETLINK_ROUTE)

  /** By index of the device. */
  hookQdiscs(): Map<number, HookQdisc> {
    const found = new Map<number, HookQdisc>()
    for (const { body } of this.#socket.request(RTM_GETQDISC, NLM_F_DUMP, tcMessage(0, 0), 'list qdiscs')) {
      const kind = decodeText(decodeAttributes(body.subarray(TCMSG_BYTES)).get(TCA_KIND))
      if (kind === 'clsact' || kind === 'ingress') found.set(body.readInt32LE(4), kind)
    }
    return found
  }

  /** Filters on the hooks of a device, by the kind of its qdisc. Empty when the device is gone. */
  filters(linkIndex: number, qdisc: HookQdisc): Filter[] {
    // A qdisc of kind ingress would answer for egress with the same filters again.
    const directions = qdisc === 'clsact' ? (['ingress', 'egress'] as const) : (['ingress'] as const)
    return directions.flatMap((direction) => {
      const answers = this.#dump(linkIndex, PARENTS[direction])
      return answers.flatMap((body) => {
        const attributes = decodeAttributes(body.subarray(TCMSG_BYTES))
        const options = attributes.get(TCA_OPTIONS)
        // The head of each list of filters comes without options.
        if (options === undefined) return []
        const kind = decodeText(attributes.get(TCA_KIND))
        const own = kind === 'bpf' ? decodeAttributes(options) : undefined
        return [{ direction, kind, name: decodeText(own?.get(TCA_BPF_NAME)), programId: own?.get(TCA_BPF_ID)?.readUInt32LE(0) ?? 0 }]
      })
    })
  }

  #dump(linkIndex: number, parent: number): Buffer[] {
    try {
      return this.#socket
        .request(RTM_GETTFILTER, NLM_F_DUMP, tcMessage(linkIndex, parent), `filters of device ${linkIndex}`)
        .map(({ body }) => body)
    } catch (error) {
      // The device or its qdisc went away meanwhile.
      if (error instanceof SystemCallError && ['ENODEV', 'EINVAL', 'ENOENT'].includes(error.code)) return []
      throw error
    }
  }

  close(): void {
    this.#socket.close()
  }
}

/** struct tcmsg: family, padding, device, handle, parent, info */
function tcMessage(linkIndex: number, parent: number): Buffer {
  const message = Buffer.alloc(TCMSG_BYTES)
  message.writeInt32LE(linkIndex, 4)
  message.writeUInt32LE(parent, 12)
  return message
}
