/**
 * Domains that an endpoint's resolver appends to names. A list decides what passes the DNS process, so it is never read from where a workload
 * may write: not from the resolv.conf that a container sees.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { isMatchName, normalizeName } from '#parsers/dns/name-pattern.ts'
import { type EndpointSpec, SEARCH_DOMAINS_MAX } from './file.ts'

/** Where iproute2 finds the files that `ip netns exec` shows inside a namespace. */
const NETNS_FILES = '/etc/netns'
const FILE_BYTES_MAX = 65_536

/**
 * @param defaults the setting dns.searchDomains @param netnsFiles where files of namespaces are
 * @returns lower case, with a trailing dot
 */
export function searchDomainsOf(
  { searchDomains, netns }: Pick<EndpointSpec, 'searchDomains' | 'netns'>,
  defaults: readonly string[],
  netnsFiles = NETNS_FILES,
): string[] {
  const list = searchDomains ?? searchListOfNetns(netns, netnsFiles) ?? defaults
  return [...new Set(list.filter(isMatchName).map(normalizeName))].slice(0, SEARCH_DOMAINS_MAX)
}

/** @returns undefined for a namespace that is not given by name, or has no file of its own */
function searchListOfNetns(netns: string | undefined, netnsFiles: string): readonly string[] | undefined {
  const text = netns === undefined || netns.includes('/') ? undefined : read(join(netnsFiles, netns, 'resolv.conf'))
  return text === undefined ? undefined : searchListOf(text)
}

/** The last line of `search` or `domain` holds (resolv.conf(5)). */
function searchListOf(text: string): readonly string[] {
  let list: readonly string[] = []
  for (const line of text.split('\n')) {
    const [keyword, ...words] = line.trim().split(/\s+/)
    if (keyword === 'search') list = words
    else if (keyword === 'domain') list = words.slice(0, 1)
  }
  return list
}

/** @returns undefined when there is no such file, or none that could be a resolv.conf */
function read(path: string): string | undefined {
  let fd: number
  try {
    // A FIFO does not make the agent wait.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch {
    return undefined
  }
  try {
    if (!fstatSync(fd).isFile()) return undefined
    const bytes = Buffer.alloc(FILE_BYTES_MAX)
    return bytes.toString('utf8', 0, readSync(fd, bytes))
  } finally {
    closeSync(fd)
  }
}
