/** Parses policy files, and remembers on disk what came out of those that were accepted. */
import { join } from 'node:path'
import type { PolicyDocument, RefusedDocument } from '#policy/model.ts'
import type { Problem } from '#policy/problems.ts'
import { CachedValue, contextOf } from '../parse-cache.ts'

/** What reading one file's text yields. */
export interface ParsedFile {
  readonly documents: readonly PolicyDocument[]
  /** Of a refused file: what is known of its documents. */
  readonly refused: readonly RefusedDocument[]
  readonly problems: readonly Problem[]
}

export type ParseFile = (text: string, file: string) => ParsedFile

export class ParsedFiles {
  readonly #folder: string
  readonly #parse: ParseFile
  readonly #context: string

  /** @param options whatever decides what `parse` makes of a text, as plain data */
  constructor(folder: string, parse: ParseFile, options: object) {
    this.#folder = folder
    this.#parse = parse
    this.#context = contextOf(['policy', 'parsers'], options)
  }

  parse(text: string, file: string): ParsedFile {
    return this.#parse(text, file)
  }

  /** What parsing an accepted text yields; kept if it was not. */
  parseAccepted(text: string, file: string): ParsedFile {
    const known = this.#cached(file).read(this.#textOf(text, file))
    if (known !== undefined) return known
    const parsed = this.#parse(text, file)
    this.keep(text, file, parsed)
    return parsed
  }

  /** A text was accepted that has been parsed already. */
  keep(text: string, file: string, { documents, refused, problems }: ParsedFile): void {
    // One that another version accepted and this one refuses is told anew each time.
    if (documents.length > 0) this.#cached(file).write(this.#textOf(text, file), { documents, refused, problems })
  }

  forget(file: string): void {
    this.#cached(file).forget()
  }

  #cached(file: string): CachedValue<ParsedFile> {
    return new CachedValue(join(this.#folder, `${file}.parsed`))
  }

  /** The name is part of every position. */
  #textOf(text: string, file: string): string {
    return JSON.stringify([this.#context, file, text])
  }
}
