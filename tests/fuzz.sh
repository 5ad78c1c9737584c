#!/usr/bin/env bash
# Fuzzes whatever parses bytes from outside: fuzz.sh [SECONDS]   (for each target; 60 if not said)
# libFuzzer with the address sanitizer. RUSTC_BOOTSTRAP lets any compiler do what cargo-fuzz asks a nightly one for.
# Corpora and findings lie below target/fuzz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
target=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$PWD/target/fuzz
export RUSTFLAGS="-Zsanitizer=address -Cdebug-assertions --cfg fuzzing -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
failed=()
for crate in dnn-runner/fuzz dnn-runner/channel/fuzz; do
  cp Cargo.lock $crate/Cargo.lock # the versions that ship
  cargo build --release --target "$target" --manifest-path $crate/Cargo.toml
  for source in $crate/fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    seeds=$crate/seeds
    [ ! -d "$seeds/$name" ] || seeds=$seeds/$name
    corpus=target/fuzz/corpus/$name found=target/fuzz/artifacts/$name
    mkdir -p "$corpus" "$found"
    echo "== $name, $seconds s"
    "target/fuzz/$target/release/$name" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -artifact_prefix="$found/" \
      "$corpus" "$seeds" 2>&1 | grep -vE '^(#[0-9]|"|######|\s+NEW_FUNC)' || failed+=("$name")
  done
done
for name in "${failed[@]}"; do echo "FAILED: $name: see target/fuzz/artifacts/$name"; done
[ ${#failed[@]} = 0 ]
