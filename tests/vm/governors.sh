#!/bin/sh
# Guest: how long each of the kernel's governors stays at each OPP of policy 0 under a load; lines
# `GOVERNOR LOAD MHZ:PERMILLE...` in /mnt/residency.txt; marks 40, 41, ... around each. Needs /mnt/loads (loads.c) and /mnt/loads.txt (`NAME TASK...`).
# usage: governors.sh SECONDS GOVERNOR...; the board has one domain of one CPU and a free CPU.
p=/sys/devices/system/cpu/cpufreq/policy0
seconds=$1; shift
taskset -pc 1 $$ > /dev/null
mark() { printf "\\$(printf %03o "$1")" | dd of=/dev/port bs=1 seek=1488 2>/dev/null; }
echo performance > $p/scaling_governor
rate=$(/mnt/loads 0 2)
echo "rate $rate" > /mnt/residency.txt
n=40
for g in "$@"; do
  while read -r name tasks; do
    echo $g > $p/scaling_governor
    # The first second is the governor's start.
    /mnt/loads 0 $((seconds + 1)) "$rate" $tasks & job=$!
    sleep 1; mark $n; cat $p/stats/time_in_state > /tmp/before
    sleep "$seconds"; cat $p/stats/time_in_state > /tmp/after; mark $((n + 1))
    wait $job
    echo "$g $name $(awk 'NR == FNR { b[$1] = $2; next } { d[$1] = $2 - b[$1]; sum += d[$1] } END { for (f in d) printf " %d:%.1f", f / 1000, 1000 * d[f] / sum }' /tmp/before /tmp/after)" >> /mnt/residency.txt
    n=$((n + 2))
  done < /mnt/loads.txt
done
