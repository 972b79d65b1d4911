/** Whether a selector selects a set of labels, by Kubernetes' rules for requirements and Cilium's for label sources. */
import type { LabelSet } from './labels.ts'
import type { LabelRequirement, LabelSelector } from './model.ts'

export function selects(selector: LabelSelector, labels: LabelSet): boolean {
  return selector.requirements.every((requirement) => meets(requirement, labels))
}

function meets({ source, key, operator, values }: LabelRequirement, labels: LabelSet): boolean {
  const found = labels.find(source, key)
  switch (operator) {
    case 'In':
      return found.some(({ value }) => values.includes(value))
    case 'NotIn':
      // An absent key meets NotIn.
      return !found.some(({ value }) => values.includes(value))
    case 'Exists':
      return found.length > 0
    case 'DoesNotExist':
      return found.length === 0
  }
}
