/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * From frame to tuple. Everything is bounds-checked; what is not plain IPv4 comes back as a class of its own, which the callers drop or
 * pass by whether the endpoint is under enforcement. TCP, UDP and SCTP have ports, ICMP has types; the tuple of any other protocol
 * is its addresses alone.
 */
#ifndef HEADGATE_PACKET_H
#define HEADGATE_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#define TCX_NEXT -1
#define TCX_PASS 0
#define TCX_DROP 2

#define PACKET_HOST 0

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

/* linux/icmp.h and linux/if_arp.h would pull in the C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 echo_id;
	__be16 echo_sequence;
};

struct arp_ipv4 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
} __attribute__((packed));

/* linux/sctp.h has no header that could be included here. */
struct sctp_header {
	__be16 source;
	__be16 dest;
	__be32 verification_tag;
	__le32 checksum;
};

#define IP_FRAGMENT 0x3fff	/* more fragments, or an offset */

struct packet {
	__u64 now_ns;	/* coarse monotonic clock: read once, it is asked for several times */
	struct address source;
	struct address destination;
	__be32 source4;
	__be32 destination4;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_error;	/* 1: the tuple is that of the packet that the message is about, source and destination as in there */
	__u8 icmp_misdirected;	/* an ICMP error that does not go to the sender of the packet that it is about */
	__u8 source_mac[ETH_ALEN];
	__u8 destination_mac[ETH_ALEN];
};

enum packet_class {
	PACKET_IPV4 = 0,
	PACKET_ARP = -1,
	/* The rest is -(enum drop_reason) - 16. */
};
#define PACKET_BAD(reason) (-(int)(reason) - 16)
#define PACKET_REASON(class) ((__u8)(-(class) - 16))

static __always_inline void map_ipv4(struct address *address, __be32 ipv4)
{
	__builtin_memset(address->bytes, 0, 10);
	address->bytes[10] = 0xff;
	address->bytes[11] = 0xff;
	__builtin_memcpy(address->bytes + 12, &ipv4, 4);
}

/* Addresses that no frame of a workload may carry: 0/8 and 127/8 on either side, 240/4 as source, multicast as source. */
static __always_inline int invalid_ipv4(__be32 address, int is_source)
{
	__u8 first = bpf_ntohl(address) >> 24;

	if (first == 0 || first == 127)
		return 1;
	return is_source && first >= 224;
}

static __always_inline int is_multicast_or_broadcast(__be32 address)
{
	return bpf_ntohl(address) >> 28 >= 0xe;
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* The tuple inside an ICMP error. Returns 0 when it is whole. */
static __always_inline int parse_icmp_error(struct __sk_buff *skb, __u32 offset, struct packet *packet)
{
	struct iphdr inner;
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, offset, &inner, sizeof(inner)) < 0)
		return -1;
	if (inner.version != 4 || inner.ihl < 5)
		return -1;
	packet->icmp_error = 1;
	packet->source4 = inner.saddr;
	packet->destination4 = inner.daddr;
	map_ipv4(&packet->source, inner.saddr);
	map_ipv4(&packet->destination, inner.daddr);
	packet->protocol = inner.protocol;
	if (inner.protocol == IPPROTO_ICMP) {
		__be16 id;

		if (bpf_skb_load_bytes(skb, offset + inner.ihl * 4 + 4, &id, sizeof(id)) < 0)
			return -1;
		packet->source_port = id;
		packet->destination_port = 0;
	} else if (has_ports(inner.protocol)) {
		if (bpf_skb_load_bytes(skb, offset + inner.ihl * 4, ports, sizeof(ports)) < 0)
			return -1;
		packet->source_port = ports[0];
		packet->destination_port = ports[1];
	}
	return 0;
}

/* Returns an enum packet_class. For ICMP errors the outer addresses are lost; callers that need the outer source check it before. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *packet, __be32 *outer_source)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip;
	__u32 l4;

	__builtin_memset(packet, 0, sizeof(*packet));
	packet->now_ns = bpf_ktime_get_coarse_ns();
	if (skb->vlan_present)
		return PACKET_BAD(REASON_VLAN);
	if ((void *)(eth + 1) + sizeof(struct iphdr) + 20 > end) {
		__u32 wanted = sizeof(*eth) + sizeof(struct iphdr) + 20;

		/* Short frames are pulled as far as they go; the checks below decide. */
		bpf_skb_pull_data(skb, skb->len < wanted ? skb->len : wanted);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		eth = data;
	}
	if ((void *)(eth + 1) > end)
		return PACKET_BAD(REASON_MALFORMED);
	__builtin_memcpy(packet->source_mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(packet->destination_mac, eth->h_dest, ETH_ALEN);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return PACKET_ARP;
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return PACKET_BAD(REASON_IPV6_UNSUPPORTED);
	if (eth->h_proto == bpf_htons(ETH_P_8021Q) || eth->h_proto == bpf_htons(ETH_P_8021AD))
		return PACKET_BAD(REASON_VLAN);
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return PACKET_BAD(REASON_UNKNOWN_ETHERTYPE);
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return PACKET_BAD(REASON_MALFORMED);
	*outer_source = ip->saddr;
	packet->source4 = ip->saddr;
	packet->destination4 = ip->daddr;
	map_ipv4(&packet->source, ip->saddr);
	map_ipv4(&packet->destination, ip->daddr);
	packet->protocol = ip->protocol;
	if (ip->frag_off & bpf_htons(IP_FRAGMENT))
		return PACKET_BAD(REASON_FRAGMENT);
	l4 = sizeof(*eth) + ip->ihl * 4;

	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr tcp;

		if (bpf_skb_load_bytes(skb, l4, &tcp, sizeof(tcp)) < 0)
			return PACKET_BAD(REASON_MALFORMED);
		packet->source_port = tcp.source;
		packet->destination_port = tcp.dest;
		packet->tcp_flags = ((__u8 *)&tcp)[13];
	} else if (ip->protocol == IPPROTO_UDP) {
		struct udphdr udp;

		if (bpf_skb_load_bytes(skb, l4, &udp, sizeof(udp)) < 0)
			return PACKET_BAD(REASON_MALFORMED);
		packet->source_port = udp.source;
		packet->destination_port = udp.dest;
	} else if (ip->protocol == IPPROTO_SCTP) {
		struct sctp_header sctp;

		if (bpf_skb_load_bytes(skb, l4, &sctp, sizeof(sctp)) < 0)
			return PACKET_BAD(REASON_MALFORMED);
		packet->source_port = sctp.source;
		packet->destination_port = sctp.dest;
	} else if (ip->protocol == IPPROTO_ICMP) {
		struct icmp_header icmp;

		if (bpf_skb_load_bytes(skb, l4, &icmp, sizeof(icmp)) < 0)
			return PACKET_BAD(REASON_MALFORMED);
		packet->icmp_type = icmp.type;
		if (icmp.type == ICMP_DEST_UNREACH || icmp.type == ICMP_TIME_EXCEEDED || icmp.type == ICMP_PARAMETERPROB) {
			__be32 outer_destination = packet->destination4;

			if (parse_icmp_error(skb, l4 + sizeof(icmp), packet) < 0)
				return PACKET_BAD(REASON_ICMP_UNRELATED);
			packet->icmp_misdirected = packet->source4 != outer_destination;
		} else if (icmp.type == ICMP_ECHO) {
			packet->source_port = icmp.echo_id;
		} else if (icmp.type == ICMP_ECHOREPLY) {
			packet->destination_port = icmp.echo_id;
		}
	}
	return PACKET_IPV4;
}

/* Reads a packet of a leg. Returns 1 when it is to be judged further; anything but TCP, and ICMP errors about it, has no business there,
 * but for datagrams on the legs of the egress proxies, where the DNS process is. */
static __always_inline int leg_packet(struct __sk_buff *skb, struct packet *packet, int has_datagrams)
{
	__be32 outer_source;

	if (parse(skb, packet, &outer_source) != PACKET_IPV4)
		return 0;
	return packet->protocol == IPPROTO_TCP || (has_datagrams && packet->protocol == IPPROTO_UDP && !packet->icmp_error);
}

/* A SYN that opens a connection. */
static __always_inline int is_opening(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP && !packet->icmp_error && (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

#endif
