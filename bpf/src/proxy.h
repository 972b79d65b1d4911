/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Moving packets between workloads, the host and the proxies' namespaces. */
#ifndef HEADGATE_PROXY_H
#define HEADGATE_PROXY_H

#include "maps.h"
#include "packet.h"

static __always_inline __u32 accepted_mark(__u32 class, __u16 slot_port, __u16 slot_generation)
{
	return class | ((__u32)slot_generation << MARK_GENERATION_SHIFT) | ((__u32)slot_port << MARK_PORT_SHIFT);
}

/* Into a proxy's namespace from an ingress hook. The mark survives: a peer redirect does not count as crossing. */
static __always_inline int into_proxy(struct __sk_buff *skb, const struct config *config, __u32 leg, __u32 mark)
{
	skb->mark = mark;
	return bpf_redirect_peer(config->legs[leg].host_ifindex, 0);
}

/* The same from an egress hook, where no mark survives: the inner program finds the slot in conntrack. The note lets the guard on
 * the leg's device tell this packet from one that somebody on the host wrote to the device. */
static __always_inline int into_proxy_from_host(struct __sk_buff *skb, const struct config *config, __u32 leg)
{
	__u32 zero = 0;
	struct handover *handover = bpf_map_lookup_elem(&handovers, &zero);

	if (!handover)
		return TCX_DROP;
	handover->ifindex = config->legs[leg].host_ifindex;
	handover->length = skb->len;
	return bpf_redirect(config->legs[leg].host_ifindex, 0);
}

/* Into a workload from an ingress hook, as if its own device had received the frame. */
static __always_inline int into_workload(struct __sk_buff *skb, const struct endpoint *endpoint)
{
	bpf_skb_store_bytes(skb, 0, endpoint->mac, ETH_ALEN, 0);
	bpf_skb_store_bytes(skb, ETH_ALEN, endpoint->host_mac, ETH_ALEN, 0);
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(endpoint->ifindex, 0);
}

/* Back into the host as if the workload had sent the frame: routing, NAT and filters of the host apply as to its own. */
static __always_inline int reenter(struct __sk_buff *skb, const struct endpoint *endpoint, const struct address *peer)
{
	struct neighbor_key key = { .peer = *peer, .endpoint_id = endpoint->id };
	struct neighbor_value *neighbor = bpf_map_lookup_elem(&neighbors, &key);
	__u8 destination[ETH_ALEN];

	/* Without a bridge the next hop is the device itself, and that is also the best guess for a forgotten neighbor. */
	if (neighbor)
		__builtin_memcpy(destination, neighbor->mac, ETH_ALEN);
	else
		__builtin_memcpy(destination, endpoint->host_mac, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, destination, ETH_ALEN, 0);
	bpf_skb_store_bytes(skb, ETH_ALEN, endpoint->mac, ETH_ALEN, 0);
	skb->mark = MARK_REENTER;
	return bpf_redirect(endpoint->ifindex, BPF_F_INGRESS);
}

static __always_inline void learn_neighbor(const struct endpoint *endpoint, const struct address *peer, const __u8 *mac)
{
	struct neighbor_key key = { .peer = *peer, .endpoint_id = endpoint->id };
	struct neighbor_value value = {};

	__builtin_memcpy(value.mac, mac, ETH_ALEN);
	bpf_map_update_elem(&neighbors, &key, &value, BPF_ANY);
}

static __always_inline struct endpoint *local_endpoint(const struct address *address)
{
	struct endpoint_ref *ref = bpf_map_lookup_elem(&endpoint_addresses, address);
	struct endpoint *endpoint;
	__u32 ifindex;

	if (!ref)
		return 0;
	ifindex = ref->ifindex;
	endpoint = bpf_map_lookup_elem(&endpoints, &ifindex);
	return endpoint && endpoint->id == ref->endpoint_id ? endpoint : 0;
}

#endif
