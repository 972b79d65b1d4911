/**
 * The messages of Apache Kafka 4.3.1, made by generate.mjs from its own definitions. A message is a line with its key, kind, name, versions and
 * flexible versions, then a line for each field, indented by its depth: name, type ([] an array, {} a struct), versions, and where they
 * apply: ?versions in which it can be null, #tag:versions in which it is a tagged field, @kind of what it names, =default.
 */
export const KAFKA_MESSAGES = `
0 request Produce 3-13 9+
 transactionalId string 3+ ?3+ @transactionalId =null
 acks int16 0+
 timeoutMs int32 0+
 topicData []{} 0+
  name string 0-12 @topicName
  topicId uuid 13+
  partitionData []{} 0+
   index int32 0+
   records records 0+ ?0+

0 response Produce 3-13 9+
 responses []{} 0+
  name string 0-12 @topicName
  topicId uuid 13+
  partitionResponses []{} 0+
   index int32 0+
   errorCode int16 0+
   baseOffset int64 0+
   logAppendTimeMs int64 2+ =-1
   logStartOffset int64 5+ =-1
   recordErrors []{} 8+
    batchIndex int32 8+
    batchIndexErrorMessage string 8+ ?8+ =null
   errorMessage string 8+ ?8+ =null
   currentLeader {} 10+ #0:10+
    leaderId int32 10+ @brokerId =-1
    leaderEpoch int32 10+ =-1
 throttleTimeMs int32 1+ =0
 nodeEndpoints []{} 10+ #0:10+
  nodeId int32 10+ @brokerId
  host string 10+
  port int32 10+
  rack string 10+ ?10+ =null

1 request Fetch 4-18 12+
 clusterId string 12+ ?12+ #0:12+ =null
 replicaId int32 0-14 @brokerId =-1
 replicaState {} 15+ #1:15+
  replicaId int32 15+ @brokerId =-1
  replicaEpoch int64 15+ =-1
 maxWaitMs int32 0+
 minBytes int32 0+
 maxBytes int32 3+ =0x7fffffff
 isolationLevel int8 4+ =0
 sessionId int32 7+ =0
 sessionEpoch int32 7+ =-1
 topics []{} 0+
  topic string 0-12 @topicName
  topicId uuid 13+
  partitions []{} 0+
   partition int32 0+
   currentLeaderEpoch int32 9+ =-1
   fetchOffset int64 0+
   lastFetchedEpoch int32 12+ =-1
   logStartOffset int64 5+ =-1
   partitionMaxBytes int32 0+
   replicaDirectoryId uuid 17+ #0:17+
   highWatermark int64 18+ #1:18+ =9223372036854775807
 forgottenTopicsData []{} 7+
  topic string 7-12 @topicName
  topicId uuid 13+
  partitions []int32 7+
 rackId string 11+

1 response Fetch 4-18 12+
 throttleTimeMs int32 1+
 errorCode int16 7+
 sessionId int32 7+ =0
 responses []{} 0+
  topic string 0-12 @topicName
  topicId uuid 13+
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   highWatermark int64 0+
   lastStableOffset int64 4+ =-1
   logStartOffset int64 5+ =-1
   divergingEpoch {} 12+ #0:12+
    epoch int32 12+ =-1
    endOffset int64 12+ =-1
   currentLeader {} 12+ #1:12+
    leaderId int32 12+ @brokerId =-1
    leaderEpoch int32 12+ =-1
   snapshotId {} 12+ #2:12+
    endOffset int64 0+ =-1
    epoch int32 0+ =-1
   abortedTransactions []{} 4+ ?4+
    producerId int64 4+ @producerId
    firstOffset int64 4+
   preferredReadReplica int32 11+ @brokerId =-1
   records records 0+ ?0+
 nodeEndpoints []{} 16+ #0:16+
  nodeId int32 16+ @brokerId
  host string 16+
  port int32 16+
  rack string 16+ ?16+ =null

2 request ListOffsets 1-11 6+
 replicaId int32 0+ @brokerId
 isolationLevel int8 2+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   currentLeaderEpoch int32 4+ =-1
   timestamp int64 0+
 timeoutMs int32 10+

2 response ListOffsets 1-11 6+
 throttleTimeMs int32 2+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   timestamp int64 1+ =-1
   offset int64 1+ =-1
   leaderEpoch int32 4+ =-1

3 request Metadata 0-13 9+
 topics []{} 0+ ?1+
  topicId uuid 10+
  name string 0+ ?10+ @topicName
 allowAutoTopicCreation bool 4+ =true
 includeClusterAuthorizedOperations bool 8-10
 includeTopicAuthorizedOperations bool 8+

3 response Metadata 0-13 9+
 throttleTimeMs int32 3+
 brokers []{} 0+
  nodeId int32 0+ @brokerId
  host string 0+
  port int32 0+
  rack string 1+ ?1+ =null
 clusterId string 2+ ?2+ =null
 controllerId int32 1+ @brokerId =-1
 topics []{} 0+
  errorCode int16 0+
  name string 0+ ?12+ @topicName
  topicId uuid 10+
  isInternal bool 1+ =false
  partitions []{} 0+
   errorCode int16 0+
   partitionIndex int32 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 7+ =-1
   replicaNodes []int32 0+ @brokerId
   isrNodes []int32 0+ @brokerId
   offlineReplicas []int32 5+ @brokerId
  topicAuthorizedOperations int32 8+ =-2147483648
 clusterAuthorizedOperations int32 8-10 =-2147483648
 errorCode int16 13+

8 request OffsetCommit 2-10 8+
 groupId string 0+ @groupId
 generationIdOrMemberEpoch int32 1+ =-1
 memberId string 1+
 groupInstanceId string 7+ ?7+ =null
 retentionTimeMs int64 2-4 =-1
 topics []{} 0+
  name string 0-9 @topicName
  topicId uuid 10+
  partitions []{} 0+
   partitionIndex int32 0+
   committedOffset int64 0+
   committedLeaderEpoch int32 6+ =-1
   committedMetadata string 0+ ?0+

8 response OffsetCommit 2-10 8+
 throttleTimeMs int32 3+
 topics []{} 0+
  name string 0-9 @topicName
  topicId uuid 10+
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+

9 request OffsetFetch 1-10 6+
 groupId string 0-7 @groupId
 topics []{} 0-7 ?2-7
  name string 0-7 @topicName
  partitionIndexes []int32 0-7
 groups []{} 8+
  groupId string 8+ @groupId
  memberId string 9+ ?9+ =null
  memberEpoch int32 9+ =-1
  topics []{} 8+ ?8+
   name string 8-9 @topicName
   topicId uuid 10+
   partitionIndexes []int32 8+
 requireStable bool 7+ =false

9 response OffsetFetch 1-10 6+
 throttleTimeMs int32 3+
 topics []{} 0-7
  name string 0-7 @topicName
  partitions []{} 0-7
   partitionIndex int32 0-7
   committedOffset int64 0-7
   committedLeaderEpoch int32 5-7 =-1
   metadata string 0-7 ?0-7
   errorCode int16 0-7
 errorCode int16 2-7 =0
 groups []{} 8+
  groupId string 8+ @groupId
  topics []{} 8+
   name string 8-9 @topicName
   topicId uuid 10+
   partitions []{} 8+
    partitionIndex int32 8+
    committedOffset int64 8+
    committedLeaderEpoch int32 8+ =-1
    metadata string 8+ ?8+
    errorCode int16 8+
  errorCode int16 8+ =0

10 request FindCoordinator 0-6 3+
 key string 0-3
 keyType int8 1+ =0
 coordinatorKeys []string 4+

10 response FindCoordinator 0-6 3+
 throttleTimeMs int32 1+
 errorCode int16 0-3
 errorMessage string 1-3 ?1-3
 nodeId int32 0-3 @brokerId
 host string 0-3
 port int32 0-3
 coordinators []{} 4+
  key string 4+
  nodeId int32 4+ @brokerId
  host string 4+
  port int32 4+
  errorCode int16 4+
  errorMessage string 4+ ?4+

11 request JoinGroup 0-9 6+
 groupId string 0+ @groupId
 sessionTimeoutMs int32 0+
 rebalanceTimeoutMs int32 1+ =-1
 memberId string 0+
 groupInstanceId string 5+ ?5+ =null
 protocolType string 0+
 protocols []{} 0+
  name string 0+
  metadata bytes 0+
 reason string 8+ ?8+ =null

11 response JoinGroup 0-9 6+
 throttleTimeMs int32 2+
 errorCode int16 0+
 generationId int32 0+ =-1
 protocolType string 7+ ?7+ =null
 protocolName string 0+ ?7+
 leader string 0+
 skipAssignment bool 9+ =false
 memberId string 0+
 members []{} 0+
  memberId string 0+
  groupInstanceId string 5+ ?5+ =null
  metadata bytes 0+

12 request Heartbeat 0-4 4+
 groupId string 0+ @groupId
 generationId int32 0+
 memberId string 0+
 groupInstanceId string 3+ ?3+ =null

12 response Heartbeat 0-4 4+
 throttleTimeMs int32 1+
 errorCode int16 0+

13 request LeaveGroup 0-5 4+
 groupId string 0+ @groupId
 memberId string 0-2
 members []{} 3+
  memberId string 3+
  groupInstanceId string 3+ ?3+ =null
  reason string 5+ ?5+ =null

13 response LeaveGroup 0-5 4+
 throttleTimeMs int32 1+
 errorCode int16 0+
 members []{} 3+
  memberId string 3+
  groupInstanceId string 3+ ?3+
  errorCode int16 3+

14 request SyncGroup 0-5 4+
 groupId string 0+ @groupId
 generationId int32 0+
 memberId string 0+
 groupInstanceId string 3+ ?3+ =null
 protocolType string 5+ ?5+ =null
 protocolName string 5+ ?5+ =null
 assignments []{} 0+
  memberId string 0+
  assignment bytes 0+

14 response SyncGroup 0-5 4+
 throttleTimeMs int32 1+
 errorCode int16 0+
 protocolType string 5+ ?5+ =null
 protocolName string 5+ ?5+ =null
 assignment bytes 0+

15 request DescribeGroups 0-6 5+
 groups []string 0+ @groupId
 includeAuthorizedOperations bool 3+

15 response DescribeGroups 0-6 5+
 throttleTimeMs int32 1+
 groups []{} 0+
  errorCode int16 0+
  errorMessage string 6+ ?6+ =null
  groupId string 0+ @groupId
  groupState string 0+
  protocolType string 0+
  protocolData string 0+
  members []{} 0+
   memberId string 0+
   groupInstanceId string 4+ ?4+ =null
   clientId string 0+
   clientHost string 0+
   memberMetadata bytes 0+
   memberAssignment bytes 0+
  authorizedOperations int32 3+ =-2147483648

16 request ListGroups 0-5 3+
 statesFilter []string 4+
 typesFilter []string 5+

16 response ListGroups 0-5 3+
 throttleTimeMs int32 1+
 errorCode int16 0+
 groups []{} 0+
  groupId string 0+ @groupId
  protocolType string 0+
  groupState string 4+
  groupType string 5+

17 request SaslHandshake 0-1 none
 mechanism string 0+

17 response SaslHandshake 0-1 none
 errorCode int16 0+
 mechanisms []string 0+

18 request ApiVersions 0-4 3+
 clientSoftwareName string 3+
 clientSoftwareVersion string 3+

18 response ApiVersions 0-4 3+
 errorCode int16 0+
 apiKeys []{} 0+
  apiKey int16 0+
  minVersion int16 0+
  maxVersion int16 0+
 throttleTimeMs int32 1+
 supportedFeatures []{} 3+ #0:3+
  name string 3+
  minVersion int16 3+
  maxVersion int16 3+
 finalizedFeaturesEpoch int64 3+ #1:3+ =-1
 finalizedFeatures []{} 3+ #2:3+
  name string 3+
  maxVersionLevel int16 3+
  minVersionLevel int16 3+
 zkMigrationReady bool 3+ #3:3+ =false

19 request CreateTopics 2-7 5+
 topics []{} 0+
  name string 0+ @topicName
  numPartitions int32 0+
  replicationFactor int16 0+
  assignments []{} 0+
   partitionIndex int32 0+
   brokerIds []int32 0+ @brokerId
  configs []{} 0+
   name string 0+
   value string 0+ ?0+
 timeoutMs int32 0+ =60000
 validateOnly bool 1+ =false

19 response CreateTopics 2-7 5+
 throttleTimeMs int32 2+
 topics []{} 0+
  name string 0+ @topicName
  topicId uuid 7+
  errorCode int16 0+
  errorMessage string 1+ ?0+
  topicConfigErrorCode int16 5+ #0:5+
  numPartitions int32 5+ =-1
  replicationFactor int16 5+ =-1
  configs []{} 5+ ?5+
   name string 5+
   value string 5+ ?5+
   readOnly bool 5+
   configSource int8 5+ =-1
   isSensitive bool 5+

20 request DeleteTopics 1-6 4+
 topics []{} 6+
  name string 6+ ?6+ @topicName =null
  topicId uuid 6+
 topicNames []string 0-5 @topicName
 timeoutMs int32 0+

20 response DeleteTopics 1-6 4+
 throttleTimeMs int32 1+
 responses []{} 0+
  name string 0+ ?6+ @topicName
  topicId uuid 6+
  errorCode int16 0+
  errorMessage string 5+ ?5+ =null

21 request DeleteRecords 0-2 2+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   offset int64 0+
 timeoutMs int32 0+

21 response DeleteRecords 0-2 2+
 throttleTimeMs int32 0+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   lowWatermark int64 0+
   errorCode int16 0+

22 request InitProducerId 0-5 2+
 transactionalId string 0+ ?0+ @transactionalId
 transactionTimeoutMs int32 0+
 producerId int64 3+ @producerId =-1
 producerEpoch int16 3+ =-1
 enable2Pc bool 6+ =false
 keepPreparedTxn bool 6+ =false

22 response InitProducerId 0-5 2+
 throttleTimeMs int32 0+
 errorCode int16 0+
 producerId int64 0+ @producerId =-1
 producerEpoch int16 0+
 ongoingTxnProducerId int64 6+ @producerId =-1
 ongoingTxnProducerEpoch int16 6+ =-1

23 request OffsetForLeaderEpoch 2-4 4+
 replicaId int32 3+ @brokerId =-2
 topics []{} 0+
  topic string 0+ @topicName
  partitions []{} 0+
   partition int32 0+
   currentLeaderEpoch int32 2+ =-1
   leaderEpoch int32 0+

23 response OffsetForLeaderEpoch 2-4 4+
 throttleTimeMs int32 2+
 topics []{} 0+
  topic string 0+ @topicName
  partitions []{} 0+
   errorCode int16 0+
   partition int32 0+
   leaderEpoch int32 1+ =-1
   endOffset int64 0+ =-1

24 request AddPartitionsToTxn 0-5 3+
 transactions []{} 4+
  transactionalId string 4+ @transactionalId
  producerId int64 4+ @producerId
  producerEpoch int16 4+
  verifyOnly bool 4+ =false
  topics []{} 4+
   name string 0+ @topicName
   partitions []int32 0+
 v3AndBelowTransactionalId string 0-3 @transactionalId
 v3AndBelowProducerId int64 0-3 @producerId
 v3AndBelowProducerEpoch int16 0-3
 v3AndBelowTopics []{} 0-3
  name string 0+ @topicName
  partitions []int32 0+

24 response AddPartitionsToTxn 0-5 3+
 throttleTimeMs int32 0+
 errorCode int16 4+
 resultsByTransaction []{} 4+
  transactionalId string 4+ @transactionalId
  topicResults []{} 4+
   name string 0+ @topicName
   resultsByPartition []{} 0+
    partitionIndex int32 0+
    partitionErrorCode int16 0+
 resultsByTopicV3AndBelow []{} 0-3
  name string 0+ @topicName
  resultsByPartition []{} 0+
   partitionIndex int32 0+
   partitionErrorCode int16 0+

25 request AddOffsetsToTxn 0-4 3+
 transactionalId string 0+ @transactionalId
 producerId int64 0+ @producerId
 producerEpoch int16 0+
 groupId string 0+ @groupId

25 response AddOffsetsToTxn 0-4 3+
 throttleTimeMs int32 0+
 errorCode int16 0+

26 request EndTxn 0-5 3+
 transactionalId string 0+ @transactionalId
 producerId int64 0+ @producerId
 producerEpoch int16 0+
 committed bool 0+

26 response EndTxn 0-5 3+
 throttleTimeMs int32 0+
 errorCode int16 0+
 producerId int64 5+ @producerId =-1
 producerEpoch int16 5+ =-1

27 request WriteTxnMarkers 1-2 1+
 markers []{} 0+
  producerId int64 0+ @producerId
  producerEpoch int16 0+
  transactionResult bool 0+
  topics []{} 0+
   name string 0+ @topicName
   partitionIndexes []int32 0+
  coordinatorEpoch int32 0+
  transactionVersion int8 2+ =0

27 response WriteTxnMarkers 1-2 1+
 markers []{} 0+
  producerId int64 0+ @producerId
  topics []{} 0+
   name string 0+ @topicName
   partitions []{} 0+
    partitionIndex int32 0+
    errorCode int16 0+

28 request TxnOffsetCommit 0-5 3+
 transactionalId string 0+ @transactionalId
 groupId string 0+ @groupId
 producerId int64 0+ @producerId
 producerEpoch int16 0+
 generationId int32 3+ =-1
 memberId string 3+
 groupInstanceId string 3+ ?3+ =null
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   committedOffset int64 0+
   committedLeaderEpoch int32 2+ =-1
   committedMetadata string 0+ ?0+

28 response TxnOffsetCommit 0-5 3+
 throttleTimeMs int32 0+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+

29 request DescribeAcls 1-3 2+
 resourceTypeFilter int8 0+
 resourceNameFilter string 0+ ?0+
 patternTypeFilter int8 1+ =3
 principalFilter string 0+ ?0+
 hostFilter string 0+ ?0+
 operation int8 0+
 permissionType int8 0+

29 response DescribeAcls 1-3 2+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+
 resources []{} 0+
  resourceType int8 0+
  resourceName string 0+
  patternType int8 1+ =3
  acls []{} 0+
   principal string 0+
   host string 0+
   operation int8 0+
   permissionType int8 0+

30 request CreateAcls 1-3 2+
 creations []{} 0+
  resourceType int8 0+
  resourceName string 0+
  resourcePatternType int8 1+ =3
  principal string 0+
  host string 0+
  operation int8 0+
  permissionType int8 0+

30 response CreateAcls 1-3 2+
 throttleTimeMs int32 0+
 results []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+

31 request DeleteAcls 1-3 2+
 filters []{} 0+
  resourceTypeFilter int8 0+
  resourceNameFilter string 0+ ?0+
  patternTypeFilter int8 1+ =3
  principalFilter string 0+ ?0+
  hostFilter string 0+ ?0+
  operation int8 0+
  permissionType int8 0+

31 response DeleteAcls 1-3 2+
 throttleTimeMs int32 0+
 filterResults []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+
  matchingAcls []{} 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+
   resourceType int8 0+
   resourceName string 0+
   patternType int8 1+ =3
   principal string 0+
   host string 0+
   operation int8 0+
   permissionType int8 0+

32 request DescribeConfigs 1-4 4+
 resources []{} 0+
  resourceType int8 0+
  resourceName string 0+
  configurationKeys []string 0+ ?0+
 includeSynonyms bool 1+ =false
 includeDocumentation bool 3+ =false

32 response DescribeConfigs 1-4 4+
 throttleTimeMs int32 0+
 results []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+
  resourceType int8 0+
  resourceName string 0+
  configs []{} 0+
   name string 0+
   value string 0+ ?0+
   readOnly bool 0+
   configSource int8 1+ =-1
   isSensitive bool 0+
   synonyms []{} 1+
    name string 1+
    value string 1+ ?0+
    source int8 1+
   configType int8 3+ =0
   documentation string 3+ ?0+

33 request AlterConfigs 0-2 2+
 resources []{} 0+
  resourceType int8 0+
  resourceName string 0+
  configs []{} 0+
   name string 0+
   value string 0+ ?0+
 validateOnly bool 0+

33 response AlterConfigs 0-2 2+
 throttleTimeMs int32 0+
 responses []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+
  resourceType int8 0+
  resourceName string 0+

34 request AlterReplicaLogDirs 1-2 2+
 dirs []{} 0+
  path string 0+
  topics []{} 0+
   name string 0+ @topicName
   partitions []int32 0+

34 response AlterReplicaLogDirs 1-2 2+
 throttleTimeMs int32 0+
 results []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+

35 request DescribeLogDirs 1-5 2+
 topics []{} 0+ ?0+
  topic string 0+ @topicName
  partitions []int32 0+

35 response DescribeLogDirs 1-5 2+
 throttleTimeMs int32 0+
 errorCode int16 3+
 results []{} 0+
  errorCode int16 0+
  logDir string 0+
  topics []{} 0+
   name string 0+ @topicName
   partitions []{} 0+
    partitionIndex int32 0+
    partitionSize int64 0+
    offsetLag int64 0+
    isFutureKey bool 0+
  totalBytes int64 4+ =-1
  usableBytes int64 4+ =-1
  isCordoned bool 5+ =false

36 request SaslAuthenticate 0-2 2+
 authBytes bytes 0+

36 response SaslAuthenticate 0-2 2+
 errorCode int16 0+
 errorMessage string 0+ ?0+
 authBytes bytes 0+
 sessionLifetimeMs int64 1+ =0

37 request CreatePartitions 0-3 2+
 topics []{} 0+
  name string 0+ @topicName
  count int32 0+
  assignments []{} 0+ ?0+
   brokerIds []int32 0+ @brokerId
 timeoutMs int32 0+
 validateOnly bool 0+

37 response CreatePartitions 0-3 2+
 throttleTimeMs int32 0+
 results []{} 0+
  name string 0+ @topicName
  errorCode int16 0+
  errorMessage string 0+ ?0+ =null

38 request CreateDelegationToken 1-3 2+
 ownerPrincipalType string 3+ ?3+
 ownerPrincipalName string 3+ ?3+
 renewers []{} 0+
  principalType string 0+
  principalName string 0+
 maxLifetimeMs int64 0+

38 response CreateDelegationToken 1-3 2+
 errorCode int16 0+
 principalType string 0+
 principalName string 0+
 tokenRequesterPrincipalType string 3+
 tokenRequesterPrincipalName string 3+
 issueTimestampMs int64 0+
 expiryTimestampMs int64 0+
 maxTimestampMs int64 0+
 tokenId string 0+
 hmac bytes 0+
 throttleTimeMs int32 0+

39 request RenewDelegationToken 1-2 2+
 hmac bytes 0+
 renewPeriodMs int64 0+

39 response RenewDelegationToken 1-2 2+
 errorCode int16 0+
 expiryTimestampMs int64 0+
 throttleTimeMs int32 0+

40 request ExpireDelegationToken 1-2 2+
 hmac bytes 0+
 expiryTimePeriodMs int64 0+

40 response ExpireDelegationToken 1-2 2+
 errorCode int16 0+
 expiryTimestampMs int64 0+
 throttleTimeMs int32 0+

41 request DescribeDelegationToken 1-3 2+
 owners []{} 0+ ?0+
  principalType string 0+
  principalName string 0+

41 response DescribeDelegationToken 1-3 2+
 errorCode int16 0+
 tokens []{} 0+
  principalType string 0+
  principalName string 0+
  tokenRequesterPrincipalType string 3+
  tokenRequesterPrincipalName string 3+
  issueTimestamp int64 0+
  expiryTimestamp int64 0+
  maxTimestamp int64 0+
  tokenId string 0+
  hmac bytes 0+
  renewers []{} 0+
   principalType string 0+
   principalName string 0+
 throttleTimeMs int32 0+

42 request DeleteGroups 0-2 2+
 groupsNames []string 0+ @groupId

42 response DeleteGroups 0-2 2+
 throttleTimeMs int32 0+
 results []{} 0+
  groupId string 0+ @groupId
  errorCode int16 0+

43 request ElectLeaders 0-2 2+
 electionType int8 1+
 topicPartitions []{} 0+ ?0+
  topic string 0+ @topicName
  partitions []int32 0+
 timeoutMs int32 0+ =60000

43 response ElectLeaders 0-2 2+
 throttleTimeMs int32 0+
 errorCode int16 1+
 replicaElectionResults []{} 0+
  topic string 0+ @topicName
  partitionResult []{} 0+
   partitionId int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+

44 request IncrementalAlterConfigs 0-1 1+
 resources []{} 0+
  resourceType int8 0+
  resourceName string 0+
  configs []{} 0+
   name string 0+
   configOperation int8 0+
   value string 0+ ?0+
 validateOnly bool 0+

44 response IncrementalAlterConfigs 0-1 1+
 throttleTimeMs int32 0+
 responses []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+
  resourceType int8 0+
  resourceName string 0+

45 request AlterPartitionReassignments 0-1 0+
 timeoutMs int32 0+ =60000
 allowReplicationFactorChange bool 1+ =true
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   replicas []int32 0+ ?0+ @brokerId =null

45 response AlterPartitionReassignments 0-1 0+
 throttleTimeMs int32 0+
 allowReplicationFactorChange bool 1+ =true
 errorCode int16 0+
 errorMessage string 0+ ?0+
 responses []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+

46 request ListPartitionReassignments 0 0+
 timeoutMs int32 0+ =60000
 topics []{} 0+ ?0+ =null
  name string 0+ @topicName
  partitionIndexes []int32 0+

46 response ListPartitionReassignments 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   replicas []int32 0+ @brokerId
   addingReplicas []int32 0+ @brokerId
   removingReplicas []int32 0+ @brokerId

47 request OffsetDelete 0 none
 groupId string 0+ @groupId
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+

47 response OffsetDelete 0 none
 errorCode int16 0+
 throttleTimeMs int32 0+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+

48 request DescribeClientQuotas 0-1 1+
 components []{} 0+
  entityType string 0+
  matchType int8 0+
  match string 0+ ?0+
 strict bool 0+

48 response DescribeClientQuotas 0-1 1+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+
 entries []{} 0+ ?0+
  entity []{} 0+
   entityType string 0+
   entityName string 0+ ?0+
  values []{} 0+
   key string 0+
   value float64 0+

49 request AlterClientQuotas 0-1 1+
 entries []{} 0+
  entity []{} 0+
   entityType string 0+
   entityName string 0+ ?0+
  ops []{} 0+
   key string 0+
   value float64 0+
   remove bool 0+
 validateOnly bool 0+

49 response AlterClientQuotas 0-1 1+
 throttleTimeMs int32 0+
 entries []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+
  entity []{} 0+
   entityType string 0+
   entityName string 0+ ?0+

50 request DescribeUserScramCredentials 0 0+
 users []{} 0+ ?0+
  name string 0+

50 response DescribeUserScramCredentials 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+
 results []{} 0+
  user string 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+
  credentialInfos []{} 0+
   mechanism int8 0+
   iterations int32 0+

51 request AlterUserScramCredentials 0 0+
 deletions []{} 0+
  name string 0+
  mechanism int8 0+
 upsertions []{} 0+
  name string 0+
  mechanism int8 0+
  iterations int32 0+
  salt bytes 0+
  saltedPassword bytes 0+

51 response AlterUserScramCredentials 0 0+
 throttleTimeMs int32 0+
 results []{} 0+
  user string 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+

52 request Vote 0-2 0+
 clusterId string 0+ ?0+ =null
 voterId int32 1+ @brokerId =-1
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   replicaEpoch int32 0+
   replicaId int32 0+ @brokerId
   replicaDirectoryId uuid 1+
   voterDirectoryId uuid 1+
   lastOffsetEpoch int32 0+
   lastOffset int64 0+
   preVote bool 2+

52 response Vote 0-2 0+
 errorCode int16 0+
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
   voteGranted bool 0+
 nodeEndpoints []{} 1+ #0:1+
  nodeId int32 1+ @brokerId
  host string 1+
  port uint16 1+

53 request BeginQuorumEpoch 0-1 1+
 clusterId string 0+ ?0+ =null
 voterId int32 1+ @brokerId =-1
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   voterDirectoryId uuid 1+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
 leaderEndpoints []{} 1+
  name string 1+
  host string 1+
  port uint16 1+

53 response BeginQuorumEpoch 0-1 1+
 errorCode int16 0+
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
 nodeEndpoints []{} 1+ #0:1+
  nodeId int32 1+ @brokerId
  host string 1+
  port uint16 1+

54 request EndQuorumEpoch 0-1 1+
 clusterId string 0+ ?0+ =null
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
   preferredSuccessors []int32 0
   preferredCandidates []{} 1+
    candidateId int32 1+ @brokerId
    candidateDirectoryId uuid 1+
 leaderEndpoints []{} 1+
  name string 1+
  host string 1+
  port uint16 1+

54 response EndQuorumEpoch 0-1 1+
 errorCode int16 0+
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
 nodeEndpoints []{} 1+ #0:1+
  nodeId int32 1+ @brokerId
  host string 1+
  port uint16 1+

55 request DescribeQuorum 0-2 0+
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+

55 response DescribeQuorum 0-2 0+
 errorCode int16 0+
 errorMessage string 2+ ?2+
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   errorMessage string 2+ ?2+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
   highWatermark int64 0+
   currentVoters []{} 0+
    replicaId int32 0+ @brokerId
    replicaDirectoryId uuid 2+
    logEndOffset int64 0+
    lastFetchTimestamp int64 1+ =-1
    lastCaughtUpTimestamp int64 1+ =-1
   observers []{} 0+
    replicaId int32 0+ @brokerId
    replicaDirectoryId uuid 2+
    logEndOffset int64 0+
    lastFetchTimestamp int64 1+ =-1
    lastCaughtUpTimestamp int64 1+ =-1
 nodes []{} 2+
  nodeId int32 2+ @brokerId
  listeners []{} 2+
   name string 2+
   host string 2+
   port uint16 2+

56 request AlterPartition 2-3 0+
 brokerId int32 0+ @brokerId
 brokerEpoch int64 0+ =-1
 topics []{} 0+
  topicId uuid 2+
  partitions []{} 0+
   partitionIndex int32 0+
   leaderEpoch int32 0+
   newIsr []int32 0-2 @brokerId
   newIsrWithEpochs []{} 3+
    brokerId int32 3+ @brokerId
    brokerEpoch int64 3+ =-1
   leaderRecoveryState int8 1+ =0
   partitionEpoch int32 0+

56 response AlterPartition 2-3 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 topics []{} 0+
  topicId uuid 2+
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+
   isr []int32 0+ @brokerId
   leaderRecoveryState int8 1+ =0
   partitionEpoch int32 0+

57 request UpdateFeatures 0-2 0+
 timeoutMs int32 0+ =60000
 featureUpdates []{} 0+
  feature string 0+
  maxVersionLevel int16 0+
  allowDowngrade bool 0
  upgradeType int8 1+ =1
 validateOnly bool 1+ =false

57 response UpdateFeatures 0-2 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+
 results []{} 0-1
  feature string 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+

58 request Envelope 0 0+
 requestData bytes 0+
 requestPrincipal bytes 0+ ?0+
 clientHostAddress bytes 0+

58 response Envelope 0 0+
 responseData bytes 0+ ?0+ =null
 errorCode int16 0+

59 request FetchSnapshot 0-1 0+
 clusterId string 0+ ?0+ #0:0+ =null
 replicaId int32 0+ @brokerId =-1
 maxBytes int32 0+ =0x7fffffff
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partition int32 0+
   currentLeaderEpoch int32 0+
   snapshotId {} 0+
    endOffset int64 0+
    epoch int32 0+
   position int64 0+
   replicaDirectoryId uuid 1+ #0:1+

59 response FetchSnapshot 0-1 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   index int32 0+
   errorCode int16 0+
   snapshotId {} 0+
    endOffset int64 0+
    epoch int32 0+
   currentLeader {} 0+ #0:0+
    leaderId int32 0+ @brokerId
    leaderEpoch int32 0+
   size int64 0+
   position int64 0+
   unalignedRecords records 0+
 nodeEndpoints []{} 1+ #0:1+
  nodeId int32 1+ @brokerId
  host string 1+
  port uint16 1+

60 request DescribeCluster 0-2 0+
 includeClusterAuthorizedOperations bool 0+
 endpointType int8 1+ =1
 includeFencedBrokers bool 2+

60 response DescribeCluster 0-2 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 endpointType int8 1+ =1
 clusterId string 0+
 controllerId int32 0+ @brokerId =-1
 brokers []{} 0+
  brokerId int32 0+ @brokerId
  host string 0+
  port int32 0+
  rack string 0+ ?0+ =null
  isFenced bool 2+
 clusterAuthorizedOperations int32 0+ =-2147483648

61 request DescribeProducers 0 0+
 topics []{} 0+
  name string 0+ @topicName
  partitionIndexes []int32 0+

61 response DescribeProducers 0 0+
 throttleTimeMs int32 0+
 topics []{} 0+
  name string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null
   activeProducers []{} 0+
    producerId int64 0+ @producerId
    producerEpoch int32 0+
    lastSequence int32 0+ =-1
    lastTimestamp int64 0+ =-1
    coordinatorEpoch int32 0+
    currentTxnStartOffset int64 0+ =-1

62 request BrokerRegistration 0-4 0+
 brokerId int32 0+ @brokerId
 clusterId string 0+
 incarnationId uuid 0+
 listeners []{} 0+
  name string 0+
  host string 0+
  port uint16 0+
  securityProtocol int16 0+
 features []{} 0+
  name string 0+
  minSupportedVersion int16 0+
  maxSupportedVersion int16 0+
 rack string 0+ ?0+
 isMigratingZkBroker bool 1+ =false
 logDirs []uuid 2+
 previousBrokerEpoch int64 3+ =-1

62 response BrokerRegistration 0-4 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 brokerEpoch int64 0+ =-1

63 request BrokerHeartbeat 0-2 0+
 brokerId int32 0+ @brokerId
 brokerEpoch int64 0+ =-1
 currentMetadataOffset int64 0+
 wantFence bool 0+
 wantShutDown bool 0+
 offlineLogDirs []uuid 1+ #0:1+
 cordonedLogDirs []uuid 2+ ?2+ #1:2+ =null

63 response BrokerHeartbeat 0-2 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 isCaughtUp bool 0+ =false
 isFenced bool 0+ =true
 shouldShutDown bool 0+

64 request UnregisterBroker 0 0+
 brokerId int32 0+ @brokerId

64 response UnregisterBroker 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+

65 request DescribeTransactions 0 0+
 transactionalIds []string 0+ @transactionalId

65 response DescribeTransactions 0 0+
 throttleTimeMs int32 0+
 transactionStates []{} 0+
  errorCode int16 0+
  transactionalId string 0+ @transactionalId
  transactionState string 0+
  transactionTimeoutMs int32 0+
  transactionStartTimeMs int64 0+
  producerId int64 0+ @producerId
  producerEpoch int16 0+
  topics []{} 0+
   topic string 0+ @topicName
   partitions []int32 0+

66 request ListTransactions 0-2 0+
 stateFilters []string 0+
 producerIdFilters []int64 0+ @producerId
 durationFilter int64 1+ =-1
 transactionalIdPattern string 2+ ?2+ =null

66 response ListTransactions 0-2 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 unknownStateFilters []string 0+
 transactionStates []{} 0+
  transactionalId string 0+ @transactionalId
  producerId int64 0+ @producerId
  transactionState string 0+

67 request AllocateProducerIds 0 0+
 brokerId int32 0+ @brokerId
 brokerEpoch int64 0+ =-1

67 response AllocateProducerIds 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 producerIdStart int64 0+ @producerId
 producerIdLen int32 0+

68 request ConsumerGroupHeartbeat 0-1 0+
 groupId string 0+ @groupId
 memberId string 0+
 memberEpoch int32 0+
 instanceId string 0+ ?0+ =null
 rackId string 0+ ?0+ =null
 rebalanceTimeoutMs int32 0+ =-1
 subscribedTopicNames []string 0+ ?0+ @topicName =null
 subscribedTopicRegex string 1+ ?1+ =null
 serverAssignor string 0+ ?0+ =null
 topicPartitions []{} 0+ ?0+ =null
  topicId uuid 0+
  partitions []int32 0+

68 response ConsumerGroupHeartbeat 0-1 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 memberId string 0+ ?0+ =null
 memberEpoch int32 0+
 heartbeatIntervalMs int32 0+
 assignment {} 0+ ?0+ =null
  topicPartitions []{} 0+
   topicId uuid 0+
   partitions []int32 0+

69 request ConsumerGroupDescribe 0-1 0+
 groupIds []string 0+ @groupId
 includeAuthorizedOperations bool 0+

69 response ConsumerGroupDescribe 0-1 0+
 throttleTimeMs int32 0+
 groups []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+ =null
  groupId string 0+ @groupId
  groupState string 0+
  groupEpoch int32 0+
  assignmentEpoch int32 0+
  assignorName string 0+
  members []{} 0+
   memberId string 0+
   instanceId string 0+ ?0+ =null
   rackId string 0+ ?0+ =null
   memberEpoch int32 0+
   clientId string 0+
   clientHost string 0+
   subscribedTopicNames []string 0+ @topicName
   subscribedTopicRegex string 0+ ?0+ =null
   assignment {} 0+
    topicPartitions []{} 0+
     topicId uuid 0+
     topicName string 0+ @topicName
     partitions []int32 0+
   targetAssignment {} 0+
    topicPartitions []{} 0+
     topicId uuid 0+
     topicName string 0+ @topicName
     partitions []int32 0+
   memberType int8 1+ =-1
  authorizedOperations int32 0+ =-2147483648

70 request ControllerRegistration 0 0+
 controllerId int32 0+
 incarnationId uuid 0+
 zkMigrationReady bool 0+
 listeners []{} 0+
  name string 0+
  host string 0+
  port uint16 0+
  securityProtocol int16 0+
 features []{} 0+
  name string 0+
  minSupportedVersion int16 0+
  maxSupportedVersion int16 0+

70 response ControllerRegistration 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+

71 request GetTelemetrySubscriptions 0 0+
 clientInstanceId uuid 0+

71 response GetTelemetrySubscriptions 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 clientInstanceId uuid 0+
 subscriptionId int32 0+
 acceptedCompressionTypes []int8 0+
 pushIntervalMs int32 0+
 telemetryMaxBytes int32 0+
 deltaTemporality bool 0+
 requestedMetrics []string 0+

72 request PushTelemetry 0 0+
 clientInstanceId uuid 0+
 subscriptionId int32 0+
 terminating bool 0+
 compressionType int8 0+
 metrics bytes 0+

72 response PushTelemetry 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+

73 request AssignReplicasToDirs 0 0+
 brokerId int32 0+ @brokerId
 brokerEpoch int64 0+ =-1
 directories []{} 0+
  id uuid 0+
  topics []{} 0+
   topicId uuid 0+
   partitions []{} 0+
    partitionIndex int32 0+

73 response AssignReplicasToDirs 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 directories []{} 0+
  id uuid 0+
  topics []{} 0+
   topicId uuid 0+
   partitions []{} 0+
    partitionIndex int32 0+
    errorCode int16 0+

74 request ListConfigResources 0-1 0+
 resourceTypes []int8 1+

74 response ListConfigResources 0-1 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 configResources []{} 0+
  resourceName string 0+
  resourceType int8 1+ =16

75 request DescribeTopicPartitions 0 0+
 topics []{} 0+
  name string 0+ @topicName
 responsePartitionLimit int32 0+ =2000
 cursor {} 0+ ?0+ =null
  topicName string 0+ @topicName
  partitionIndex int32 0+

75 response DescribeTopicPartitions 0 0+
 throttleTimeMs int32 0+
 topics []{} 0+
  errorCode int16 0+
  name string 0+ ?0+ @topicName
  topicId uuid 0+
  isInternal bool 0+ =false
  partitions []{} 0+
   errorCode int16 0+
   partitionIndex int32 0+
   leaderId int32 0+ @brokerId
   leaderEpoch int32 0+ =-1
   replicaNodes []int32 0+ @brokerId
   isrNodes []int32 0+ @brokerId
   eligibleLeaderReplicas []int32 0+ ?0+ @brokerId =null
   lastKnownElr []int32 0+ ?0+ @brokerId =null
   offlineReplicas []int32 0+ @brokerId
  topicAuthorizedOperations int32 0+ =-2147483648
 nextCursor {} 0+ ?0+ =null
  topicName string 0+ @topicName
  partitionIndex int32 0+

76 request ShareGroupHeartbeat 1 0+
 groupId string 0+ @groupId
 memberId string 0+
 memberEpoch int32 0+
 rackId string 0+ ?0+ =null
 subscribedTopicNames []string 0+ ?0+ @topicName =null

76 response ShareGroupHeartbeat 1 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 memberId string 0+ ?0+ =null
 memberEpoch int32 0+
 heartbeatIntervalMs int32 0+
 assignment {} 0+ ?0+ =null
  topicPartitions []{} 0+
   topicId uuid 0+
   partitions []int32 0+

77 request ShareGroupDescribe 1 0+
 groupIds []string 0+ @groupId
 includeAuthorizedOperations bool 0+

77 response ShareGroupDescribe 1 0+
 throttleTimeMs int32 0+
 groups []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+ =null
  groupId string 0+ @groupId
  groupState string 0+
  groupEpoch int32 0+
  assignmentEpoch int32 0+
  assignorName string 0+
  members []{} 0+
   memberId string 0+
   rackId string 0+ ?0+ =null
   memberEpoch int32 0+
   clientId string 0+
   clientHost string 0+
   subscribedTopicNames []string 0+ @topicName
   assignment {} 0+
    topicPartitions []{} 0+
     topicId uuid 0+
     topicName string 0+ @topicName
     partitions []int32 0+
  authorizedOperations int32 0+ =-2147483648

78 request ShareFetch 1-2 0+
 groupId string 0+ ?0+ @groupId =null
 memberId string 0+ ?0+
 shareSessionEpoch int32 0+
 maxWaitMs int32 0+
 minBytes int32 0+
 maxBytes int32 0+ =0x7fffffff
 maxRecords int32 1+
 batchSize int32 1+
 shareAcquireMode int8 2+ =0
 isRenewAck bool 2+ =false
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partitionIndex int32 0+
   partitionMaxBytes int32 0
   acknowledgementBatches []{} 0+
    firstOffset int64 0+
    lastOffset int64 0+
    acknowledgeTypes []int8 0+
 forgottenTopicsData []{} 0+
  topicId uuid 0+
  partitions []int32 0+

78 response ShareFetch 1-2 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 acquisitionLockTimeoutMs int32 1+
 responses []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null
   acknowledgeErrorCode int16 0+
   acknowledgeErrorMessage string 0+ ?0+ =null
   currentLeader {} 0+
    leaderId int32 0+
    leaderEpoch int32 0+
   records records 0+ ?0
   acquiredRecords []{} 0+
    firstOffset int64 0+
    lastOffset int64 0+
    deliveryCount int16 0+
 nodeEndpoints []{} 0+
  nodeId int32 0+ @brokerId
  host string 0+
  port int32 0+
  rack string 0+ ?0+ =null

79 request ShareAcknowledge 1-2 0+
 groupId string 0+ ?0+ @groupId =null
 memberId string 0+ ?0+
 shareSessionEpoch int32 0+
 isRenewAck bool 2+ =false
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partitionIndex int32 0+
   acknowledgementBatches []{} 0+
    firstOffset int64 0+
    lastOffset int64 0+
    acknowledgeTypes []int8 0+

79 response ShareAcknowledge 1-2 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 acquisitionLockTimeoutMs int32 2+
 responses []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null
   currentLeader {} 0+
    leaderId int32 0+
    leaderEpoch int32 0+
 nodeEndpoints []{} 0+
  nodeId int32 0+ @brokerId
  host string 0+
  port int32 0+
  rack string 0+ ?0+ =null

80 request AddRaftVoter 0-1 0+
 clusterId string 0+ ?0+
 timeoutMs int32 0+
 voterId int32 0+
 voterDirectoryId uuid 0+
 listeners []{} 0+
  name string 0+
  host string 0+
  port uint16 0+
 ackWhenCommitted bool 1+ =true

80 response AddRaftVoter 0-1 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+

81 request RemoveRaftVoter 0 0+
 clusterId string 0+ ?0+
 voterId int32 0+
 voterDirectoryId uuid 0+

81 response RemoveRaftVoter 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+

82 request UpdateRaftVoter 0 0+
 clusterId string 0+ ?0+
 currentLeaderEpoch int32 0+
 voterId int32 0+
 voterDirectoryId uuid 0+
 listeners []{} 0+
  name string 0+
  host string 0+
  port uint16 0+
 kRaftVersionFeature {} 0+
  minSupportedVersion int16 0+
  maxSupportedVersion int16 0+

82 response UpdateRaftVoter 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 currentLeader {} 0+ #0:0+
  leaderId int32 0+ @brokerId =-1
  leaderEpoch int32 0+ =-1
  host string 0+
  port int32 0+

83 request InitializeShareGroupState 0 0+
 groupId string 0+
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   stateEpoch int32 0+
   startOffset int64 0+

83 response InitializeShareGroupState 0 0+
 results []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null

84 request ReadShareGroupState 0 0+
 groupId string 0+
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   leaderEpoch int32 0+

84 response ReadShareGroupState 0 0+
 results []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null
   stateEpoch int32 0+
   startOffset int64 0+
   stateBatches []{} 0+
    firstOffset int64 0+
    lastOffset int64 0+
    deliveryState int8 0+
    deliveryCount int16 0+

85 request WriteShareGroupState 0-1 0+
 groupId string 0+
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   stateEpoch int32 0+
   leaderEpoch int32 0+
   startOffset int64 0+
   deliveryCompleteCount int32 1+ =-1
   stateBatches []{} 0+
    firstOffset int64 0+
    lastOffset int64 0+
    deliveryState int8 0+
    deliveryCount int16 0+

85 response WriteShareGroupState 0-1 0+
 results []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null

86 request DeleteShareGroupState 0 0+
 groupId string 0+
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+

86 response DeleteShareGroupState 0 0+
 results []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null

87 request ReadShareGroupStateSummary 0-1 0+
 groupId string 0+
 topics []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   leaderEpoch int32 0+

87 response ReadShareGroupStateSummary 0-1 0+
 results []{} 0+
  topicId uuid 0+
  partitions []{} 0+
   partition int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null
   stateEpoch int32 0+
   leaderEpoch int32 0+
   startOffset int64 0+
   deliveryCompleteCount int32 1+ =-1

88 request StreamsGroupHeartbeat 0 0+
 groupId string 0+ @groupId
 memberId string 0+
 memberEpoch int32 0+
 endpointInformationEpoch int32 0+
 instanceId string 0+ ?0+ =null
 rackId string 0+ ?0+ =null
 rebalanceTimeoutMs int32 0+ =-1
 topology {} 0+ ?0+ =null
  epoch int32 0+
  subtopologies []{} 0+
   subtopologyId string 0+
   sourceTopics []string 0+ @topicName
   sourceTopicRegex []string 0+
   stateChangelogTopics []{} 0+
    name string 0+ @topicName
    partitions int32 0+
    replicationFactor int16 0+
    topicConfigs []{} 0+
     key string 0+
     value string 0+
   repartitionSinkTopics []string 0+ @topicName
   repartitionSourceTopics []{} 0+
    name string 0+ @topicName
    partitions int32 0+
    replicationFactor int16 0+
    topicConfigs []{} 0+
     key string 0+
     value string 0+
   copartitionGroups []{} 0+
    sourceTopics []int16 0+
    sourceTopicRegex []int16 0+
    repartitionSourceTopics []int16 0+
 activeTasks []{} 0+ ?0+ =null
  subtopologyId string 0+
  partitions []int32 0+
 standbyTasks []{} 0+ ?0+ =null
  subtopologyId string 0+
  partitions []int32 0+
 warmupTasks []{} 0+ ?0+ =null
  subtopologyId string 0+
  partitions []int32 0+
 processId string 0+ ?0+ =null
 userEndpoint {} 0+ ?0+ =null
  host string 0+
  port uint16 0+
 clientTags []{} 0+ ?0+ =null
  key string 0+
  value string 0+
 taskOffsets []{} 0+ ?0+ =null
  subtopologyId string 0+
  partition int32 0+
  offset int64 0+
 taskEndOffsets []{} 0+ ?0+ =null
  subtopologyId string 0+
  partition int32 0+
  offset int64 0+
 shutdownApplication bool 0+ =false

88 response StreamsGroupHeartbeat 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 memberId string 0+
 memberEpoch int32 0+
 heartbeatIntervalMs int32 0+
 acceptableRecoveryLag int32 0+
 taskOffsetIntervalMs int32 0+
 status []{} 0+ ?0+
  statusCode int8 0+
  statusDetail string 0+
 activeTasks []{} 0+ ?0+ =null
  subtopologyId string 0+
  partitions []int32 0+
 standbyTasks []{} 0+ ?0+ =null
  subtopologyId string 0+
  partitions []int32 0+
 warmupTasks []{} 0+ ?0+ =null
  subtopologyId string 0+
  partitions []int32 0+
 endpointInformationEpoch int32 0+
 partitionsByUserEndpoint []{} 0+ ?0+ =null
  userEndpoint {} 0+
   host string 0+
   port uint16 0+
  activePartitions []{} 0+
   topic string 0+ @topicName
   partitions []int32 0+
  standbyPartitions []{} 0+
   topic string 0+ @topicName
   partitions []int32 0+

89 request StreamsGroupDescribe 0 0+
 groupIds []string 0+ @groupId
 includeAuthorizedOperations bool 0+

89 response StreamsGroupDescribe 0 0+
 throttleTimeMs int32 0+
 groups []{} 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+ =null
  groupId string 0+ @groupId
  groupState string 0+
  groupEpoch int32 0+
  assignmentEpoch int32 0+
  topology {} 0+ ?0+ =null
   epoch int32 0+
   subtopologies []{} 0+ ?0+ =null
    subtopologyId string 0+
    sourceTopics []string 0+ @topicName
    repartitionSinkTopics []string 0+ @topicName
    stateChangelogTopics []{} 0+
     name string 0+ @topicName
     partitions int32 0+
     replicationFactor int16 0+
     topicConfigs []{} 0+
      key string 0+
      value string 0+
    repartitionSourceTopics []{} 0+
     name string 0+ @topicName
     partitions int32 0+
     replicationFactor int16 0+
     topicConfigs []{} 0+
      key string 0+
      value string 0+
  members []{} 0+
   memberId string 0+
   memberEpoch int32 0+
   instanceId string 0+ ?0+ =null
   rackId string 0+ ?0+ =null
   clientId string 0+
   clientHost string 0+
   topologyEpoch int32 0+
   processId string 0+
   userEndpoint {} 0+ ?0+ =null
    host string 0+
    port uint16 0+
   clientTags []{} 0+
    key string 0+
    value string 0+
   taskOffsets []{} 0+
    subtopologyId string 0+
    partition int32 0+
    offset int64 0+
   taskEndOffsets []{} 0+
    subtopologyId string 0+
    partition int32 0+
    offset int64 0+
   assignment {} 0+
    activeTasks []{} 0+
     subtopologyId string 0+
     partitions []int32 0+
    standbyTasks []{} 0+
     subtopologyId string 0+
     partitions []int32 0+
    warmupTasks []{} 0+
     subtopologyId string 0+
     partitions []int32 0+
   targetAssignment {} 0+
    activeTasks []{} 0+
     subtopologyId string 0+
     partitions []int32 0+
    standbyTasks []{} 0+
     subtopologyId string 0+
     partitions []int32 0+
    warmupTasks []{} 0+
     subtopologyId string 0+
     partitions []int32 0+
   isClassic bool 0+
  authorizedOperations int32 0+ =-2147483648

90 request DescribeShareGroupOffsets 0-1 0+
 groups []{} 0+
  groupId string 0+ @groupId
  topics []{} 0+ ?0+
   topicName string 0+ @topicName
   partitions []int32 0+

90 response DescribeShareGroupOffsets 0-1 0+
 throttleTimeMs int32 0+
 groups []{} 0+
  groupId string 0+ @groupId
  topics []{} 0+
   topicName string 0+ @topicName
   topicId uuid 0+
   partitions []{} 0+
    partitionIndex int32 0+
    startOffset int64 0+
    leaderEpoch int32 0+
    lag int64 1+ =-1
    errorCode int16 0+
    errorMessage string 0+ ?0+ =null
  errorCode int16 0+
  errorMessage string 0+ ?0+ =null

91 request AlterShareGroupOffsets 0 0+
 groupId string 0+ @groupId
 topics []{} 0+
  topicName string 0+ @topicName
  partitions []{} 0+
   partitionIndex int32 0+
   startOffset int64 0+

91 response AlterShareGroupOffsets 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 responses []{} 0+
  topicName string 0+ @topicName
  topicId uuid 0+
  partitions []{} 0+
   partitionIndex int32 0+
   errorCode int16 0+
   errorMessage string 0+ ?0+ =null

92 request DeleteShareGroupOffsets 0 0+
 groupId string 0+ @groupId
 topics []{} 0+
  topicName string 0+ @topicName

92 response DeleteShareGroupOffsets 0 0+
 throttleTimeMs int32 0+
 errorCode int16 0+
 errorMessage string 0+ ?0+ =null
 responses []{} 0+
  topicName string 0+ @topicName
  topicId uuid 0+
  errorCode int16 0+
  errorMessage string 0+ ?0+ =null
`
