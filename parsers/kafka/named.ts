/** What a decoded request names that policy asks for. */
import { API_KEYS } from './api-keys.ts'
import { isArray, isStruct, type KafkaStruct, type KafkaValue, type Place } from './decode.ts'
import { type EntityType, type FieldPlan, isTopic, type MessagePlan, type StructPlan } from './schema.ts'

export interface Named {
  readonly topics: readonly string[]
  readonly topicIds: readonly Place[]
  readonly groups: readonly string[]
  readonly transactionalIds: readonly string[]
  /** A list of topics that may be absent is: which means all of them, in most kinds of requests. */
  readonly isAllTopics: boolean
}

interface Found {
  topics: string[]
  topicIds: Place[]
  groups: string[]
  transactionalIds: string[]
  isAllTopics: boolean
}

/** Requests about resources of any type: DescribeConfigs, AlterConfigs, IncrementalAlterConfigs. */
const ABOUT_RESOURCES: ReadonlySet<number> = new Set([32, 33, 44])
const RESOURCE_OF_TOPIC = 2
const COORDINATOR_OF_TRANSACTION = 1

export function namedIn(message: KafkaStruct, plan: MessagePlan): Named {
  const found = nothing()
  visitStruct(message, plan, found)
  // Where what is named depends on another field, the definitions do not mark it.
  if (plan.apiKey === API_KEYS.FIND_COORDINATOR) visitCoordinator(message, found)
  if (isAboutResources(plan)) visitResources(message, found)
  return found
}

/** What a part of a message names, of itself. */
export function namedInStruct(part: KafkaStruct, plan: StructPlan): Pick<Named, 'topics' | 'topicIds'> {
  const found = nothing()
  visitStruct(part, plan, found)
  return found
}

function nothing(): Found {
  return { topics: [], topicIds: [], groups: [], transactionalIds: [], isAllTopics: false }
}

/** Whether a request names what it is about by type and name. */
export function isAboutResources({ apiKey }: MessagePlan): boolean {
  return ABOUT_RESOURCES.has(apiKey)
}

function visitCoordinator({ values: { key, keyType, coordinatorKeys } }: KafkaStruct, found: Found): void {
  const keys = isArray(coordinatorKeys) ? coordinatorKeys.items : [key ?? null]
  const names = keys.filter((each) => typeof each === 'string')
  if (keyType === COORDINATOR_OF_TRANSACTION) found.transactionalIds.push(...names)
  else found.groups.push(...names)
}

/** Of others than topics, such as brokers, every topic may be affected. */
function visitResources({ values: { resources } }: KafkaStruct, found: Found): void {
  if (!isArray(resources)) return
  for (const resource of resources.items) {
    if (!isStruct(resource)) continue
    const { resourceType, resourceName } = resource.values
    if (resourceType === RESOURCE_OF_TOPIC && typeof resourceName === 'string') found.topics.push(resourceName)
    else found.isAllTopics = true
  }
}

function visitStruct({ values }: KafkaStruct, { fields, tagged }: StructPlan, found: Found): void {
  for (const field of fields) visit(values[field.name], field, found)
  for (const field of tagged.values()) visit(values[field.name], field, found)
}

function visit(value: KafkaValue | undefined, field: FieldPlan, found: Found): void {
  if (value === undefined) return
  if (value === null) {
    if (field.isArray && namesTopics(field)) found.isAllTopics = true
    return
  }
  if (isArray(value)) {
    for (const item of value.items) visitOne(item, field, found)
    return
  }
  visitOne(value, field, found)
}

function visitOne(value: KafkaValue, field: FieldPlan, found: Found): void {
  if (isStruct(value)) visitStruct(value, field.struct, found)
  else if (field.entity !== undefined) add(field.entity, value, found)
}

function add(entity: EntityType, value: KafkaValue, found: Found): void {
  if (entity === 'topicId') found.topicIds.push(value as Place)
  else if (typeof value !== 'string') return
  else if (entity === 'topicName') found.topics.push(value)
  else if (entity === 'groupId') found.groups.push(value)
  else found.transactionalIds.push(value)
}

function namesTopics(field: FieldPlan): boolean {
  return isTopic(field) || field.struct.fields.some(isTopic)
}
