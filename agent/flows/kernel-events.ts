/**
 * Reads the kernel's ring buffer of events, woken by the kernel. A wake costs far more than an event, so after one the reader lets
 * events gather; while they come faster than that, it reads on without waiting.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { type Event, eventCodec } from '#bpf/gen/abi.ts'
import { RingBuffer } from '#sys/libbpf.ts'
import { waitReadable } from '#sys/libc.ts'

/** A flow is seen this late at most. */
const GATHER_MS = 50
/** Of the ring's size, so little that it cannot fill up while the reader waits. */
const READ_ON_AT = 512

/** A stopped reader gives its pool thread back within this time. */
const POLL_SLICE_MS = 500

/** Runs until the signal aborts. */
export async function readKernelEvents(eventsFd: number, onEvent: (event: Event) => void, signal: AbortSignal): Promise<void> {
  const ring = new RingBuffer(eventsFd, (record) => {
    if (record.length >= eventCodec.size) onEvent(eventCodec.decode(record))
  })
  try {
    while (!signal.aborted) {
      if (!(await waitReadable(ring.epollFd, POLL_SLICE_MS))) continue
      if (ring.consume() < READ_ON_AT) await delay(GATHER_MS, undefined, { signal }).catch(() => {})
    }
  } finally {
    ring.close()
  }
}
