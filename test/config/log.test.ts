import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { formatLine } from '#config/log.ts'

const LOG = fileURLToPath(new URL('../../config/log.ts', import.meta.url))
const LOAD = fileURLToPath(new URL('../../config/load.ts', import.meta.url))

function logged(set: readonly string[], statement: string): string {
  const program = `
    const { createLogger } = await import(${JSON.stringify(LOG)})
    const { loadConfig } = await import(${JSON.stringify(LOAD)})
    const log = createLogger(loadConfig({ environment: {}, set: ${JSON.stringify(set)} }).config, 'agent')
    ${statement}`
  const { stdout, stderr } = spawnSync(process.execPath, ['--conditions=headgate-source', '--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  if (stdout !== '') throw new Error(`logs belong on standard error, not ${stdout}`)
  return stderr
}

test('a line of text has time, level, process, message and facts', (t) => {
  const line = formatLine(
    '{"level":"warn","time":"2026-01-02T03:04:05.678Z","process":"agent","pid":7,"file":"a b","count":3,"msg":"refused"}',
  )
  t.is(line, '03:04:05.678 warn  agent: refused file="a b" count=3\n')
})

test('the level of a process is its own, else the common one', (t) => {
  const both = "log.debug('detail'); log.info('news')"
  t.regex(logged(['log.levels.agent=debug', 'log.level=error'], both), /detail[\s\S]*news/)
  t.is(logged(['log.levels.proxy=debug', 'log.level=error'], both), '')
})

test('JSON lines carry no secrets', (t) => {
  const line = logged(['log.format=json'], "log.info({ password: 'x1', tls: { privateKey: 'x2' } }, 'hello')")
  t.like(JSON.parse(line), { level: 'info', process: 'agent', msg: 'hello', password: '(secret)', tls: { privateKey: '(secret)' } })
})
