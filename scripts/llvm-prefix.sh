#!/usr/bin/env bash
# Prints the folder of an LLVM 22 with its headers, or nothing: LLVM_SYS_221_PREFIX, then Debian's place, then
# whatever llvm-config-22 or llvm-config says.
set -euo pipefail

is_22() {
    [[ -x "$1/bin/llvm-config" && -f "$1/include/llvm-c/Core.h" ]] && [[ "$("$1/bin/llvm-config" --version)" == 22.* ]]
}

if [[ -n "${LLVM_SYS_221_PREFIX:-}" ]]; then
    if is_22 "$LLVM_SYS_221_PREFIX"; then echo "$LLVM_SYS_221_PREFIX"; fi
    exit 0
fi
# Debian packages Polly apart, and llvm-config names it among the libraries to link.
if is_22 /usr/lib/llvm-22 && [[ -f /usr/lib/llvm-22/lib/libPolly.a ]]; then
    echo /usr/lib/llvm-22
    exit 0
fi
for config in llvm-config-22 llvm-config; do
    if command -v "$config" > /dev/null; then
        prefix="$("$config" --prefix)"
        # Debian's again, without Polly: setup.sh adds it.
        if [[ "$prefix" != /usr/lib/llvm-22 ]] && is_22 "$prefix"; then
            echo "$prefix"
            exit 0
        fi
    fi
done
