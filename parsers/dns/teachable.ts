/**
 * Which addresses no answer teaches, whatever a server says: what the DNS process goes by when it learns, and the simulator when it says what
 * would be learned. Whose an address is, each of them knows in its own way; here are the ranges, and the words.
 */

/** Loopback, link-local and the cloud's metadata in it, multicast, reserved, "this network", and addresses that embed others. */
export const NEVER_TAUGHT = [
  '0.0.0.0/8',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/4',
  '240.0.0.0/4',
  '::/96',
  '::1/128',
  'fe80::/10',
  'ff00::/8',
  '64:ff9b::/96',
  '2002::/16',
  // Metadata of clouds that has an address of its own.
  '100.100.100.200/32',
  'fd00:ec2::254/128',
] as const

/** Why an address teaches nothing. */
export const NOT_TAUGHT = {
  endpoint: 'an endpoint has it',
  node: 'a node or a service has it',
  range: 'not an address of the world',
} as const
