/**
 * The configuration's schema: every setting, its default and what it means, in one place. `config show`, the documentation and the
 * command line's flags are made from it. Strict: an unknown key is an error that names it.
 */
import { z } from 'zod'

const PORT_LAST = 65535
const port = z.int().min(1).max(PORT_LAST)
const absolutePath = z.string().regex(/^\//, 'an absolute path is needed')

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const
const logLevel = z.enum(LOG_LEVELS)

export const configSchema = z.strictObject({
  apiVersion: z.literal('headgate.io/v1').default('headgate.io/v1').describe('Version of this file’s form.'),
  instance: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$/, 'lower-case letters, digits and hyphens, at most 16')
    .default('headgate')
    .describe('Name of this instance: prefix of its namespaces and devices. Two instances on one machine need two names.'),
  nodeName: z.string().default('').describe('Name of this node in flows; the host name when empty.'),
  paths: z
    .strictObject({
      run: absolutePath.default('/run/headgate').describe('Sockets, locks, pid files.'),
      state: absolutePath.default('/var/lib/headgate').describe('Durable state.'),
      bpf: absolutePath.default('/sys/fs/bpf/headgate').describe('Pinned maps, programs and links.'),
      policies: absolutePath.default('/etc/headgate/policies').describe('Folder of policy files, watched.'),
      workloads: absolutePath.default('/etc/headgate/workloads.yaml').describe('File of workloads, watched.'),
      secrets: absolutePath
        .default('/etc/headgate/secrets')
        .describe('Folder of secrets that rules name, watched: one file each, under NAMESPACE/NAME, or NAMESPACE/NAME/KEY.'),
      parsers: absolutePath
        .default('/etc/headgate/parsers')
        .describe('Folder of parsers that rules name with l7proto: NAME/parser.js each, of root or the user that Headgate runs as.'),
    })
    .prefault({}),
  group: z.string().default('headgate').describe('Group that may use the local socket; root alone if it does not exist.'),
  policy: z
    .strictObject({
      dialect: z
        .enum(['cilium', 'extended'])
        .default('extended')
        .describe('Language of the policies: what Cilium accepts and nothing else, or with what Headgate adds.'),
      enforcement: z
        .enum(['default', 'always', 'never'])
        .default('default')
        .describe('Who is restricted: endpoints that a policy selects, every endpoint, or none.'),
      audit: z
        .boolean()
        .default(false)
        .describe('Whether verdicts of all policies are reported only: nothing is dropped that policy would deny.'),
      cidrMatchMode: z
        .array(z.enum(['nodes']))
        .default([])
        .describe('What address prefixes match beside the world: `nodes` means this machine and the nodes of the workloads file.'),
      l7Proxy: z.boolean().default(true).describe('Whether rules on layer 7 are accepted; without, they are refused.'),
      extendedIpProtocols: z
        .boolean()
        .default(false)
        .describe(
          'Whether the dialect cilium knows the protocols VRRP, IGMP, GRE, IPIP, IPV6, ESP and AH; the dialect extended always does.',
        ),
      labels: z
        .array(z.string().min(1).max(255))
        .max(200)
        .default([])
        .describe(
          'Which labels make an identity: RE2 patterns of source:key prefixes, ! before one leaves out; added to Cilium’s own list.',
        ),
      allowLocalhost: z
        .enum(['auto', 'always', 'policy'])
        .default('auto')
        .describe('Whether this host may always reach its endpoints. auto: always under Kubernetes, else as policy says.'),
      emptyFolder: z
        .enum(['keep', 'apply'])
        .default('keep')
        .describe(
          'What an emptied policy folder means: keep what is in force, or remove all of it. A missing or unreadable one never removes.',
        ),
      mapEntriesMax: z.int().min(64).max(1048576).default(16384).describe('Rows that one policy group may have in the kernel.'),
    })
    .prefault({}),
  datapath: z
    .strictObject({
      conntrackEntriesMax: z.int().min(1024).max(16777216).default(524288).describe('Tracked connections.'),
      ipcacheEntriesMax: z.int().min(1024).max(4194304).default(512000).describe('Addresses and prefixes with an identity.'),
      tcpTimeoutSeconds: z.int().min(1).max(864000).default(8000).describe('How long an idle established TCP connection is remembered.'),
      tcpSynTimeoutSeconds: z.int().min(1).max(3600).default(60).describe('The same, until both sides have spoken.'),
      tcpCloseTimeoutSeconds: z.int().min(1).max(3600).default(10).describe('The same, after both sides have closed.'),
      otherTimeoutSeconds: z.int().min(1).max(86400).default(60).describe('The same, for everything but TCP.'),
      slotPortFirst: port.default(20000).describe('First listener port inside the proxies’ namespaces.'),
      slotsMax: z.int().min(1).max(10000).default(4000).describe('Listeners, one for each set of L7 rules in use.'),
    })
    .superRefine(({ slotPortFirst, slotsMax }, { addIssue }) => {
      const last = slotPortFirst + slotsMax - 1
      // What is out of its own range has a problem already.
      if (last <= PORT_LAST || slotPortFirst > PORT_LAST) return
      const ports = `ports ${slotPortFirst} to ${last}, and the last port is ${PORT_LAST}`
      addIssue({
        code: 'custom',
        path: ['slotPortFirst'],
        message: `with datapath.slotsMax ${slotsMax}, the listeners would take ${ports}: lower datapath.slotPortFirst or datapath.slotsMax`,
      })
    })
    .prefault({}),
  envoy: z
    .strictObject({
      binary: z.string().default('').describe('Path of the Envoy binary; found in the set-up’s cache or on PATH when empty.'),
      concurrency: z.int().min(1).max(256).default(2).describe('Worker threads.'),
      logLevel: z.enum(['trace', 'debug', 'info', 'warning', 'error', 'critical', 'off']).default('warning').describe('Of Envoy itself.'),
      drainTimeSeconds: z.int().min(0).max(3600).default(5).describe('How long a removed listener’s open connections live.'),
    })
    .prefault({}),
  http: z
    .strictObject({
      deniedBody: z.string().max(4096).default('Access denied').describe('Body of the answer that a denied request gets.'),
      deniedStatus: z
        .int()
        .min(400)
        .max(599)
        .default(403)
        .describe('Status of that answer. gRPC clients get PERMISSION_DENIED whatever it is.'),
      ruleCounters: z
        .boolean()
        .default(false)
        .describe(
          'Whether Envoy counts requests by rule too, for `policy counts`; that costs it some hundredths of its time. Totals it always counts.',
        ),
      extHostTimeoutMs: z
        .int()
        .min(10)
        .max(60000)
        .default(2000)
        .describe('How long a request waits for the extension host, where rules need it; then it is refused with 504.'),
      regexProgramSizeMax: z.int().min(1).max(1000000).default(10000).describe('Largest compiled size of one pattern.'),
    })
    .prefault({}),
  l7Transport: z
    .enum(['relay', 'ext-proc'])
    .default('relay')
    .describe(
      'How connections come to parsers: handed over by Envoy, or by its network ext_proc, which costs more and has no back-pressure. The processes proxy, ext-host and envoy have to be started anew together.',
    ),
  networkExtProc: z
    .strictObject({
      connectionKbps: z
        .int()
        .min(64)
        .max(10_000_000)
        .default(32_768)
        .describe(
          'KiB a second and direction that a connection may carry with l7Transport ext-proc: what workers have not answered yet is in Envoy’s memory, and nothing else limits it.',
        ),
    })
    .prefault({}),
  relay: z
    .strictObject({
      workers: z
        .int()
        .min(0)
        .max(64)
        .default(0)
        .describe('Processes that parse connections of Kafka and other protocols; 0: as many as there are cores.'),
      drainSeconds: z.int().min(0).max(3600).default(30).describe('How long the connections of a worker that is asked to end may go on.'),
    })
    .prefault({}),
  parsers: z
    .strictObject({
      callTimeoutMs: z
        .int()
        .min(10)
        .max(60000)
        .default(1000)
        .describe('How long a parser of a user may take over one call; then its process is killed, with its connections.'),
      memoryMb: z
        .int()
        .min(8)
        .max(4096)
        .default(64)
        .describe('Memory that the process of such a parser may take beside what Node itself takes.'),
      bufferBytesMax: z
        .int()
        .min(1024)
        .max(16777216)
        .default(1048576)
        .describe('Bytes of one direction that such a parser may have held back for it; a connection of which it asks for more is closed.'),
      idleSeconds: z.int().min(1).max(86400).default(60).describe('How long the process of such a parser stays without a connection.'),
    })
    .prefault({}),
  kafka: z
    .strictObject({
      mixedRequests: z
        .enum(['split', 'deny'])
        .default('split')
        .describe(
          'What becomes of a request that names topics some of which are denied: those that are allowed go on and the others get errors (split), or it is denied whole, as Cilium did (deny).',
        ),
      topicCountersMax: z
        .int()
        .min(0)
        .max(100_000)
        .default(1000)
        .describe(
          'Topics that a worker counts requests by, each once for each kind of request; further ones are counted together. 0: none.',
        ),
    })
    .prefault({}),
  dns: z
    .strictObject({
      observeQueries: z
        .enum(['auto', 'always', 'never'])
        .default('auto')
        .describe(
          'Whether rules with toFQDNs are enough for the names to be learned: queries that policy allows to port 53 then pass the DNS process, unless rules for DNS say which do. auto: in the dialect extended.',
        ),
      trustedServers: z
        .array(z.ipv4())
        .max(64)
        .default([])
        .describe('DNS servers whose answers hold for every endpoint; others’ hold for the endpoint that asked.'),
      searchDomains: z
        .array(
          z
            .string()
            .max(254)
            .regex(/^([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?$/i, 'a DNS name is needed'),
        )
        .max(32)
        .default([])
        .describe(
          'Domains that resolvers append to names, for endpoints that have no list of their own: a query for a name that policy allows, with one of them behind it, passes, so that the resolver gets an answer and goes on.',
        ),
      stripAaaa: z
        .boolean()
        .default(false)
        .describe(
          'Whether endpoints without an IPv6 address get “no such record” for addresses of IPv6, so that none of their clients tries them. Queries that ask for signatures (DO) are answered as the server does.',
        ),
      dnsproxyConcurrencyLimit: z
        .int()
        .min(0)
        .max(65536)
        .default(0)
        .describe('Queries that may wait for one server at once; one more gets SERVFAIL. 0: as many as there may be in total.'),
      dnsproxyConcurrencyProcessingGracePeriodMs: z
        .int()
        .min(0)
        .max(10000)
        .default(0)
        .describe('Milliseconds for which a query beyond a limit waits for room before it gets SERVFAIL.'),
      tofqdnsDnsRejectResponseCode: z
        .enum(['refused', 'nameError'])
        .default('refused')
        .describe(
          'What a query gets that policy denies: REFUSED, or NXDOMAIN (nameError). At REFUSED, glibc gives up its search list and musl (Alpine) waits for its timeout, 5 s; with NXDOMAIN both go on at once.',
        ),
      tofqdnsMinTtl: z
        .int()
        .min(0)
        .max(2 ** 31 - 1)
        .default(0)
        .describe('Seconds for which an address is known by a name at least, whatever its answer said.'),
      tofqdnsEndpointMaxIpPerHostname: z
        .int()
        .min(1)
        .max(10000)
        .default(1000)
        .describe('Addresses that a name is known to have at most; of more, those go that run out first.'),
      tofqdnsMaxDeferredConnectionDeletes: z
        .int()
        .min(0)
        .max(100000)
        .default(10000)
        .describe(
          'Addresses that are kept for their connections after their names ran out, at most; of more, those go that ran out first.',
        ),
      tofqdnsIdleConnectionGracePeriodSeconds: z
        .int()
        .min(0)
        .max(86400)
        .default(0)
        .describe('Seconds for which an address is kept after its names ran out, even without a connection.'),
      tofqdnsPreCache: z
        .union([z.literal(''), absolutePath])
        .default('')
        .describe('JSON file of names that are known from the start: `{"names": [{"name", "addresses", "ttlSeconds"}]}`; none when empty.'),
    })
    .prefault({}),
  flows: z
    .strictObject({
      mode: z
        .enum(['all', 'sampled', 'denied'])
        .default('sampled')
        .describe('Which allowed requests and connections are reported; denials always are, within eventsPerSecondMax.'),
      sampleRate: z.number().min(0).max(1).default(0.01).describe('Share of allowed requests and connections with mode sampled.'),
      eventsPerSecondMax: z
        .int()
        .min(1)
        .max(1000000)
        .default(10000)
        .describe('Events of the kernel; what is beyond is counted as lost, so that a flood of packets is no flood of events.'),
      ringSize: z.int().min(16).max(1048576).default(4096).describe('Flows that the agent keeps.'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: logLevel.default('info').describe('What is logged, of every process.'),
      format: z.enum(['text', 'json']).default('text').describe('Lines for people or for machines.'),
      levels: z
        .strictObject({
          up: logLevel.optional().describe('Level of this process; log.level when not given.'),
          agent: logLevel.optional().describe('Level of this process; log.level when not given.'),
          proxy: logLevel.optional().describe('Level of this process; log.level when not given.'),
          envoy: logLevel.optional().describe('Level of this process; log.level when not given.'),
          dnsProxy: logLevel.optional().describe('Level of this process; log.level when not given.'),
          relay: logLevel.optional().describe('Level of this process; log.level when not given.'),
          extHost: logLevel.optional().describe('Level of this process; log.level when not given.'),
        })
        .prefault({}),
    })
    .prefault({}),
})

export type Config = z.infer<typeof configSchema>
