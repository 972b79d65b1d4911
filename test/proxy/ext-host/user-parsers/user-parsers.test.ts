/** Real processes of parsers, without a relay: what each of them does to itself, and that it does nothing to others. */
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { create } from '@bufbuild/protobuf'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { ParserRulesetSchema } from '#api/gen/headgate/v1/control_pb.js'
import type { StreamDirection } from '#parsers/contract.ts'
import { StreamDriver } from '#proxy/ext-host/parsing/driver.ts'
import { MemoryBudget } from '#proxy/ext-host/parsing/memory-budget.ts'
import type { UserRecord } from '#proxy/ext-host/user-parsers/frames.ts'
import type { UserParser } from '#proxy/ext-host/user-parsers/user-parser.ts'
import { UserParsers } from '#proxy/ext-host/user-parsers/user-parsers.ts'
import { UserRuleset } from '#proxy/ext-host/user-parsers/user-ruleset.ts'

const RULES = new UserRuleset(
  create(ParserRulesetSchema, {
    parser: 'r2d2',
    rules: [
      {
        name: 'read',
        values: [
          { key: 'cmd', value: 'READ' },
          { key: 'file', value: 'public/.*' },
        ],
      },
    ],
  }),
)
const folder = mkdtempSync(join(tmpdir(), 'hgt-parsers-'))
const parsers = new UserParsers({
  folder,
  limits: { root: join(folder, 'root'), callTimeoutMs: 1500, memoryMb: 32, bufferBytesMax: 4096, idleSeconds: 60 },
  onChange: () => {},
  onLine: () => {},
})
cpSync('examples/parsers/r2d2', join(folder, 'r2d2'), { recursive: true })

test.after.always(() => {
  parsers.close()
  rmSync(folder, { recursive: true })
})

function install(name: string, module: string): void {
  mkdirSync(join(folder, name))
  writeFileSync(join(folder, name, 'parser.js'), module)
}

/** A parser of that body of `onData(direction, bytes, endOfStream)`. */
async function parserOf(name: string, onData: string, before = ''): Promise<UserParser> {
  install(name, `${before}\nexport default { create: (connection) => ({ onData(direction, bytes, endOfStream) { ${onData} } }) }\n`)
  const parser = parsers.get(name)
  await parser.load()
  return parser
}

class Connection {
  readonly written: Record<StreamDirection, string> = { original: '', reply: '' }
  readonly records: UserRecord[] = []
  reason: string | undefined
  readonly #driver: StreamDriver
  readonly #hosted: ReturnType<UserParser['create']>
  #wakers: (() => void)[] = []

  constructor(parser: UserParser) {
    const close = (reason: string): void => {
      this.reason ??= reason
      this.#driver.dispose()
      this.#wake()
    }
    this.#hosted = parser.create({ rules: () => RULES, report: (record) => this.records.push(record), fail: close })
    const sink = {
      write: (direction: StreamDirection, data: Uint8Array): void => {
        this.written[direction] += Buffer.from(data).toString('latin1')
        this.#wake()
      },
      end: () => {},
      close,
      goOn: () => this.#wake(),
    }
    const limits = { bufferBytesMax: parser.bufferBytesMax, answerBytesMax: 4096, turnsMax: 100, budget: new MemoryBudget(1 << 20) }
    this.#driver = new StreamDriver(this.#hosted, sink, limits)
  }

  /** What the relay does: reads on when it may. */
  async push(direction: StreamDirection, data: string): Promise<void> {
    await this.until(() => this.#driver.wants(direction))
    this.#driver.push(direction, Buffer.from(data, 'latin1'))
  }

  async until(isSo: () => boolean): Promise<void> {
    while (!isSo() && this.reason === undefined) {
      await new Promise<void>((resolve) => {
        this.#wakers.push(resolve)
      })
    }
  }

  /** Resolves with why it was closed. */
  async closed(): Promise<string> {
    await this.until(() => false)
    return this.reason ?? ''
  }

  end(): void {
    this.#driver.dispose()
    this.#hosted.dispose?.()
  }

  #wake(): void {
    for (const wake of this.#wakers.splice(0)) wake()
  }
}

const CONVERSATION = ['READ public/a\r\n', 'WRITE b\r\n', 'READ secret\r\n', 'READ public/c\r\n'].join('')
const PASSED = 'READ public/a\r\nREAD public/c\r\n'
const REPLIES = 'OK a\r\nOK c\r\n'
const ANSWERED = 'OK a\r\nERROR\r\nERROR\r\nOK c\r\n'

async function converse(t: ExecutionContext, cuts: readonly number[], replyCut: number): Promise<void> {
  const parser = parsers.get('r2d2')
  await parser.load()
  const connection = new Connection(parser)
  const edges = [0, ...cuts, CONVERSATION.length]
  for (const [index, end] of edges.slice(1).entries()) await connection.push('original', CONVERSATION.slice(edges[index], end))
  await connection.until(() => connection.written.original === PASSED)
  for (const part of [REPLIES.slice(0, replyCut), REPLIES.slice(replyCut)]) if (part !== '') await connection.push('reply', part)
  await connection.until(() => connection.written.reply.length >= ANSWERED.length)
  t.is(connection.reason, undefined)
  t.deepEqual(connection.written, { original: PASSED, reply: ANSWERED })
  t.deepEqual(
    connection.records.map(({ isAllowed, rule, fields }) => [isAllowed, rule, fields['cmd'], fields['file']]),
    [
      [true, 'read', 'READ', 'public/a'],
      [false, '', 'WRITE', 'b'],
      [false, '', 'READ', 'secret'],
      [true, 'read', 'READ', 'public/c'],
    ],
  )
  connection.end()
}

test.serial('a conversation of r2d2 comes to the same wherever it is cut', async (t) => {
  for (let cut = 1; cut < CONVERSATION.length; cut++) await converse(t, [cut], cut % REPLIES.length)
  const cuts = fc.uniqueArray(fc.integer({ min: 1, max: CONVERSATION.length - 1 }), { maxLength: 12 })
  await fc.assert(
    fc.asyncProperty(cuts, fc.nat(REPLIES.length), (at, replyCut) =>
      converse(
        t,
        at.toSorted((a, b) => a - b),
        replyCut,
      ),
    ),
    { numRuns: 40 },
  )
})

const BENIGN = 'return [{ op: "pass", bytes: bytes.length }]'
const ENDS: readonly (readonly [string, string, string, RegExp])[] = [
  ['loops', 'loops', 'for (;;);', /the parser loops failed: it took longer than 1500 ms over a call/],
  ['ends its process', 'exits', 'process.exit(3)', /the parser exits failed: its process ended with code 3/],
  ['kills its process', 'aborts', 'process.abort()', /the parser aborts failed: its process ended with SIG/],
  [
    'fills its heap',
    'heap',
    'const all = []; for (;;) all.push({ all: [] })',
    /the parser heap failed: (its process ended with|it took longer)/,
  ],
  [
    'writes what is no frame',
    'garbles',
    'process.stdout.write("hello, I am no frame"); return []',
    /failed: its process says what is no answer: a frame of/,
  ],
  [
    'answers twice',
    'twice',
    '(await0 => 0)(); const frame = Buffer.alloc(9); frame[4] = 4; frame.writeUInt32LE(1, 5); fs.writeSync(1, frame); return []',
    /failed: its process says what is no answer: a frame of type 4 that nobody waits for/,
  ],
]

for (const [what, name, onData, reason] of ENDS) {
  test.serial(`a parser that ${what} takes all of its own connections with it, and is started again for the next`, async (t) => {
    const before = 'import fs from "node:fs"\nlet isFirst = true\n'
    const parser = await parserOf(name, `if (bytes.toString() !== "now") { ${BENIGN} } ${onData}`, before)
    const [idle, hit] = [new Connection(parser), new Connection(parser)]
    await idle.push('original', 'hello')
    await idle.until(() => idle.written.original === 'hello')
    await hit.push('original', 'now')
    t.regex(await hit.closed(), reason)
    t.regex(await idle.closed(), reason)
    t.is(hit.written.original, '')
    t.not(parser.problem, '')
    const next = new Connection(parser)
    await next.push('original', 'hello')
    await next.until(() => next.written.original === 'hello')
    t.is(next.reason, undefined)
    next.end()
  })
}

const OWN: readonly (readonly [string, string, string, RegExp])[] = [
  ['throws', 'throws', 'throw new RangeError("what now")', /^the parser failed: RangeError: what now$/],
  ['returns a promise', 'promises', 'return Promise.resolve([])', /^the parser failed: TypeError: onData returns a list of ops, at once$/],
  ['asks for more than it may hold', 'holds', 'return [{ op: "more", bytes: 5000 }]', /^it would take 5000 bytes at once$/],
  ['comes to nothing', 'stays', 'return [{ op: "drop", bytes: 0 }]', /^the parser failed: it comes to nothing$/],
  [
    'adds without end',
    'adds',
    'return [{ op: "insert", data: Buffer.alloc(1 << 20) }, { op: "drop", bytes: 1 }]',
    /^the parser failed: it adds more than it may$/,
  ],
  ['runs code from strings', 'evals', 'return new Function("return []")()', /^the parser failed: EvalError/],
]

for (const [what, name, onData, reason] of OWN) {
  test.serial(`a parser that ${what} closes its own connection only`, async (t) => {
    const parser = await parserOf(name, `if (bytes.toString() === "hello") { ${BENIGN} } ${onData}`)
    const [other, hit] = [new Connection(parser), new Connection(parser)]
    const { pid } = parser
    await other.push('original', 'hello')
    await other.until(() => other.written.original === 'hello')
    await hit.push('original', 'now and then')
    t.regex(await hit.closed(), reason)
    await other.push('original', 'hello')
    await other.until(() => other.written.original === 'hellohello')
    t.is(other.reason, undefined)
    t.is(parser.pid, pid)
    for (const connection of [other, hit]) connection.end()
  })
}

test.serial('a parser that takes more memory in buffers than it may does not get it, and may die of that', async (t) => {
  const parser = await parserOf('buffers', 'const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))')
  const connection = new Connection(parser)
  await connection.push('original', 'now')
  t.regex(await connection.closed(), /^the parser (failed: .*allocat|buffers failed: (its process ended with SIG|it took longer))/)
  connection.end()
})

test.serial('a parser can reach nothing but its own bytes', async (t) => {
  const tries = {
    files: 'fs.readFileSync("/etc/passwd")',
    folders: 'fs.readdirSync("/")',
    writing: 'fs.writeFileSync("/parser/x", "x")',
    processes: 'process.getBuiltinModule("child_process").spawnSync("/bin/true")',
    becoming: 'process.execve("/bin/true", [], {})',
    threads: 'new (process.getBuiltinModule("worker_threads").Worker)("0", { eval: true })',
    addons: 'process.dlopen({ exports: {} }, "/x.node")',
    inspector: 'process.getBuiltinModule("inspector").open(0)',
    bindings: 'process.binding("fs")',
    user: 'process.setuid(0)',
    signals: 'process.kill(2, 9)',
  }
  const before = `import fs from 'node:fs'\nimport net from 'node:net'\nconst tries = {${Object.entries(tries)
    .map(([name, code]) => `${name}: () => ${code}`)
    .join(',')}}`
  const parser = await parserOf(
    'spy',
    `const seen = Object.entries(tries).map(([name, run]) => { try { run(); return name } catch (error) { return '' } }).filter(Boolean)
     const addresses = Object.values(process.getBuiltinModule('os').networkInterfaces()).flat().length
     return [{ op: 'answer', data: JSON.stringify({ seen, addresses, env: process.env, pid: process.pid, uid: process.getuid(), argv: process.argv.length }) }, { op: 'drop', bytes: bytes.length }]`,
    before,
  )
  const connection = new Connection(parser)
  await connection.push('original', 'look')
  await connection.until(() => connection.written.reply !== '')
  t.is(connection.reason, undefined)
  t.deepEqual(JSON.parse(connection.written.reply), { seen: [], addresses: 0, env: {}, pid: 1, uid: 65534, argv: 4 })
  connection.end()
})

test.serial('what a parser says of rules is taken for rules of its slot only', async (t) => {
  const parser = await parserOf(
    'liar',
    `connection.report({ isAllowed: true, rule: 'default/other/ingress/1', fields: { a: 1 } }); connection.report({ isAllowed: true, rule: 'read' }); ${BENIGN}`,
  )
  const connection = new Connection(parser)
  await connection.push('original', 'x')
  await connection.until(() => connection.records.length === 2)
  t.deepEqual(connection.records, [
    { isAllowed: true, isAudited: false, rule: '', fields: { a: '1' } },
    { isAllowed: true, isAudited: false, rule: 'read', fields: {} },
  ])
  connection.end()
})

test.serial('a parser that cannot be loaded says why, and nobody comes by', async (t) => {
  for (const [name, module, reason] of [
    ['unreadable', 'export default {', /it cannot be loaded: SyntaxError/],
    ['empty', 'export default {}', /it cannot be loaded: TypeError: its default export has no create\(\)/],
    ['curious', 'import "../r2d2/parser.js"; export default { create() {} }', /it cannot be loaded: Error: /],
  ] as const) {
    install(name, module)
    const parser = parsers.get(name)
    await parser.load()
    t.regex(parser.problem, reason)
    const connection = new Connection(parser)
    await connection.push('original', 'now')
    t.regex(await connection.closed(), new RegExp(`^the parser ${name} (failed|cannot be used): it cannot be loaded: `))
  }
})

test.serial('a connection that comes while its parser is being loaded waits for it, unless its server may speak first', async (t) => {
  install('late', `export default { create: () => ({ onData(direction, bytes) { ${BENIGN} } }) }`)
  install('greets', `export default { isServerFirst: true, create: () => ({ onData(direction, bytes) { ${BENIGN} } }) }`)
  const waiting = new Connection(parsers.get('late'))
  await waiting.push('original', 'hello')
  await waiting.until(() => waiting.written.original === 'hello')
  t.is(waiting.reason, undefined)
  const greeted = parsers.get('greets')
  t.is(await new Connection(greeted).closed(), 'the parser greets cannot be used: it was being loaded')
  t.true(greeted.isServerFirst)
  const next = new Connection(greeted)
  await next.push('reply', 'hello')
  await next.until(() => next.written.reply === 'hello')
  t.is(next.reason, undefined)
  for (const connection of [waiting, next]) connection.end()
})

test.serial('a parser that others could write, or that is elsewhere, is not taken', (t) => {
  install('open', 'export default { create() {} }')
  chmodSync(join(folder, 'open/parser.js'), 0o666)
  symlinkSync(join(folder, 'r2d2'), join(folder, 'linked'))
  mkdirSync(join(folder, 'nothing'))
  for (const [name, message] of [
    ['open', /open\/parser\.js can be written by others$/],
    ['linked', /linked is no folder$/],
    ['nothing', /^there is no .*nothing\/parser\.js$/],
    ['absent', /^there is no .*absent$/],
    ['../r2d2', /^no parser has the name \.\.\/r2d2$/],
    ['.', /^no parser has the name \.$/],
    ['', /^no parser has the name $/],
  ] as const)
    t.throws(() => parsers.get(name), { message }, name)
})

test.serial('a module that changed is for new connections; those that are open stay with what they began with', async (t) => {
  const saying = (text: string) => `return [{ op: 'drop', bytes: bytes.length }, { op: 'answer', data: '${text}' }]`
  const parser = await parserOf('changes', saying('old'))
  const said = async (connection: Connection): Promise<string> => {
    const before = connection.written.reply.length
    await connection.push('original', 'x')
    await connection.until(() => connection.written.reply.length > before)
    return connection.written.reply.slice(before)
  }
  const first = new Connection(parser)
  t.is(await said(first), 'old')
  const { pid } = parser
  const module = join(folder, 'changes/parser.js')
  writeFileSync(module, `export default { create: () => ({ onData(direction, bytes) { ${saying('newer')} } }) }\n`)
  const second = new Connection(parser)
  t.is(await said(second), 'newer')
  t.is(await said(first), 'old')
  t.not(parser.pid, pid)
  first.end()
  for (const deadline = performance.now() + 5000; isRunning(pid) && performance.now() < deadline; ) await delay(20)
  t.false(isRunning(pid), 'the old process ends with its last connection')
  chmodSync(module, 0o666)
  t.regex(await new Connection(parser).closed(), /cannot be used: .*can be written by others$/)
  t.is(await said(second), 'newer')
  second.end()
})

function isRunning(pid = 0): boolean {
  const path = `/proc/${pid}/status`
  return existsSync(path) && !/^State:\s+Z/m.test(readFileSync(path, 'utf8'))
}

test.serial('a process without connections ends, and another one takes the next', async (t) => {
  const restless = new UserParsers({
    folder,
    limits: { root: join(folder, 'root'), callTimeoutMs: 1500, memoryMb: 32, bufferBytesMax: 4096, idleSeconds: 0.05 },
    onChange: () => {},
    onLine: () => {},
  })
  const parser = restless.get('r2d2')
  await parser.load()
  for (const deadline = performance.now() + 5000; parser.pid !== undefined && performance.now() < deadline; ) await delay(20)
  t.is(parser.pid, undefined)
  t.is(parser.problem, '')
  const connection = new Connection(parser)
  await connection.push('original', 'READ public/a\r\n')
  await connection.until(() => connection.written.original !== '')
  t.is(connection.reason, undefined)
  t.not(parser.pid, undefined)
  restless.close()
})
