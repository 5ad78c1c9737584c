#!/usr/bin/env bash
# Builds the runner's library tests for aarch64 and runs the kernels' property tests (NEON against the reference) under
# qemu-user. Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user, and a Rust target: rustup's, or the standard
# library built by Debian's rustc-web from rust-web-src.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=aarch64-unknown-linux-gnu
for program in aarch64-linux-gnu-gcc qemu-aarch64; do
  command -v "$program" > /dev/null || { echo "skipped: needs $program"; exit 0; }
done
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
build=(--locked --target "$target" --target-dir target/aarch64 -p dnn-runner --lib)
if rustup target list --installed 2> /dev/null | grep -q "$target"; then
  cargo=(cargo)
elif [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ]; then
  echo "aarch64: the standard library is built from Debian's sources"
  export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc
  cargo=(/usr/bin/cargo)
  build+=(-Zbuild-std)
else
  echo "skipped: needs rustup's target $target, or rustc-web, cargo-web and rust-web-src"
  exit 0
fi
# The emulator is slow: fewer cases, and only what differs from other CPUs.
PROPTEST_CASES=${PROPTEST_CASES:-16} "${cargo[@]}" test "${build[@]}" -- kernel:: engine:: image::
