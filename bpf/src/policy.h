/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From (endpoint, direction, peer, protocol, port) to a verdict. */
#ifndef HEADGATE_POLICY_H
#define HEADGATE_POLICY_H

#include "maps.h"
#include "packet.h"

#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2

struct judgement {
	/* the question */
	__u32 identity;
	__u8 direction;
	__u8 protocol;
	__be16 port;
	/* the answer */
	__u32 cookie;
	__u16 slot_port;
	__u16 slot_generation;
	__u8 verdict;
	__u8 reason;	/* of a denial, and of an audited allow: why policy in audit would have dropped it */
	__u8 audit;
};

static __always_inline __u32 identity_of(const struct address *address)
{
	struct ipcache_key key = { .prefix_length = 128, .address = *address };
	struct ipcache_value *value = bpf_map_lookup_elem(&ipcache, &key);

	return value ? value->identity : IDENTITY_WORLD;
}

/* Port as policy rows have it: the service's port, the ICMP type, or 0 where the protocol has none. */
static __always_inline __be16 policy_port(const struct packet *packet, __be16 port)
{
	return packet->protocol == IPPROTO_ICMP ? bpf_htons((__u16)packet->icmp_type << 8) : port;
}

/* Rows are complete (policy/resolved.ts), so the peer's own longest match decides, and identity 0 only where it has none. */
static __noinline int judge_rows(const struct endpoint *endpoint, struct judgement *judgement)
{
	struct policy_key key = {};
	struct policy_value *row;
	__u32 group;
	void *rows;

	if (!endpoint || !judgement)
		return 0;
	judgement->verdict = VERDICT_DENY;
	judgement->reason = REASON_NO_POLICY;
	group = endpoint->policy_group;
	rows = bpf_map_lookup_elem(&policy_groups, &group);
	if (!rows)
		return 0;
	key.prefix_length = POLICY_PREFIX_FULL;
	key.identity = judgement->identity;
	key.direction = judgement->direction;
	key.protocol = judgement->protocol;
	key.port = judgement->port;
	row = bpf_map_lookup_elem(rows, &key);
	if (!row) {
		key.identity = 0;
		row = bpf_map_lookup_elem(rows, &key);
	}
	judgement->reason = REASON_POLICY_DENIED;
	if (!row)
		return 0;
	judgement->cookie = row->cookie;
	judgement->verdict = row->verdict;
	judgement->audit = row->verdict == VERDICT_ALLOW && (row->flags & POLICY_AUDIT);
	if (row->verdict == VERDICT_DENY || judgement->audit) {
		if (row->flags & POLICY_EXPLICIT_DENY)
			judgement->reason = REASON_POLICY_DENY_RULE;
		return 0;
	}
	judgement->reason = REASON_NONE;
	judgement->slot_port = row->slot_port;
	judgement->slot_generation = row->slot_generation;
	return 0;
}

static __always_inline void judge(const struct endpoint *endpoint, __u8 direction, __u32 identity, __u8 protocol, __be16 port,
				  struct judgement *judgement)
{
	__u32 enforce = direction == DIRECTION_INGRESS ? ENDPOINT_ENFORCE_INGRESS : ENDPOINT_ENFORCE_EGRESS;

	__builtin_memset(judgement, 0, sizeof(*judgement));
	judgement->identity = identity;
	judgement->direction = direction;
	judgement->protocol = protocol;
	judgement->port = port;
	judgement->verdict = VERDICT_ALLOW;
	if (!(endpoint->flags & enforce))
		return;
	if (direction == DIRECTION_INGRESS && identity == IDENTITY_HOST && (endpoint->flags & ENDPOINT_ALLOW_LOCALHOST))
		return;
	judge_rows(endpoint, judgement);
}

#endif
