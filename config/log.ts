/**
 * The logger of a process: pino to standard error, level per process, text for people or JSON for machines. Writing is synchronous
 * (a crash loses no line) and a vanished reader is no error: a child outlives the `headgate up` that held the other end of its pipe.
 */
import { type DestinationStream, type Logger, pino } from 'pino'
import type { Config } from './schema.ts'
import { SETTINGS } from './settings.ts'

export type LogProcess = 'up' | 'agent' | 'proxy' | 'envoy' | 'extHost' | 'relay' | 'dnsProxy'

/** Keys whose values never reach a log, at the top or one level down. */
const SECRET_KEYS = ['password', 'token', 'secret', 'authorization', 'cookie', 'privateKey']

export function createLogger(config: Config, process: LogProcess): Logger {
  const settings = SETTINGS.filter((setting) => setting.secret).flatMap((setting) => [setting.key, `config.${setting.key}`])
  const stderr = pino.destination({ dest: 2, sync: true })
  // EPIPE, mostly; there is nobody left to tell.
  stderr.on('error', () => {})
  return pino(
    {
      level: config.log.levels[process] ?? config.log.level,
      base: { process, pid: globalThis.process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: [...SECRET_KEYS.flatMap((key) => [key, `*.${key}`]), ...settings], censor: '(secret)' },
    },
    config.log.format === 'json' ? stderr : textStream(stderr),
  )
}

/** `12:34:56.789 info  agent: message key=value` */
export function formatLine(json: string): string {
  const { time, level, process, pid, msg, err, ...rest } = JSON.parse(json) as Record<string, unknown>
  void pid
  const head = `${String(time).slice(11, 23)} ${String(level).padEnd(5)} ${String(process)}: ${String(msg ?? '')}`
  const facts = Object.entries(rest).map(([key, value]) => ` ${key}=${formatFact(value)}`)
  const error = err as { stack?: string; message?: string } | undefined
  return `${head}${facts.join('')}${error === undefined ? '' : `\n${error.stack ?? error.message ?? ''}`}\n`
}

function formatFact(value: unknown): string {
  return typeof value === 'string' && /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value)
}

function textStream(target: DestinationStream): DestinationStream {
  return { write: (line) => target.write(formatLine(line)) }
}
