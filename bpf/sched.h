/* SPDX-License-Identifier: GPL-2.0 */
/* What sched.bpf.c counts and agent/src/sense/sched.rs reads. Fixed-width fields only; libbpf-cargo
 * makes the Rust types from these definitions, so there is no second one to keep in step.
 *
 * A "meter" is a total time in one word, so that a reader on another CPU can never see half of an
 * update: bit 0 = the interval is open (something runs now); the other 63 bits = closed time, less the
 * start of the open interval, in ns, modulo 2^63. Opening adds 1 - 2*now, closing adds 2*now - 1; a
 * reader that finds bit 0 set closes its own copy at its own `now`. */
#ifndef TANDEM_SCHED_H
#define TANDEM_SCHED_H

enum {
	APP_SLOTS = 64,		/* channel::MAX_RUNNERS */
	SLOT_OTHER = APP_SLOTS, /* everything that is no registered application */
	IDLE_STATES = 10,	/* the kernel's CPUIDLE_STATE_MAX */
	DELAY_BUCKETS = 32,	/* bucket b counts delays of [2^b, 2^(b+1)) ns; the last one and longer */
	OPPS = 64,
	DOMAINS = 16,
	TASKS = 1 << 16,
	CPUS = 1024,		/* lowered to the machine's number at load */
};

struct app_time {
	__u64 run; /* meter */
	__u64 delay; /* ns on the run queue, ended */
};

/* One per CPU. Written by its own CPU, but for `migrations`. */
struct cpu_slot {
	/* the words every context switch touches */
	__u64 busy; /* meter: not in the idle task */
	__u64 running; /* 0 = idle or not known yet, else application slot + 1 of the running task */
	__u64 switches;
	__u64 delay; /* ns that tasks waited before this CPU took them */
	__u64 wakeups; /* done by code that ran on this CPU */
	__u64 idle_state; /* 0 = none, else state + 1 */
	__u64 domain; /* 0 = none, else index + 1; set by the agent before attaching */
	__u64 new_tasks; /* of the wake-ups */

	__u64 idle_events; /* idle entries and exits */
	__u64 frequency_events;
	__u64 limits_events;
	__u64 exits;
	__u64 pad0[4];

	__u64 migrations; /* onto this CPU; other CPUs write it, atomically */
	__u64 pad1[7];

	__u64 idle[IDLE_STATES]; /* meters */
	__u64 pad2[6];
	__u64 delay_hist[DELAY_BUCKETS];
	struct app_time app[APP_SLOTS + 1];
	__u64 pad3[6];
};
_Static_assert(sizeof(struct cpu_slot) == 1664 && sizeof(struct cpu_slot) % 128 == 0,
	       "whole pairs of cache lines");

/* One per board domain of kind cpufreq. The kernel serialises the changes of one policy. */
struct domain_slot {
	__u64 khz; /* 0 = not known yet */
	__u64 transitions;
	__u64 limit_min; /* kHz, as last told by the kernel */
	__u64 limit_max;
	__u64 limit_changes;
	__u64 limit_told_at; /* last event of this domain */
	__u64 opps; /* set by the agent before attaching, as the next one */
	__u64 pad0;
	__u64 opp_upto[OPPS]; /* kHz: OPP i is in force up to here, half-way to the next */
	__u64 opp_time[OPPS]; /* meters */
};
_Static_assert(sizeof(struct domain_slot) == 1088, "no hidden padding");

struct control {
	__u64 generation; /* from 1; the agent raises it when applications come or go */
	__u64 lost; /* events that found the ring full */
	__u64 pad0[6];
	__u64 delay_bound[APP_SLOTS]; /* ns; 0 = none; set by the agent */
	__u64 delay_told_at[APP_SLOTS];
};
_Static_assert(sizeof(struct control) == 1088, "no hidden padding");

/* One per pid modulo TASKS. Two living tasks that share one lose delay samples, nothing else. */
struct task_entry {
	__u64 queued_at; /* 0 = not waiting, or since when is not known */
	__u32 pid;
	__u32 tag; /* generation << 7 | application slot: the slot as looked up in that generation */
};
_Static_assert(sizeof(struct task_entry) == 16, "no hidden padding");

enum event_kind {
	EVENT_APP_DELAYED = 1, /* index: application slot, value: ns */
	EVENT_LIMITS = 2, /* index: domain, value: the new maximum in kHz */
	EVENT_RUNNER_EXITED = 3, /* index: application slot, value: tgid */
};

struct event {
	__u32 kind;
	__u32 index;
	__u64 value;
};
_Static_assert(sizeof(struct event) == 16, "no hidden padding");

#endif
