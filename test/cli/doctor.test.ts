import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmdirSync, unlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { BPF_F_BEFORE, BPF_TCX_EGRESS, BPF_TCX_INGRESS, pin } from '#sys/libbpf.ts'
import { close } from '#sys/libc.ts'
import { attachToCgroup, attachToDevice, loadProgram } from '../support/bpf-program.ts'
import { ip, type Machine, ROOT } from '../support/machine.ts'
import { withMachine } from '../support/running.ts'

/** Answers that let the next program judge, or pass the packet on at once. */
const TCX_NEXT = -1
const TCX_PASS = 0
const BPF_CGROUP_INET_EGRESS = 1

interface Finding {
  readonly name: string
  readonly level: string
  readonly detail: string
  readonly hint: string
}

async function findings(t: ExecutionContext, machine: Machine): Promise<(name: string) => Finding> {
  const { code, stdout, stderr } = await machine.cli('doctor', '-o', 'json')
  const report = JSON.parse(stdout) as { ok: boolean; findings: Finding[] }
  t.is(code, report.ok ? 0 : 1, stderr)
  return (name) => report.findings.find((finding) => finding.name === name) ?? { name, level: 'none', detail: '', hint: '' }
}

test.serial('doctor says what it found, good things too, and that strict rp_filter is none', async (t) => {
  await withMachine(async (machine) => {
    machine.addWorkload('web')
    machine.inHost('sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=0', 'net.ipv4.conf.default.rp_filter=2', 'net.ipv4.conf.vweb.rp_filter=1')
    const text = await machine.cli('doctor')
    t.is(text.code, 0, text.stdout)
    t.regex(
      text.stdout,
      /^rp_filter +ok +all=0 default=2, .*strict on vweb.*; strict is supported, the proxies have namespaces of their own/m,
    )
    t.regex(text.stdout, /^tcx programs +ok +no others on \d+ devices$/m)
    t.regex(text.stdout, /^tc filters +ok +no clsact qdisc on \d+ devices$/m)
    t.regex(text.stdout, /^ports +ok +none of the host; 20000 to 23999 in namespaces of the instance’s own$/m)
    t.regex(text.stdout, new RegExp(`^instance +ok +${machine.id} is new here$`, 'm'))
    t.regex(text.stdout, /^0 errors, 0 warnings$/m)
    machine.inHost('sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1')
    t.regex((await findings(t, machine))('rp_filter').detail, /^all=1 default=2, strict on .*vweb/)
  })
})

test.serial('tcx programs of others are told by name and place, and warned of where they run before Headgate’s', async (t) => {
  await withMachine(async (machine, headgate) => {
    const [first, second] = [machine.addWorkload('first'), machine.addWorkload('second')]
    machine.writeWorkloads()
    const [passing, watching] = [loadProgram('tc', 'passer', TCX_PASS), loadProgram('tc', 'watcher', TCX_NEXT)]
    const early = attachToDevice(machine, first, passing, BPF_TCX_EGRESS)
    const alone = (await findings(t, machine))('tcx programs')
    t.like(alone, { level: 'ok', hint: '' })
    t.regex(alone.detail, /^passer on egress of vfirst \(\d+ devices\): Headgate’s run beside them$/)

    headgate.start('agent')
    await Promise.all(['first', 'second'].map((name) => headgate.waitForEndpoint(name)))
    const behind = attachToDevice(machine, second, watching, BPF_TCX_INGRESS)
    t.like((await findings(t, machine))('tcx programs'), { level: 'ok' })
    close(early)

    const ahead = attachToDevice(machine, first, passing, BPF_TCX_EGRESS, BPF_F_BEFORE)
    const both = (await findings(t, machine))('tcx programs')
    t.like(both, { level: 'warning' })
    t.regex(both.detail, /^passer on egress of vfirst; watcher on ingress of vsecond \(/)
    t.regex(both.hint, /^policy does not judge what a program ahead of Headgate’s passes on/)

    close(ahead)
    const beside = (await findings(t, machine))('tcx programs')
    t.like(beside, { level: 'ok', hint: '' })
    t.regex(beside.detail, /^watcher on ingress of vsecond \(\d+ devices\): Headgate’s run beside them$/)

    const cilium = attachToDevice(machine, second, loadProgram('tc', 'cil_from_contai', TCX_NEXT), BPF_TCX_INGRESS)
    const known = (await findings(t, machine))('tcx programs')
    t.like(known, { level: 'warning' })
    t.regex(known.hint, /^programs of Cilium that redirect packets straight into a workload’s namespace take them past Headgate/)
    for (const link of [behind, cilium]) close(link)
    for (const program of [passing, watching]) close(program)
    t.regex((await findings(t, machine))('instance').detail, /runs already, with .*: agent \(pid \d+\)$/)
  })
})

test.serial('eBPF filters in a clsact qdisc are warned of, and an empty one is not', async (t) => {
  await withMachine(async (machine) => {
    const { device } = machine.addWorkload('web')
    machine.inHost('tc', 'qdisc', 'add', 'dev', device, 'clsact')
    const empty = (await findings(t, machine))('tc filters')
    t.like(empty, { level: 'ok' })
    t.regex(empty.detail, /^no filter in the clsact qdisc of vweb /)

    machine.inHost('tc', 'filter', 'add', 'dev', device, 'egress', 'u32', 'match', 'u32', '0', '0', 'classid', '1:1')
    const plain = (await findings(t, machine))('tc filters')
    t.like(plain, { level: 'ok' })
    t.regex(plain.detail, /^a filter of kind u32 on egress of vweb .*: they run after Headgate’s programs$/)

    const program = loadProgram('tc', 'cali_tc_preambl', TCX_NEXT)
    const path = `/sys/fs/bpf/${machine.id}-cali`
    pin(program, path)
    t.teardown(() => unlinkSync(path))
    machine.inHost('tc', 'filter', 'add', 'dev', device, 'ingress', 'bpf', 'da', 'object-pinned', path)
    const calico = (await findings(t, machine))('tc filters')
    t.like(calico, { level: 'warning' })
    t.regex(calico.detail, /^cali_tc_preambl on ingress of vweb; a filter of kind u32 on egress of vweb /)
    t.regex(calico.hint, /^programs of Calico /)
    close(program)
  })
})

/** Where the unified hierarchy is mounted: the machine's own mount, or one for the test. */
function cgroup2(t: ExecutionContext): string {
  const line = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .find((each) => each.includes(' - cgroup2 '))
  const mounted = line?.split(' ')[4]
  if (mounted !== undefined) return mounted
  const folder = mkdtempSync(join(tmpdir(), 'hg-cgroup-'))
  t.teardown(() => rmdirSync(folder))
  execFileSync('mount', ['-t', 'cgroup2', 'none', folder])
  t.teardown(() => execFileSync('umount', [folder]))
  return folder
}

test.serial('programs of the cgroup that Envoy would run in are told', async (t) => {
  await withMachine(async (machine) => {
    const cgroup = join(cgroup2(t), machine.id)
    mkdirSync(cgroup)
    t.teardown(() => rmdirSync(cgroup))
    const folder = openSync(cgroup, 'r')
    const program = loadProgram('cgroup-skb', 'sd_fw_egress', 1)
    attachToCgroup(program, folder, BPF_CGROUP_INET_EGRESS)
    closeSync(folder)
    close(program)
    const command = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
    const doctor = [join(ROOT, 'bin/headgate'), 'doctor', '--config', machine.configFile]
    const { stdout } = await machine.run(machine.hostNetns, ['sh', '-c', command, cgroup, ...doctor])
    t.regex(stdout, new RegExp(`^cgroup programs +warning +sd_fw_egress on egress \\(${cgroup}\\)$`, 'm'))
    t.regex(stdout, /^cgroup programs: these programs may refuse or rewrite connections of Envoy too/m)
  })
})

test.serial('sockets, namespaces and ports that somebody else holds are told', async (t) => {
  await withMachine(async (machine) => {
    const stranger = createServer().listen(join(machine.folder, 'run/local.sock'))
    await once(stranger, 'listening')
    const held = (await findings(t, machine))('instance')
    t.like(held, { level: 'warning' })
    t.regex(held.detail, /^somebody answers on .*\/run\/local\.sock, and no process of this instance is seen to run$/)
    stranger.close()

    const egress = `${machine.id}-egress`
    ip('netns', 'add', egress)
    ip('-n', egress, 'link', 'set', 'lo', 'up')
    const squatter = machine.start(egress, [
      join(ROOT, 'bin/node'),
      '-e',
      'require("net").createServer().listen(20007, "127.0.0.1", () => console.log("up"))',
    ])
    await once(squatter.stdout as never, 'data')
    const find = await findings(t, machine)
    t.like(find('instance'), {
      level: 'warning',
      detail: `the namespace ${egress} is there, but ${machine.folder}/run knows nothing of it`,
    })
    t.like(find('ports'), { level: 'warning', detail: `port 20007 is taken in the namespace ${egress}, though Envoy does not run` })
  })
})

test.serial('without libbpf, doctor says what to install and goes on', async (t) => {
  await withMachine(async (machine) => {
    const hide = 'mount --bind /dev/null "$(readlink -f /usr/lib/*/libbpf.so.1)"; exec "$0" "$@"'
    const doctor = [join(ROOT, 'bin/headgate'), 'doctor', '--config', machine.configFile]
    const { code, stdout, stderr } = await machine.run(machine.hostNetns, ['unshare', '--mount', 'sh', '-c', hide, ...doctor])
    t.is(code, 1, stderr)
    t.regex(stdout, /^libbpf +ERROR +Failed to load shared library/m)
    t.regex(stdout, /^libbpf: install the package libbpf1$/m)
    const agent = [join(ROOT, 'bin/headgate'), 'agent', '--config', machine.configFile]
    const ended = await machine.run(machine.hostNetns, ['unshare', '--mount', 'sh', '-c', hide, ...agent])
    t.is(ended.code, 1)
    t.regex(ended.stderr, /^error HG-2010: libbpf: Failed to load shared library/)
    for (const other of ['kernel', 'root', 'capabilities', 'btf', 'programs', 'envoy', 'rp_filter', 'ports']) {
      t.regex(stdout, new RegExp(`^${other} +ok `, 'm'))
    }
  })
})

test.serial('of very many devices the first are looked at, and the rest is counted', async (t) => {
  await withMachine(async (machine) => {
    const { device } = machine.addWorkload('web')
    const batch = join(machine.folder, 'devices')
    writeFileSync(batch, Array.from({ length: 1030 }, (_, index) => `link add d${index} type bridge\n`).join(''))
    machine.inHost('ip', '-batch', batch)
    machine.inHost('tc', 'qdisc', 'add', 'dev', device, 'clsact')
    const find = await findings(t, machine)
    t.regex(find('tcx programs').detail, /^no others on 1024 devices, \d+ others not looked at$/)
    t.regex(find('tc filters').detail, /^no clsact qdisc on 1024 devices, \d+ others not looked at$/)
    t.regex(find('rp_filter').detail, /, \d+ others not looked at/)
  })
})
