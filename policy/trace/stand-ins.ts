/** Endpoints that nobody knows, made of what selectors ask for: who stands for them when there is no file that tells who there is. */
import type { LabelSelector } from '../model.ts'

/** Labels that meet a selector, for Scene.party; undefined where it is about no endpoint, or asks for nothing that could be stated. */
export function labelsMeeting({ requirements }: LabelSelector): string | undefined {
  if (requirements.some(({ source }) => source === 'reserved')) return undefined
  const labels = requirements.flatMap(({ source, key, operator, values }) =>
    operator === 'In' || operator === 'Exists' ? [`${source === 'any' ? 'k8s' : source}:${key}=${values[0] ?? ''}`] : [],
  )
  return labels.length > 0 && labels.every((label) => !label.includes(',')) ? [...new Set(labels)].sort().join() : undefined
}
