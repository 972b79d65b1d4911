/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Counters and events. Every packet that a program judges is counted once; connections and drops become events too. */
#ifndef HEADGATE_REPORT_H
#define HEADGATE_REPORT_H

#include "maps.h"
#include "packet.h"

static __always_inline void count(__u8 verdict, __u8 direction, __u8 reason, __u32 length)
{
	__u32 index = (verdict * 2 + direction) * REASON_MAX + (reason & (REASON_MAX - 1));
	struct counter_value *value = bpf_map_lookup_elem(&counters, &index);

	if (value) {
		value->packets++;
		value->bytes += length;
	}
}

/* What an event tells beside the packet. */
struct report {
	__u32 endpoint_id;
	__u32 local_identity;
	__u32 remote_identity;
	__u32 cookie;
	__u16 slot_port;
	__u8 verdict;
	__u8 reason;
	__u8 direction;
	__u8 leg;
	__u8 local_is_source;
};

/* A flood of packets must not become a flood of events: each CPU has so many a second, and what is beyond is counted. */
static __always_inline struct event_budget *spend_event(const struct config *config, int *allowed)
{
	__u32 zero = 0;
	struct event_budget *budget = bpf_map_lookup_elem(&event_budgets, &zero);
	__u64 now = bpf_ktime_get_coarse_ns();

	*allowed = 0;
	if (!budget)
		return 0;
	if (now - budget->window_ns > SECOND_NS) {
		budget->window_ns = now;
		budget->used = 0;
	}
	if (budget->used < config->events_per_second) {
		budget->used++;
		*allowed = 1;
	} else {
		budget->lost++;
	}
	return budget;
}

static __noinline void emit(struct __sk_buff *skb, const struct packet *packet, const struct report *report)
{
	const struct config *config = settings();
	struct event_budget *budget;
	struct event *event;
	int allowed;

	if (!packet || !report || !config)
		return;
	budget = spend_event(config, &allowed);
	if (!budget || !allowed)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		budget->lost++;
		return;
	}
	event->time_ns = bpf_ktime_get_ns();
	event->endpoint_id = report->endpoint_id;
	event->local_identity = report->local_identity;
	event->remote_identity = report->remote_identity;
	event->cookie = report->cookie;
	event->local = report->local_is_source ? packet->source : packet->destination;
	event->remote = report->local_is_source ? packet->destination : packet->source;
	event->local_port = report->local_is_source ? packet->source_port : packet->destination_port;
	event->remote_port = report->local_is_source ? packet->destination_port : packet->source_port;
	event->protocol = packet->protocol;
	event->verdict = report->verdict;
	event->reason = report->reason;
	event->direction = report->direction;
	event->leg = report->leg;
	event->tcp_flags = packet->tcp_flags;
	event->slot_port = report->slot_port;
	event->packet_length = skb->len;
	bpf_ringbuf_submit(event, 0);
}

/* Counts, reports and drops. */
static __always_inline int drop(struct __sk_buff *skb, const struct packet *packet, struct report *report, __u8 reason)
{
	report->verdict = VERDICT_DENY;
	report->reason = reason;
	count(VERDICT_DENY, report->direction, reason, skb->len);
	emit(skb, packet, report);
	return TCX_DROP;
}

/* The same on a leg, where no endpoint is known yet. */
static __always_inline int drop_on_leg(struct __sk_buff *skb, const struct packet *packet, __u8 direction, __u8 reason)
{
	struct report report = { .direction = direction };

	return drop(skb, packet, &report, reason);
}

static __always_inline int pass(struct __sk_buff *skb, __u8 direction)
{
	count(VERDICT_ALLOW, direction, REASON_NONE, skb->len);
	return TCX_NEXT;
}

#endif
