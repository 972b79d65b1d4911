/** What can be known of a local socket without speaking gRPC: apart, so that a launcher need not load what speaks it. */
import { createConnection } from 'node:net'

/** Whether a process accepts connections on a UNIX socket. */
export function isAnswering(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
