#!/bin/sh
# Guest: the kernel's own thermal capping under an agent whose policy wants the top OPP, all limited CPUs busy.
# usage, by environment: TANDEM=path CONFIG=path SECONDS_EACH=.. [OUT=/mnt] thermal.sh; board: `boot -t -u 1 ...`
# In OUT: status.txt, one status a line while it runs; zone.txt, `UPTIME MILLIDEGREES MAX_KHZ CUR_KHZ` of the last policy;
# before.txt and after.txt (settings); agent.log. Marks 40 and 41 around the governed time.
set -u
here=$(cd "$(dirname "$0")" && pwd)
: "${TANDEM:?}" "${CONFIG:?}"
out=${OUT:-/mnt} cpu=$(($(nproc --all) - 1))
p=$(ls -d /sys/devices/system/cpu/cpufreq/policy* | sort -V | tail -n 1)
mark() { printf "\\$(printf %03o "$1")" | dd of=/dev/port bs=1 seek=1488 2>/dev/null; }
taskset -pc "$cpu" $$ > /dev/null
"$here/settings" > "$out/before.txt"
"$TANDEM" run --config "$CONFIG" > "$out/agent.log" 2>&1 & agent=$!
until "$TANDEM" status --json 2>/dev/null | grep -q '"serving"'; do sleep 3; kill -0 $agent || exit 1; done
i=0 busy=
while [ $i -lt "$cpu" ]; do taskset -c $i sh -c 'while :; do :; done' & busy="$busy $!"; i=$((i + 1)); done
mark 40
end=$(($(cut -d. -f1 /proc/uptime) + SECONDS_EACH))
while [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ]; do
  read -r up _ < /proc/uptime
  echo "$up $(cat /sys/class/thermal/thermal_zone0/temp) $(cat "$p/scaling_max_freq") $(cat "$p/scaling_cur_freq")" >> "$out/zone.txt"
  "$TANDEM" status --json | tr -d '\n' >> "$out/status.txt"; echo >> "$out/status.txt"
  sleep 0.2
done
mark 41
kill $busy
# The zone cools, so that no cap holds a limit down when the agent leaves.
sleep 8
kill -TERM $agent; wait $agent; rc=$?
sleep 4
"$here/settings" > "$out/after.txt"
exit $rc
