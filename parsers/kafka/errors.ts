/** What is no Kafka, or lies about its lengths. The words are for flows: nothing of the network is in them but numbers and Kafka's own names. */
export class KafkaParseError extends Error {
  override readonly name = 'KafkaParseError'
}
