#!/bin/sh
# Guest: the real agent on the kernel's own cpufreq, twice: ended by TERM, then by an injected panic. Each time the machine
# starts with unusual settings (unsettle), and every one of them must be back afterwards.
# usage, by environment: TANDEM=path CONFIG=path [RUNNER='command'] [SECONDS_EACH=5] [ROUNDS='term panic']
#   [SERVE_WAIT=180] [CHANGES=0: frequency changes to wait for beyond SECONDS_EACH, at most 180 s] [CPU=housekeeping CPU]
#   [OUT=/mnt] e2e.sh
# The runner is started before the agent, so that its group, CPUs and nice are among what must be back.
# Agent's commands used: `run --config FILE`, `status --json` (says "serving" once a policy does), `panic`.
# In OUT, for each round: settings-{before,during,after}-ROUND.txt, frequency-ROUND.txt (the kernel's own trace, to be
# compared with what the host saw between the marks), agent-ROUND.log, runner-ROUND.log, status-ROUND.json; result.txt.
# Marks on the host, in every domain: 40 and 41 around round term, 42 and 43 around round panic.
set -u
here=$(cd "$(dirname "$0")" && pwd)
: "${TANDEM:?path of the agent}" "${CONFIG:?path of its configuration}"
each=${SECONDS_EACH:-5} out=${OUT:-/mnt} cpu=${CPU:-$(($(nproc --all) - 1))} tracing=/sys/kernel/tracing failed=0
: > "$out/result.txt"
say() { echo "$*" | tee -a "$out/result.txt"; }
fail() { say "FAIL: $*"; failed=1; }
claim() { # WHAT COMMAND...
  w=$1; shift
  if "$@" > "$out/claim.txt" 2>&1; then say "ok: $w"; else fail "$w"; head -20 "$out/claim.txt"; fi
}
mark() { # N: on every domain's own port (0x5d0 on), since the host does not order one domain's writes with another's
  n=0; for p in $(ls -d /sys/devices/system/cpu/cpufreq/policy* | sort -V); do printf "\\$(printf %03o "$1")" | dd of=/dev/port bs=1 seek=$((1488 + n)) 2>/dev/null; n=$((n + 1)); done
}
waitfor() { # SECONDS COMMAND...: until it succeeds
  end=$(($(cut -d. -f1 /proc/uptime) + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || return 1; sleep 0.2; done
}
# Seldom: each look is a program start, and the policy is compiled on the same emulated CPU, with a lower priority.
serves() { sleep 3; "$TANDEM" status --json | grep -q '"serving"'; }
# On a starved host a fixed time is worth nothing.
enough() { [ "$(grep -c 'cpu_frequency: ' $tracing/trace)" -ge "${CHANGES:-0}" ]; }
differ() { ! cmp -s "$1" "$2"; }

taskset -pc "$cpu" $$ > /dev/null        # this script, and what it starts, is no load of a domain
sh -c 'while :; do :; done' & co=$!      # a busy co-runner, on a clocked CPU, in a group of its own
taskset -pc 1 $co > /dev/null; renice -n 7 -p $co > /dev/null

round() { # NAME SETTINGS FIRST_MARK
  r=$1
  "$here/unsettle" "$2" || { fail "$r: the settings to start from"; return; }
  echo $co > /sys/fs/cgroup/co-runner/cgroup.procs
  runner=
  if [ -n "${RUNNER-}" ]; then sh -c "exec $RUNNER" > "$out/runner-$r.log" 2>&1 & runner=$!; sleep 3; fi
  "$here/settings" -p "$co,$runner" > "$out/settings-before-$r.txt"
  "$TANDEM" run ${ARGS-} --config "$CONFIG" > "$out/agent-$r.log" 2>&1 & agent=$!
  claim "$r: the agent serves" waitfor "${SERVE_WAIT:-180}" serves
  # From here on the clocks are the agent's: what the kernel's governors did before is not in the trace.
  echo 0 > $tracing/tracing_on; : > $tracing/trace; echo 1 > $tracing/events/power/cpu_frequency/enable
  mark "$3"; echo 1 > $tracing/tracing_on
  sleep "$each"
  claim "$r: ${CHANGES:-0} frequency changes" waitfor 180 enough
  "$TANDEM" status --json > "$out/status-$r.json" 2>&1
  [ -z "$runner" ] || claim "$r: the runner still runs" kill -0 "$runner"
  "$here/settings" -p "$co,$runner" > "$out/settings-during-$r.txt"
  claim "$r: the agent has changed settings" differ "$out/settings-before-$r.txt" "$out/settings-during-$r.txt"
  case $r in
    term) kill -TERM $agent;;
    panic) "$TANDEM" panic >> "$out/agent-$r.log" 2>&1;;
  esac
  # A zombie still answers kill -0: so wait, under a watchdog.
  (sleep 60; kill -KILL $agent) 2>/dev/null & dog=$!
  wait $agent; rc=$?; kill $dog 2>/dev/null
  echo 0 > $tracing/tracing_on; mark $(($3 + 1)); echo 0 > $tracing/events/power/cpu_frequency/enable
  grep -o 'cpu_frequency: .*' $tracing/trace > "$out/frequency-$r.txt"
  case $r in
    term) claim "$r: exit status 0 (it was $rc)" [ $rc -eq 0 ];;
    panic) claim "$r: a failure is told by the exit status ($rc)" [ $rc -ne 0 -a $rc -ne 137 ];;
  esac
  "$here/settings" -p "$co,$runner" > "$out/settings-after-$r.txt"
  claim "$r: every setting is back" diff "$out/settings-before-$r.txt" "$out/settings-after-$r.txt"
  [ -z "$runner" ] || { kill "$runner"; wait "$runner"; } 2>/dev/null
}
for r in ${ROUNDS:-term panic}; do
  case $r in
    term) round term A 40;;
    panic) round panic B 42;;
    *) fail "ROUNDS: $r is neither term nor panic";;
  esac
done
kill $co; wait $co 2>/dev/null
exit $failed
