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
	__u8 nameable;	/* names may be known for the address */
	/* the answer */
	__u32 cookie;
	__u16 slot_port;
	__u16 slot_generation;
	__u8 verdict;
	__u8 reason;	/* of a denial, and of an audited allow: why policy in audit would have dropped it */
	__u8 audit;
};

/* Who an address is, and whether names may be known for it: not where it is an endpoint's or a node's. */
static __always_inline __u32 identity_of(const struct address *address, int *is_nameable)
{
	struct ipcache_key key = { .prefix_length = 128, .address = *address };
	struct ipcache_value *value = bpf_map_lookup_elem(&ipcache, &key);

	*is_nameable = !value || (value->flags & IPCACHE_PREFIX);
	return value ? value->identity : IDENTITY_WORLD;
}

/* Port as policy rows have it: the service's port, the ICMP type, or 0 where the protocol has none. */
static __always_inline __be16 policy_port(const struct packet *packet, __be16 port)
{
	return packet->protocol == IPPROTO_ICMP ? bpf_htons((__u16)packet->icmp_type << 8) : port;
}

/* What a row says, as far as it is one. */
static __always_inline void read_row(struct judgement *judgement, const struct policy_value *row)
{
	judgement->verdict = VERDICT_DENY;
	judgement->reason = REASON_POLICY_DENIED;
	judgement->audit = 0;
	judgement->cookie = 0;
	judgement->slot_port = 0;
	judgement->slot_generation = 0;
	if (!row)
		return;
	judgement->cookie = row->cookie;
	judgement->verdict = row->verdict;
	judgement->audit = row->verdict == VERDICT_ALLOW && (row->flags & POLICY_AUDIT);
	if (row->verdict == VERDICT_DENY || judgement->audit) {
		if (row->flags & POLICY_EXPLICIT_DENY)
			judgement->reason = REASON_POLICY_DENY_RULE;
		return;
	}
	judgement->reason = REASON_NONE;
	judgement->slot_port = row->slot_port;
	judgement->slot_generation = row->slot_generation;
}

/* Of rows of several selectors that one address stands for: what allows wins over what sends to a proxy, as their rules add up; both
 * over a deny by name, which holds only while no name that policy lets through claims the address. */
#define RANK_REDIRECT 3

static __always_inline int rank_of(const struct policy_value *row)
{
	if (row->verdict == VERDICT_ALLOW)
		return (row->flags & POLICY_AUDIT) ? 2 : 5;
	if (row->verdict == VERDICT_REDIRECT)
		return (row->flags & POLICY_ALLOWS_ALL) ? 4 : RANK_REDIRECT;
	return (row->flags & POLICY_EXPLICIT_DENY) ? 1 : 0;
}

/*
 * Rows are complete (policy/resolved.ts), so the peer's own longest match decides, and identity 0 only where it has none. Selectors of
 * names come on top: what rows of the address itself deny by a rule is final, and what they allow only a deny by name takes back.
 * Not static: the verifier then looks at it once, not once for each caller.
 */
__noinline int judge_rows(const struct endpoint *endpoint, const struct address *peer, struct judgement *judgement)
{
	struct policy_value *row, *best = 0;
	struct learned_key learned = {};
	struct policy_key key = {};
	int rank, best_rank = 0;
	__u8 several = 0;
	__u32 group;
	void *rows;

	if (!endpoint || !peer || !judgement)
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
	read_row(judgement, row);
	if (!judgement->nameable || judgement->reason == REASON_POLICY_DENY_RULE)
		return 0;

	learned.address = *peer;
	for (int scope = 0; scope < 2; scope++) {
		struct learned_value *value;

		learned.endpoint_id = scope ? endpoint->id : 0;
		value = bpf_map_lookup_elem(&learned_addresses, &learned);
		for (int i = 0; value && i < LEARNED_SELECTORS_MAX; i++) {
			struct policy_value *selector_row;

			key.identity = value->selectors[i].identity;
			if (!key.identity)
				break;
			selector_row = bpf_map_lookup_elem(rows, &key);
			rank = selector_row ? rank_of(selector_row) : 0;
			if (rank == RANK_REDIRECT && best_rank == RANK_REDIRECT && best &&
			    (best->slot_port != selector_row->slot_port || best->slot_generation != selector_row->slot_generation))
				several = 1;
			if (rank <= best_rank)
				continue;
			best_rank = rank;
			best = selector_row;
		}
	}
	/* No slot of one name may take requests for another: there is one for all of them. */
	if (several && best_rank == RANK_REDIRECT) {
		struct policy_value *shared;

		key.identity = IDENTITY_SEVERAL_NAMES;
		shared = bpf_map_lookup_elem(rows, &key);
		if (shared && shared->verdict == VERDICT_REDIRECT)
			best = shared;
	}
	/* A deny by name takes back what the address itself may do; anything else only adds to that. */
	if (best && (best_rank == 1 || !row || rank_of(row) < best_rank))
		read_row(judgement, best);
	return 0;
}

static __always_inline void judge_as(const struct endpoint *endpoint, __u8 direction, __u32 identity, const struct address *peer,
				     __u8 nameable, __u8 protocol, __be16 port, struct judgement *judgement)
{
	__u32 enforce = direction == DIRECTION_INGRESS ? ENDPOINT_ENFORCE_INGRESS : ENDPOINT_ENFORCE_EGRESS;

	__builtin_memset(judgement, 0, sizeof(*judgement));
	judgement->identity = identity;
	judgement->direction = direction;
	judgement->protocol = protocol;
	judgement->port = port;
	judgement->nameable = nameable;
	judgement->verdict = VERDICT_ALLOW;
	if (!(endpoint->flags & enforce))
		return;
	if (direction == DIRECTION_INGRESS && identity == IDENTITY_HOST && (endpoint->flags & ENDPOINT_ALLOW_LOCALHOST))
		return;
	judge_rows(endpoint, peer, judgement);
}

/* By the peer's address. */
static __always_inline void judge(const struct config *config, const struct endpoint *endpoint, __u8 direction,
				  const struct address *peer, __u8 protocol, __be16 port, struct judgement *judgement)
{
	int is_nameable;
	__u32 identity = identity_of(peer, &is_nameable);

	if (direction != DIRECTION_EGRESS || !(config->flags & CONFIG_NAMES))
		is_nameable = 0;
	judge_as(endpoint, direction, identity, peer, is_nameable, protocol, port, judgement);
}

#endif
