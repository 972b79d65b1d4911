/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The datapath. Where each program sits:
 *
 *   from_workload    ingress of a workload's host-side device: what the workload sends, and what re-enters on its behalf
 *   to_workload      egress of the same device: what the host hands to the workload
 *   from_leg_*       ingress of the host end of a leg: what the proxies send
 *   guard_leg        egress of the host end of a leg: only what our own programs redirected may enter a proxy
 *   into_leg_*       ingress of the inner end of a leg: finds the socket, and checks that it is the one asked for
 *
 * The order of judging: source, conntrack, ipcache, policy.
 */
#include "conntrack.h"
#include "into-leg.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "proxy.h"
#include "report.h"
#include "reset.h"

char _license[] SEC("license") = "GPL";

static __always_inline void report_of(struct report *report, const struct endpoint *endpoint, __u8 direction, int local_is_source)
{
	__builtin_memset(report, 0, sizeof(*report));
	report->endpoint_id = endpoint->id;
	report->local_identity = endpoint->identity;
	report->direction = direction;
	report->local_is_source = local_is_source;
}

static __always_inline void report_judgement(struct report *report, const struct judgement *judgement)
{
	report->remote_identity = judgement->identity;
	report->cookie = judgement->cookie;
	report->slot_port = judgement->slot_port;
	report->verdict = judgement->audit ? VERDICT_AUDIT : judgement->verdict;
	report->reason = judgement->reason;
}

static __always_inline void report_entry(struct report *report, const struct ct_value *entry)
{
	report->remote_identity = entry->identity;
	report->cookie = entry->cookie;
	report->slot_port = entry->slot_port;
	report->leg = entry->leg;
}

/* The start of a connection that is allowed or redirected. What only audit lets through is always told, as drops are. */
static __always_inline void announce(struct __sk_buff *skb, const struct config *config, const struct packet *packet,
				     const struct report *report)
{
	if (report->verdict == VERDICT_AUDIT)
		emit(skb, packet, report);
	else if (config->event_sample == 0xffffffff || (config->event_sample && bpf_get_prandom_u32() < config->event_sample))
		emit(skb, packet, report);
}

static __always_inline int is_own_address(const struct endpoint *endpoint, __be32 address)
{
	struct address mapped;

	map_ipv4(&mapped, address);
	for (__u32 i = 0; i < ENDPOINT_ADDRESSES_MAX; i++) {
		if (i >= endpoint->address_count)
			return 0;
		if (__builtin_memcmp(&endpoint->addresses[i], &mapped, sizeof(mapped)) == 0)
			return 1;
	}
	return 0;
}

/* ARP is not judged by policy, but its sender must be who it says: 0.0.0.0 in probes, else an own address. */
static __always_inline int arp_sender_is_own(struct __sk_buff *skb, const struct endpoint *endpoint)
{
	struct arp_ipv4 arp;
	__be32 sender;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &arp, sizeof(arp)) < 0)
		return 0;
	if (arp.protocol_type != bpf_htons(ETH_P_IP) || arp.protocol_length != 4 || arp.hardware_length != ETH_ALEN)
		return 0;
	__builtin_memcpy(&sender, arp.sender_ip, 4);
	return sender == 0 || is_own_address(endpoint, sender);
}

/* Passes what was judged and is allowed, by the name of its verdict. */
static __always_inline int pass_judged(struct __sk_buff *skb, const struct report *report)
{
	count(report->verdict, report->direction, report->reason, skb->len);
	return TCX_NEXT;
}

/* The same of a packet that no connection is made of. */
static __always_inline int pass_untracked(struct __sk_buff *skb, const struct packet *packet, const struct report *report)
{
	if (report->verdict == VERDICT_AUDIT)
		emit(skb, packet, report);
	return pass_judged(skb, report);
}

/* What to do with what no row can be asked about: dropped under enforcement, reported in audit, else the host's business. */
static __always_inline int unjudged(struct __sk_buff *skb, const struct endpoint *endpoint, const struct packet *packet,
				    struct report *report, __u8 reason)
{
	__u32 enforce = report->direction == DIRECTION_INGRESS ? ENDPOINT_ENFORCE_INGRESS : ENDPOINT_ENFORCE_EGRESS;

	if (!(endpoint->flags & enforce))
		return pass(skb, report->direction);
	if (!(endpoint->flags & ENDPOINT_AUDIT))
		return drop(skb, packet, report, reason);
	report->verdict = VERDICT_AUDIT;
	report->reason = reason;
	return pass_untracked(skb, packet, report);
}

/* Frames that are no IPv4 packet we know. */
static __always_inline int other_frame(struct __sk_buff *skb, const struct endpoint *endpoint, const struct packet *packet,
				       struct report *report, int class)
{
	return unjudged(skb, endpoint, packet, report, PACKET_REASON(class));
}

/* A segment of a revoked connection, from the workload: it gets the reset itself, as if its peer had sent it. */
static __always_inline int reset_workload(struct __sk_buff *skb, const struct endpoint *endpoint, const struct packet *packet,
					  struct report *report, int reason)
{
	int action = drop(skb, packet, report, reason);

	if (!is_resettable(packet) || make_reset(skb) < 0)
		return action;
	return into_workload(skb, endpoint);
}

/* The same from the other side: the peer gets the reset as if the workload had sent it. */
static __always_inline int reset_peer(struct __sk_buff *skb, const struct endpoint *endpoint, const struct packet *packet,
				      struct report *report, int reason)
{
	struct address peer = packet->source;
	int action = drop(skb, packet, report, reason);

	if (!is_resettable(packet) || make_reset(skb) < 0)
		return action;
	return reenter(skb, endpoint, &peer);
}

SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &ifindex);
	const struct config *config = settings();
	struct judgement judgement = {};
	struct report report = {};
	struct packet packet;
	struct ct_value *entry;
	struct ct_key key;
	__be32 outer_source = 0;
	int class, reason;

	if (skb->mark == MARK_REENTER) {
		/* Only our own redirect can have set it: the workload's veth clears marks. */
		skb->mark = 0;
		bpf_skb_change_type(skb, PACKET_HOST);
		return TCX_NEXT;
	}
	class = parse(skb, &packet, &outer_source);
	report.direction = DIRECTION_EGRESS;
	report.local_is_source = 1;
	if (!endpoint || !config)
		return drop(skb, &packet, &report, REASON_NO_ENDPOINT);
	report_of(&report, endpoint, DIRECTION_EGRESS, 1);
	if (class == PACKET_ARP)
		return arp_sender_is_own(skb, endpoint) ? TCX_NEXT : drop(skb, &packet, &report, REASON_SPOOFED_ARP);
	if (outer_source && !is_own_address(endpoint, outer_source))
		return drop(skb, &packet, &report, REASON_SPOOFED_SOURCE);
	if (class != PACKET_IPV4)
		return other_frame(skb, endpoint, &packet, &report, class);
	if (invalid_ipv4(packet.source4, 1) || invalid_ipv4(packet.destination4, 0))
		return drop(skb, &packet, &report, REASON_INVALID_ADDRESS);
	/* Quoting a tracked connection must not open a way to anybody else. */
	if (packet.icmp_misdirected)
		return drop(skb, &packet, &report, REASON_ICMP_UNRELATED);

	/* The tuple inside an ICMP error is that of a packet which the workload received. */
	ct_key_of(&key, &packet, endpoint->id, CT_WORKLOAD, !packet.icmp_error);
	entry = ct_find(config, &packet, &key);
	if (entry && !is_opening(&packet)) {
		report_entry(&report, entry);
		reason = ct_judge(endpoint, &key, entry);
		/* Datagrams have no connection that would have to end: the next one simply goes where policy sends it now. */
		if (reason && packet.protocol == IPPROTO_UDP && entry->direction == DIRECTION_EGRESS)
			goto opening;
		if (reason && !is_farewell(&packet, reason))
			return reset_workload(skb, endpoint, &packet, &report, reason);
		ct_touch(entry, &packet, entry->direction == DIRECTION_EGRESS);
		switch (entry->leg) {
		case LEG_EGRESS_ACCEPTED:
			count(VERDICT_REDIRECT, DIRECTION_EGRESS, REASON_NONE, skb->len);
			return into_proxy(skb, config, LEG_EGRESS_ACCEPTED,
					  accepted_mark(MARK_EGRESS_ACCEPTED, entry->slot_port, entry->slot_generation));
		case LEG_INGRESS_UPSTREAM:
			count(VERDICT_REDIRECT, DIRECTION_EGRESS, REASON_NONE, skb->len);
			return into_proxy(skb, config, LEG_INGRESS_UPSTREAM, MARK_INGRESS_UPSTREAM);
		default:
			if (entry->flags & CT_VIA_EGRESS_PROXY) {
				count(VERDICT_REDIRECT, DIRECTION_EGRESS, REASON_NONE, skb->len);
				return into_proxy(skb, config, LEG_EGRESS_UPSTREAM, MARK_EGRESS_UPSTREAM);
			}
			return pass(skb, DIRECTION_EGRESS);
		}
	}
	if (packet.icmp_error)
		return unjudged(skb, endpoint, &packet, &report, REASON_ICMP_UNRELATED);

opening:
	judge(config, endpoint, DIRECTION_EGRESS, &packet.destination, packet.protocol, policy_port(&packet, packet.destination_port),
	      &judgement);
	report_judgement(&report, &judgement);
	if (judgement.verdict == VERDICT_DENY)
		return drop(skb, &packet, &report, judgement.reason);
	if (judgement.verdict == VERDICT_ALLOW) {
		/* Replies to what is no request are never tracked: they would open the way back. */
		if (packet.protocol == IPPROTO_ICMP && packet.icmp_type != ICMP_ECHO)
			return pass_untracked(skb, &packet, &report);
		reason = ct_create(config, endpoint, &key, DIRECTION_EGRESS, LEG_DIRECT, 0, &judgement);
		if (reason)
			return drop(skb, &packet, &report, reason);
		announce(skb, config, &packet, &report);
		return pass_judged(skb, &report);
	}
	if ((packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP) || is_multicast_or_broadcast(packet.destination4))
		return drop(skb, &packet, &report, REASON_NOT_REDIRECTABLE);
	report.leg = LEG_EGRESS_ACCEPTED;
	reason = ct_create(config, endpoint, &key, DIRECTION_EGRESS, LEG_EGRESS_ACCEPTED, 0, &judgement);
	if (reason)
		return drop(skb, &packet, &report, reason);
	learn_neighbor(endpoint, &packet.destination, packet.destination_mac);
	announce(skb, config, &packet, &report);
	count(VERDICT_REDIRECT, DIRECTION_EGRESS, REASON_NONE, skb->len);
	return into_proxy(skb, config, LEG_EGRESS_ACCEPTED,
			  accepted_mark(MARK_EGRESS_ACCEPTED, judgement.slot_port, judgement.slot_generation));
}

SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &ifindex);
	const struct config *config = settings();
	struct judgement judgement = {};
	struct report report = {};
	struct packet packet;
	struct ct_value *entry;
	struct ct_key key;
	__be32 outer_source = 0;
	int class, reason;

	class = parse(skb, &packet, &outer_source);
	report.direction = DIRECTION_INGRESS;
	if (!endpoint || !config)
		return drop(skb, &packet, &report, REASON_NO_ENDPOINT);
	report_of(&report, endpoint, DIRECTION_INGRESS, 0);
	if (class == PACKET_ARP)
		return TCX_NEXT;
	if (class != PACKET_IPV4)
		return other_frame(skb, endpoint, &packet, &report, class);
	if (packet.icmp_misdirected)
		return drop(skb, &packet, &report, REASON_ICMP_UNRELATED);

	if (!is_opening(&packet)) {
		struct ct_value *own;

		ct_key_of(&key, &packet, endpoint->id, CT_WORKLOAD, packet.icmp_error);
		own = ct_find(config, &packet, &key);
		/* The proxies' conversations with the network come first, where there may be one: their tuples belong to sockets of ours. */
		entry = 0;
		if (!own || own->twin || own->leg != LEG_DIRECT) {
			key.side = CT_NETWORK;
			entry = ct_find(config, &packet, &key);
		}
		if (entry) {
			report_entry(&report, entry);
			if (entry->flags & CT_VIA_EGRESS_PROXY)
				return drop(skb, &packet, &report, REASON_PROXIED_TUPLE);
			reason = ct_judge(endpoint, &key, entry);
			if (reason && !is_farewell(&packet, reason))
				return reset_peer(skb, endpoint, &packet, &report, reason);
			ct_touch(entry, &packet, entry->direction == DIRECTION_INGRESS);
			count(VERDICT_REDIRECT, DIRECTION_INGRESS, REASON_NONE, skb->len);
			return into_proxy_from_host(skb, config,
						    entry->leg == LEG_EGRESS_UPSTREAM ? LEG_EGRESS_UPSTREAM : LEG_INGRESS_ACCEPTED);
		}
		if (own) {
			key.side = CT_WORKLOAD;
			report_entry(&report, own);
			if (own->leg != LEG_DIRECT || (own->flags & CT_VIA_EGRESS_PROXY))
				return drop(skb, &packet, &report, REASON_PROXIED_TUPLE);
			reason = ct_judge(endpoint, &key, own);
			if (reason && !is_farewell(&packet, reason))
				return reset_peer(skb, endpoint, &packet, &report, reason);
			ct_touch(own, &packet, own->direction == DIRECTION_INGRESS);
			return pass(skb, DIRECTION_INGRESS);
		}
		if (packet.icmp_error)
			return unjudged(skb, endpoint, &packet, &report, REASON_ICMP_UNRELATED);
	}

	judge(config, endpoint, DIRECTION_INGRESS, &packet.source, packet.protocol, policy_port(&packet, packet.destination_port),
	      &judgement);
	report_judgement(&report, &judgement);
	if (judgement.verdict == VERDICT_DENY)
		return drop(skb, &packet, &report, judgement.reason);
	if (judgement.verdict == VERDICT_ALLOW) {
		if (packet.protocol == IPPROTO_ICMP && packet.icmp_type != ICMP_ECHO)
			return pass_untracked(skb, &packet, &report);
		ct_key_of(&key, &packet, endpoint->id, CT_WORKLOAD, 0);
		reason = ct_create(config, endpoint, &key, DIRECTION_INGRESS, LEG_DIRECT, 0, &judgement);
		if (reason)
			return drop(skb, &packet, &report, reason);
		announce(skb, config, &packet, &report);
		return pass_judged(skb, &report);
	}
	if (packet.protocol != IPPROTO_TCP || !is_own_address(endpoint, packet.destination4))
		return drop(skb, &packet, &report, REASON_NOT_REDIRECTABLE);
	ct_key_of(&key, &packet, endpoint->id, CT_NETWORK, 0);
	report.leg = LEG_INGRESS_ACCEPTED;
	reason = ct_create(config, endpoint, &key, DIRECTION_INGRESS, LEG_INGRESS_ACCEPTED, 0, &judgement);
	if (reason)
		return drop(skb, &packet, &report, reason);
	/* Answers go back to whoever handed us the frame. */
	learn_neighbor(endpoint, &packet.source, packet.source_mac);
	announce(skb, config, &packet, &report);
	count(VERDICT_REDIRECT, DIRECTION_INGRESS, REASON_NONE, skb->len);
	return into_proxy_from_host(skb, config, LEG_INGRESS_ACCEPTED);
}

/* What judging a packet takes on the stack, which is small: one for a program, however often it judges. */
struct scratch {
	struct judgement judgement;
	struct report report;
	struct ct_key key;
};

/* A packet of the egress proxy's upstream leg whose destination is a workload of this node: its ingress policy decides. */
static __always_inline int deliver_locally(struct __sk_buff *skb, const struct config *config, const struct endpoint *server,
					   __u32 client_identity, const struct packet *packet, struct scratch *scratch)
{
	struct ct_value *entry;
	int reason;

	report_of(&scratch->report, server, DIRECTION_INGRESS, 0);
	ct_key_of(&scratch->key, packet, server->id, CT_NETWORK, packet->icmp_error);
	if (!is_opening(packet)) {
		entry = ct_find(config, packet, &scratch->key);
		if (!entry || !(entry->flags & CT_VIA_EGRESS_PROXY)) {
			scratch->key.side = CT_WORKLOAD;
			entry = ct_find(config, packet, &scratch->key);
		}
		if (entry && (entry->flags & CT_VIA_EGRESS_PROXY)) {
			report_entry(&scratch->report, entry);
			reason = ct_judge(server, &scratch->key, entry);
			if (reason && !is_farewell(packet, reason))
				return drop(skb, packet, &scratch->report, reason);
			ct_touch(entry, packet, 1);
			if (entry->leg == LEG_INGRESS_ACCEPTED)
				return into_proxy(skb, config, LEG_INGRESS_ACCEPTED,
						  accepted_mark(MARK_INGRESS_ACCEPTED, entry->slot_port, entry->slot_generation));
			return into_workload(skb, server);
		}
		if (packet->icmp_error)
			return drop(skb, packet, &scratch->report, REASON_ICMP_UNRELATED);
	}
	judge_as(server, DIRECTION_INGRESS, client_identity, &packet->source, 0, packet->protocol, packet->destination_port, &scratch->judgement);
	report_judgement(&scratch->report, &scratch->judgement);
	if (scratch->judgement.verdict == VERDICT_DENY)
		return drop(skb, packet, &scratch->report, scratch->judgement.reason);
	scratch->report.leg = scratch->judgement.verdict == VERDICT_REDIRECT ? LEG_INGRESS_ACCEPTED : LEG_DIRECT;
	scratch->key.side = scratch->judgement.verdict == VERDICT_REDIRECT ? CT_NETWORK : CT_WORKLOAD;
	reason = ct_create(config, server, &scratch->key, DIRECTION_INGRESS, scratch->report.leg, CT_VIA_EGRESS_PROXY, &scratch->judgement);
	if (reason)
		return drop(skb, packet, &scratch->report, reason);
	announce(skb, config, packet, &scratch->report);
	if (scratch->judgement.verdict == VERDICT_REDIRECT) {
		count(VERDICT_REDIRECT, DIRECTION_INGRESS, REASON_NONE, skb->len);
		return into_proxy(skb, config, LEG_INGRESS_ACCEPTED,
				  accepted_mark(MARK_INGRESS_ACCEPTED, scratch->judgement.slot_port, scratch->judgement.slot_generation));
	}
	count(scratch->report.verdict, DIRECTION_INGRESS, scratch->report.reason, skb->len);
	return into_workload(skb, server);
}

/* The egress proxy answers its client. */
SEC("tc")
int from_leg_egress_accepted(struct __sk_buff *skb)
{
	const struct config *config = settings();
	struct endpoint *endpoint;
	struct report report;
	struct packet packet;
	struct ct_value *entry;
	struct ct_key key;
	int reason;

	if (!config || !leg_packet(skb, &packet, 1))
		return drop_on_leg(skb, &packet, DIRECTION_EGRESS, REASON_LEG_UNEXPECTED);
	endpoint = local_endpoint(&packet.destination);
	if (!endpoint)
		return drop_on_leg(skb, &packet, DIRECTION_EGRESS, REASON_NO_ENDPOINT);
	report_of(&report, endpoint, DIRECTION_EGRESS, 0);
	ct_key_of(&key, &packet, endpoint->id, CT_WORKLOAD, packet.icmp_error);
	entry = ct_find(config, &packet, &key);
	if (!entry || entry->leg != LEG_EGRESS_ACCEPTED)
		return drop(skb, &packet, &report, REASON_NO_CONNECTION);
	report_entry(&report, entry);
	reason = ct_judge(endpoint, &key, entry);
	if (reason && !is_farewell(&packet, reason))
		return drop(skb, &packet, &report, reason);
	ct_touch(entry, &packet, 0);
	count(VERDICT_ALLOW, DIRECTION_EGRESS, REASON_NONE, skb->len);
	return into_workload(skb, endpoint);
}

/* The egress proxy speaks to the server, in the client's name. */
SEC("tc")
int from_leg_egress_upstream(struct __sk_buff *skb)
{
	const struct config *config = settings();
	struct scratch scratch = {};
	struct endpoint *endpoint, *server;
	struct packet packet;
	struct ct_value *entry;
	__u32 identity;
	int reason;

	if (!config || !leg_packet(skb, &packet, 1) || packet.icmp_error)
		return drop_on_leg(skb, &packet, DIRECTION_EGRESS, REASON_LEG_UNEXPECTED);
	endpoint = local_endpoint(&packet.source);
	if (!endpoint)
		return drop_on_leg(skb, &packet, DIRECTION_EGRESS, REASON_NO_ENDPOINT);
	report_of(&scratch.report, endpoint, DIRECTION_EGRESS, 1);
	ct_key_of(&scratch.key, &packet, endpoint->id, CT_NETWORK, 1);
	entry = is_opening(&packet) ? 0 : ct_find(config, &packet, &scratch.key);
	if (entry) {
		report_entry(&scratch.report, entry);
		if (entry->leg != LEG_EGRESS_UPSTREAM)
			return drop(skb, &packet, &scratch.report, REASON_NO_CONNECTION);
		reason = ct_judge(endpoint, &scratch.key, entry);
		if (reason && packet.protocol == IPPROTO_UDP)
			entry = 0;
		else if (reason && !is_farewell(&packet, reason))
			return drop(skb, &packet, &scratch.report, reason);
		else
			ct_touch(entry, &packet, 1);
	}
	if (!entry) {
		/* The client's policy must still send this traffic to a proxy, or allow it outright. */
		judge(config, endpoint, DIRECTION_EGRESS, &packet.destination, packet.protocol, packet.destination_port, &scratch.judgement);
		report_judgement(&scratch.report, &scratch.judgement);
		if (scratch.judgement.verdict == VERDICT_DENY)
			return drop(skb, &packet, &scratch.report, scratch.judgement.reason);
		reason = ct_create(config, endpoint, &scratch.key, DIRECTION_EGRESS, LEG_EGRESS_UPSTREAM, 0, &scratch.judgement);
		if (reason)
			return drop(skb, &packet, &scratch.report, reason);
	}
	server = local_endpoint(&packet.destination);
	identity = endpoint->identity;
	if (server)
		return deliver_locally(skb, config, server, identity, &packet, &scratch);
	count(VERDICT_ALLOW, DIRECTION_EGRESS, REASON_NONE, skb->len);
	return reenter(skb, endpoint, &packet.destination);
}

/* The ingress proxy answers whoever dialled it: this node's egress proxy, or a peer across the host. */
SEC("tc")
int from_leg_ingress_accepted(struct __sk_buff *skb)
{
	const struct config *config = settings();
	struct endpoint *endpoint;
	struct report report;
	struct packet packet;
	struct ct_value *entry;
	struct ct_key key;
	int reason;

	if (!config || !leg_packet(skb, &packet, 0) || packet.icmp_error)
		return drop_on_leg(skb, &packet, DIRECTION_INGRESS, REASON_LEG_UNEXPECTED);
	endpoint = local_endpoint(&packet.source);
	if (!endpoint)
		return drop_on_leg(skb, &packet, DIRECTION_INGRESS, REASON_NO_ENDPOINT);
	report_of(&report, endpoint, DIRECTION_INGRESS, 1);
	ct_key_of(&key, &packet, endpoint->id, CT_NETWORK, 1);
	entry = ct_find(config, &packet, &key);
	if (!entry || entry->leg != LEG_INGRESS_ACCEPTED)
		return drop(skb, &packet, &report, REASON_NO_CONNECTION);
	report_entry(&report, entry);
	reason = ct_judge(endpoint, &key, entry);
	if (reason && !is_farewell(&packet, reason))
		return drop(skb, &packet, &report, reason);
	ct_touch(entry, &packet, 0);
	count(VERDICT_ALLOW, DIRECTION_INGRESS, REASON_NONE, skb->len);
	if (entry->flags & CT_VIA_EGRESS_PROXY)
		return into_proxy(skb, config, LEG_EGRESS_UPSTREAM, MARK_EGRESS_UPSTREAM);
	return reenter(skb, endpoint, &packet.destination);
}

/* The ingress proxy speaks to its workload, in the client's name. */
SEC("tc")
int from_leg_ingress_upstream(struct __sk_buff *skb)
{
	const struct config *config = settings();
	struct judgement judgement = {};
	struct endpoint *endpoint;
	struct report report;
	struct packet packet;
	struct ct_value *entry;
	struct ct_key key;
	int reason;

	if (!config || !leg_packet(skb, &packet, 0) || packet.icmp_error)
		return drop_on_leg(skb, &packet, DIRECTION_INGRESS, REASON_LEG_UNEXPECTED);
	endpoint = local_endpoint(&packet.destination);
	if (!endpoint)
		return drop_on_leg(skb, &packet, DIRECTION_INGRESS, REASON_NO_ENDPOINT);
	report_of(&report, endpoint, DIRECTION_INGRESS, 0);
	ct_key_of(&key, &packet, endpoint->id, CT_WORKLOAD, 0);
	entry = is_opening(&packet) ? 0 : ct_find(config, &packet, &key);
	if (entry) {
		report_entry(&report, entry);
		if (entry->leg != LEG_INGRESS_UPSTREAM)
			return drop(skb, &packet, &report, REASON_NO_CONNECTION);
		reason = ct_judge(endpoint, &key, entry);
		if (reason && !is_farewell(&packet, reason))
			return drop(skb, &packet, &report, reason);
		ct_touch(entry, &packet, 1);
	} else {
		judge(config, endpoint, DIRECTION_INGRESS, &packet.source, packet.protocol, packet.destination_port, &judgement);
		report_judgement(&report, &judgement);
		if (judgement.verdict == VERDICT_DENY)
			return drop(skb, &packet, &report, judgement.reason);
		reason = ct_create(config, endpoint, &key, DIRECTION_INGRESS, LEG_INGRESS_UPSTREAM, 0, &judgement);
		if (reason)
			return drop(skb, &packet, &report, reason);
	}
	count(VERDICT_ALLOW, DIRECTION_INGRESS, REASON_NONE, skb->len);
	return into_workload(skb, endpoint);
}

/* Nothing is ever sent to a leg's device but what to_workload has just redirected. */
SEC("tc")
int guard_leg(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct handover *handover = bpf_map_lookup_elem(&handovers, &zero);
	struct report report = {};

	if (handover && handover->ifindex == skb->ifindex && handover->length == skb->len) {
		handover->ifindex = 0;
		return TCX_NEXT;
	}
	count(VERDICT_DENY, report.direction, REASON_LEG_UNEXPECTED, skb->len);
	return TCX_DROP;
}

/* ---- inside the proxies' namespaces ---------------------------------------------------------------------------------------- */

SEC("tc")
int into_leg_egress_accepted(struct __sk_buff *skb)
{
	return into_leg(skb, MARK_EGRESS_ACCEPTED, DIRECTION_EGRESS);
}

SEC("tc")
int into_leg_egress_upstream(struct __sk_buff *skb)
{
	return into_leg(skb, MARK_EGRESS_UPSTREAM, DIRECTION_EGRESS);
}

SEC("tc")
int into_leg_ingress_accepted(struct __sk_buff *skb)
{
	return into_leg(skb, MARK_INGRESS_ACCEPTED, DIRECTION_INGRESS);
}

SEC("tc")
int into_leg_ingress_upstream(struct __sk_buff *skb)
{
	return into_leg(skb, MARK_INGRESS_UPSTREAM, DIRECTION_INGRESS);
}
