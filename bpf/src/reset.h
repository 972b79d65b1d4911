/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Answering a TCP segment with a reset. A connection that policy revoked, or whose proxy is gone, must not leave its ends waiting for a
 * timeout: the next segment of either comes back as a reset with the sequence number that its sender expects.
 */
#ifndef HEADGATE_RESET_H
#define HEADGATE_RESET_H

#include "packet.h"

#define RESET_BYTES (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct tcphdr))

struct pseudo_header {
	__be32 source;
	__be32 destination;
	__u8 zero;
	__u8 protocol;
	__be16 length;
};

static __always_inline __u32 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Turns a segment into the reset that answers it, addressed to its sender. Returns 0, or -1 when there is nothing to answer. */
static __noinline int make_reset(struct __sk_buff *skb)
{
	struct pseudo_header pseudo = { .protocol = IPPROTO_TCP, .length = bpf_htons(sizeof(struct tcphdr)) };
	struct tcphdr segment, reset = {};
	struct iphdr old, ip = {};
	struct ethhdr eth;
	__u8 mac[ETH_ALEN];
	__s64 pseudo_sum, header_sum;
	__u32 length;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0 || bpf_skb_load_bytes(skb, sizeof(eth), &old, sizeof(old)) < 0)
		return -1;
	if (old.version != 4 || old.ihl < 5 || old.protocol != IPPROTO_TCP)
		return -1;
	if (bpf_skb_load_bytes(skb, sizeof(eth) + old.ihl * 4, &segment, sizeof(segment)) < 0 || segment.rst)
		return -1;

	reset.source = segment.dest;
	reset.dest = segment.source;
	reset.doff = sizeof(reset) / 4;
	reset.rst = 1;
	if (segment.ack) {
		reset.seq = segment.ack_seq;
	} else {
		length = bpf_ntohs(old.tot_len) - old.ihl * 4 - segment.doff * 4 + segment.syn + segment.fin;
		reset.ack = 1;
		reset.ack_seq = bpf_htonl(bpf_ntohl(segment.seq) + length);
	}
	ip.version = 4;
	ip.ihl = 5;
	ip.tot_len = bpf_htons(sizeof(ip) + sizeof(reset));
	ip.frag_off = bpf_htons(0x4000);
	ip.ttl = 64;
	ip.protocol = IPPROTO_TCP;
	ip.saddr = old.daddr;
	ip.daddr = old.saddr;
	ip.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
	pseudo.source = ip.saddr;
	pseudo.destination = ip.daddr;
	pseudo_sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	header_sum = bpf_csum_diff(0, 0, (__be32 *)&reset, sizeof(reset), 0);
	__builtin_memcpy(mac, eth.h_source, ETH_ALEN);
	__builtin_memcpy(eth.h_source, eth.h_dest, ETH_ALEN);
	__builtin_memcpy(eth.h_dest, mac, ETH_ALEN);

	if (bpf_skb_change_tail(skb, RESET_BYTES, 0) < 0)
		return -1;
	/* Whether the sender left the checksum to the device cannot be seen here, so both readings must be right: the sum of the
	 * pseudo header is what a device wants to find; where none computes, the helper completes it (and does nothing otherwise). */
	reset.check = fold(pseudo_sum);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) < 0 || bpf_skb_store_bytes(skb, sizeof(eth), &ip, sizeof(ip), 0) < 0 ||
	    bpf_skb_store_bytes(skb, sizeof(eth) + sizeof(ip), &reset, sizeof(reset), 0) < 0)
		return -1;
	/* new = ~(difference + ~old), and ~(header + pseudo) is wanted with old = pseudo. */
	pseudo_sum = fold(pseudo_sum);
	if (bpf_l4_csum_replace(skb, sizeof(eth) + sizeof(ip) + 16, 0, header_sum + 2 * pseudo_sum, 0) < 0)
		return -1;
	return 0;
}

static __always_inline int is_resettable(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP && !packet->icmp_error && !(packet->tcp_flags & TCP_RST);
}

#endif
