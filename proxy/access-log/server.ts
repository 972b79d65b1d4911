/** Takes Envoy's access log streams. Envoy never waits for an answer, so there is none. */
import type { Server } from '@grpc/grpc-js'
import { AccessLogService } from '#api/gen/envoy/service/accesslog/v3/als_pb.js'
import type { HttpFlow } from '#api/gen/headgate/v1/control_pb.js'
import { addService } from '#api/grpc.ts'
import { flowOf } from './entry.ts'
import type { ReceivedEntries } from './received.ts'

/** Adds the service to a server that is not listening yet. */
export function registerAccessLog(server: Server, received: ReceivedEntries, onFlow: (flow: HttpFlow) => void): void {
  addService(server, AccessLogService, {
    streamAccessLogs: (call) => {
      const count = received.current()
      call.on('data', ({ logEntries }) => {
        if (logEntries.case !== 'httpLogs') return
        count?.add(logEntries.value.logEntry.length)
        for (const entry of logEntries.value.logEntry) onFlow(flowOf(entry))
      })
      // The stream ends with Envoy, or with this process.
      call.on('error', () => {})
    },
  })
}
