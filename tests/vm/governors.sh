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
    # Each from the top OPP: conservative stays where it comes from.
    echo performance > $p/scaling_governor
    echo $g > $p/scaling_governor
    mark $n
    /mnt/loads 0 "$seconds" "$rate" $p/stats/time_in_state $tasks > /tmp/states
    mark $((n + 1))
    echo "$g $name $(awk '$1 == "before" { b[$2] = $3 } $1 == "after" { d[$2] = $3 - b[$2]; sum += d[$2] } END { for (f in d) printf " %d:%.1f", f / 1000, 1000 * d[f] / sum }' /tmp/states)" >> /mnt/residency.txt
    n=$((n + 2))
  done < /mnt/loads.txt
done
