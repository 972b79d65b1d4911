/** Policy files as the command line reads, checks and writes them. The folder belongs to the operator: only whole files are moved in. */
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { text as readAll } from 'node:stream/consumers'
import { EMPTY_FOLDER_MARKER, POLICY_FILE_NAME } from '#policy/files.ts'
import { documentName, type PolicyDocument } from '#policy/model.ts'
import type { ParseOptions } from '#policy/options.ts'
import type { Problem } from '#policy/problems.ts'
import { CliError } from './errors.ts'

export interface CheckedFile {
  /** As it was named; `-` for standard input. */
  readonly file: string
  readonly text: string
  readonly isValid: boolean
  readonly documents: readonly { readonly kind: string; readonly namespace: string; readonly name: string }[]
  /** What is in force of it; empty when it is refused. */
  readonly accepted: readonly PolicyDocument[]
  readonly problems: readonly Problem[]
}

export const STANDARD_INPUT = '-'
const EXTENSIONS = /\.(ya?ml|json)$/

/** Reads and validates; problems are part of the result. */
export async function checkFile(file: string, options: ParseOptions): Promise<CheckedFile> {
  return checkText(file, file === STANDARD_INPUT ? await readAll(process.stdin) : readText(file), options)
}

/** @throws CliError with every error of every file */
export function assertValid(files: readonly CheckedFile[]): void {
  const refused = files.filter((file) => !file.isValid)
  if (refused.length === 0) return
  throw new CliError('HG-1103', `not valid: ${refused.map(({ file }) => file).join(', ')}`, {
    details: refused.flatMap(({ problems }) => problems.map(formatProblem)),
  })
}

/** `file:line:column: severity: path: message; hint` */
export function formatProblem({ severity, file, line, column, path, message, hint }: Problem): string {
  return `${file}:${line}:${column}: ${severity}: ${path === '' ? '' : `${path}: `}${message}${hint === '' ? '' : `; ${hint}`}`
}

/** Name that a file gets in the policy folder. */
export function targetName(file: CheckedFile): string {
  if (file.file !== STANDARD_INPUT) return EXTENSIONS.test(file.file) ? basename(file.file) : `${basename(file.file)}.yaml`
  const [first] = file.documents
  if (first === undefined) throw new CliError('HG-1108', 'no policy on standard input to take a name from; give one with --name')
  return `${documentName(first).replaceAll(/[/:]/g, '.')}.yaml`
}

/**
 * Puts a file in place in one step: a temporary file in the same folder, whose leading dot the watcher ignores, synced, renamed, and
 * the folder synced. Whatever dies meanwhile, the old file is there or the new one.
 */
export function writePolicyFile(folder: string, name: string, text: string): void {
  assertFileName(name)
  const temporary = join(folder, `.${name}.${process.pid}.tmp`)
  try {
    mkdirSync(folder, { recursive: true, mode: 0o755 })
    writeFileSync(temporary, text, { mode: 0o644, flush: true })
    renameSync(temporary, join(folder, name))
    rmSync(join(folder, EMPTY_FOLDER_MARKER), { force: true })
    syncFolder(folder)
  } catch (cause) {
    rmSync(temporary, { force: true })
    throw new CliError('HG-1111', `cannot write the policy file ${join(folder, name)}`, { cause })
  }
}

/** Removes a file. Where it is the last one, the folder is marked as meant to be empty: else the agent would keep what it said. */
export function removePolicyFile(folder: string, name: string): void {
  assertFileName(name)
  try {
    if (listPolicyFiles(folder).every((file) => file === name)) writeFileSync(join(folder, EMPTY_FOLDER_MARKER), '')
    rmSync(join(folder, name))
    syncFolder(folder)
  } catch (cause) {
    throw new CliError('HG-1111', `cannot remove the policy file ${join(folder, name)}`, { cause })
  }
}

/**
 * File in the folder by its name, or by namespace/name of the policy that is alone in it.
 * @throws CliError when there is none, or when the file holds other policies too
 */
export async function findPolicyFile(folder: string, name: string, options: ParseOptions): Promise<string> {
  const files = listPolicyFiles(folder)
  if (files.includes(name)) return name
  for (const file of files) {
    const { documents } = await checkText(file, readText(join(folder, file)), options)
    if (!documents.some((document) => documentName(document) === name)) continue
    if (documents.length === 1) return file
    throw new CliError('HG-1108', `${file} holds ${documents.length} policies; delete the whole file by its name, or edit it: ${name}`)
  }
  throw new CliError('HG-1107', `there is no policy and no policy file ${name} in ${folder}`)
}

/** Names of the policy files of a folder. */
export function listPolicyFiles(folder: string): string[] {
  try {
    return readdirSync(folder).filter((file) => POLICY_FILE_NAME.test(file))
  } catch (cause) {
    throw new CliError('HG-1111', `cannot read the policy folder ${folder}`, { cause })
  }
}

async function checkText(file: string, text: string, options: ParseOptions): Promise<CheckedFile> {
  const { parsePolicyFile } = await import('#policy/parse.ts')
  const { documents, refused, problems } = parsePolicyFile(text, file, options)
  const isValid = problems.every((problem) => problem.severity !== 'error')
  const named = [...documents, ...refused].map(({ kind, namespace, name }) => ({ kind, namespace, name }))
  return { file, text, isValid, documents: named, accepted: documents, problems }
}

function assertFileName(name: string): void {
  if (name !== basename(name) || !POLICY_FILE_NAME.test(name)) {
    throw new CliError('HG-1108', `a policy file's name ends in .yaml, .yml or .json and has no folder: ${name}`)
  }
}

/** A folder stands for the policy files in it, as for the agent. @throws CliError HG-1111 */
export function policyFilesOf(path: string): string[] {
  let isFolder: boolean
  try {
    isFolder = statSync(path).isDirectory()
  } catch (cause) {
    throw new CliError('HG-1111', `cannot read ${path}`, { cause })
  }
  return isFolder
    ? listPolicyFiles(path)
        .toSorted()
        .map((name) => join(path, name))
    : [path]
}

/** @throws CliError HG-1111 */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new CliError('HG-1111', `cannot read ${path}`, { cause })
  }
}

function syncFolder(folder: string): void {
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
