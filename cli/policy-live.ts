/** What a running agent has in force, as a scene: the answers of `policy trace --live`. */
import type { Config } from '#config/schema.ts'
import { DIALECTS } from '#policy/model.ts'
import type { ParseOptions } from '#policy/options.ts'
import { parsePolicyFile } from '#policy/parse.ts'
import { Scene, type SceneEndpoint, type SceneFile } from '#policy/trace/scene.ts'
import { call, create, type Endpoint, ExportPolicyRequestSchema, type ExportPolicyResponse, withAgent } from './agent-client.ts'
import { CliError } from './errors.ts'
import { secretsIn } from './policy-secrets.ts'

const ENFORCEMENTS = ['default', 'always', 'never'] as const
const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const

/**
 * @param secrets folder of them: the agent does not know any
 * @throws CliError HG-1101 without an agent, HG-1109 for an answer of a version that this one does not understand, HG-1111
 */
export async function createLiveScene(config: Config, secrets: string | undefined): Promise<Scene> {
  const given = await secretsIn(secrets)
  const exported = await withAgent(config, (agent) => call(agent, 'exportPolicy', create(ExportPolicyRequestSchema)))
  const { endpoints, nodes, cluster, audit, allowLocalhost, observesQueries, searchDomains } = exported
  return new Scene({
    files: filesOf(exported),
    endpoints: endpoints.map(endpointOf),
    nodes: nodes.map(({ address, labels }) => ({ name: '', labels, addresses: [address] })),
    clusterName: cluster,
    enforcement: known(ENFORCEMENTS, exported.enforcement),
    audit,
    allowLocalhost,
    observesQueries,
    searchDomains,
    ...given,
  })
}

/** A file whose new version was refused is in force as it was accepted last. */
function filesOf({ files, dialect, regexProgramSizeMax, l7Proxy, extendedIpProtocols }: ExportPolicyResponse): SceneFile[] {
  const options: ParseOptions = { dialect: known(DIALECTS, dialect), regexProgramSizeMax, l7Proxy, extendedIpProtocols }
  return files.map(({ file, text, refusedText }) => {
    const { documents, refused } = parsePolicyFile(text === '' ? refusedText : text, file, options)
    return { file, documents, refused }
  })
}

function endpointOf({ spec, labels, addresses, searchDomains }: Endpoint): SceneEndpoint {
  return {
    name: `${spec?.namespace ?? ''}/${spec?.name ?? ''}`,
    labels,
    addresses,
    namedPorts: (spec?.ports ?? []).map(({ name, port, protocol }) => ({ name, port, protocol: known(PROTOCOLS, protocol) })),
    audit: spec?.audit ?? false,
    searchDomains,
  }
}

function known<const Choice extends string>(choices: readonly Choice[], text: string): Choice {
  const choice = choices.find((candidate) => candidate === text)
  if (choice === undefined) throw new CliError('HG-1109', `the agent is of a version that says something else here: ${text}`)
  return choice
}
