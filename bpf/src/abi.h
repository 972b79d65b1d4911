/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The contract between the kernel programs and the processes: map keys and values, marks, verdicts and drop reasons.
 * bpf/generate.ts reads this file's types from the object's BTF and writes their TypeScript layouts; a digest of them names the
 * folder that maps are pinned in, so a change here makes a new folder, which the agent fills and swaps in.
 *
 * Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d, so that IPv6 needs no new layout. Ports and addresses are in network order,
 * everything else in the machine's. No implicit padding: each pad is named and zero, because keys are compared as bytes.
 */
#ifndef HEADGATE_ABI_H
#define HEADGATE_ABI_H

#include <linux/types.h>

/* ---- Socket and packet marks inside the proxies' namespaces ------------------------------------------------------------
 * bits 0-3   class of the leg, or MARK_LOCAL
 * bits 4-15  generation of the slot
 * bits 16-31 port of the slot's listener (host order)
 * Upstream legs carry the class alone. Marks do not cross namespaces, so a workload cannot set one that counts. */
enum mark {
	MARK_EGRESS_ACCEPTED = 1,
	MARK_EGRESS_UPSTREAM = 2,
	MARK_INGRESS_ACCEPTED = 3,
	MARK_INGRESS_UPSTREAM = 4,
	MARK_LOCAL = 8,	/* deliver to this namespace's own stack: `ip rule fwmark 8/0xf` */
	MARK_CLASS_MASK = 0xf,
	MARK_GENERATION_SHIFT = 4,
	MARK_PORT_SHIFT = 16,
	/* On a packet that re-enters the host at its workload's device. Set after a redirect inside the host's namespace. */
	MARK_REENTER = 0x48470001,
};

/* ---- UDP sockets of the DNS process, in the egress proxies' namespace ---------------------------------------------------
 * Queries of all slots come to one socket on 127.0.0.1: the packet's mark says which slot, with MARK_LOCAL in place of the class.
 * Answers of servers come to another one, whatever port of the client's address they are addressed to. The sockets themselves are
 * marked with the class of their leg alone. */
enum dns_port {
	DNS_QUERIES_PORT = 19053,
	DNS_ANSWERS_PORT = 19054,
};

enum direction {
	DIRECTION_INGRESS = 0,
	DIRECTION_EGRESS = 1,
};

/* Which conversation a conntrack entry tells of. A redirected connection has two: the workload's own, which ends at the
 * proxy's accepted socket, and the proxy's, towards the peer. Both may have the same tuple, hence the side in the key. */
enum ct_side {
	CT_WORKLOAD = 0,
	CT_NETWORK = 1,
};

enum leg {
	LEG_DIRECT = 0,
	LEG_EGRESS_ACCEPTED = 1,
	LEG_EGRESS_UPSTREAM = 2,
	LEG_INGRESS_ACCEPTED = 3,
	LEG_INGRESS_UPSTREAM = 4,
};

enum verdict {
	VERDICT_DENY = 0,
	VERDICT_ALLOW = 1,
	VERDICT_REDIRECT = 2,
	VERDICT_AUDIT = 3,	/* of events and counters: passed, and policy in audit would have dropped it */
};

/* Why a packet was dropped, or 0. Appears in counters, events and flows; numbers are never reused. */
enum drop_reason {
	REASON_NONE = 0,
	REASON_POLICY_DENIED = 1,	/* no rule allows it */
	REASON_POLICY_DENY_RULE = 2,	/* a deny rule matches */
	REASON_POLICY_REVOKED = 3,	/* the connection was allowed once, current policy does not support it */
	REASON_NO_POLICY = 4,		/* enforcement is on and the policy is not there */
	REASON_NO_ENDPOINT = 5,		/* a program runs on a device that no endpoint row names */
	REASON_SPOOFED_SOURCE = 6,
	REASON_SPOOFED_ARP = 7,
	REASON_INVALID_ADDRESS = 8,	/* loopback, reserved or multicast where none may be */
	REASON_MALFORMED = 9,
	REASON_FRAGMENT = 10,
	REASON_IPV6_UNSUPPORTED = 11,
	REASON_UNKNOWN_ETHERTYPE = 12,
	REASON_VLAN = 13,
	REASON_UNKNOWN_PROTOCOL = 14,	/* no longer given: protocols without ports are judged by policy */
	REASON_NO_CONNECTION = 15,	/* not the start of a connection, and none is known */
	REASON_NOT_REDIRECTABLE = 16,	/* a redirect verdict for something that no proxy reads */
	REASON_NO_LISTENER = 17,	/* the slot's listener is not there */
	REASON_WRONG_SOCKET = 18,	/* the socket found is not the one that was asked for */
	REASON_NO_SOCKET = 19,
	REASON_PROXIED_TUPLE = 20,	/* from the network, with the tuple of a proxied connection's inner leg */
	REASON_LEG_UNEXPECTED = 21,	/* a packet on a leg device that nothing accounts for */
	REASON_CONNTRACK_FULL = 22,
	REASON_ICMP_UNRELATED = 23,
	REASON_SOCKET_ASSIGN = 24,
	REASON_MAX = 32,
};

struct address {
	__u8 bytes[16];
};

/* ---- endpoints: by index of the host-side device --------------------------------------------------------------------- */
enum endpoint_flag {
	ENDPOINT_ENFORCE_INGRESS = 1,
	ENDPOINT_ENFORCE_EGRESS = 2,
	ENDPOINT_ALLOW_LOCALHOST = 4,
	ENDPOINT_AUDIT = 8,	/* only policies in audit restrict it: what no row can be asked about is reported, not dropped */
};
enum endpoint_limit {
	ENDPOINT_ADDRESSES_MAX = 8,
};

struct endpoint {
	__u32 id;		/* never used again for another endpoint */
	__u32 identity;
	__u32 policy_group;	/* key of policy_groups; 0: none */
	__u32 revision;		/* grows when policy changes for it: tracked connections are judged again */
	__u32 flags;
	__u32 ifindex;
	__u8 mac[6];		/* the workload's own */
	__u8 host_mac[6];	/* of the host-side device */
	__u32 address_count;
	struct address addresses[ENDPOINT_ADDRESSES_MAX];
};

/* ---- endpoint_addresses: address of a local endpoint -> its device ---------------------------------------------------- */
struct endpoint_ref {
	__u32 ifindex;
	__u32 endpoint_id;
};

/* ---- ipcache: longest prefix of an address -> identity ----------------------------------------------------------------- */
struct ipcache_key {
	__u32 prefix_length;	/* bits; IPv4 prefixes count from 96 */
	struct address address;
};
enum ipcache_flag {
	IPCACHE_PREFIX = 1,	/* of a prefix that policy names, not of an endpoint or node: names may be known for what it covers */
};
struct ipcache_value {
	__u32 identity;
	__u32 flags;
};

/* ---- learned_addresses: address that a DNS answer gave -> the selectors whose names it stands for ---------------------------------
 * Selectors are identities of policy rows. Written by the DNS process alone, before it lets go of the answer; what a selector may do is
 * the agent's to write. An address is known to everybody, or to the one endpoint that asked a server which nobody vouches for. */
enum learned_limit {
	LEARNED_SELECTORS_MAX = 8,
};
/* Its rows hold for an address of several names that would send to different slots (policy/engine.ts, SEVERAL_NAMES). */
enum several_names {
	IDENTITY_SEVERAL_NAMES = 0x1ffffff,
};
struct learned_key {
	struct address address;
	__u32 endpoint_id;	/* 0: known to every endpoint */
};
struct learned_selector {
	__u32 identity;
};
struct learned_value {
	struct learned_selector selectors[LEARNED_SELECTORS_MAX];	/* identity 0 ends the list */
};
/* One row: grows when an address is forgotten, so that connections are judged again. */
struct learned_state {
	__u32 revision;
	__u32 pad;
};

/* ---- policy: policy_groups maps a group to its rows, an LPM trie ---------------------------------------------------------
 * Two lookups: the peer's identity, then identity 0 (any). Each row is complete: everything that covers it is merged in. */
struct policy_key {
	__u32 prefix_length;	/* bits after this field */
	__u32 identity;
	__u8 direction;
	__u8 protocol;		/* wildcard: prefix_length ends before it */
	__be16 port;		/* ranges are prefixes; ICMP: type << 8; protocols without ports: 0 */
};
enum policy_prefix {
	POLICY_PREFIX_L3 = 40,		/* identity and direction */
	POLICY_PREFIX_PROTOCOL = 48,
	POLICY_PREFIX_FULL = 64,
};

struct policy_value {
	__u8 verdict;
	__u8 flags;
	__u16 slot_port;	/* host order */
	__u16 slot_generation;
	__u16 pad;
	__u32 precedence;	/* higher wins between the two lookups */
	__u32 cookie;		/* names the policies and rules that the row came from */
};
enum policy_flag {
	POLICY_EXPLICIT_DENY = 1,	/* a deny rule, not the lack of an allow */
	POLICY_AUDIT = 2,	/* of an allow: to be reported as VERDICT_AUDIT */
	POLICY_ALLOWS_ALL = 4,	/* of a redirect: its slot lets through what no rule denies */
};

/* ---- slots ------------------------------------------------------------------------------------------------------------------
 * Pairs of (slot of an open connection, slot of its policy row) of which the second allows all that the first does.
 * Such a connection stays where it is. */
struct slot_pair {
	__u16 from_port;
	__u16 from_generation;
	__u16 to_port;
	__u16 to_generation;
};

/* ---- conntrack --------------------------------------------------------------------------------------------------------------
 * Tuples are always seen from the endpoint: local is the workload's address, remote the peer's. */
struct ct_key {
	struct address local;
	struct address remote;
	__be16 local_port;	/* ICMP echo: the identifier; protocols without ports: 0 on both sides */
	__be16 remote_port;
	__u8 protocol;
	__u8 side;
	__u16 pad;
	__u32 endpoint_id;
};
enum ct_flag {
	CT_SEEN_REPLY = 1,
	CT_ORIGINAL_CLOSED = 2,	/* FIN or RST seen in this direction */
	CT_REPLY_CLOSED = 4,
	CT_VIA_EGRESS_PROXY = 8,	/* ingress entry whose peer is the upstream leg of this node's egress proxy */
};
struct ct_value {
	__u64 last_seen_ns;
	/* endpoint.revision + config.revision + learned_state.revision when policy last supported it, and when it last did not. Each is written whole, so that
	 * CPUs that judge or touch the same entry at once cannot undo each other. */
	__u32 revision;
	__u32 revoked_revision;
	__u32 identity;		/* of the peer, when it was last judged */
	__u32 cookie;
	__u16 slot_port;
	__u16 slot_generation;
	__u8 direction;		/* of the connection's first packet */
	__u8 leg;
	__u8 flags;
	__u8 twin;		/* not 0: an entry of the other side may have the same tuple */
};

/* ---- config: one row ----------------------------------------------------------------------------------------------------- */
enum config_flag {
	CONFIG_NAMES = 1,	/* some policy names a selector: learned addresses are looked up */
};
struct leg_device {
	__u32 host_ifindex;
};
struct config {
	__u32 revision;		/* grows when the ipcache changes */
	__u32 flags;
	struct leg_device legs[5];	/* by enum leg; 0 unused */
	__u32 tcp_timeout_seconds;
	__u32 tcp_syn_timeout_seconds;
	__u32 tcp_close_timeout_seconds;
	__u32 other_timeout_seconds;
	__u32 event_sample;	/* of 2^32 allowed connections, how many are reported; drops always are */
	__u32 events_per_second;	/* on each CPU; what is beyond is counted as lost */
};

/* ---- counters: by (verdict * 2 + direction) * REASON_MAX + reason --------------------------------------------------------- */
enum counter_limit {
	COUNTERS = 4 * 2 * REASON_MAX,
};
struct counter_value {
	__u64 packets;
	__u64 bytes;
};

/* Note from one program to the next on the same packet and CPU, which raw sockets cannot forge. */
struct handover {
	__u32 ifindex;
	__u32 length;
};

/* ---- neighbors: the MAC address that an endpoint itself uses towards a peer -------------------------------------------------- */
struct neighbor_key {
	struct address peer;
	__u32 endpoint_id;
};
struct neighbor_value {
	__u8 mac[6];
	__u16 pad;
};

/* ---- event_budgets: per CPU ---------------------------------------------------------------------------------------------------- */
struct event_budget {
	__u64 window_ns;	/* start of the current second */
	__u32 used;
	__u32 pad;
	__u64 lost;		/* events that had no place: over budget, or the ring was full */
};

/* ---- events: ring buffer ---------------------------------------------------------------------------------------------------- */
struct event {
	__u64 time_ns;		/* CLOCK_MONOTONIC */
	__u32 endpoint_id;
	__u32 local_identity;
	__u32 remote_identity;
	__u32 cookie;
	struct address local;
	struct address remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 verdict;
	__u8 reason;
	__u8 direction;
	__u8 leg;
	__u8 tcp_flags;
	__u16 slot_port;
	__u32 packet_length;
};

#endif
