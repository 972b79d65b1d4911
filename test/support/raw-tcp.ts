/** TCP connections of the test's own process, from and in workloads: for bytes that no client sends. */
import { once } from 'node:events'
import { createServer, Socket } from 'node:net'
import { addressToBytes } from '#sys/addresses.ts'
import { inNetns, netnsPath } from '#sys/netns.ts'
import { bindTcp } from '#sys/tcp.ts'
import type { Workload } from './machine.ts'

/** Resolves when it is open. It is half-open when the other side ends. */
export async function connectRaw(from: Workload, host: string, port: number): Promise<Socket> {
  const fd = inNetns(netnsPath(from.netns), () => bindTcp(addressToBytes(from.address), 0, {}))
  const socket = new Socket({ fd, allowHalfOpen: true })
  // How a connection breaks is not the same each time; 'close' follows.
  socket.on('error', () => {})
  socket.connect({ host, port })
  await once(socket, 'connect')
  return socket.unref()
}

/** Resolves when it listens, for as long as the process runs. Connections are half-open when the other side ends. */
export async function serveRaw(workload: Workload, port: number, onConnection: (socket: Socket) => void): Promise<void> {
  const fd = inNetns(netnsPath(workload.netns), () => bindTcp(addressToBytes(workload.address), port, {}))
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {}).unref()
    onConnection(socket)
  })
  server.listen({ fd }).unref()
  await once(server, 'listening')
}

/** Resolves when it is closed, broken or not. */
export async function closeOf(socket: Socket): Promise<void> {
  if (!socket.destroyed) await new Promise((resolve) => socket.once('close', resolve))
}

/** Resolves with everything that still comes, when the other side has ended or the connection is closed. */
export async function restOf(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  const ended = new Promise((resolve) => socket.once('end', resolve))
  if (!socket.readableEnded) await Promise.race([ended, closeOf(socket)])
  return Buffer.concat(chunks)
}
