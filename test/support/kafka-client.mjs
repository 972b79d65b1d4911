// kafkajs, asked on standard input: a JSON array a line, ["produce", "topic"]; answers with an object a line. Its connections stay.
import { createInterface } from 'node:readline'
import { Kafka, logLevel } from 'kafkajs'

const [broker] = process.argv.slice(2)
/** The first consumer of a broker waits for the topic of offsets to be made. */
const WAIT_MS = 15_000
const kafka = new Kafka({
  clientId: 'shop',
  brokers: [broker],
  logLevel: logLevel.NOTHING,
  connectionTimeout: 2000,
  retry: { retries: 1, initialRetryTime: 100 },
})
let producer
let admin

const commands = {
  async create(...topics) {
    const maker = kafka.admin()
    await maker.connect()
    await maker.createTopics({ topics: topics.map((topic) => ({ topic, numPartitions: 2, replicationFactor: 1 })), waitForLeaders: true })
    await maker.disconnect()
    return []
  },
  async produce(...topics) {
    if (producer === undefined) {
      const made = kafka.producer({ allowAutoTopicCreation: false })
      await made.connect()
      producer = made
    }
    await producer.sendBatch({ topicMessages: topics.map((topic) => ({ topic, messages: [{ value: `hello ${topic}` }] })) })
    return []
  },
  async consume(topic, groupId) {
    const consumer = kafka.consumer({ groupId, retry: { retries: 0 } })
    await consumer.connect()
    try {
      return await new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(Object.assign(new Error('nothing came'), { type: 'TIMEOUT' })), WAIT_MS)
        consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
        consumer
          .subscribe({ topic, fromBeginning: true })
          .then(() =>
            consumer.run({
              eachMessage: async ({ message }) => {
                clearTimeout(timer)
                resolve([String(message.value)])
              },
            }),
          )
          .catch(reject)
      })
    } finally {
      await consumer.disconnect()
    }
  },
  async topics() {
    if (admin === undefined) {
      const made = kafka.admin()
      await made.connect()
      admin = made
    }
    return await admin.listTopics()
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...values] = JSON.parse(line)
  let answer
  try {
    answer = { result: 'ok', message: '', values: await commands[command](...values) }
  } catch (error) {
    const cause = error.cause ?? error
    answer = { result: cause.type ?? error.type ?? error.name, message: error.message, values: [] }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
process.exit(0)
