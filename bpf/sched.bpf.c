// SPDX-License-Identifier: GPL-2.0
/* Counts what the scheduler, cpuidle and cpufreq do, per CPU, per domain and per application.
 *
 * Everything goes into plain arrays that the agent maps; nobody waits and nothing is allocated here.
 * Rare events go through a ring buffer, at most one a millisecond for each application and domain.
 *
 * The scheduler's hooks run with interrupts off on the CPU they count for, so its slot needs no
 * atomics; each word is stored once per change, so a reader never sees a half-done one.
 *
 * A task's state lives in a direct-mapped table by pid rather than in task-local storage: creating
 * the latter allocates under the run queue's lock, which kernels before 6.4 cannot do safely, and a
 * look-up here is a few instructions without a call.
 */
#include "core.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "sched.h"

char LICENSE[] SEC("license") = "GPL";

#define EVENT_GAP_NS 1000000
#define ONCE(x) (*(volatile typeof(x) *)&(x))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CPUS);
	__type(key, __u32);
	__type(value, struct cpu_slot);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, DOMAINS);
	__type(key, __u32);
	__type(value, struct domain_slot);
} domains SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TASKS);
	__type(key, __u32);
	__type(value, struct task_entry);
} tasks SEC(".maps");

/* Thread group of a registered runner -> its application slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * APP_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} runners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps");

/* Only so that the skeleton has the type: the ring buffer does not name it. */
const struct event event_layout = {};

static __always_inline void meter_open(__u64 *meter, __u64 now)
{
	ONCE(*meter) = *meter - 2 * now + 1;
}

static __always_inline void meter_close(__u64 *meter, __u64 now)
{
	ONCE(*meter) = *meter + 2 * now - 1;
}

static __always_inline void count(__u64 *counter)
{
	ONCE(*counter) = *counter + 1;
}

static __always_inline struct cpu_slot *slot_of_cpu(__u32 cpu)
{
	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline struct cpu_slot *slot_here(void)
{
	return slot_of_cpu(bpf_get_smp_processor_id());
}

static __always_inline struct control *control_block(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

static __always_inline struct task_entry *entry_of(__u32 pid)
{
	/* Neighbouring pids often run on different CPUs: keep them off each other's cache line. */
	__u32 i = ((pid << 2) | ((pid & (TASKS - 1)) >> 14)) & (TASKS - 1);
	struct task_entry *e = bpf_map_lookup_elem(&tasks, &i);

	if (e && e->pid != pid) {
		e->pid = pid;
		e->tag = 0;
		e->queued_at = 0;
	}
	return e;
}

static __always_inline __u32 app_slot(struct task_struct *p)
{
	__u32 tgid = p->tgid;
	__u32 *slot = bpf_map_lookup_elem(&runners, &tgid);

	return slot && *slot < APP_SLOTS ? *slot : SLOT_OTHER;
}

/* The application slot of a task about to run, from its entry if that is of this generation. */
static __always_inline __u32 app_slot_cached(struct task_struct *p, struct task_entry *e, struct control *ctl)
{
	__u32 generation = ctl->generation;
	__u32 slot;

	if (e->tag >> 7 == generation)
		return e->tag & 127;
	slot = app_slot(p);
	e->tag = generation << 7 | slot;
	return slot;
}

static __always_inline void push(struct control *ctl, __u32 kind, __u32 index, __u64 value)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		__sync_fetch_and_add(&ctl->lost, 1);
		return;
	}
	e->kind = kind;
	e->index = index;
	e->value = value;
	bpf_ringbuf_submit(e, 0);
}

/* At most once per EVENT_GAP_NS and `told_at`. */
static __always_inline void tell(struct control *ctl, __u64 *told_at, __u64 now, __u32 kind, __u32 index, __u64 value)
{
	__u64 then = ONCE(*told_at);

	if (then && (__s64)(now - then) < EVENT_GAP_NS)
		return;
	/* Two CPUs at once: one tells. */
	if (__sync_val_compare_and_swap(told_at, then, now) != then)
		return;
	push(ctl, kind, index, value);
}

static __always_inline __u32 log2_bucket(__u64 ns)
{
	__u32 v = ns >> 32 ? ~0u : (__u32)ns;
	__u32 b = 0;

	if (v >> 16) { v >>= 16; b += 16; }
	if (v >> 8) { v >>= 8; b += 8; }
	if (v >> 4) { v >>= 4; b += 4; }
	if (v >> 2) { v >>= 2; b += 2; }
	return b + (v >> 1);
}

/* The run meter of an application slot. The barrier keeps the compiler from checking one copy of the
 * index and using another, which the verifier cannot follow. */
static __always_inline __u64 *run_meter(struct cpu_slot *c, __u64 slot)
{
	barrier_var(slot);
	return slot <= SLOT_OTHER ? &c->app[slot].run : 0;
}

/* From now on this CPU runs for `to` (0 = idle, else application slot + 1). */
static __always_inline void run_for(struct cpu_slot *c, __u64 to, __u64 now)
{
	__u64 from = c->running;
	__u64 *meter;

	if (from == to)
		return;
	if (!from)
		meter_open(&c->busy, now);
	else if ((meter = run_meter(c, from - 1)))
		meter_close(meter, now);
	if (!to)
		meter_close(&c->busy, now);
	else if ((meter = run_meter(c, to - 1)))
		meter_open(meter, now);
	c->running = to;
}

static __always_inline bool is_runnable(struct task_struct *p)
{
	if (bpf_core_field_exists(p->__state))
		return !p->__state;
	return !BPF_CORE_READ((struct task_struct___before_5_14 *)p, state);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u64 now = bpf_ktime_get_ns();
	struct cpu_slot *c = slot_here();
	struct control *ctl = control_block();
	struct task_entry *e;
	__u32 pid, to = 0;

	if (!c || !ctl)
		return 0;
	count(&c->switches);

	pid = prev->pid;
	if (pid && (preempt || is_runnable(prev))) {
		e = entry_of(pid);
		if (e)
			e->queued_at = now;
	}

	pid = next->pid;
	if (pid) {
		__u32 slot = SLOT_OTHER;

		e = entry_of(pid);
		if (e) {
			__u64 queued_at = e->queued_at;

			slot = app_slot_cached(next, e, ctl);
			if (slot > SLOT_OTHER)
				slot = SLOT_OTHER;
			if (queued_at) {
				/* Stamped on another CPU, whose clock may be a few ns ahead. */
				__u64 delay = now > queued_at ? now - queued_at : 0;

				e->queued_at = 0;
				ONCE(c->delay) = c->delay + delay;
				count(&c->delay_hist[log2_bucket(delay) & (DELAY_BUCKETS - 1)]);
				ONCE(c->app[slot].delay) = c->app[slot].delay + delay;
				if (slot < APP_SLOTS) {
					__u64 bound = ctl->delay_bound[slot];

					if (bound && delay > bound)
						tell(ctl, &ctl->delay_told_at[slot], now, EVENT_APP_DELAYED, slot,
						     delay);
				}
			}
		}
		to = slot + 1;
	}
	run_for(c, to, now);
	return 0;
}

static __always_inline void woken(struct task_struct *p, bool is_new)
{
	struct cpu_slot *c = slot_here();
	struct task_entry *e = entry_of(p->pid);

	if (e) {
		/* A new task may have inherited the pid, and so the entry, of a dead one. */
		if (is_new)
			e->tag = 0;
		e->queued_at = bpf_ktime_get_ns();
	}
	if (c) {
		/* Atomic: a task that wakes itself does so with interrupts on. */
		__sync_fetch_and_add(&c->wakeups, 1);
		if (is_new)
			count(&c->new_tasks);
	}
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *p)
{
	woken(p, 0);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *p)
{
	woken(p, 1);
	return 0;
}

SEC("tp_btf/sched_migrate_task")
int BPF_PROG(on_migrate, struct task_struct *p, int dest_cpu)
{
	struct cpu_slot *c = slot_of_cpu(dest_cpu);

	if (c)
		__sync_fetch_and_add(&c->migrations, 1);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *p)
{
	struct cpu_slot *c = slot_here();
	struct control *ctl = control_block();
	__u32 slot;

	if (!c || !ctl)
		return 0;
	count(&c->exits);
	slot = app_slot(p);
	/* The kernel has already taken this thread off: 0 = it was the last of its group. */
	if (slot < APP_SLOTS && !p->signal->live.counter)
		push(ctl, EVENT_RUNNER_EXITED, slot, (__u32)p->tgid);
	return 0;
}

SEC("tp_btf/cpu_idle")
int BPF_PROG(on_idle, unsigned int state, unsigned int cpu)
{
	struct cpu_slot *c = slot_here();
	__u64 now = bpf_ktime_get_ns();
	__u32 was;

	if (!c)
		return 0;
	count(&c->idle_events);
	was = c->idle_state;
	if (was && was - 1 < IDLE_STATES)
		meter_close(&c->idle[was - 1], now);
	c->idle_state = 0;
	if (state < IDLE_STATES) {
		meter_open(&c->idle[state], now);
		c->idle_state = state + 1;
		/* Only the idle task gets here: whatever else this CPU was thought to run, it does not. A CPU
		 * that was idle when the hooks came has been seen to keep a busy interval open otherwise. */
		run_for(c, 0, now);
	}
	return 0;
}

/* The domain of a CPU, and its index; 0 if the board has none for it. */
static __always_inline struct domain_slot *domain_of_cpu(__u32 cpu, __u32 *index)
{
	struct cpu_slot *c = slot_of_cpu(cpu);

	if (!c || !c->domain)
		return 0;
	*index = c->domain - 1;
	return bpf_map_lookup_elem(&domains, index);
}

static __always_inline __u32 opp_of(struct domain_slot *d, __u32 khz)
{
	__u32 i;

	for (i = 0; i < OPPS - 1; i++)
		if (i + 1 >= d->opps || khz <= d->opp_upto[i])
			break;
	return i & (OPPS - 1);
}

SEC("tp_btf/cpu_frequency")
int BPF_PROG(on_frequency, unsigned int khz, unsigned int cpu)
{
	struct cpu_slot *here = slot_here();
	__u32 index;
	struct domain_slot *d = domain_of_cpu(cpu, &index);
	__u64 now;

	if (here)
		__sync_fetch_and_add(&here->frequency_events, 1);
	/* Fires once for each CPU of the policy; the first one is the change. */
	if (!d || d->khz == khz)
		return 0;
	now = bpf_ktime_get_ns();
	if (d->khz) {
		meter_close(&d->opp_time[opp_of(d, d->khz)], now);
		count(&d->transitions);
	}
	meter_open(&d->opp_time[opp_of(d, khz)], now);
	ONCE(d->khz) = khz;
	return 0;
}

SEC("tp_btf/cpu_frequency_limits")
int BPF_PROG(on_limits, struct cpufreq_policy *policy)
{
	struct cpu_slot *here = slot_here();
	struct control *ctl = control_block();
	__u32 index = 0;
	struct domain_slot *d = domain_of_cpu(policy->cpu, &index);
	__u32 min = policy->min, max = policy->max;

	if (here)
		__sync_fetch_and_add(&here->limits_events, 1);
	if (!d || !ctl || (d->limit_min == min && d->limit_max == max))
		return 0;
	ONCE(d->limit_min) = min;
	ONCE(d->limit_max) = max;
	count(&d->limit_changes);
	tell(ctl, &d->limit_told_at, bpf_ktime_get_ns(), EVENT_LIMITS, index, max);
	return 0;
}

/* Never attached: the agent runs it once on each CPU (in an interrupt there, so no hook is half-way),
 * so that a task already running is counted from now on, and counted for the right application after
 * one came or left, even if it never leaves the CPU. */
SEC("raw_tp/sched_switch")
int sync_cpu(void *ctx)
{
	struct cpu_slot *c = slot_here();
	struct task_struct *p = bpf_get_current_task_btf();

	if (c)
		run_for(c, p->pid ? app_slot(p) + 1 : 0, bpf_ktime_get_ns());
	return 0;
}
