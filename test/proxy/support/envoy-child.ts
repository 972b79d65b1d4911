/** `headgate envoy` for tests: the configuration comes as JSON in the first argument. */
import { configSchema } from '#config/schema.ts'
import { runEnvoy } from '#proxy/envoy/main.ts'

await runEnvoy(configSchema.parse(JSON.parse(process.argv[2]!)))
