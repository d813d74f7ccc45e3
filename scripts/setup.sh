#!/usr/bin/env bash
# Installs what moec is built with and is not here yet: LLVM 22 by apt, ptxas and fatbinary from their PyPI wheel into .tools/.
# Exit code 3: the machine lacks something that only its owner can install.
set -euo pipefail
cd "$(dirname "$0")/.."

lacks() {
    printf 'error: %s\n' "$1" >&2
    printf '  %s\n' "${@:2}" >&2
    exit 3
}

command -v cargo > /dev/null || lacks "cargo was not found" "install Rust 1.90 or newer: https://rustup.rs"
command -v cc > /dev/null || lacks "no C compiler was found" "Debian: apt-get install gcc libc6-dev"

as_root=()
if [[ "$(id -u)" != 0 ]] && command -v sudo > /dev/null; then as_root=(sudo); fi
may_install() { command -v apt-get > /dev/null && [[ "$(id -u)" == 0 || ${#as_root[@]} != 0 ]]; }
updated=no
install() {
    echo "setup: apt-get install $*"
    if [[ $updated == no ]]; then
        "${as_root[@]}" apt-get update -qq || echo "setup: apt-get update failed, trying with the lists at hand"
        updated=yes
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

how_to_get_llvm=(
    "moec is built with LLVM 22: its headers, libraries and llvm-config."
    "  Debian, Ubuntu:  apt-get update && apt-get install llvm-22-dev libpolly-22-dev"
    "                   (where the archive lacks them, https://apt.llvm.org has them)"
    "  elsewhere:       the distribution's package of LLVM 22 with its development files"
    "If it is not in /usr/lib/llvm-22, set LLVM_SYS_221_PREFIX to the folder that has bin/llvm-config."
)

if [[ -z "$(scripts/llvm-prefix.sh)" ]]; then
    if [[ -n "${LLVM_SYS_221_PREFIX:-}" ]]; then
        lacks "LLVM_SYS_221_PREFIX=$LLVM_SYS_221_PREFIX has no LLVM 22" "${how_to_get_llvm[@]}"
    fi
    command -v apt-get > /dev/null || lacks "LLVM 22 was not found, and this system has no apt-get" "${how_to_get_llvm[@]}"
    may_install || lacks "LLVM 22 was not found, and installing it needs root" "${how_to_get_llvm[@]}"
    install llvm-22-dev libpolly-22-dev || lacks "apt-get could not install LLVM 22" "${how_to_get_llvm[@]}"
    [[ -n "$(scripts/llvm-prefix.sh)" ]] || lacks "LLVM 22 was installed but not found" "${how_to_get_llvm[@]}"
fi

# LLVM is C++: the linker asks for libstdc++.so, which comes with the C++ compiler and not with gcc.
if [[ "$(cc -print-file-name=libstdc++.so)" != */* ]]; then
    { may_install && install g++; } || lacks "libstdc++.so was not found, which LLVM needs" "Debian: apt-get install g++"
fi

# Optional: whatever goes wrong is one line; packages then hold PTX only. A folder of before may have ptxas alone.
tools=.tools/nvidia/cu13/bin
if [[ -z "${MOEC_PTXAS+named}" && ! ( -x $tools/ptxas && -x $tools/fatbinary ) ]]; then
    if command -v python3 > /dev/null && ! python3 -m pip --version > /dev/null 2>&1 && may_install; then
        install python3-pip || true
    fi
    python3 scripts/fetch_ptxas.py .tools || echo "ptxas and fatbinary not fetched (python3 does not run)"
fi
