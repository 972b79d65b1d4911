import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { KafkaClient, runKafkaTool, startKafka } from '../support/kafka.ts'
import { kafkaPolicy, RunningTool } from '../support/kafka-scene.ts'
import { withMachine } from '../support/running.ts'

const TRANSPORTS = ['relay', 'ext-proc'] as const
const SAID_MS_MAX = 15_000
const TOPIC_DENIED = 'TOPIC_AUTHORIZATION_FAILED'

for (const l7Transport of TRANSPORTS) {
  test.serial(
    `a client of Kafka does what its rules let it do, and is told what it may not as the broker would tell it (${l7Transport})`,
    async (t) => {
      t.timeout(180_000)
      await withMachine(async (machine, headgate) => {
        const shop = machine.addWorkload('shop')
        const broker = machine.addWorkload('broker')
        machine.writeWorkloads()
        machine.setConfig({ flows: { mode: 'all' }, l7Transport })
        headgate.start()
        const { address } = await startKafka(machine, broker, ['orders', 'secret'])
        await headgate.wait()
        await headgate.apply(
          'broker.json',
          kafkaPolicy({ role: 'produce', topic: 'orders' }, { role: 'consume', topic: 'orders', group: 'books' }),
        )
        const client = new KafkaClient(machine, shop, address)
        const resultOf = async (...question: Parameters<KafkaClient['ask']>) => (await client.ask(...question)).result

        t.is(await resultOf('produce', 'orders'), 'ok')
        t.is(await resultOf('produce', 'secret'), TOPIC_DENIED)
        t.is(await resultOf('produce', 'orders'), 'ok')
        t.deepEqual((await client.ask('topics')).values, ['orders'])
        t.like(await client.ask('consume', 'orders', 'books'), { result: 'ok', values: ['hello orders'] })
        t.is(await resultOf('consume', 'orders', 'theirs'), 'GROUP_AUTHORIZATION_FAILED')
        t.is(await resultOf('consume', 'secret', 'books'), TOPIC_DENIED)
        const denied = await headgate.flowThat(({ kafka, verdict }) => verdict === 'dropped' && kafka?.topics.includes('secret') === true)
        t.like(denied, { kind: 'kafka', where: 'relay', direction: 'ingress', kafka: { clientId: 'shop', errorCode: 29 } })

        const counts = (await machine.cli('policy', 'counts')).stdout
        t.regex(counts, /^orders +produce +2 +0 +0$/m)
        t.regex(counts, /^secret +(produce|metadata) +0 +[1-9]/m)
        t.regex(counts, /^relay \d +[1-9]\d* +\d+ +0 +0 /m)
        t.regex(counts, /^default\/broker\/ingress\/\w+ +[1-9]/m)

        // Rules hold for the next request of connections that are open.
        await headgate.apply('broker.json', kafkaPolicy({ role: 'produce' }))
        t.is(await resultOf('produce', 'secret'), 'ok')
        await headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'secret' }))
        t.is(await resultOf('produce', 'orders'), TOPIC_DENIED)
        t.is(await resultOf('produce', 'secret'), 'ok')
        await headgate.apply('broker.json', kafkaPolicy({ apiKey: 'fetch' }))
        t.is(await resultOf('produce', 'secret'), TOPIC_DENIED)
        await client.close()
      })
    },
  )

  test.serial(`Kafka’s own clients, which name topics by ids, meet the same rules (${l7Transport})`, async (t) => {
    t.timeout(180_000)
    await withMachine(async (machine, headgate) => {
      const shop = machine.addWorkload('shop')
      const broker = machine.addWorkload('broker')
      machine.writeWorkloads()
      machine.setConfig({ l7Transport })
      headgate.start()
      const { address } = await startKafka(machine, broker, ['orders', 'secret'])
      await headgate.wait()
      await headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'orders' }, { role: 'consume', topic: 'orders' }))
      const produce = (topic: string) =>
        runKafkaTool(
          machine,
          shop,
          'ConsoleProducer',
          ['--bootstrap-server', address, '--topic', topic, '--command-property', 'max.block.ms=5000'],
          `hello ${topic}\n`,
        )
      const consume = (topic: string, protocol: string) =>
        runKafkaTool(machine, shop, 'consumer.ConsoleConsumer', [
          ...['--bootstrap-server', address, '--topic', topic, '--from-beginning', '--max-messages', '1', '--timeout-ms', '8000'],
          ...['--command-property', `group.protocol=${protocol}`],
        ])
      // Whichever of its requests it is that is refused first.
      const DENIED = /TopicAuthorizationException/
      const sent = await produce('orders')
      t.notRegex(sent.stdout + sent.stderr, /Exception/)
      const refused = await produce('secret')
      t.regex(refused.stdout + refused.stderr, DENIED)
      for (const protocol of ['classic', 'consumer']) {
        t.regex((await consume('orders', protocol)).stdout, /^hello orders$/m, protocol)
        const { stdout, stderr } = await consume('secret', protocol)
        t.notRegex(stdout, /hello/)
        t.regex(stdout + stderr, DENIED, protocol)
      }

      // A consumer in the middle of its fetches, whose requests name no topics any more.
      const reader = new RunningTool({ machine, shop }, 'consumer.ConsoleConsumer', [
        ...['--bootstrap-server', address, '--topic', 'orders', '--from-beginning'],
      ])
      await reader.until((said) => /^hello orders$/m.test(said), SAID_MS_MAX)
      await headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'orders' }, { role: 'consume', topic: 'secret' }))
      await runKafkaTool(machine, broker, 'ConsoleProducer', ['--bootstrap-server', address, '--topic', 'orders'], 'too late\n')
      const refusal = await reader.until((said) => said.includes('Not authorized to access topics: [orders]'), SAID_MS_MAX)
      t.notRegex(refusal, /too late/)
    })
  })
}

test.serial('a worker that is killed takes its own connections with it, and what policy says goes on without the agent', async (t) => {
  t.timeout(120_000)
  await withMachine(async (machine, headgate) => {
    const shop = machine.addWorkload('shop')
    const broker = machine.addWorkload('broker')
    machine.writeWorkloads()
    machine.setConfig({ relay: { workers: 2 } })
    headgate.start()
    const { address } = await startKafka(machine, broker, ['orders', 'secret'])
    await headgate.wait()
    await headgate.apply('broker.json', kafkaPolicy({ role: 'produce', topic: 'orders' }))
    const client = new KafkaClient(machine, shop, address)
    t.is((await client.ask('produce', 'orders')).result, 'ok')
    await headgate.kill('agent')
    for (const worker of [0, 1]) {
      const pid = Number(readFileSync(join(machine.folder, `run/relay/${worker}.lock`), 'utf8'))
      t.true(pid > 0)
      process.kill(pid, 'SIGKILL')
    }
    const again = new KafkaClient(machine, shop, address)
    const deadline = performance.now() + 10_000
    let answer = await again.ask('produce', 'orders')
    while (answer.result !== 'ok' && performance.now() < deadline) answer = await again.ask('produce', 'orders')
    t.is(answer.result, 'ok')
    t.is((await again.ask('produce', 'secret')).result, TOPIC_DENIED)
    await Promise.all([client.close(), again.close()])
  })
})
