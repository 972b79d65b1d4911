/** A Kafka rule as policy states it; what is absent is not asked about. */

export const KAFKA_ROLES = ['produce', 'consume', 'admin'] as const
export type KafkaRole = (typeof KAFKA_ROLES)[number]

export interface KafkaRule {
  /** Excludes apiKey. */
  readonly role?: KafkaRole
  /** Name of a request in lower case, as parsers/kafka/api-keys.ts lists them. */
  readonly apiKey?: string
  readonly apiVersion?: number
  readonly clientId?: string
  readonly topic?: string
  readonly topicPrefix?: string
  /** RE2, over the whole name. */
  readonly topicPattern?: string
  readonly group?: string
  readonly transactionalId?: string
}
