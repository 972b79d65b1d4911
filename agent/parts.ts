/** What the agent is made of, as main.ts puts it together. */
import type { Config } from '#config/schema.ts'
import type { FlowRing } from '#flows/ring.ts'
import type { PolicyEngine } from '#policy/engine.ts'
import type { LabelFilter } from '#policy/label-filter.ts'
import type { Route } from '#sys/rtnetlink.ts'
import type { ControlServer } from './control-server.ts'
import type { Datapath } from './datapath/datapath.ts'
import type { SlotAllocator } from './datapath/slots.ts'
import type { PolicyFolder } from './policies/folder.ts'
import type { IdentityAllocator } from './workloads/identities.ts'

export interface AgentParts {
  readonly config: Config
  readonly version: string
  readonly node: string
  readonly datapath: Datapath
  readonly host: Route
  readonly allocator: IdentityAllocator
  readonly labelFilter: LabelFilter
  readonly slots: SlotAllocator
  readonly control: ControlServer
  readonly engine: PolicyEngine
  readonly folder: PolicyFolder
  readonly flows: FlowRing
  readonly log: {
    info(fields: object, message: string): void
    warn(fields: object, message: string): void
    error(fields: object, message: string): void
  }
}
