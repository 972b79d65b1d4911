/** The maps of bpf/src/maps.h with their types. */
import {
  type Config,
  type CtKey,
  type CtValue,
  configCodec,
  ctKeyCodec,
  ctValueCodec,
  type Endpoint,
  type EndpointRef,
  endpointCodec,
  endpointRefCodec,
  type IpcacheKey,
  type IpcacheValue,
  ipcacheKeyCodec,
  ipcacheValueCodec,
  type LearnedKey,
  type LearnedState,
  type LearnedValue,
  learnedKeyCodec,
  learnedStateCodec,
  learnedValueCodec,
  type PolicyKey,
  type PolicyValue,
  policyKeyCodec,
  policyValueCodec,
  type SlotPair,
  slotPairCodec,
} from './gen/abi.ts'
import { addressBytesCodec, BpfMap, u8Codec, u32Codec } from './map.ts'

export type PolicyRowsMap = BpfMap<PolicyKey, PolicyValue>

/** Every map that processes write or read by entry. */
export class KernelMaps {
  readonly endpoints: BpfMap<number, Endpoint>
  readonly endpointAddresses: BpfMap<Uint8Array, EndpointRef>
  readonly ipcache: BpfMap<IpcacheKey, IpcacheValue>
  /** Of the DNS process, which alone writes these two. */
  readonly learnedAddresses: BpfMap<LearnedKey, LearnedValue>
  readonly learnedState: BpfMap<number, LearnedState>
  /** Values are file descriptors on write, map ids on read. */
  readonly policyGroups: BpfMap<number, number>
  readonly slotPairs: BpfMap<SlotPair, number>
  readonly conntrack: BpfMap<CtKey, CtValue>
  readonly config: BpfMap<number, Config>
  /** Per-CPU: read with bpf/counters.ts. */
  readonly countersFd: number
  readonly eventsFd: number
  readonly eventBudgetsFd: number

  /** @param fdOf descriptor of a map by its name in the object */
  constructor(fdOf: (name: string) => number) {
    this.endpoints = new BpfMap('endpoints', fdOf('endpoints'), u32Codec, endpointCodec)
    this.endpointAddresses = new BpfMap('endpoint_addresses', fdOf('endpoint_addresses'), addressBytesCodec, endpointRefCodec)
    this.ipcache = new BpfMap('ipcache', fdOf('ipcache'), ipcacheKeyCodec, ipcacheValueCodec)
    this.learnedAddresses = new BpfMap('learned_addresses', fdOf('learned_addresses'), learnedKeyCodec, learnedValueCodec)
    this.learnedState = new BpfMap('learned_state', fdOf('learned_state'), u32Codec, learnedStateCodec)
    this.policyGroups = new BpfMap('policy_groups', fdOf('policy_groups'), u32Codec, u32Codec)
    this.slotPairs = new BpfMap('slot_pairs', fdOf('slot_pairs'), slotPairCodec, u8Codec)
    this.conntrack = new BpfMap('conntrack', fdOf('conntrack'), ctKeyCodec, ctValueCodec)
    this.config = new BpfMap('config', fdOf('config'), u32Codec, configCodec)
    this.countersFd = fdOf('counters')
    this.eventsFd = fdOf('events')
    this.eventBudgetsFd = fdOf('event_budgets')
  }
}

/** The row type of a group's inner map. */
export function policyRowsMap(fd: number): PolicyRowsMap {
  return new BpfMap('policy_rows', fd, policyKeyCodec, policyValueCodec)
}
