/** Apache Kafka, one node in KRaft mode, for the demo: its jars are what `deploy/setup.sh --kafka` put into the cache. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const PORT = 9092
const CLUSTER_ID = 'ZGVtb2RlbW9kZW1vZGVtbw'

export interface Broker {
  /** Host and port. */
  readonly address: string
  readonly format: readonly string[]
  readonly run: readonly string[]
}

/** @param folder of its own, for what it keeps @param jars where they are */
export function brokerAt(host: string, folder: string, jars: string): Broker {
  const address = `${host}:${PORT}`
  const settings = {
    'process.roles': 'broker,controller',
    'node.id': '1',
    'controller.quorum.voters': '1@127.0.0.1:9093',
    listeners: `PLAINTEXT://${address},CONTROLLER://127.0.0.1:9093`,
    'advertised.listeners': `PLAINTEXT://${address}`,
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': 'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
    'log.dirs': join(folder, 'data'),
    'offsets.topic.replication.factor': '1',
    'offsets.topic.num.partitions': '1',
    'group.initial.rebalance.delay.ms': '0',
    'auto.create.topics.enable': 'false',
  }
  mkdirSync(folder, { recursive: true })
  const properties = join(folder, 'server.properties')
  writeFileSync(
    properties,
    Object.entries(settings)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  )
  const java = ['java', '-Xmx384m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-cp', join(jars, '*')]
  return {
    address,
    format: [...java, 'kafka.tools.StorageTool', 'format', '-t', CLUSTER_ID, '-c', properties],
    run: [...java, 'kafka.Kafka', properties],
  }
}
