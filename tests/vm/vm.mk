# make vm CMD='grep . /sys/devices/system/cpu/cpufreq/policy*/scaling_governor' [VM_OPTIONS='-u 1 -t']
.PHONY: vm
vm:
	@tests/vm/boot $(VM_OPTIONS) -- "$${CMD:?say make vm CMD=...}"
