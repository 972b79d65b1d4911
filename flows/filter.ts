/** Which flows a reader wants: every list that is not empty has to match, and any of its members is enough. */
import { FLOW_KINDS, FLOW_VERDICTS, type Flow } from './flow.ts'

export interface FlowFilter {
  readonly verdicts: readonly string[]
  readonly kinds: readonly string[]
  /** namespace/name of either side. */
  readonly endpoints: readonly string[]
  readonly addresses: readonly string[]
  readonly ports: readonly number[]
}

/** What is wrong with a filter, or undefined. */
export function filterProblem(filter: FlowFilter): string | undefined {
  const verdict = filter.verdicts.find((name) => !(FLOW_VERDICTS as readonly string[]).includes(name))
  if (verdict !== undefined) return `no verdict ${verdict}; there are ${FLOW_VERDICTS.join(', ')}`
  const kind = filter.kinds.find((name) => !(FLOW_KINDS as readonly string[]).includes(name))
  if (kind !== undefined) return `no kind ${kind}; there are ${FLOW_KINDS.join(', ')}`
  return undefined
}

export function matchesFilter(flow: Flow, filter: FlowFilter): boolean {
  const sides = [flow.source, flow.destination]
  const has = <T>(list: readonly T[], ...values: (T | undefined)[]): boolean =>
    list.length === 0 || values.some((value) => value !== undefined && list.includes(value))
  return (
    has(filter.verdicts, flow.verdict) &&
    has(filter.kinds, flow.kind) &&
    has(filter.endpoints, ...sides.map(({ endpoint }) => endpoint && `${endpoint.namespace}/${endpoint.name}`)) &&
    has(filter.addresses, ...sides.map(({ address }) => address)) &&
    has(filter.ports, ...sides.map(({ port }) => port))
  )
}
