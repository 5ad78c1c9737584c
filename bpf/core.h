/* SPDX-License-Identifier: GPL-2.0 */
/* The few kernel types and fields the programs touch. CO-RE relocates each access to the running
 * kernel's layout by its BTF, so neither the order nor the size here has to match, and neither kernel
 * headers nor a generated vmlinux.h are needed to build. */
#ifndef TANDEM_CORE_H
#define TANDEM_CORE_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_F_MMAPABLE = 1 << 10,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
};

struct task_struct {
	unsigned int __state;
	int pid;
	int tgid;
	struct signal_struct *signal;
};

/* Before Linux 5.14 the field was called `state`. */
struct task_struct___before_5_14 {
	long state;
};

struct cpufreq_policy {
	unsigned int cpu;
	unsigned int min;
	unsigned int max;
};

#pragma clang attribute pop

#endif
