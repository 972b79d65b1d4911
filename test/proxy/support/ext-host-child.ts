/** `headgate ext-host` for tests: the configuration comes as JSON in the first argument. */
import { configSchema } from '#config/schema.ts'
import { runExtHost } from '#proxy/ext-host/main.ts'

const stop = new AbortController()
process.on('SIGTERM', () => stop.abort())
await runExtHost(configSchema.parse(JSON.parse(process.argv[2]!)), { signal: stop.signal })
