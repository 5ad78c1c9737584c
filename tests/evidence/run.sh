#!/usr/bin/env bash
# Builds what one piece of evidence needs, in release, and measures it: run.sh NAME | docs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
name=$1
# One selection of packages: another one would build wasmtime again with other features.
cargo build --quiet --release --locked --workspace --bins
BUILT_FROM=$(git describe --always --exclude '*' --abbrev=12 --dirty=+changes)
export BUILT_FROM
exec target/release/evidence "$name"
