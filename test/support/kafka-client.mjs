// kafkajs, asked as kafka-asked.mjs says. Its connections stay.
import { Kafka, logLevel } from 'kafkajs'
import { answerQuestions, BulkCheck, bulkRecord } from './kafka-asked.mjs'

const [broker] = process.argv.slice(2)
/** The first consumer of a broker waits for the topic of offsets to be made. */
const WAIT_MS = 15_000
const BATCH_COUNT = 80
const kafka = new Kafka({
  clientId: 'shop',
  brokers: [broker],
  logLevel: logLevel.NOTHING,
  connectionTimeout: 2000,
  retry: { retries: 1, initialRetryTime: 100 },
})
let producer
let admin

async function producerOf(options) {
  const made = kafka.producer({ allowAutoTopicCreation: false, ...options })
  await made.connect()
  return made
}

/** @param onValue whether that was all */
async function consumeUntil(topic, groupId, onValue) {
  const consumer = kafka.consumer({ groupId, retry: { retries: 4, initialRetryTime: 100 } })
  await consumer.connect()
  try {
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(Object.assign(new Error('nothing came'), { type: 'TIMEOUT' })), WAIT_MS)
      consumer.on(consumer.events.CRASH, ({ payload: { error } }) => {
        // It begins again by itself: the broker is still making its topic of offsets.
        if (typeOf(error) !== 'GROUP_LOAD_IN_PROGRESS') reject(error)
      })
      consumer
        .subscribe({ topic, fromBeginning: true })
        .then(() =>
          consumer.run({
            eachMessage: async ({ message }) => {
              timer.refresh()
              if (!onValue(message.value)) return
              clearTimeout(timer)
              resolve()
            },
          }),
        )
        .catch(reject)
    })
  } finally {
    await consumer.disconnect()
  }
}

const commands = {
  async create(...topics) {
    const maker = kafka.admin()
    await maker.connect()
    await maker.createTopics({ topics: topics.map((topic) => ({ topic, numPartitions: 2, replicationFactor: 1 })), waitForLeaders: true })
    await maker.disconnect()
    return []
  },
  async produce(...topics) {
    producer ??= await producerOf()
    await producer.sendBatch({ topicMessages: topics.map((topic) => ({ topic, messages: [{ value: `hello ${topic}` }] })) })
    return []
  },
  async transact(transactionalId, ...topics) {
    const transactional = await producerOf({ transactionalId, maxInFlightRequests: 1 })
    try {
      const transaction = await transactional.transaction()
      try {
        for (const topic of topics) await transaction.send({ topic, messages: [{ value: `hello ${topic}` }] })
        await transaction.commit()
      } catch (error) {
        await transaction.abort().catch(() => {})
        throw error
      }
    } finally {
      await transactional.disconnect()
    }
    return []
  },
  async consume(topic, groupId) {
    let value
    await consumeUntil(topic, groupId, (first) => {
      value ??= String(first)
      return true
    })
    return [value]
  },
  async topics() {
    if (admin === undefined) {
      const made = kafka.admin()
      await made.connect()
      admin = made
    }
    return await admin.listTopics()
  },
  async fill(topic, count) {
    producer ??= await producerOf()
    for (let left = Number(count); left > 0; left -= BATCH_COUNT) {
      await producer.send({ topic, messages: Array.from({ length: Math.min(left, BATCH_COUNT) }, () => ({ value: bulkRecord() })) })
    }
    return []
  },
  async drain(topic, groupId, count) {
    const check = new BulkCheck()
    await consumeUntil(topic, groupId, (value) => check.add(value) === Number(count))
    return check.totals()
  },
}

function typeOf(error) {
  const cause = error.cause ?? error
  return cause.type ?? error.type ?? error.name
}

await answerQuestions(commands, typeOf)
