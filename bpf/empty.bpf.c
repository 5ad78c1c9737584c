// SPDX-License-Identifier: GPL-2.0
/* What a hook costs by itself: the base line of examples/bpf_cost.rs. Not part of the agent. */
#include "core.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

SEC("tp_btf/sched_switch")
int empty_switch(void *ctx)
{
	return 0;
}

SEC("tp_btf/sched_wakeup")
int empty_wakeup(void *ctx)
{
	return 0;
}
