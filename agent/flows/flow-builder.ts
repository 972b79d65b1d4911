/** Turns what the kernel and Envoy report into Flows: adds endpoints, identities, labels and the policies behind a verdict. */
import type { HttpFlow } from '#api/gen/headgate/v1/control_pb.js'
import { DIRECTION_INGRESS, DROP_REASON_NAMES, type Event, VERDICT_ALLOW, VERDICT_REDIRECT } from '#bpf/gen/abi.ts'
import type { Flow, FlowOrigin, FlowPeer } from '#flows/flow.ts'
import { policyOfRule } from '#policy/resolved.ts'
import { bytesToAddress } from '#sys/addresses.ts'

/** What the builder asks of the agent. */
export interface FlowContext {
  readonly node: string
  endpointById(
    id: number,
  ): { readonly id: number; readonly namespace: string; readonly name: string; readonly identity: number } | undefined
  endpointByAddress(
    address: string,
  ): { readonly id: number; readonly namespace: string; readonly name: string; readonly identity: number } | undefined
  identityOf(address: string): number
  labelsOf(identity: number): readonly string[]
  originsOf(cookie: number): readonly string[]
  /**
   * The same of the row that leads a connection to a slot; none when it leads elsewhere by now.
   * @param remote address of the other side, seen from the slot's endpoint
   */
  originsOfConnection(slotId: number, remote: string, servicePort: number): readonly string[]
  /** Direction of a slot; undefined when it is gone. */
  directionOfSlot(id: number): 'ingress' | 'egress' | undefined
}

const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map([
  [1, 'ICMPv4'],
  [6, 'TCP'],
  [17, 'UDP'],
])

export class FlowBuilder {
  readonly #context: FlowContext
  /** Between the kernel's clock and the calendar, in milliseconds. */
  readonly #bootTimeMs = Date.now() - Number(process.hrtime.bigint() / 1_000_000n)

  constructor(context: FlowContext) {
    this.#context = context
  }

  fromKernel(event: Event): Flow {
    const local = this.#peer(bytesToAddress(event.local), event.localPort, event.localIdentity, event.endpointId)
    const remote = this.#peer(bytesToAddress(event.remote), event.remotePort, event.remoteIdentity, undefined)
    const ingress = event.direction === DIRECTION_INGRESS
    return {
      time: new Date(this.#bootTimeMs + Number(event.timeNs / 1_000_000n)).toISOString(),
      kind: 'l3l4',
      verdict: event.verdict === VERDICT_ALLOW ? 'forwarded' : event.verdict === VERDICT_REDIRECT ? 'redirected' : 'dropped',
      reason: event.reason === 0 ? '' : (DROP_REASON_NAMES.get(event.reason) ?? String(event.reason)),
      where: 'kernel',
      direction: ingress ? 'ingress' : 'egress',
      source: ingress ? remote : local,
      destination: ingress ? local : remote,
      protocol: PROTOCOL_NAMES.get(event.protocol) ?? String(event.protocol),
      origins: this.#context.originsOf(event.cookie).flatMap(originOf),
      node: this.#context.node,
    }
  }

  /** @returns undefined when the flow's slot is gone: whose policy decided cannot be told any more */
  fromEnvoy(http: HttpFlow): Flow | undefined {
    const direction = this.#context.directionOfSlot(http.slotId)
    if (direction === undefined) return undefined
    return {
      time: new Date(Number(http.timeNs / 1_000_000n)).toISOString(),
      kind: 'http',
      verdict: http.allowed ? 'forwarded' : 'dropped',
      reason: http.allowed ? '' : http.details,
      where: 'envoy',
      direction,
      source: this.#peer(http.sourceAddress, http.sourcePort, undefined, undefined),
      destination: this.#peer(http.destinationAddress, http.destinationPort, undefined, undefined),
      protocol: 'TCP',
      http: {
        method: http.method,
        scheme: http.scheme,
        authority: http.authority,
        path: http.path,
        protocol: http.protocol,
        status: http.status,
        durationMs: Number(http.durationNs) / 1e6,
      },
      origins: this.#rulesBehind(http, direction).flatMap(originOf),
      node: this.#context.node,
    }
  }

  /** A request is allowed by the one L7 rule that matches, or by what lets its connection through whatever it asks for. */
  #rulesBehind(http: HttpFlow, direction: 'ingress' | 'egress'): readonly string[] {
    if (originOf(http.rule).length > 0) return [http.rule]
    const remote = direction === 'ingress' ? http.sourceAddress : http.destinationAddress
    return http.allowed ? this.#context.originsOfConnection(http.slotId, remote, http.destinationPort) : []
  }

  #peer(address: string, port: number, identity: number | undefined, endpointId: number | undefined): FlowPeer {
    const endpoint = endpointId === undefined ? this.#context.endpointByAddress(address) : this.#context.endpointById(endpointId)
    const id = identity || endpoint?.identity || this.#context.identityOf(address)
    return {
      address,
      port,
      identity: id,
      labels: this.#context.labelsOf(id),
      ...(endpoint === undefined ? {} : { endpoint: { id: endpoint.id, namespace: endpoint.namespace, name: endpoint.name } }),
    }
  }
}

/** @returns none for what is no rule of a policy */
function originOf(rule: string): FlowOrigin[] {
  const policy = policyOfRule(rule)
  return policy === undefined ? [] : [{ policy, rule }]
}
