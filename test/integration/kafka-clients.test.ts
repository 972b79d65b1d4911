/**
 * Clients that people use, against a real broker and over both transports: what their rules allow works, what they may not they hear of in their own
 * words within a second, and their connections go on.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { KAFKA_LIBRARIES, KafkaClient, type KafkaCommand, runKafkaTool } from '../support/kafka.ts'
import { type KafkaScene, kafkaPolicy, RunningTool, startKafkaScene } from '../support/kafka-scene.ts'

const TOPIC_DENIED = 'TOPIC_AUTHORIZATION_FAILED'
const DENIED_MS_MAX = 1000
const BULK_RECORDS = 10_500
const BULK_RECORD_BYTES = 10_040
/** Members of groups hear of one another by heartbeats: more often than people want them. */
const HEARTBEATS = { 'group.consumer.min.heartbeat.interval.ms': '300', 'group.consumer.heartbeat.interval.ms': '300' }
const LIBRARIES = {
  kafkajs: KAFKA_LIBRARIES.kafkajs,
  '@platformatic/kafka': KAFKA_LIBRARIES.platformatic,
  '@platformatic/kafka in a group of the newer kind': [...KAFKA_LIBRARIES.platformatic, 'consumer'],
}

/** Minutes for each transport, which differ in how bytes come and not in what they are: `npm test` has one of them here (kafka.test.ts has both). */
const IS_LONG = Boolean(process.env['HEADGATE_TEST_LONG'])

let nextClient = 0

for (const l7Transport of IS_LONG ? (['relay', 'ext-proc'] as const) : (['relay'] as const)) {
  let starting: Promise<KafkaScene> | undefined
  const sceneOf = (): Promise<KafkaScene> => {
    starting ??= startKafkaScene(['orders', 'copies', 'bulk-0', 'bulk-1', 'secret'], { l7Transport }, { settings: HEARTBEATS })
    return starting
  }
  test.after.always(async () => await (await starting)?.dispose())

  test.serial(`libraries of Node do what they may and are told what they may not (${l7Transport})`, async (t) => {
    const scene = await sceneOf()
    await scene.headgate.apply(
      'broker.json',
      kafkaPolicy(
        // With a transaction, and without.
        { role: 'produce', topic: 'orders', transactionalID: 'tx' },
        { apiKey: 'produce', topic: 'orders' },
        { role: 'consume', topic: 'orders', group: 'books' },
      ),
    )
    for (const [name, library] of Object.entries(LIBRARIES)) {
      const client = new KafkaClient(scene.machine, scene.shop, scene.broker.address, [], library)
      const allowed = async (...question: [KafkaCommand, ...string[]]) => {
        const answer = await client.ask(...question)
        t.is(answer.result, 'ok', `${name} ${question.join(' ')}: ${answer.message}`)
        return answer.values
      }
      const denied = async (error: string, ...question: [KafkaCommand, ...string[]]) => {
        const { result, tookMs } = await client.ask(...question)
        t.is(result, error, `${name} ${question.join(' ')}`)
        t.true(tookMs < DENIED_MS_MAX, `${name} ${question.join(' ')}: ${tookMs} ms`)
      }
      await allowed('produce', 'orders')
      await denied(TOPIC_DENIED, 'produce', 'secret')
      await allowed('produce', 'orders')
      t.deepEqual(await allowed('topics'), ['orders'])
      t.deepEqual(await allowed('consume', 'orders', 'books'), ['hello orders'])
      await denied(TOPIC_DENIED, 'consume', 'secret', 'books')
      await denied('GROUP_AUTHORIZATION_FAILED', 'consume', 'orders', 'theirs')
      await allowed('transact', 'tx', 'orders')
      await denied(TOPIC_DENIED, 'transact', 'tx', 'orders', 'secret')
      await denied('TRANSACTIONAL_ID_AUTHORIZATION_FAILED', 'transact', 'xt', 'orders')
      await allowed('produce', 'orders')
      await client.close()
    }
  })

  test.serial(`kcat, and librdkafka in it, does what it may and is told what it may not (${l7Transport})`, async (t) => {
    const scene = await sceneOf()
    await scene.headgate.apply(
      'broker.json',
      kafkaPolicy(
        { role: 'produce', topic: 'orders', transactionalID: 'tx' },
        ...['cats', 'kittens'].map((group) => ({ role: 'consume', topic: 'orders', group })),
      ),
    )
    const kcat = async (...options: string[]) => {
      const command = ['timeout', '20', 'kcat', '-b', scene.broker.address, '-m', '8', ...options]
      const { stdout, stderr } = await scene.machine.run(scene.shop.netns, ['sh', '-c', 'echo meow | "$@"', 'sh', ...command])
      return stdout + stderr
    }
    const produce = (topic: string, transactionalId: string) => kcat('-P', '-t', topic, '-X', `transactional.id=${transactionalId}`)
    const consume = (topic: string, group: string) => kcat('-G', group, '-c', '1', '-X', 'auto.offset.reset=earliest', topic)
    t.regex(await produce('orders', 'tx'), /Transaction successfully committed/)
    t.regex(await produce('secret', 'tx'), /Topic authorization failed/)
    t.regex(await produce('orders', 'xt'), /Transactional Id authorization failed/)
    const listed = await kcat('-L')
    t.regex(listed, / 1 topics:\n {2}topic "orders" with 2 partitions/)
    t.regex(await kcat('-L', '-t', 'secret'), /topic "secret" with 0 partitions: Broker: Topic authorization failed/)
    t.regex(await consume('orders', 'cats'), /^(meow|hello orders)$/m)
    t.regex(await consume('^.*', 'kittens'), /assigned: orders \[0\], orders \[1\]/)
    t.regex(await consume('secret', 'cats'), /Topic authorization failed/)
    t.regex(await consume('orders', 'theirs'), /Group authorization failed/)
  })

  test.serial(`Kafka’s own clients use transactions, and hear of what they may not (${l7Transport})`, async (t) => {
    t.timeout(120_000)
    const scene = await sceneOf()
    await scene.headgate.apply(
      'broker.json',
      kafkaPolicy(
        { role: 'produce', topicPattern: 'orders|ledger|copies', transactionalID: 'tx' },
        { role: 'consume', topicPattern: 'orders|ledger|copies', group: 'books' },
        ...['classic', 'consumer'].map((protocol) => ({ role: 'consume', topicPattern: 'orders|copies', group: `books-${protocol}` })),
      ),
    )
    const server = ['--bootstrap-server', scene.broker.address]
    const run = (tool: string, ...options: string[]) => runKafkaTool(scene.machine, scene.shop, tool, options)
    const transact = (transactionalId: string, topic: string) =>
      run(
        'ProducerPerformance',
        ...[...server, '--topic', topic, '--num-records', '300', '--record-size', '50', '--throughput', '1000'],
        ...['--transactional-id', transactionalId, '--transaction-duration-ms', '100', '--command-property', 'max.block.ms=8000'],
      )
    // The copier reads one partition: in a topic of two, all may be in the other one.
    const ledger = ['--create', '--topic', 'ledger', '--partitions', '1', '--replication-factor', '1']
    await runKafkaTool(scene.machine, scene.server, 'TopicCommand', [...server, ...ledger])
    const produced = await transact('tx', 'ledger')
    t.regex(produced.stdout, /^300 records sent/m, produced.stderr)
    // Some of its transactions are aborted: who reads what is committed sees none of that.
    const copied = await run(
      'TransactionalMessageCopier',
      ...['--broker-list', scene.broker.address, '--input-topic', 'ledger', '--input-partition', '0', '--output-topic', 'copies'],
      ...['--transactional-id', 'tx', '--consumer-group', 'books', '--transaction-size', '20', '--enable-random-aborts'],
      ...['--max-messages', '100'],
    )
    const copies = Number(/"stage":"ShutdownComplete".*"consumed":(\d+)/.exec(copied.stdout)?.[1])
    t.true(copies >= 100, copied.stdout.slice(-1000) + copied.stderr)
    const consumed = await Promise.all(
      ['classic', 'consumer'].map((protocol) =>
        run(
          'consumer.ConsoleConsumer',
          ...[...server, '--topic', 'copies', '--from-beginning', '--isolation-level', 'read_committed'],
          ...['--max-messages', String(copies + 1), '--timeout-ms', '4000'],
          ...['--command-property', `group.protocol=${protocol}`, '--command-property', `group.id=books-${protocol}`],
        ),
      ),
    )
    for (const { stderr } of consumed) t.true(stderr.includes(`Processed a total of ${copies} messages`), stderr)

    const few = ['--num-records', '3', '--record-size', '50', '--throughput', '10']
    const transactBy = (topic: string, transactionalId: string) =>
      ['ProducerPerformance', ...server, '--topic', topic, ...few, '--transactional-id', transactionalId] as const
    const consume = (topic: string, group: string, protocol: string) =>
      [
        ...(['consumer.ConsoleConsumer', ...server, '--topic', topic] as const),
        ...['--command-property', `group.protocol=${protocol}`, '--command-property', `group.id=${group}`],
      ] as const
    await Promise.all([
      failsWith(t, scene, /TransactionalIdAuthorizationException/, ...transactBy('orders', 'xt')),
      failsWith(t, scene, /TopicAuthorizationException/, ...transactBy('secret', 'tx')),
    ])
    for (const protocol of ['classic', 'consumer']) {
      await Promise.all([
        failsWith(t, scene, /TopicAuthorizationException/, ...consume('secret', 'books-classic', protocol)),
        failsWith(t, scene, /GroupAuthorizationException/, ...consume('orders', 'theirs', protocol)),
      ])
    }
  })

  test.serial(`Kafka’s admin tools see and change what they may (${l7Transport})`, async (t) => {
    t.timeout(120_000)
    const scene = await sceneOf()
    const server = ['--bootstrap-server', scene.broker.address]
    await scene.headgate.apply(
      'broker.json',
      kafkaPolicy({ role: 'admin', topicPrefix: 'orders', group: 'books' }, { role: 'consume', topicPrefix: 'orders', group: 'books' }),
    )
    // What the group has read of other topics, somewhere else, is nobody's business here.
    const elsewhere = new KafkaClient(scene.machine, scene.server, scene.broker.address)
    for (const topic of ['orders', 'secret']) {
      t.is((await elsewhere.ask('produce', topic)).result, 'ok')
      t.is((await elsewhere.ask('consume', topic, 'books')).result, 'ok')
    }
    await elsewhere.close()
    const run = async (tool: string, ...options: string[]) => {
      const { stdout, stderr } = await runKafkaTool(scene.machine, scene.shop, tool, [...server, ...options])
      return stdout + stderr
    }
    const GROUPS = 'consumer.group.ConsumerGroupCommand'
    const [created, refused] = await Promise.all([
      run('TopicCommand', '--create', '--topic', 'orders-2'),
      run('TopicCommand', '--create', '--topic', 'secret-2'),
    ])
    t.regex(created, /Created topic orders-2/)
    t.regex(refused, /TopicAuthorizationException/)
    const [listed, described, group, otherGroup] = await Promise.all([
      run('TopicCommand', '--list'),
      run('TopicCommand', '--describe'),
      run(GROUPS, '--describe', '--group', 'books'),
      run(GROUPS, '--describe', '--group', 'theirs'),
    ])
    t.deepEqual(listed.trim().split('\n'), ['orders', 'orders-2'])
    t.regex(described, /Topic: orders-2/)
    t.regex(group, /^books +orders /m)
    for (const said of [described, group]) t.notRegex(said, /secret|Exception/)
    t.regex(otherGroup, /GroupAuthorizationException/)
    t.notRegex(await run('TopicCommand', '--delete', '--topic', 'orders-2'), /Exception/)
  })

  test.serial(`a group shares its partitions anew when a member joins and when it leaves (${l7Transport})`, async (t) => {
    t.timeout(120_000)
    const scene = await sceneOf()
    await scene.headgate.apply('broker.json', kafkaPolicy({ role: 'consume', topic: 'orders' }))
    const settings = join(scene.machine.folder, 'consumer.properties')
    writeFileSync(settings, 'heartbeat.interval.ms=300\n')
    await Promise.all(
      ['classic', 'consumer'].map(async (protocol) => {
        const options = ['--bootstrap-server', scene.broker.address, '--topic', 'orders', '--group-id', `members-${protocol}`]
        const settled = protocol === 'classic' ? ['--command-config', settings] : []
        const join = () => new RunningTool(scene, 'VerifiableConsumer', [...options, '--group-protocol', protocol, ...settled])
        const first = join()
        await first.until((said) => assignedOf(said) === 2)
        const second = join()
        await second.until((said) => assignedOf(said) === 1)
        await first.until((said) => assignedOf(said) === 1)
        await second.end()
        await first.until((said) => assignedOf(said) === 2)
        await first.end()
      }),
    )
    t.pass()
  })

  test.serial(`a hundred megabytes come through, both ways, each byte as it was (${l7Transport})`, async (t) => {
    t.timeout(120_000)
    const scene = await sceneOf()
    // All of them take long.
    const topics = ['bulk-0', 'bulk-1']
    await scene.headgate.apply(
      'broker.json',
      kafkaPolicy(
        ...topics.flatMap((topic) => [
          { role: 'produce', topic },
          { role: 'consume', topic },
        ]),
      ),
    )
    const all = String(BULK_RECORDS)
    const clientOf = (library: readonly string[]) => new KafkaClient(scene.machine, scene.shop, scene.broker.address, [], library)
    const libraries = [KAFKA_LIBRARIES.platformatic, ...(IS_LONG || l7Transport === 'relay' ? [KAFKA_LIBRARIES.kafkajs] : [])]
    for (const [index, library] of libraries.entries()) {
      const topic = topics[index] as string
      const [writer, reader] = [clientOf(library), clientOf(library)]
      t.like(await writer.ask('fill', topic, all), { result: 'ok' })
      const { values } = await reader.ask('drain', topic, 'books', all)
      t.deepEqual(values, [BULK_RECORDS, BULK_RECORDS, 0, BULK_RECORDS * BULK_RECORD_BYTES].map(String))
      await Promise.all([writer.close(), reader.close()])
    }
    if (!IS_LONG) return
    const server = ['--bootstrap-server', scene.broker.address]
    const said = await runKafkaTool(scene.machine, scene.shop, 'ConsumerPerformance', [
      ...[...server, '--topic', 'bulk-1', '--num-records', all, '--group', 'others', '--timeout', '15000'],
    ])
    t.regex(said.stdout, new RegExp(`, ${BULK_RECORDS}, `), said.stderr)
    const written = await runKafkaTool(scene.machine, scene.shop, 'ProducerPerformance', [
      ...[...server, '--topic', 'bulk-0', '--num-records', '100000', '--record-size', '1050', '--throughput', '-1'],
    ])
    t.regex(written.stdout, /^100000 records sent/m, written.stderr)
  })

  test.serial(`clients come back to a broker that was away (${l7Transport})`, async (t) => {
    t.timeout(120_000)
    const scene = await sceneOf()
    await scene.headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'orders' }, { role: 'consume', topic: 'orders' }))
    const clients = Object.values(LIBRARIES).map((library) => new KafkaClient(scene.machine, scene.shop, scene.broker.address, [], library))
    for (const client of clients) t.is((await client.ask('produce', 'orders')).result, 'ok')
    const reader = new RunningTool(scene, 'consumer.ConsoleConsumer', [
      '--bootstrap-server',
      scene.broker.address,
      '--topic',
      'orders',
      '--from-beginning',
    ])
    await reader.until((said) => said.includes('hello orders'))
    await scene.broker.restart()
    for (const client of clients) {
      t.is((await client.ask('produce', 'orders')).result, 'ok')
      t.is((await client.ask('produce', 'secret')).result, TOPIC_DENIED)
    }
    const before = reader.said.length
    t.is((await (clients[0] as KafkaClient).ask('produce', 'orders')).result, 'ok')
    await reader.until((said) => said.slice(before).includes('hello orders'))
    await reader.end()
    await Promise.all(clients.map((client) => client.close()))
    await scene.dispose()
  })
}

/** How many partitions a VerifiableConsumer has, by what it says. */
function assignedOf(said: string): number {
  let assigned = 0
  for (const line of said.split('\n')) {
    if (!line.startsWith('{') || !line.endsWith('}')) continue
    const { name, partitions } = JSON.parse(line) as { name: string; partitions?: readonly unknown[] }
    if (name === 'partitions_assigned') assigned += partitions?.length ?? 0
    else if (name === 'partitions_revoked') assigned -= partitions?.length ?? 0
  }
  return assigned
}

/** A tool fails with this, within a second of the first denial that it met. */
async function failsWith(
  t: ExecutionContext,
  scene: KafkaScene,
  error: RegExp,
  name: string,
  ...options: readonly string[]
): Promise<void> {
  const clientId = `denied-${nextClient++}`
  const tool = new RunningTool(scene, name, [...options, '--command-property', `client.id=${clientId}`])
  await tool.until((said) => error.test(said))
  const now = Date.now()
  const flow = await scene.headgate.flowThat(({ kafka, verdict }) => kafka?.clientId === clientId && verdict === 'dropped')
  const tookMs = now - Date.parse(flow.time)
  t.true(tookMs < DENIED_MS_MAX, `${name} ${options.join(' ')}: ${tookMs} ms`)
  await tool.end()
}
