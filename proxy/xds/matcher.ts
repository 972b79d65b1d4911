/**
 * Envoy's matching API (xds.type.matcher.v3.Matcher): trees of maps, tries and lists that end in an action, in a form that is easy to
 * build and to look at, and as bytes. They are written as bytes at once, because a tree of ten thousand rules as messages costs half a
 * second and a hundred megabytes on the way.
 *
 * How Envoy walks a tree: the first match counts. When what a branch leads to matches nothing, the walk goes on behind the branch: a
 * list with its next branch, a trie with a shorter prefix, and all of them with `otherwise`.
 */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'

/** Where a value comes from: `:path`, `:method`, `:authority`, or a lower-case header name. Several lines are joined with commas. */
export type Field = string

/** A condition on a value; one that is not there meets none. */
export type Condition =
  | { readonly kind: 'exact'; readonly text: string }
  /** RE2, of the whole value. */
  | { readonly kind: 'regex'; readonly pattern: string }

export type Predicate =
  | { readonly kind: 'field'; readonly field: Field; readonly condition: Condition }
  | { readonly kind: 'all' | 'any'; readonly of: readonly Predicate[] }
  | { readonly kind: 'not'; readonly of: Predicate }

/** @template Action what is to be done at a leaf */
export type Tree<Action> =
  | { readonly kind: 'leaf'; readonly action: Action }
  | { readonly kind: 'list'; readonly branches: readonly Branch<Action>[]; readonly otherwise?: Tree<Action> }
  /** By the whole value, or by what it begins with. */
  | {
      readonly kind: 'exact' | 'prefix'
      readonly field: Field
      readonly branches: ReadonlyMap<string, Tree<Action>>
      readonly otherwise?: Tree<Action>
    }

export interface Branch<Action> {
  readonly predicate: Predicate
  readonly onMatch: Tree<Action>
}

/** Any value, as long as there is one. A dot is no invalid UTF-8 to RE2; this is any byte. */
export const ANY_VALUE: Condition = { kind: 'regex', pattern: '\\C*' }

export function holds(field: Field, condition: Condition): Predicate {
  return { kind: 'field', field, condition }
}

/** @param of at least one */
export function allOf(of: readonly Predicate[]): Predicate {
  return of.length === 1 ? (of[0] as Predicate) : { kind: 'all', of }
}

/** @param of at least one */
export function anyOf(of: readonly Predicate[]): Predicate {
  return of.length === 1 ? (of[0] as Predicate) : { kind: 'any', of }
}

export function not(of: Predicate): Predicate {
  return { kind: 'not', of }
}

/** The first tree; where it matches nothing, the second. */
export function orElse<Action>(first: Tree<Action> | undefined, second: Tree<Action> | undefined): Tree<Action> | undefined {
  if (first === undefined || second === undefined) return first ?? second
  if (first.kind === 'leaf') return first
  return { ...first, otherwise: orElse(first.otherwise, second) as Tree<Action> }
}

const INPUT_TYPE = 'type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput'

const inputs = new Map<Field, Uint8Array>()
const INPUTS_MAX = 1024

/** xds.type.matcher.v3.Matcher. @param encodeAction google.protobuf.Any of an action and a name that only configuration dumps show */
export function encodeMatcher<Action>(
  tree: Tree<Action>,
  encodeAction: (action: Action) => { readonly name: string; readonly typeUrl: string; readonly value: Uint8Array },
): Uint8Array {
  const writer = new BinaryWriter()

  const matcher = (node: Tree<Action>): void => {
    if (node.kind === 'leaf') {
      nested(3, () => onMatch(node))
      return
    }
    if (node.kind === 'list') {
      nested(1, () => {
        for (const { predicate: condition, onMatch: branch } of node.branches) {
          nested(1, () => {
            nested(1, () => predicate(condition))
            nested(2, () => onMatch(branch))
          })
        }
      })
    } else {
      nested(2, () => {
        bytes(1, inputOf(node.field))
        nested(node.kind === 'exact' ? 2 : 3, () => {
          for (const [key, branch] of node.branches) {
            nested(1, () => {
              text(1, key)
              nested(2, () => onMatch(branch))
            })
          }
        })
      })
    }
    const { otherwise } = node
    if (otherwise !== undefined) nested(3, () => onMatch(otherwise))
  }

  const onMatch = (node: Tree<Action>): void => {
    if (node.kind !== 'leaf') {
      nested(1, () => matcher(node))
      return
    }
    const { name, typeUrl, value } = encodeAction(node.action)
    nested(2, () => {
      text(1, name)
      nested(2, () => {
        text(1, typeUrl)
        bytes(2, value)
      })
    })
  }

  const predicate = (node: Predicate): void => {
    switch (node.kind) {
      case 'field':
        nested(1, () => {
          bytes(1, inputOf(node.field))
          nested(2, () => stringMatcher(node.condition))
        })
        break
      case 'not':
        nested(4, () => predicate(node.of))
        break
      default:
        nested(node.kind === 'any' ? 2 : 3, () => {
          for (const each of node.of) nested(1, () => predicate(each))
        })
    }
  }

  const stringMatcher = (condition: Condition): void => {
    if (condition.kind === 'exact') {
      text(1, condition.text)
      return
    }
    nested(5, () => {
      // The engine has to be named, though there is but one.
      nested(1, () => {})
      text(2, condition.pattern)
    })
  }

  const nested = (field: number, write: () => void): void => {
    writer.tag(field, WireType.LengthDelimited).fork()
    write()
    writer.join()
  }
  const text = (field: number, value: string): void => {
    writer.tag(field, WireType.LengthDelimited).string(value)
  }
  const bytes = (field: number, value: Uint8Array): void => {
    writer.tag(field, WireType.LengthDelimited).bytes(value)
  }

  matcher(tree)
  return writer.finish()
}

/** xds.core.v3.TypedExtensionConfig of the input that reads a field. */
function inputOf(field: Field): Uint8Array {
  const known = inputs.get(field)
  if (known !== undefined) return known
  const input = new BinaryWriter().tag(1, WireType.LengthDelimited).string(field).finish()
  const any = new BinaryWriter().tag(1, WireType.LengthDelimited).string(INPUT_TYPE).tag(2, WireType.LengthDelimited).bytes(input).finish()
  const encoded = new BinaryWriter().tag(1, WireType.LengthDelimited).string('input').tag(2, WireType.LengthDelimited).bytes(any).finish()
  // Header names come from policy: what is remembered is bounded all the same.
  if (inputs.size < INPUTS_MAX) inputs.set(field, encoded)
  return encoded
}
