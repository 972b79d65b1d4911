/**
 * How large RE2 makes an expression, without compiling it: the library that could would cost this process more memory than all that it
 * holds for Envoy. Policy was refused long before where an expression is too large by itself; this is for joining several.
 */

/** What a part of an expression is, at most, in RE2's instructions, each of which matches one byte or a range of them. */
const ANY_CHARACTER_SIZE = 12
const WIDE_CLASS_SIZE = 20
const UNICODE_CLASS_SIZE = 1500

/** Never far below RE2's number of instructions for an expression that is joined with others. */
export function sizeOfPattern(pattern: string): number {
  /** Sizes of the groups that are open, the innermost last. */
  const open = [0]
  let atom = 0
  const add = (size: number): void => {
    open[open.length - 1] = (open.at(-1) ?? 0) + atom
    atom = size
  }
  for (let offset = 0; offset < pattern.length; offset++) {
    const character = pattern.charAt(offset)
    const repeat = character === '{' ? /^\{(\d+)(?:,(\d*))?\}/.exec(pattern.slice(offset, offset + 16)) : null
    if (character === '(') {
      add(0)
      open.push(0)
    } else if (character === ')') {
      add(0)
      atom = 1 + (open.length > 1 ? (open.pop() ?? 0) : 0)
    } else if (character === '[') {
      const end = endOfClass(pattern, offset)
      add(sizeOfClass(pattern.slice(offset, end)))
      offset = end - 1
    } else if (character === '\\') {
      offset += 1
      add(sizeOfEscape(pattern.charAt(offset)))
      // The name of a class: of one letter, or in braces.
      if ('pP'.includes(pattern.charAt(offset))) offset = pattern[offset + 1] === '{' ? pattern.indexOf('}', offset) : offset + 1
    } else if (repeat !== null) {
      atom *= Math.max(Number(repeat[1]), Number(repeat[2] || 0), 1)
      offset += repeat[0].length - 1
    } else if (character === '.') add(ANY_CHARACTER_SIZE)
    else add(character > '\x7f' ? 4 : 1)
  }
  add(0)
  const size = open.reduce((sum, each) => sum + each, 0)
  // Letters in any case are two, or a class.
  return pattern.includes('(?') && /\(\?[a-zA-Z]*i/.test(pattern) ? size * 2 : size
}

function sizeOfEscape(character: string): number {
  if (character === 'p' || character === 'P') return UNICODE_CLASS_SIZE
  return 'DWS'.includes(character) ? WIDE_CLASS_SIZE : 'dws'.includes(character) ? 4 : 1
}

function sizeOfClass(text: string): number {
  if (/\\[pP]/.test(text)) return UNICODE_CLASS_SIZE
  const isWide = text.startsWith('[^') || /\[:\^|\\[DWSx]|[^\x00-\x7f]/.test(text)
  // A range or a character is an instruction, and a branch that leads to it.
  return isWide ? WIDE_CLASS_SIZE + text.length : Math.min(text.length, 2 * 64)
}

/** Offset behind the class. */
function endOfClass(pattern: string, start: number): number {
  let offset = start + 1
  if (pattern[offset] === '^') offset += 1
  // A bracket that comes first closes nothing.
  if (pattern[offset] === ']') offset += 1
  for (; offset < pattern.length && pattern[offset] !== ']'; offset++) {
    if (pattern[offset] === '\\') offset += 1
    else if (pattern.startsWith('[:', offset)) offset = Math.max(offset, pattern.indexOf(':]', offset) + 1)
  }
  return offset + 1
}
