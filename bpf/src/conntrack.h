/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Connection tracking. An entry remembers the first packet's direction and which leg serves it; it never decides alone: as soon as the
 * endpoint's policy or the ipcache has changed since it was last judged, the next packet has the original direction judged again.
 */
#ifndef HEADGATE_CONNTRACK_H
#define HEADGATE_CONNTRACK_H

#include "maps.h"
#include "policy.h"

static __always_inline void ct_key_of(struct ct_key *key, const struct packet *packet, __u32 endpoint_id, __u8 side, int local_is_source)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->local = local_is_source ? packet->source : packet->destination;
	key->remote = local_is_source ? packet->destination : packet->source;
	key->local_port = local_is_source ? packet->source_port : packet->destination_port;
	key->remote_port = local_is_source ? packet->destination_port : packet->source_port;
	key->protocol = packet->protocol;
	key->side = side;
	key->endpoint_id = endpoint_id;
}

static __always_inline __u64 ct_timeout_ns(const struct config *config, const struct ct_value *entry, __u8 protocol)
{
	__u32 seconds;

	if (protocol != IPPROTO_TCP)
		seconds = config->other_timeout_seconds;
	else if (entry->flags & (CT_ORIGINAL_CLOSED | CT_REPLY_CLOSED))
		/* Half-closed connections may still carry data for long: only when both sides closed is the end near. */
		seconds = (entry->flags & (CT_ORIGINAL_CLOSED | CT_REPLY_CLOSED)) == (CT_ORIGINAL_CLOSED | CT_REPLY_CLOSED)
				  ? config->tcp_close_timeout_seconds
				  : config->tcp_timeout_seconds;
	else if (!(entry->flags & CT_SEEN_REPLY))
		seconds = config->tcp_syn_timeout_seconds;
	else
		seconds = config->tcp_timeout_seconds;
	return seconds * SECOND_NS;
}

/* The living entry of a key, or null. */
static __always_inline struct ct_value *ct_find(const struct config *config, const struct packet *packet, const struct ct_key *key)
{
	struct ct_value *entry = bpf_map_lookup_elem(&conntrack, key);

	if (!entry)
		return 0;
	/* A packet on another CPU may have touched it after this one's clock was read. */
	if ((__s64)(packet->now_ns - entry->last_seen_ns) > (__s64)ct_timeout_ns(config, entry, key->protocol))
		return 0;
	return entry;
}

/* Notes a packet. Writes only what changed: the line is shared between CPUs. */
static __always_inline void ct_touch(struct ct_value *entry, const struct packet *packet, int is_original)
{
	__u8 flags = entry->flags;

	if (packet->icmp_error)
		return;
	if (!is_original)
		flags |= CT_SEEN_REPLY;
	if (packet->protocol == IPPROTO_TCP) {
		if (packet->tcp_flags & TCP_RST)
			flags |= CT_ORIGINAL_CLOSED | CT_REPLY_CLOSED;
		else if (packet->tcp_flags & TCP_FIN)
			flags |= is_original ? CT_ORIGINAL_CLOSED : CT_REPLY_CLOSED;
	}
	if (flags != entry->flags)
		entry->flags = flags;
	if ((__s64)(packet->now_ns - entry->last_seen_ns) > (__s64)SECOND_NS)
		entry->last_seen_ns = packet->now_ns;
}

/* Notes at both entries that a tuple is in use on the workload's side and on the network's. Returns what the entry itself has to say. */
static __always_inline __u8 ct_meet_twin(const struct ct_key *key)
{
	struct ct_key other = *key;
	struct ct_value *twin;

	other.side = key->side == CT_NETWORK ? CT_WORKLOAD : CT_NETWORK;
	twin = bpf_map_lookup_elem(&conntrack, &other);
	if (!twin)
		return 0;
	twin->twin = 1;
	return 1;
}

static __always_inline int ct_create(const struct config *config, const struct endpoint *endpoint, const struct ct_key *key, __u8 direction,
				     __u8 leg, __u8 flags, const struct judgement *judgement)
{
	struct ct_value entry = {};

	entry.last_seen_ns = bpf_ktime_get_coarse_ns();
	entry.revision = policy_revision(config, endpoint);
	entry.identity = judgement->identity;
	entry.cookie = judgement->cookie;
	entry.slot_port = judgement->slot_port;
	entry.slot_generation = judgement->slot_generation;
	entry.direction = direction;
	entry.leg = leg;
	entry.flags = flags;
	entry.twin = ct_meet_twin(key);
	return bpf_map_update_elem(&conntrack, key, &entry, BPF_ANY) ? REASON_CONNTRACK_FULL : REASON_NONE;
}

/* Whether today's policy still supports a connection as it runs. Returns a drop reason. */
static __noinline int ct_judge(const struct endpoint *endpoint, const struct ct_key *key, struct ct_value *entry)
{
	const struct config *config = settings();
	struct judgement judgement;
	struct slot_pair pair;
	__be16 port;
	__u32 revision;
	int supported;

	if (!config || !endpoint || !key || !entry)
		return REASON_NO_POLICY;
	revision = policy_revision(config, endpoint);
	if (entry->revision == revision)
		return REASON_NONE;
	if (entry->revoked_revision == revision)
		return REASON_POLICY_REVOKED;

	if (key->protocol == IPPROTO_ICMP)
		port = bpf_htons(8 << 8);	/* only echo requests make entries */
	else
		port = entry->direction == DIRECTION_EGRESS ? key->remote_port : key->local_port;
	judge(config, endpoint, entry->direction, &key->remote, key->protocol, port, &judgement);
	if (judgement.verdict == VERDICT_ALLOW) {
		/* A connection through a proxy may stay there: what is allowed now includes what its rules allow. */
		supported = 1;
	} else if (judgement.verdict == VERDICT_REDIRECT && entry->leg != LEG_DIRECT) {
		pair.from_port = entry->slot_port;
		pair.from_generation = entry->slot_generation;
		pair.to_port = judgement.slot_port;
		pair.to_generation = judgement.slot_generation;
		supported = (pair.from_port == pair.to_port && pair.from_generation == pair.to_generation) ||
			    bpf_map_lookup_elem(&slot_pairs, &pair) != 0;
	} else {
		supported = 0;
	}
	entry->identity = judgement.identity;
	if (supported)
		entry->revision = revision;
	else
		entry->revoked_revision = revision;
	return supported ? REASON_NONE : REASON_POLICY_REVOKED;
}

/* A reset of a revoked connection is let through: it is how both ends learn of it. */
static __always_inline int is_farewell(const struct packet *packet, int reason)
{
	return reason == REASON_POLICY_REVOKED && packet->protocol == IPPROTO_TCP && !packet->icmp_error && (packet->tcp_flags & TCP_RST);
}

#endif
