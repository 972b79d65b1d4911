/** Reads what a client says about itself. */
import type { Node } from '#api/gen/envoy/config/core/v3/base_pb.js'
import type { ClientNode } from './stream.ts'

/** @param node absent in every message but the first, or in all of them with careless clients */
export function clientNode(node: Node | undefined): ClientNode {
  const type = node?.userAgentVersionType
  if (type?.case === 'userAgentBuildVersion' && type.value.version !== undefined) {
    const { majorNumber, minorNumber, patch } = type.value.version
    return { id: node?.id ?? '', version: `${majorNumber}.${minorNumber}.${patch}` }
  }
  return { id: node?.id ?? '', version: type?.case === 'userAgentVersion' ? type.value : '' }
}
