#!/usr/bin/env bash
# Makes target/wheel/moec-VERSION-py3-none-manylinux_2_28_x86_64.whl: the program with LLVM inside, and the Python package. It runs on
# every x86-64 Linux with glibc 2.28 or newer. The same sources, archives and tools give the same bytes, wherever they lie.
# Exit code 3: this machine lacks something, which is named.
set -euo pipefail
cd "$(dirname "$0")/.."

lacks() {
    printf 'error: %s\n' "$1" >&2
    printf '  %s\n' "${@:2}" >&2
    exit 3
}

[[ "$(uname -sm)" == "Linux x86_64" ]] || lacks "wheels are made on x86-64 Linux, and this is $(uname -sm)"
packages="Debian: apt-get install llvm-22-dev libpolly-22-dev libzstd-dev libffi-dev zlib1g-dev g++"
llvm="$(scripts/llvm-prefix.sh)"
[[ -n "$llvm" && -f "$llvm/lib/libLLVMCore.a" ]] || lacks "the archives of LLVM 22 were not found" "$packages"

out="${CARGO_TARGET_DIR:-target}/wheel"
mkdir -p "$out/link"
out="$(cd "$out" && pwd)"
export PORTABLE_TOOLS="$PWD/.tools/portable" PORTABLE_FOLDER="$out/link"
export ZIG_GLOBAL_CACHE_DIR="$out/zig" ZIG_LOCAL_CACHE_DIR="$out/zig"

# By path, so that the linker takes the archives and no shared object.
for library in libffi.a libz.a libzstd.a libstdc++.a libgcc_s.so.1; do
    path="$(cc -print-file-name=$library)"
    [[ "$path" == */* ]] || lacks "$library was not found" "$packages"
    ln -sf "$(realpath "$path")" "$PORTABLE_FOLDER/$library"
done

wanted=scripts/portable/requirements.txt
if ! cmp --silent "$wanted" "$PORTABLE_TOOLS/requirements.txt"; then
    echo "wheel: downloading $(paste --serial --delimiters=' ' "$wanted") (PyPI, 100 MB)"
    rm -rf "$PORTABLE_TOOLS" "$PORTABLE_TOOLS.part"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --only-binary=:all: --target "$PORTABLE_TOOLS.part" --requirement "$wanted" \
        || lacks "zig, which links for an old glibc, and auditwheel were not installed" "they come from PyPI, by python3 -m pip"
    cp "$wanted" "$PORTABLE_TOOLS.part/"
    mv "$PORTABLE_TOOLS.part" "$PORTABLE_TOOLS"
fi

command -v aarch64-linux-gnu-gcc > /dev/null \
    || echo "wheel: skipped: \`moec link\` for 64-bit Arm (no aarch64-linux-gnu-gcc; Debian: apt-get install gcc-aarch64-linux-gnu)"

PYTHONPATH="$PORTABLE_TOOLS" python3 -m ziglang cc -target x86_64-linux-gnu.2.28 -O2 -g0 -fPIC -c scripts/portable/shim.c \
    -o "$PORTABLE_FOLDER/shim.o"
# A target folder of its own: paths of this machine are left out of every crate, so that none is shared with other builds.
# Separated by what no path has.
CARGO_ENCODED_RUSTFLAGS="$(printf -- '--remap-path-prefix=%s\x1f' "$PWD=moec" "$(realpath "${CARGO_HOME:-$HOME/.cargo}")=cargo")"
CARGO_ENCODED_RUSTFLAGS+="--remap-path-prefix=$(rustc --print sysroot)=rust"
export CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols
cargo rustc --release --locked --target-dir "$out/build" --package moec --no-default-features --features static --bin moec -- \
    -C linker="$PWD/scripts/portable/cc"

rm -f "$out"/*.whl
PYTHONPATH="$PORTABLE_TOOLS" python3 scripts/portable/wheel.py "$out/build/release/moec" "$out"
