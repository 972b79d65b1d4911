/** A supervisor in a process of its own, to be killed: `host.ts FOLDER CHILDREN-JSON`; events go to standard output, one JSON a line. */
import type { ChildSpec } from '#cli/supervisor/child-keeper.ts'
import { Supervisor } from '#cli/supervisor/supervisor.ts'

const [folder = '', children = '[]'] = process.argv.slice(2)
const supervisor = new Supervisor({
  folder,
  children: JSON.parse(children) as ChildSpec[],
  onEvent: (name, event) => process.stdout.write(`${JSON.stringify({ name, ...event })}\n`),
})
supervisor.start()
process.once('SIGTERM', () => void supervisor.stop().then(() => process.exit(0)))
setInterval(() => {}, 2 ** 30)
