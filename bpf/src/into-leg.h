/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Inside the proxies' namespaces: from a packet to the one socket that it may reach. */
#ifndef HEADGATE_INTO_LEG_H
#define HEADGATE_INTO_LEG_H

#include "conntrack.h"
#include "maps.h"
#include "packet.h"
#include "proxy.h"
#include "report.h"
#include "reset.h"

/* Kernel types, as far as they are read; offsets are relocated at load. */
struct inet_request_sock {
	__u32 ir_mark;
} __attribute__((preserve_access_index));

struct tcp_request_sock {
	struct inet_request_sock req;
} __attribute__((preserve_access_index));

struct inet_timewait_sock {
	__u32 tw_mark;
} __attribute__((preserve_access_index));

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
} __attribute__((preserve_access_index));

/* The mark of a socket that is found by its tuple, whatever its state. Returns 0 when it has none that could match. */
static __always_inline __u32 mark_of(struct bpf_sock *sk)
{
	struct bpf_sock *full = bpf_sk_fullsock(sk);
	struct tcp_request_sock *request;
	struct tcp_timewait_sock *timewait;
	__u32 mark = 0;

	/* The barriers keep the compiler from merging the three loads into one address, which the verifier refuses. */
	if (full) {
		mark = full->mark;
		barrier_var(mark);
		return mark;
	}
	request = bpf_skc_to_tcp_request_sock(sk);
	if (request) {
		mark = request->req.ir_mark;
		barrier_var(mark);
		return mark;
	}
	timewait = bpf_skc_to_tcp_timewait_sock(sk);
	if (timewait) {
		mark = timewait->tw_sk.tw_mark;
		barrier_var(mark);
	}
	return mark;
}

static __always_inline int hand_to_stack(struct __sk_buff *skb)
{
	skb->mark = MARK_LOCAL;
	bpf_skb_change_type(skb, PACKET_HOST);
	return TCX_PASS;
}

/* A segment whose socket is gone, because Envoy died or the connection was ended: its sender is told, the way that answers take. */
static __always_inline int reset_sender(struct __sk_buff *skb, const struct packet *packet, __u8 direction, __u8 reason)
{
	__u32 ifindex = skb->ifindex;
	int action = drop_on_leg(skb, packet, direction, reason);

	if (!is_resettable(packet) || make_reset(skb) < 0)
		return action;
	return bpf_redirect(ifindex, 0);
}

/* Datagrams are for the DNS process, which has one socket for queries and one for answers, whatever address they go to. */
static __always_inline int datagram_into_leg(struct __sk_buff *skb, const struct packet *packet, __u32 class, __u32 wanted, __u8 direction)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	int reason;

	tuple.ipv4.daddr = bpf_htonl(0x7f000001);
	tuple.ipv4.dport = class == MARK_EGRESS_ACCEPTED ? bpf_htons(DNS_QUERIES_PORT) : bpf_htons(DNS_ANSWERS_PORT);
	sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return drop_on_leg(skb, packet, direction, REASON_NO_LISTENER);
	reason = sk->mark != class ? REASON_WRONG_SOCKET : bpf_sk_assign(skb, sk, 0) ? REASON_SOCKET_ASSIGN : REASON_NONE;
	bpf_sk_release(sk);
	if (reason)
		return drop_on_leg(skb, packet, direction, reason);
	hand_to_stack(skb);
	/* The slot, for whoever reads the datagram. */
	skb->mark = MARK_LOCAL | (wanted & ~(__u32)MARK_CLASS_MASK);
	return TCX_PASS;
}

/* Finds the socket that a packet is for, and insists on the mark that was asked for: class, and for accepted legs slot and generation. */
static __always_inline int into_leg(struct __sk_buff *skb, __u32 class, __u8 direction)
{
	struct bpf_sock_tuple tuple = {};
	struct packet packet;
	struct bpf_sock *sk;
	__u32 wanted = skb->mark;
	int reason;

	if (!leg_packet(skb, &packet, direction == DIRECTION_EGRESS))
		return drop_on_leg(skb, &packet, direction, REASON_LEG_UNEXPECTED);
	if (wanted == 0 && class == MARK_EGRESS_UPSTREAM) {
		wanted = MARK_EGRESS_UPSTREAM;
	} else if (wanted == 0 && class == MARK_INGRESS_ACCEPTED) {
		/* Came through the host, which keeps no marks: conntrack knows the slot. */
		const struct config *config = settings();
		struct endpoint *endpoint = local_endpoint(packet.icmp_error ? &packet.source : &packet.destination);
		struct ct_value *entry;
		struct ct_key key;

		if (!config || !endpoint)
			return drop_on_leg(skb, &packet, direction, REASON_NO_ENDPOINT);
		ct_key_of(&key, &packet, endpoint->id, CT_NETWORK, packet.icmp_error);
		entry = ct_find(config, &packet, &key);
		if (!entry || entry->leg != LEG_INGRESS_ACCEPTED)
			return drop_on_leg(skb, &packet, direction, REASON_NO_CONNECTION);
		wanted = accepted_mark(MARK_INGRESS_ACCEPTED, entry->slot_port, entry->slot_generation);
	}
	if ((wanted & MARK_CLASS_MASK) != class)
		return drop_on_leg(skb, &packet, direction, REASON_LEG_UNEXPECTED);
	if (packet.protocol == IPPROTO_UDP)
		return datagram_into_leg(skb, &packet, class, wanted, direction);

	if (is_opening(&packet)) {
		/* Only ever the listener: an established socket must not see a SYN that another connection sent. */
		if (class != MARK_EGRESS_ACCEPTED && class != MARK_INGRESS_ACCEPTED)
			return drop_on_leg(skb, &packet, direction, REASON_NO_SOCKET);
		tuple.ipv4.daddr = bpf_htonl(0x7f000001);
		tuple.ipv4.dport = bpf_htons(wanted >> MARK_PORT_SHIFT);
		sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return drop_on_leg(skb, &packet, direction, REASON_NO_LISTENER);
		if (sk->state != BPF_TCP_LISTEN)
			reason = REASON_NO_LISTENER;
		else if (mark_of(sk) != wanted)
			reason = REASON_WRONG_SOCKET;
		else
			reason = bpf_sk_assign(skb, sk, 0) ? REASON_SOCKET_ASSIGN : REASON_NONE;
		bpf_sk_release(sk);
		return reason ? drop_on_leg(skb, &packet, direction, reason) : hand_to_stack(skb);
	}

	/* For an ICMP error: the socket whose packet it is about. */
	tuple.ipv4.saddr = packet.icmp_error ? packet.destination4 : packet.source4;
	tuple.ipv4.daddr = packet.icmp_error ? packet.source4 : packet.destination4;
	tuple.ipv4.sport = packet.icmp_error ? packet.destination_port : packet.source_port;
	tuple.ipv4.dport = packet.icmp_error ? packet.source_port : packet.destination_port;
	sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return reset_sender(skb, &packet, direction, REASON_NO_SOCKET);
	if (sk->state == BPF_TCP_LISTEN)
		reason = REASON_NO_SOCKET;
	else if (mark_of(sk) != wanted)
		reason = REASON_WRONG_SOCKET;
	else if (packet.icmp_error)
		reason = REASON_NONE;
	else
		reason = bpf_sk_assign(skb, sk, 0) ? REASON_SOCKET_ASSIGN : REASON_NONE;
	bpf_sk_release(sk);
	return reason ? drop_on_leg(skb, &packet, direction, reason) : hand_to_stack(skb);
}

#endif
