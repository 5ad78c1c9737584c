#!/usr/bin/env bash
# Builds every policy in this folder into a component: $OUT/NAME.wasm (default: target/policies of the
# repository). Rust guests want the target wasm32-unknown-unknown. Three ways, the first that works:
#   installed  the compiler at hand has the target
#   rustup     `rustup target add` fetches it
#   debian     rustc-web compiles the standard library from rust-web-src (no rustup server needed)
# ROUTE=installed|rustup|debian takes that one only. BUILD = where intermediate files go. Quick when
# nothing changed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "${OUT:-$here/../target/policies}")
build=$(realpath -m "${BUILD:-$here/../target/policies-build}")
target=wasm32-unknown-unknown
cd "$here"

say() { echo "policies: $*" >&2; }
die() { say "$*"; exit 1; }
have_target() { local lib; lib=$(rustc --print target-libdir --target $target 2>/dev/null) && [ -d "$lib" ]; }
find_tool() { # the plain name, else the newest versioned one
    { command -v "$1" || compgen -c "$1-" | grep -xE "$1-[0-9]+" | sort -t- -k2nr -u | head -n 1; } 2>/dev/null
}

choose_route() {
    local want=${ROUTE:-auto} why=""
    case $want in auto | installed | rustup | debian) ;; *) die "ROUTE=$want: must be installed, rustup or debian" ;; esac
    if [ "$want" = auto ] || [ "$want" = installed ]; then
        if have_target; then route=installed; return; fi
        why="the compiler at hand lacks $target"
    fi
    if [ "$want" = auto ] || [ "$want" = rustup ]; then
        if ! command -v rustup >/dev/null; then
            why="${why:+$why; }there is no rustup"
        elif timeout 120 rustup target add $target >&2 && have_target; then
            route=rustup; return
        else
            why="${why:+$why; }\`rustup target add $target\` failed"
        fi
    fi
    if [ "$want" = auto ] || [ "$want" = debian ]; then
        route=debian
        linker=$(find_tool wasm-ld) || linker=""   # judged below, with the rest of what Debian must have
        local sources
        if [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && [ -n "$linker" ] &&
            sources=$(/usr/bin/rustc --print sysroot)/lib/rustlib/src && [ -d "$sources" ]; then
            [ -z "$why" ] || say "$why"
            return
        fi
        why="${why:+$why; }Debian's compiler is incomplete: apt-get install rustc-web cargo-web rust-web-src lld"
    fi
    die "cannot compile for $target: $why"
}

# Compiles the given packages; their core modules land in $modules.
compile() {
    local args=(build --quiet --release --target $target)
    local p
    for p in "$@"; do args+=(-p "$p"); done
    # A target folder per compiler: going back and forth rebuilds nothing.
    if [ "$route" = debian ]; then
        modules=$build/debian/$target/release
        env -u CARGO -u RUSTC -u RUSTC_WRAPPER -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u RUSTUP_TOOLCHAIN \
            PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker" \
            CARGO_TARGET_DIR="$build/debian" /usr/bin/cargo "${args[@]}" -Zbuild-std=std,panic_abort
    else
        modules=$build/wasm/$target/release
        CARGO_TARGET_DIR="$build/wasm" cargo "${args[@]}"
    fi
}

# Compiles one folder's C files against freshly generated bindings; prints the core module's path.
compile_c() {
    local folder=$1 world=$2 into=$build/c/$1 clang linker
    local core=$into/policy.wasm
    if [ "$core" -nt "$tool" ] && [ -z "$(find "$folder" wit -newer "$core" -type f)" ]; then echo "$core"; return; fi
    clang=$(find_tool clang) && [ -n "$clang" ] || die "$folder needs a C compiler: apt-get install clang lld"
    linker=$(find_tool wasm-ld) && [ -n "$linker" ] || die "$folder needs a linker: apt-get install lld"
    "$tool" bindings-c wit "$world" "$into"
    local flags=(--target=wasm32 -std=c17 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -nostdinc
        -isystem "$("$clang" -print-resource-dir)/include" -isystem "$folder/libc" -I "$into")
    local src objects=()
    for src in "$folder"/*.c "$folder"/libc/*.c; do
        objects+=("$into/$(basename "$src" .c).o")
        "$clang" "${flags[@]}" -c "$src" -o "${objects[-1]}"
    done
    # Generated code is not ours to keep free of warnings.
    "$clang" "${flags[@]}" -w -c "$into/$world.c" -o "$into/bindings.o"
    "$linker" --no-entry --strip-debug "${objects[@]}" "$into/bindings.o" "$into/${world}_component_type.o" -o "$core.part"
    mv "$core.part" "$core"
    echo "$core"
}

started=$SECONDS
choose_route

# A guest is a folder whose Cargo.toml asks for a cdylib; hostile/NAME becomes hostile/NAME.wasm.
packages=() names=()
for manifest in */Cargo.toml hostile/*/Cargo.toml; do
    grep -q cdylib "$manifest" 2>/dev/null || continue
    packages+=("$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest" | head -n 1)")
    names+=("$(dirname "$manifest")")
done
say "${#packages[@]} Rust guests by route $route"
compile "${packages[@]}"
CARGO_TARGET_DIR="$build/host" cargo build --quiet -p componentize
tool=$build/host/debug/componentize

pairs=()
for i in "${!packages[@]}"; do pairs+=("$modules/${packages[i]//-/_}.wasm" "$out/${names[i]}.wasm"); done
for source in */policy.c; do
    [ -e "$source" ] || continue
    folder=$(dirname "$source")
    core=$(compile_c "$folder" "$(cat "$folder/world")")
    pairs+=("$core" "$out/$folder.wasm")
done
"$tool" wrap "${pairs[@]}"
say "$((${#pairs[@]} / 2)) components in $out after $((SECONDS - started)) s"
