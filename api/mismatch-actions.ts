/** What is done about a header that is not as wanted, between its word in policies and flows and its number in messages. */
import { MismatchAction } from './gen/headgate/v1/control_pb.js'

const NUMBERS = {
  LOG: MismatchAction.LOG,
  ADD: MismatchAction.ADD,
  DELETE: MismatchAction.DELETE,
  REPLACE: MismatchAction.REPLACE,
} as const
export type ActionWord = keyof typeof NUMBERS

const WORDS: ReadonlyMap<MismatchAction, ActionWord> = new Map(
  Object.entries(NUMBERS).map(([word, number]) => [number, word as ActionWord]),
)

export function actionNumber(word: ActionWord): MismatchAction {
  return NUMBERS[word]
}

/** @returns undefined for none, and for one of another version that is not known here */
export function actionWord(number: MismatchAction): ActionWord | undefined {
  return WORDS.get(number)
}

/** @returns undefined for what is no such word */
export function parseActionWord(text: unknown): ActionWord | undefined {
  return typeof text === 'string' && Object.hasOwn(NUMBERS, text) ? (text as ActionWord) : undefined
}
