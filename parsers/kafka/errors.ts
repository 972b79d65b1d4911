/** What is no Kafka, or lies about its lengths. The words are for flows: nothing of the network is in them but numbers and Kafka's own names. */
export class KafkaParseError extends Error {
  override readonly name = 'KafkaParseError'
}

/** Not an error of anybody's: more has to come first. */
export class IncompleteError extends Error {
  override readonly name = 'IncompleteError'
  /** How much there has to be. */
  readonly neededBytes: number

  constructor(neededBytes: number) {
    super('incomplete')
    this.neededBytes = neededBytes
  }
}
