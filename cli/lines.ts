/** Lines of a stream, as they come. Whoever writes it may never end a line: one that is too long is told of and not kept. */
import type { Readable } from 'node:stream'

/** @returns each line without its end; undefined for one of more than lengthMax characters */
export async function* readLines(input: Readable, lengthMax: number): AsyncGenerator<string | undefined> {
  let rest = ''
  let isTooLong = false
  const take = (text: string): string | undefined => {
    const line = rest + text
    const isKept = !isTooLong && line.length <= lengthMax
    rest = ''
    isTooLong = false
    return isKept ? line.replace(/\r$/, '') : undefined
  }
  input.setEncoding('utf8')
  for await (const chunk of input as AsyncIterable<string>) {
    let start = 0
    for (let end = chunk.indexOf('\n'); end >= 0; end = chunk.indexOf('\n', start)) {
      yield take(chunk.slice(start, end))
      start = end + 1
    }
    if (isTooLong) continue
    rest += chunk.slice(start)
    if (rest.length > lengthMax) {
      isTooLong = true
      rest = ''
    }
  }
  if (rest !== '' || isTooLong) yield take('')
}
