/** Errors of the agent. */
import { type CodeOf, defineErrors, HeadgateError } from '#config/define-errors.ts'

export const AGENT_ERRORS = defineErrors('Agent', {
  'HG-2001': {
    cause: 'The workloads file is refused; every problem is listed with its line and field. What was accepted before stays in force.',
    next: 'Correct what is listed; the file is watched and read again at once.',
  },
  'HG-2002': {
    cause:
      'An endpoint cannot be attached: its namespace or device is missing, is not a veth pair, or belongs to the host’s own namespace.',
    next: 'Give `netns` the name of an existing network namespace that a veth pair joins to the host, or `interface` the host-side device of one.',
  },
  'HG-2003': {
    cause: 'An endpoint of that name, address or device exists already.',
    next: 'Remove the other one first, or give this one its own name and address.',
  },
  'HG-2004': {
    cause: 'There is no endpoint of that name.',
    next: 'List them with `headgate endpoint list`.',
  },
  'HG-2005': {
    cause: 'An endpoint of the workloads file cannot be removed by command.',
    next: 'Remove it from the file.',
  },
  'HG-2006': {
    cause: 'A state file cannot be read, or was written by a newer version.',
    next: 'Restore the file, or run the version that wrote it. To start over, stop Headgate and move the file away.',
  },
  'HG-2007': {
    cause: 'Another agent runs with the same paths.run.',
    next: 'Stop it, or give this one its own instance and paths.',
  },
  'HG-2008': {
    cause: 'A map in the kernel is full, or a policy has more rows than one group may have.',
    next: 'Raise policy.mapEntriesMax, datapath.ipcacheEntriesMax or datapath.conntrackEntriesMax, or use fewer and wider rules.',
  },
  'HG-2009': {
    cause: 'No slot is left for another set of L7 rules.',
    next: 'Raise datapath.slotsMax, or let rules share peers and ports.',
  },
  'HG-2010': {
    cause: 'The machine cannot run the datapath.',
    next: 'Run `headgate doctor`: it names what is missing.',
  },
  'HG-2011': {
    cause: 'A wait ended before everything was in force.',
    next: 'See `headgate status`: it names the process that has not acknowledged, and what was refused.',
  },
  'HG-2012': {
    cause: 'The workloads file or the policy folder cannot be read.',
    next: 'Check that the path exists and that root may read it. What was accepted before stays in force.',
  },
})

export type AgentErrorCode = CodeOf<typeof AGENT_ERRORS>

export class AgentError extends HeadgateError<AgentErrorCode> {
  override readonly name = 'AgentError'

  constructor(code: AgentErrorCode, message: string, options: ErrorOptions = {}) {
    super(AGENT_ERRORS, code, message, options)
  }
}
