#!/usr/bin/env bash
# `make demo VM=1`: the demo on the kernel's own cpufreq. Two domains of one CPU each and a CPU without a clock for the
# agent; a co-runner on the slower clocked CPU. The host's model of the clocks gives the energy column.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
out=$top/target/demo-vm
rm -rf "$out"
mkdir -p "$out"
"$here/boot" -u 1 -c 1:400@100,600@170,800@250,1000@360,1200@500,1400@650,1600@800 -c 1:500@150,1000@400,2000@2000 -s "$out" -T 600 -- \
  taskset -c 2 "$top/target/release/tandem" demo --root "$top" --out /mnt --marks --burn-cpus 0 --target-ms 30 --tight-ms 22
"$top/target/release/tandem" demo --out "$out" --energy "$out/.vm/pstate.csv"
# The manager's report: energy first, in turns with the kernel's own schedutil (frequency-invariant) and fixed sub-networks.
echo "the manager beside the kernel's schedutil:"
"$top/target/release/scenario" "$top/tests/scenarios/thesis-one-vm.toml" "$top/tests/scenarios/thesis-two-vm.toml" --policy tandem \
  --policy 'kernel:schedutil?subnet=3' --policy 'kernel:schedutil?subnet=0' \
  --vm odroid-xu3 --informed --out "$out/manager"
