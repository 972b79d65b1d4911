/** What subcommands print: tables for people, JSON for machines. Never colours or control characters when not on a terminal. */

const GAP = '  '

export function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, jsonValue, 2))
}

/** Columns aligned to their widest cell; the last one is not padded. Cells are one line each. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [header, ...rows].map((row) => row.map((cell) => sanitize(cell)))
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)))
  return lines
    .map((line) =>
      line
        .map((cell, column) => (column === line.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
        .join(GAP)
        .trimEnd(),
    )
    .join('\n')
}

/** Control characters would let a workload's request path write on the operator's terminal. */
export function sanitize(text: string): string {
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** 64-bit numbers that JSON's reader would round are strings. */
function jsonValue(_key: string, value: unknown): unknown {
  if (typeof value !== 'bigint') return value
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString()
}
