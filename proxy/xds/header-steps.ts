/**
 * Filters behind the rules that do what allow rules ask for when a header is not as wanted: one for each such rule, in the order of
 * their names, so each sees the headers as the ones before it left them. All of it is Envoy's own: a matcher chooses, header_mutation
 * changes, set_metadata notes it for the flow.
 */
import { create, fromBinary, type MessageInitShape } from '@bufbuild/protobuf'
import { HeaderMutationSchema as MutationSchema } from '#api/gen/envoy/config/common/mutation_rules/v3/mutation_rules_pb.js'
import { HeaderValueOption_HeaderAppendAction } from '#api/gen/envoy/config/core/v3/base_pb.js'
import { type TypedExtensionConfig, TypedExtensionConfigSchema } from '#api/gen/envoy/config/core/v3/extension_pb.js'
import { ExtensionWithMatcherSchema } from '#api/gen/envoy/extensions/common/matching/v3/extension_matcher_pb.js'
import { CompositeSchema, ExecuteFilterActionSchema } from '#api/gen/envoy/extensions/filters/http/composite/v3/composite_pb.js'
import { HeaderMutationSchema, MutationsSchema } from '#api/gen/envoy/extensions/filters/http/header_mutation/v3/header_mutation_pb.js'
import {
  MetadataSchema,
  ConfigSchema as SetMetadataSchema,
} from '#api/gen/envoy/extensions/filters/http/set_metadata/v3/set_metadata_pb.js'
import { type HeaderMatch, type HttpRule, MismatchAction } from '#api/gen/headgate/v1/control_pb.js'
import { MatcherSchema } from '#api/gen/xds/type/matcher/v3/matcher_pb.js'
import { actionWord } from '#api/mismatch-actions.ts'
import { METADATA_FIELDS, METADATA_NAMESPACE } from '../ext-host/contract.ts'
import { ANY_VALUE, allOf, encodeMatcher, holds, not, type Predicate, type Tree } from './matcher.ts'
import { packAny } from './resource.ts'
import { actionsOf, inNameOrder, termsOf } from './rule-terms.ts'
import { predicateOf } from './rule-tree.ts'

/** @param rules allow rules */
export function headerSteps(rules: readonly HttpRule[]): TypedExtensionConfig[] {
  return inNameOrder(rules)
    .filter((rule) => actionsOf(rule).length > 0)
    .flatMap((rule) => {
      const predicate = predicateOf(termsOf(rule, 'allow'))
      const steps = actionsOf(rule).map(stepOf)
      // They belong together: the rule is asked once, before the first of them.
      return predicate === undefined ? steps : [filtersWhere({ kind: 'list', branches: [{ predicate, onMatch: leafOf(steps) }] })]
    })
}

/** A filter that runs others for the requests that the tree leads to them. Of several, only the last may wait for anything. */
export function filtersWhere(tree: Tree<readonly TypedExtensionConfig[]>): TypedExtensionConfig {
  const matcher = encodeMatcher(tree, (typedConfig) => {
    const action = packAny(ExecuteFilterActionSchema, create(ExecuteFilterActionSchema, { filterChain: { typedConfig: [...typedConfig] } }))
    return { name: 'execute', typeUrl: action.typeUrl, value: action.value }
  })
  return extension(
    'where',
    ExtensionWithMatcherSchema,
    create(ExtensionWithMatcherSchema, {
      extensionConfig: extension('composite', CompositeSchema, create(CompositeSchema)),
      xdsMatcher: fromBinary(MatcherSchema, matcher),
    }),
  )
}

function leafOf(action: readonly TypedExtensionConfig[]): Tree<readonly TypedExtensionConfig[]> {
  return { kind: 'leaf', action }
}

function stepOf(match: HeaderMatch): TypedExtensionConfig {
  const mutation = mutationOf(match)
  const filters = [...(mutation === undefined ? [] : [mutation]), noteOf(match)]
  return filtersWhere({ kind: 'list', branches: [{ predicate: mismatchOf(match), onMatch: leafOf(filters) }] })
}

/** Whether there is something to be done. */
function mismatchOf({ name, value, mismatch }: HeaderMatch): Predicate {
  const isThere = holds(name, ANY_VALUE)
  if (!value) return not(isThere)
  const isOther = not(holds(name, { kind: 'exact', text: value }))
  return mismatch === MismatchAction.DELETE ? allOf([isThere, isOther]) : isOther
}

/** @returns undefined when nothing is changed: there is nothing to write, or to remove */
function mutationOf({ name, value, mismatch }: HeaderMatch): TypedExtensionConfig | undefined {
  if (!value || mismatch === MismatchAction.LOG) return undefined
  const appendAction =
    mismatch === MismatchAction.ADD
      ? HeaderValueOption_HeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
      : HeaderValueOption_HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
  const mutation: MessageInitShape<typeof MutationSchema> =
    mismatch === MismatchAction.DELETE
      ? { action: { case: 'remove', value: name } }
      : { action: { case: 'append', value: { header: { key: name, value: escapeFormat(value) }, appendAction } } }
  const mutations = create(MutationsSchema, { requestMutations: [create(MutationSchema, mutation)] })
  return extension('change', HeaderMutationSchema, create(HeaderMutationSchema, { mutations }))
}

/** Envoy reads values as formats. */
function escapeFormat(value: string): string {
  return value.replaceAll('%', '%%')
}

function noteOf({ name, mismatch }: HeaderMatch): TypedExtensionConfig {
  const value = { [METADATA_FIELDS.headers]: { [name]: actionWord(mismatch) ?? '' } }
  const metadata = [create(MetadataSchema, { metadataNamespace: METADATA_NAMESPACE, allowOverwrite: true, value })]
  return extension('note', SetMetadataSchema, create(SetMetadataSchema, { metadata }))
}

function extension(...[name, schema, message]: [string, ...Parameters<typeof packAny>]): TypedExtensionConfig {
  return create(TypedExtensionConfigSchema, { name, typedConfig: packAny(schema, message) })
}
