/** The two sides of policy, seen from the endpoint that it is about. */

export const DIRECTIONS = ['ingress', 'egress'] as const
export type Direction = (typeof DIRECTIONS)[number]
