/**
 * What can be said of label selectors without knowing any endpoint. `implies` is never wrong when it says yes; `mayBothSelect` is wrong
 * when it says no only where an endpoint has one key from two sources, which is left out of account: nobody labels like that, and every
 * pair of policies would have to be doubted for it.
 */
import { ANY_SOURCE } from '../labels.ts'
import type { LabelRequirement, LabelSelector } from '../model.ts'
import { NAMESPACE_LABEL_KEY } from '../reserved.ts'

/** Whatever the first selects, the second selects too. */
export function implies(narrow: LabelSelector, wide: LabelSelector): boolean {
  return wide.requirements.every((wanted) => narrow.requirements.some((given) => requirementImplies(given, wanted)))
}

function requirementImplies(given: LabelRequirement, wanted: LabelRequirement): boolean {
  if (given.key !== wanted.key) return false
  const { values } = given
  const isSameSource = given.source === wanted.source
  switch (wanted.operator) {
    case 'Exists':
      return isPositive(given) && (isSameSource || wanted.source === ANY_SOURCE)
    case 'In':
      return (
        given.operator === 'In' && (isSameSource || wanted.source === ANY_SOURCE) && values.every((value) => wanted.values.includes(value))
      )
    case 'DoesNotExist':
      return given.operator === 'DoesNotExist' && (isSameSource || given.source === ANY_SOURCE)
    case 'NotIn':
      // Of one source there is one value; of any source there may be others beside it.
      if (given.operator === 'In')
        return isSameSource && given.source !== ANY_SOURCE && !values.some((value) => wanted.values.includes(value))
      if (!isSameSource && given.source !== ANY_SOURCE) return false
      return given.operator === 'DoesNotExist' || (given.operator === 'NotIn' && wanted.values.every((value) => values.includes(value)))
  }
}

/** Somebody may be selected by both. */
export function mayBothSelect(a: LabelSelector, b: LabelSelector): boolean {
  return !a.requirements.some((one) => b.requirements.some((other) => excludes(one, other) || excludes(other, one)))
}

function excludes(one: LabelRequirement, other: LabelRequirement): boolean {
  // Reserved identities are no endpoints: they have no namespace. (Pods that are being set up have one and are reserved:init.)
  if (one.source === 'reserved' && one.key !== 'init' && isPositive(one) && other.key === NAMESPACE_LABEL_KEY && isPositive(other))
    return true
  if (one.key !== other.key || !isPositive(one)) return false
  if (one.source !== other.source && one.source !== ANY_SOURCE && other.source !== ANY_SOURCE) return false
  switch (other.operator) {
    case 'Exists':
      return false
    case 'In':
      return one.operator === 'In' && !one.values.some((value) => other.values.includes(value))
    case 'DoesNotExist':
      return true
    case 'NotIn':
      return one.operator === 'In' && one.values.every((value) => other.values.includes(value))
  }
}

function isPositive({ operator }: LabelRequirement): boolean {
  return operator === 'In' || operator === 'Exists'
}

/** Namespaces that it is bound to; undefined: whichever. */
export function namespacesOf({ requirements }: LabelSelector): readonly string[] | undefined {
  return requirements.find(({ key, operator }) => key === NAMESPACE_LABEL_KEY && operator === 'In')?.values
}

/** Labels other than the namespace of which it needs exactly one value, as `key=value`: whatever implies it needs each of them too. */
export function exactLabels({ requirements }: LabelSelector): string[] {
  return requirements.flatMap(({ key, operator, values }) =>
    operator === 'In' && values.length === 1 && key !== NAMESPACE_LABEL_KEY ? [`${key}=${values[0]}`] : [],
  )
}
