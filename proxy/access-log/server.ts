/** Takes Envoy's access log streams. Envoy never waits for an answer, so there is none. */
import type { Server } from '@grpc/grpc-js'
import { AccessLogService } from '#api/gen/envoy/service/accesslog/v3/als_pb.js'
import type { HttpFlow } from '#api/gen/headgate/v1/control_pb.js'
import { addService } from '#api/grpc.ts'
import { flowOf } from './entry.ts'

/** Adds the service to a server that is not listening yet. */
export function registerAccessLog(server: Server, onFlow: (flow: HttpFlow) => void): void {
  addService(server, AccessLogService, {
    streamAccessLogs: (call) => {
      call.on('data', ({ logEntries }) => {
        if (logEntries.case !== 'httpLogs') return
        for (const entry of logEntries.value.logEntry) onFlow(flowOf(entry))
      })
      // The stream ends with Envoy, or with this process.
      call.on('error', () => {})
    },
  })
}
