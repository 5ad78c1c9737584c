#!/bin/sh
# Guest: what the VM promises, without the agent; results in /mnt (tests/all/vm.rs reads them). Needs /mnt/spin.
# Board: `-u 1 -c 2:.. -c 1:..`.
here=$(cd "$(dirname "$0")" && pwd)
fs=/sys/devices/system/cpu/cpufreq tracing=/sys/kernel/tracing cpu=$(($(nproc --all) - 1))
set -- $(ls -d $fs/policy* | sort -V); a=$1 b=$2
taskset -pc "$cpu" $$ > /dev/null
mark() { # N: on every domain's own port (0x5d0 on), since the host does not order one domain's writes with another's
  n=0; for p in $(ls -d $fs/policy* | sort -V); do printf "\\$(printf %03o "$1")" | dd of=/dev/port bs=1 seek=$((1488 + n)) 2>/dev/null; n=$((n + 1)); done
}

# 1. Facts an agent builds on.
{
  echo "cpus $(nproc --all)"
  for p in $fs/policy*; do echo "policy ${p##*policy} cpus $(cat $p/related_cpus)"; done
  for f in /sys/kernel/btf/vmlinux $tracing/events/power/cpu_frequency /sys/fs/bpf /sys/fs/cgroup/cpu.stat /dev/shm /run /proc/pressure/cpu; do
    [ -e $f ] && echo "has $f"
  done
  echo "controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
  echo "clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
  echo "drops root to $(setpriv --reuid nobody --regid nogroup --clear-groups id -un)"
} > /mnt/facts.txt

# 2. The settings tool sees one changed tunable, and a tunable lost by a governor that goes and comes back.
"$here/unsettle" A && "$here/settings" > /mnt/settings-a.txt
echo 78 > $fs/ondemand/up_threshold; "$here/settings" > /mnt/settings-b.txt
echo 77 > $fs/ondemand/up_threshold; "$here/settings" > /mnt/settings-c.txt
echo performance > $a/scaling_governor; echo ondemand > $a/scaling_governor; "$here/settings" > /mnt/settings-d.txt

# 3. The guest's clock between two marks, around what takes some seconds.
mark 50; read up _ < /proc/uptime; echo "$up" > /mnt/clock.txt

# 4. Speed follows the OPP: million iterations a second of one CPU at each, and of the CPU without a clock.
for p in $fs/policy*; do cat $p/cpuinfo_max_freq > $p/scaling_max_freq; echo userspace > $p/scaling_governor; done
for f in $(tr ' ' '\n' < $b/scaling_available_frequencies | sort -n); do
  echo $f > $b/scaling_setspeed; echo "$f $(/mnt/spin ${b##*policy} 1 | cut -d' ' -f2)"
done > /mnt/spin.txt
echo "free $(/mnt/spin "$cpu" 1 | cut -d' ' -f2)" >> /mnt/spin.txt

read up _ < /proc/uptime; mark 51; echo "$up" >> /mnt/clock.txt

# 5. 60 writes of the speed, all over the table, on two policies in turn.
echo 0 > $tracing/tracing_on; : > $tracing/trace; echo 1 > $tracing/events/power/cpu_frequency/enable; echo 1 > $tracing/tracing_on
: > /mnt/writes.txt
mark 40
i=0
while [ $i -lt 30 ]; do
  for p in $a $b; do
    set -- $(cat $p/scaling_available_frequencies)
    shift $(((i * 7 + ${#p}) % $#)); echo "$1" > $p/scaling_setspeed; echo "${p##*policy} $1" >> /mnt/writes.txt
  done
  i=$((i + 1))
done
mark 41
echo 0 > $tracing/tracing_on
grep -o 'cpu_frequency: .*' $tracing/trace > /mnt/frequency.txt
exit 0
