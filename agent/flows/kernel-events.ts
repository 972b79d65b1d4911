/** Reads the kernel's ring buffer of events, woken by the kernel; a budget a turn keeps a flood from starving the rest of the agent. */
import { type Event, eventCodec } from '#bpf/gen/abi.ts'
import { RingBuffer } from '#sys/libbpf.ts'
import { waitReadable } from '#sys/libc.ts'

/** A stopped reader gives its pool thread back within this time. */
const POLL_SLICE_MS = 500

/** Runs until the signal aborts. */
export async function readKernelEvents(eventsFd: number, onEvent: (event: Event) => void, signal: AbortSignal): Promise<void> {
  const ring = new RingBuffer(eventsFd, (record) => {
    if (record.length >= eventCodec.size) onEvent(eventCodec.decode(record))
  })
  try {
    while (!signal.aborted) {
      if (await waitReadable(ring.epollFd, POLL_SLICE_MS)) ring.consume()
    }
  } finally {
    ring.close()
  }
}
