#!/bin/sh
# Guest: speed at the OPPs of two domains of one CPU each, both CPUs busy, one of them measured: lines `WHAT CPU KHZ SPEED` in
# /mnt/speed.txt; marks 40, 41, ... around each. Needs /mnt/speed (speed.c), `boot -B BOARD`, and RUNNER: the runner's
# command line of a `bench --best`.
fs=/sys/devices/system/cpu/cpufreq
taskset -pc 2 $$ > /dev/null
mark() { printf "\\$(printf %03o "$1")" | dd of=/dev/port bs=1 seek=1488 2>/dev/null; }
for p in 0 1; do echo userspace > $fs/policy$p/scaling_governor; done
: > /mnt/speed.txt
n=40
for cpu in 0 1; do
  set -- $(tr ' ' '\n' < $fs/policy$cpu/scaling_available_frequencies | sort -n)
  # The lowest, the highest, and three or four between.
  step=$(((${#} + 3) / 4)) i=0
  for khz in "$@"; do
    i=$((i + 1))
    [ $((i % step)) = 1 ] || [ $step = 1 ] || [ $i = $# ] || continue
    echo "$khz" > $fs/policy$cpu/scaling_setspeed
    cat $fs/policy$((1 - cpu))/cpuinfo_max_freq > $fs/policy$((1 - cpu))/scaling_setspeed
    for what in int fma inference; do
      /mnt/speed fma 100 $((1 - cpu)) > /dev/null & other=$!
      sleep 0.1; mark $n
      case $what in
        inference) s=$(taskset -c $cpu $RUNNER | sed -n 's/.*"frame_ms_p50": *\([0-9.]*\).*/\1/p' | tail -n 1 | awk '{ print 1000 / $1 }');;
        *) s=$(/mnt/speed $what 2 $cpu | cut -d' ' -f2);;
      esac
      mark $((n + 1)); n=$((n + 2))
      kill $other; wait $other 2>/dev/null
      echo "$what $cpu $khz $s" >> /mnt/speed.txt
    done
  done
done
exit 0
