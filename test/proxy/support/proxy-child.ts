/** `headgate proxy` for tests: configuration and options come as JSON in the arguments. */
import { configSchema } from '#config/schema.ts'
import { runProxy } from '#proxy/main.ts'

const stop = new AbortController()
process.on('SIGTERM', () => stop.abort())
await runProxy(configSchema.parse(JSON.parse(process.argv[2]!)), stop.signal, JSON.parse(process.argv[3] ?? '{}'))
