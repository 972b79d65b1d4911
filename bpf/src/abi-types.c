/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Names every type of the ABI once, so that the compiler writes all of them into BTF, which bpf/generate.ts reads. Never loaded. */
#include "abi.h"

enum mark abi_mark;
enum dns_port abi_dns_port;
enum direction abi_direction;
enum ct_side abi_ct_side;
enum leg abi_leg;
enum verdict abi_verdict;
enum drop_reason abi_drop_reason;
enum endpoint_flag abi_endpoint_flag;
enum endpoint_limit abi_endpoint_limit;
enum ipcache_flag abi_ipcache_flag;
enum learned_limit abi_learned_limit;
enum several_names abi_several_names;
enum config_flag abi_config_flag;
enum policy_prefix abi_policy_prefix;
enum policy_flag abi_policy_flag;
enum ct_flag abi_ct_flag;
enum counter_limit abi_counter_limit;
struct address abi_address;
struct endpoint abi_endpoint;
struct endpoint_ref abi_endpoint_ref;
struct ipcache_key abi_ipcache_key;
struct ipcache_value abi_ipcache_value;
struct learned_key abi_learned_key;
struct learned_value abi_learned_value;
struct learned_state abi_learned_state;
struct policy_key abi_policy_key;
struct policy_value abi_policy_value;
struct slot_pair abi_slot_pair;
struct ct_key abi_ct_key;
struct ct_value abi_ct_value;
struct config abi_config;
struct counter_value abi_counter_value;
struct neighbor_key abi_neighbor_key;
struct neighbor_value abi_neighbor_value;
struct event_budget abi_event_budget;
struct event abi_event;
