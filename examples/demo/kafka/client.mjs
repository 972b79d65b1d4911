// One thing that a client of Kafka does: client.mjs BROKER produce TOPIC | consume TOPIC GROUP. Prints `ok`, or what the broker called it.
import { Kafka, logLevel } from 'kafkajs'

const [broker, command, topic, groupId] = process.argv.slice(2)
const WAIT_MS = 15_000
const kafka = new Kafka({
  clientId: 'demo',
  brokers: [broker],
  logLevel: logLevel.NOTHING,
  connectionTimeout: 2000,
  retry: { retries: 1, initialRetryTime: 100 },
})

async function create() {
  const admin = kafka.admin()
  await admin.connect()
  const topics = topic.split(',').map((each) => ({ topic: each, numPartitions: 1, replicationFactor: 1 }))
  await admin.createTopics({ topics, waitForLeaders: true })
  await admin.disconnect()
}

async function produce() {
  const producer = kafka.producer({ allowAutoTopicCreation: false })
  await producer.connect()
  await producer.send({ topic, messages: [{ value: 'hello' }] })
  await producer.disconnect()
}

async function consume() {
  const consumer = kafka.consumer({ groupId, retry: { retries: 0 } })
  await consumer.connect()
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(Object.assign(new Error('nothing came'), { type: 'TIMEOUT' })), WAIT_MS)
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
    consumer
      .subscribe({ topic, fromBeginning: true })
      .then(() => consumer.run({ eachMessage: async () => resolve() }))
      .catch(reject)
  })
}

try {
  await { create, produce, consume }[command]()
  process.stdout.write('ok\n')
} catch (error) {
  const cause = error.cause ?? error
  process.stdout.write(`${cause.type ?? error.type ?? error.name}\n`)
}
process.exit(0)
