/** Turns what the kernel, Envoy and the DNS process report into Flows: adds endpoints, identities, labels and the policies behind a verdict. */
import type { DnsFlow, HttpFlow, RelayFlow } from '#api/gen/headgate/v1/control_pb.js'
import { actionWord } from '#api/mismatch-actions.ts'
import { DIRECTION_INGRESS, DROP_REASON_NAMES, type Event, VERDICT_ALLOW, VERDICT_AUDIT, VERDICT_REDIRECT } from '#bpf/gen/abi.ts'
import type { Flow, FlowOrigin, FlowPeer, FlowVerdict, HeaderNote } from '#flows/flow.ts'
import { rcodeName, typeName } from '#parsers/dns/codes.ts'
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
  originsOfConnection(slotId: number, remote: string, servicePort: number, protocol?: number): readonly string[]
  /** Direction of a slot; undefined when it is gone. */
  directionOfSlot(id: number): 'ingress' | 'egress' | undefined
  /** Word that a policy (namespace/name) wants in its flows; undefined when it has none. */
  logOf?(policy: string): string | undefined
}

const IPPROTO_TCP = 6
const IPPROTO_UDP = 17
const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map([
  [1, 'ICMPv4'],
  [IPPROTO_TCP, 'TCP'],
  [IPPROTO_UDP, 'UDP'],
])

/** What else the kernel says is a drop. */
const KERNEL_VERDICTS: ReadonlyMap<number, FlowVerdict> = new Map([
  [VERDICT_ALLOW, 'forwarded'],
  [VERDICT_REDIRECT, 'redirected'],
  [VERDICT_AUDIT, 'audit'],
])

/** What a proxy of another version calls an action that this one does not know is left out. */
function headersOf({ headerNotes }: HttpFlow): HeaderNote[] {
  return headerNotes.flatMap(({ name, action: number }) => {
    const action = actionWord(number)
    return action === undefined ? [] : [{ name, action }]
  })
}

function fieldsOf(request: RelayFlow['request']): Record<string, string> {
  return request.case === 'parsed' ? Object.fromEntries(request.value.fields.map(({ key, value }) => [key, value])) : {}
}

/** A request that nobody judged is refused too, but not by policy. */
function verdictOf({ allowed, audit, failed }: HttpFlow): FlowVerdict {
  if (allowed) return audit ? 'audit' : 'forwarded'
  return failed ? 'error' : 'dropped'
}

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
      verdict: KERNEL_VERDICTS.get(event.verdict) ?? 'dropped',
      reason: event.reason === 0 ? '' : (DROP_REASON_NAMES.get(event.reason) ?? String(event.reason)),
      where: 'kernel',
      direction: ingress ? 'ingress' : 'egress',
      source: ingress ? remote : local,
      destination: ingress ? local : remote,
      protocol: PROTOCOL_NAMES.get(event.protocol) ?? String(event.protocol),
      origins: this.#originsOf(this.#context.originsOf(event.cookie)),
      node: this.#context.node,
    }
  }

  /** @returns undefined when the flow's slot is gone: whose policy decided cannot be told any more */
  fromEnvoy(http: HttpFlow): Flow | undefined {
    const direction = this.#context.directionOfSlot(http.slotId)
    if (direction === undefined) return undefined
    const headers = headersOf(http)
    return {
      time: new Date(Number(http.timeNs / 1_000_000n)).toISOString(),
      kind: 'http',
      verdict: verdictOf(http),
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
        ...(headers.length === 0 ? {} : { headers }),
      },
      origins: this.#originsOf(this.#rulesBehind(http, direction)),
      node: this.#context.node,
    }
  }

  /** @returns undefined when the flow's slot is gone */
  fromDns(dns: DnsFlow): Flow | undefined {
    const direction = this.#context.directionOfSlot(dns.slotId)
    if (direction === undefined) return undefined
    // The client got a code of the server's, or of the DNS process, or nothing.
    const rcode = dns.answered || !dns.allowed ? rcodeName(dns.rcode) : ''
    const isOpen = dns.allowed && !dns.audit && policyOfRule(dns.rule) === undefined
    return {
      time: new Date(Number(dns.timeNs / 1_000_000n)).toISOString(),
      kind: 'dns',
      verdict: dns.allowed ? (dns.audit ? 'audit' : 'forwarded') : 'dropped',
      reason: dns.allowed ? '' : rcode.toLowerCase(),
      where: 'dns-proxy',
      direction,
      source: this.#peer(dns.clientAddress, dns.clientPort, undefined, undefined),
      destination: this.#peer(dns.serverAddress, dns.serverPort, undefined, undefined),
      protocol: dns.tcp ? 'TCP' : 'UDP',
      dns: {
        query: dns.query,
        type: typeName(dns.queryType),
        rcode,
        addresses: dns.addresses,
        cnames: dns.cnames,
        ttl: dns.ttl,
        durationMs: Number(dns.durationNs) / 1e6,
        ...(dns.notes.length === 0 ? {} : { notes: dns.notes }),
      },
      origins: this.#originsOf(
        isOpen
          ? this.#context.originsOfConnection(dns.slotId, dns.serverAddress, dns.serverPort, dns.tcp ? IPPROTO_TCP : IPPROTO_UDP)
          : [dns.rule],
      ),
      node: this.#context.node,
    }
  }

  /** @returns undefined when the flow's slot is gone */
  fromRelay(relayed: RelayFlow): Flow | undefined {
    const direction = this.#context.directionOfSlot(relayed.slotId)
    if (direction === undefined) return undefined
    const isForwarded = relayed.allowed && relayed.closed === ''
    const { request } = relayed
    return {
      time: new Date(Number(relayed.timeNs / 1_000_000n)).toISOString(),
      kind: relayed.parser === 'kafka' ? 'kafka' : 'parsed',
      verdict: isForwarded ? (relayed.audit ? 'audit' : 'forwarded') : relayed.closed === '' ? 'dropped' : 'error',
      reason: relayed.closed,
      where: 'relay',
      direction,
      source: this.#peer(relayed.sourceAddress, relayed.sourcePort, undefined, undefined),
      destination: this.#peer(relayed.destinationAddress, relayed.destinationPort, undefined, undefined),
      protocol: 'TCP',
      ...(relayed.parser !== 'kafka' && { parsed: { parser: relayed.parser, fields: fieldsOf(request) } }),
      ...(request.case === 'kafka' && {
        kafka: {
          apiKey: request.value.apiKey,
          apiVersion: request.value.apiVersion,
          correlationId: request.value.correlationId,
          clientId: request.value.clientId,
          topics: request.value.topics,
          errorCode: request.value.errorCode,
        },
      }),
      origins: this.#originsOf(relayed.closed === '' ? this.#rulesBehind(relayed, direction) : []),
      node: this.#context.node,
    }
  }

  /**
   * One L7 rule decides, or would with audit. Without one, a request is allowed by what lets its connection through whatever it asks for,
   * and denied by the lack of a rule.
   */
  #rulesBehind(http: HttpFlow | RelayFlow, direction: 'ingress' | 'egress'): readonly string[] {
    if (policyOfRule(http.rule) !== undefined) return [http.rule]
    if (!http.allowed || http.audit) return []
    const remote = direction === 'ingress' ? http.sourceAddress : http.destinationAddress
    return this.#context.originsOfConnection(http.slotId, remote, http.destinationPort)
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

  /** None for what is no rule of a policy. */
  #originsOf(rules: readonly string[]): FlowOrigin[] {
    return rules.flatMap((rule) => {
      const policy = policyOfRule(rule)
      if (policy === undefined) return []
      const log = this.#context.logOf?.(policy)
      return [{ policy, rule, ...(log === undefined ? {} : { log }) }]
    })
  }
}
