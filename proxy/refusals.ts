/**
 * What Envoy refused, kept over restarts: bytes that were refused once are never sent again, and a rule that was found to be the
 * reason is left out from the start. Valid for one version of Envoy, since the next may know better; bounded, oldest out first.
 */
import { LRUCache } from 'lru-cache'
import { z } from 'zod'
import { readIfThere, writeDurablySync } from './durable-file.ts'
import { ProxyError } from './errors.ts'

const ENTRIES_MAX = 4096
/** Envoy quotes the whole pattern; more than this helps nobody. */
const REASON_LENGTH_MAX = 1000

const fileSchema = z.object({
  version: z.literal(1),
  envoy: z.string(),
  refused: z.array(z.tuple([z.string(), z.string()])),
})

export class Refusals {
  readonly #path: string
  readonly #reasonByDigest = new LRUCache<string, string>({ max: ENTRIES_MAX })
  #envoyVersion = ''

  constructor(path: string) {
    this.#path = path
  }

  /** @throws ProxyError when the file is damaged or too new */
  load(): void {
    const bytes = readIfThere(this.#path)
    if (bytes === undefined) return
    let file: z.infer<typeof fileSchema>
    try {
      file = fileSchema.parse(JSON.parse(bytes.toString('utf8')))
    } catch (cause) {
      throw new ProxyError('HG-5001', `not a list of refusals that this program knows: ${this.#path}`, { cause })
    }
    this.#envoyVersion = file.envoy
    for (const [digest, reason] of file.refused) this.#reasonByDigest.set(digest, reason)
  }

  get size(): number {
    return this.#reasonByDigest.size
  }

  /** @returns whether what was known is void because this is another version of Envoy */
  useVersion(envoyVersion: string): boolean {
    if (envoyVersion === this.#envoyVersion) return false
    const known = this.#reasonByDigest.size > 0
    this.#envoyVersion = envoyVersion
    this.#reasonByDigest.clear()
    if (known) this.#save()
    return known
  }

  reasonOf(digest: string): string | undefined {
    return this.#reasonByDigest.get(digest)
  }

  /** Durable when it returns: the next thing sent must not be what was just refused, whatever happens to this process. */
  remember(digests: readonly string[], reason: string): void {
    for (const digest of digests) this.#reasonByDigest.set(digest, reason.slice(0, REASON_LENGTH_MAX))
    this.#save()
  }

  #save(): void {
    // Oldest first, so that reading it back keeps the order.
    const refused = [...this.#reasonByDigest.entries()].reverse()
    writeDurablySync(this.#path, JSON.stringify({ version: 1, envoy: this.#envoyVersion, refused }))
  }
}
