import test from 'ava'
import { BPF_TCX_EGRESS, BPF_TCX_INGRESS, createLink, programNameById, queryPrograms } from '#sys/libbpf.ts'
import { inNetns } from '#sys/netns.ts'
import { withRoute } from '#sys/rtnetlink.ts'
import { loadProgram } from '../support/bpf-program.ts'
import { Machine } from '../support/machine.ts'
import { get, policyOf, Running, rule, serve } from '../support/running.ts'

for (const before of [true, false])
test.serial(`experiment before=${before}`, async (t) => {
  const machine = new Machine()
  const headgate = new Running(machine)
  try {
    const web = machine.addWorkload('web')
    const api = machine.addWorkload('api')
    machine.writeWorkloads()
    await serve(machine, api, 80)
    const program = loadProgram('tc', 'cil_to_container', 0)
    const path = `/run/netns/${machine.hostNetns}`
    const put = () => inNetns(path, () => {
      const index = withRoute(undefined, (r) => r.link(api.device)?.index ?? 0)
      for (const type of [BPF_TCX_INGRESS, BPF_TCX_EGRESS]) createLink(program, index, type, 'x')
    })
    const look = () => inNetns(path, () => {
      for (const type of [BPF_TCX_INGRESS, BPF_TCX_EGRESS]) {
      const index = withRoute(undefined, (r) => r.link(api.device)?.index ?? 0)
      t.log(queryPrograms(index, type, 0, 'x').map((id) => programNameById(id)))
    }})
    if (before) put()
    headgate.start()
    await headgate.apply('api.json', policyOf('api', 'api', rule('ingress', 'nobody', 80)))
    if (!before) put()
    look()
    t.log(await get(machine, web, `http://${api.address}/x`))
    t.pass()
  } finally {
    headgate.close()
    await machine.dispose()
  }
})
