/**
 * r2d2, the line protocol of Cilium's tutorials. A client says READ file, WRITE file, HALT or RESET; the server answers each with one line.
 * Rules: {cmd: READ, file: "public/.*"}. What a rule does not mention may be anything; file is a pattern (RE2) of the whole name.
 */
const LINE_END = '\r\n'
const LINE_LENGTH_MAX = 4096
const COMMANDS = ['READ', 'WRITE', 'HALT', 'RESET']

export default {
  keys: ['cmd', 'file'],

  create(connection) {
    function request(line, length) {
      const [cmd = '', file = ''] = line.split(' ')
      if (!COMMANDS.includes(cmd)) return [{ op: 'error', reason: 'no command of r2d2' }]
      const verdict = connection.judge(
        (rule) => (rule.cmd === undefined || rule.cmd === cmd) && (rule.file === undefined || connection.matches(rule.file, file)),
      )
      connection.report({ ...verdict, fields: file === '' ? { cmd } : { cmd, file } })
      if (verdict.isAllowed) return [{ op: 'pass', bytes: length, turn: 'opens' }]
      return [
        { op: 'drop', bytes: length },
        { op: 'answer', data: `ERROR${LINE_END}` },
      ]
    }

    return {
      onData(direction, bytes) {
        const ops = []
        let offset = 0
        for (;;) {
          const end = bytes.indexOf(LINE_END, offset)
          if (end < 0) break
          const length = end + LINE_END.length - offset
          if (direction === 'reply') ops.push({ op: 'pass', bytes: length, turn: 'closes' })
          else ops.push(...request(bytes.toString('latin1', offset, end), length))
          if (ops.at(-1).op === 'error') return ops
          offset += length
        }
        const rest = bytes.length - offset
        if (rest > LINE_LENGTH_MAX) return [...ops, { op: 'error', reason: 'a line that is too long' }]
        return [...ops, { op: 'more', bytes: rest + 1 }]
      },
    }
  },
}
