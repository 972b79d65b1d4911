// @platformatic/kafka, asked as kafka-asked.mjs says. Its connections stay.
import { Admin, Consumer, Producer } from '@platformatic/kafka'
import { answerQuestions, BulkCheck, bulkRecord } from './kafka-asked.mjs'

const [broker, groupProtocol = 'classic'] = process.argv.slice(2)
const WAIT_MS = 15_000
const BATCH_COUNT = 80
const base = { clientId: 'shop', bootstrapBrokers: [broker], retries: 1, retryDelay: 100, connectTimeout: 2000 }
/** It would ask for the producer with number 0, and be refused as somebody else. */
const NO_PRODUCER_YET = { producerId: -1n, producerEpoch: -1 }
let producer
let admin

/** @param onValue whether that was all */
async function consumeUntil(topic, groupId, onValue) {
  const consumer = new Consumer({ ...base, groupId, groupProtocol })
  let timer
  try {
    const stream = await consumer.consume({ topics: [topic], mode: 'earliest', fallbackMode: 'earliest', autocommit: true })
    timer = setTimeout(() => stream.destroy(Object.assign(new Error('nothing came'), { apiId: 'TIMEOUT' })), WAIT_MS)
    for await (const { value } of stream) {
      timer.refresh()
      if (onValue(value)) break
    }
  } finally {
    clearTimeout(timer)
    await consumer.close(true)
  }
}

const commands = {
  async produce(...topics) {
    producer ??= new Producer({ ...base, autocreateTopics: false })
    await producer.send({ messages: topics.map((topic) => ({ topic, value: Buffer.from(`hello ${topic}`) })) })
    return []
  },
  async transact(transactionalId, ...topics) {
    const transactional = new Producer({ ...base, autocreateTopics: false, transactionalId, idempotent: true })
    try {
      const transaction = await transactional.beginTransaction(NO_PRODUCER_YET)
      try {
        await transaction.send({ messages: topics.map((topic) => ({ topic, value: Buffer.from(`hello ${topic}`) })) })
        await transaction.commit()
      } catch (error) {
        await transaction.abort().catch(() => {})
        throw error
      }
    } finally {
      await transactional.close(true)
    }
    return []
  },
  async consume(topic, groupId) {
    let found
    await consumeUntil(topic, groupId, (value) => {
      found ??= String(value)
      return true
    })
    return [found]
  },
  async topics() {
    admin ??= new Admin(base)
    return await admin.listTopics()
  },
  async fill(topic, count) {
    producer ??= new Producer({ ...base, autocreateTopics: false })
    for (let left = Number(count); left > 0; left -= BATCH_COUNT) {
      const messages = Array.from({ length: Math.min(left, BATCH_COUNT) }, () => ({ topic, value: Buffer.from(bulkRecord()) }))
      await producer.send({ messages })
    }
    return []
  },
  async drain(topic, groupId, count) {
    const check = new BulkCheck()
    await consumeUntil(topic, groupId, (value) => check.add(value) === Number(count))
    return check.totals()
  },
}

/** Errors have errors in them: the first that Kafka has a name for. */
function typeOf(error) {
  if (error.apiId !== undefined) return error.apiId
  for (const inner of [...(error.errors ?? []), ...(error.cause === undefined ? [] : [error.cause])]) {
    const found = typeOf(inner)
    if (found !== undefined) return found
  }
  return undefined
}

await answerQuestions(commands, (error) => typeOf(error) ?? error.code ?? error.name)
