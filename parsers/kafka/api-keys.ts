/**
 * The kinds of Kafka requests: number, name, the roles of policy that have it, and what of interest to policy its body names. Numbers are
 * those of Kafka's message definitions up to 4.1 (clients/src/main/resources/common/message); the roles begin with Cilium's
 * (produce: Produce, Metadata, ApiVersions; consume: Fetch to SyncGroup as far as clients send them) and go on with what
 * clients need since: idempotence and transactions to produce, the newer group protocols to consume.
 */
import type { KafkaRole } from './rules.ts'

export interface KafkaApiKey {
  readonly number: number
  /** As policy writes it: lower case. */
  readonly name: string
  readonly roles: readonly KafkaRole[]
  /** Whether requests name topics, consumer groups, or a transactional id. */
  readonly topics: boolean
  readonly groups: boolean
  readonly transactions: boolean
}

/**
 * Number, name, roles (p, c, a; what brokers say among themselves has none), body (t, g, x). What any client needs, to find its brokers
 * and to authenticate, is in every role.
 */
const TABLE = `
0 Produce p tx
1 Fetch c t
2 ListOffsets c t
3 Metadata pca t
4 LeaderAndIsr - t
5 StopReplica - t
6 UpdateMetadata - t
7 ControlledShutdown - -
8 OffsetCommit c tg
9 OffsetFetch c tg
10 FindCoordinator pca gx
11 JoinGroup c g
12 Heartbeat c g
13 LeaveGroup c g
14 SyncGroup c g
15 DescribeGroups a g
16 ListGroups a -
17 SaslHandshake pca -
18 ApiVersions pca -
19 CreateTopics a t
20 DeleteTopics a t
21 DeleteRecords a t
22 InitProducerId p x
23 OffsetForLeaderEpoch c t
24 AddPartitionsToTxn p tx
25 AddOffsetsToTxn p gx
26 EndTxn p x
27 WriteTxnMarkers - t
28 TxnOffsetCommit p tgx
29 DescribeAcls a -
30 CreateAcls a -
31 DeleteAcls a -
32 DescribeConfigs a t
33 AlterConfigs a t
34 AlterReplicaLogDirs a t
35 DescribeLogDirs a t
36 SaslAuthenticate pca -
37 CreatePartitions a t
38 CreateDelegationToken a -
39 RenewDelegationToken a -
40 ExpireDelegationToken a -
41 DescribeDelegationToken a -
42 DeleteGroups a g
43 ElectLeaders a t
44 IncrementalAlterConfigs a t
45 AlterPartitionReassignments a t
46 ListPartitionReassignments a t
47 OffsetDelete a tg
48 DescribeClientQuotas a -
49 AlterClientQuotas a -
50 DescribeUserScramCredentials a -
51 AlterUserScramCredentials a -
52 Vote - t
53 BeginQuorumEpoch - t
54 EndQuorumEpoch - t
55 DescribeQuorum a t
56 AlterPartition - t
57 UpdateFeatures a -
58 Envelope - -
59 FetchSnapshot - t
60 DescribeCluster pca -
61 DescribeProducers a t
62 BrokerRegistration - -
63 BrokerHeartbeat - -
64 UnregisterBroker a -
65 DescribeTransactions a x
66 ListTransactions a -
67 AllocateProducerIds - -
68 ConsumerGroupHeartbeat c tg
69 ConsumerGroupDescribe a g
70 ControllerRegistration - -
71 GetTelemetrySubscriptions pca -
72 PushTelemetry pca -
73 AssignReplicasToDirs - t
74 ListConfigResources a -
75 DescribeTopicPartitions pca t
76 ShareGroupHeartbeat c tg
77 ShareGroupDescribe a g
78 ShareFetch c tg
79 ShareAcknowledge c tg
80 AddRaftVoter a -
81 RemoveRaftVoter a -
82 UpdateRaftVoter - -
83 InitializeShareGroupState - tg
84 ReadShareGroupState - tg
85 WriteShareGroupState - tg
86 DeleteShareGroupState - tg
87 ReadShareGroupStateSummary - tg
88 StreamsGroupHeartbeat c tg
89 StreamsGroupDescribe a g
90 DescribeShareGroupOffsets a tg
91 AlterShareGroupOffsets a tg
92 DeleteShareGroupOffsets a tg
`

/** Numbers of those that the parser has code of its own for. */
export const API_KEYS = {
  PRODUCE: 0,
  FETCH: 1,
  METADATA: 3,
  OFFSET_FETCH: 9,
  FIND_COORDINATOR: 10,
  SASL_HANDSHAKE: 17,
  API_VERSIONS: 18,
  ADD_PARTITIONS_TO_TXN: 24,
  DESCRIBE_TOPIC_PARTITIONS: 75,
  SHARE_FETCH: 78,
} as const

const ROLES: Readonly<Record<string, KafkaRole>> = { p: 'produce', c: 'consume', a: 'admin' }

/** Other names: Cilium's for ListOffsets, Kafka's older one for ListConfigResources. */
const ALIASES: Readonly<Record<string, string>> = { offsets: 'listoffsets', listclientmetricsresources: 'listconfigresources' }

/** By name in lower case. */
export const KAFKA_API_KEYS: ReadonlyMap<string, KafkaApiKey> = new Map(
  TABLE.trim()
    .split('\n')
    .map((line) => {
      const [number = '', properName = '', roles = '', body = ''] = line.split(' ')
      const name = properName.toLowerCase()
      const apiKey: KafkaApiKey = {
        number: Number(number),
        name,
        roles: Array.from(roles).flatMap((letter) => ROLES[letter] ?? []),
        topics: body.includes('t'),
        groups: body.includes('g'),
        transactions: body.includes('x'),
      }
      return [name, apiKey]
    }),
)

const BY_NUMBER: ReadonlyMap<number, KafkaApiKey> = new Map([...KAFKA_API_KEYS.values()].map((apiKey) => [apiKey.number, apiKey]))

export function apiKeyOfNumber(number: number): KafkaApiKey | undefined {
  return BY_NUMBER.get(number)
}

/** Normal form of a name, in whatever case; undefined when there is no such request. */
export function apiKeyOfName(text: string): string | undefined {
  const lower = text.toLowerCase()
  const name = Object.hasOwn(ALIASES, lower) ? ALIASES[lower] : lower
  return name !== undefined && KAFKA_API_KEYS.has(name) ? name : undefined
}

/** Whether requests of this name belong to the role. */
export function isOfRole(apiKey: string, role: KafkaRole): boolean {
  return KAFKA_API_KEYS.get(apiKey)?.roles.includes(role) === true
}
