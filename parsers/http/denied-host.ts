/**
 * A host can be written in many ways that lead to the same server: in any case, with the dot of a full name, with a port, with somebody's
 * name before it. An allow rule means what it says; a deny rule means the host, however a request spells it.
 */

/** @param pattern of a deny rule; RE2, of the whole value @returns the same for all spellings */
export function deniedHost(pattern: string): string {
  // A quotation that is not ended would take in what follows it.
  const end = pattern.lastIndexOf('\\Q') > pattern.lastIndexOf('\\E') ? '\\E' : ''
  return `(?i)(?:[^@]*@)?(?:${pattern}${end})\\.?(?::[0-9]*)?`
}
