#!/usr/bin/env bash
# The main job on a small layer: check it, compile it for an H100 and for this CPU, show what became of it, run it here.
set -euo pipefail
cd "$(dirname "$0")/.."

moec=target/release/moec
spec=examples/specs/tiny.toml
out=target/demo
rm -rf "$out"
mkdir -p "$out"

title() { printf '\n== %s\n' "$1"; }
run() {
    echo "\$ moec $*"
    "$moec" "$@"
}

title "A layer of 8 experts, 2 a token, one shared, with a capacity"
run check "$spec"

title "Compiled for this CPU and for an H100, one file"
run compile "$spec" --target host,sm_90a -o "$out/tiny.moec"

title "What the layer means, after egg has found the cheapest equal graph, and which rules it needed for that"
run compile "$spec" --target sm_90a --emit rewritten --why -o -

title "The PTX, counted"
run compile "$spec" --target sm_90a --emit ptx -o "$out/tiny.ptx"
awk '
    /^\.version|^\.target/ { printf "%s  ", $0 }
    /^\.visible \.entry/ { entry = $3; sub(/\(.*/, "", entry); order[++entries] = entry }
    /fma\.rn/ { fma[entry]++ }
    /ld\.global/ { loads[entry]++ }
    /st\.global/ { stores[entry]++ }
    /bar\.sync/ { barriers[entry]++ }
    /shfl\.sync/ { shuffles[entry]++ }
    END {
        printf "%d kernels\n%-40s %6s %6s %6s %6s %6s\n", entries, "", "fma", "load", "store", "bar", "shfl"
        for (i = 1; i <= entries; i++) {
            e = order[i]
            printf "%-40s %6d %6d %6d %6d %6d\n", e, fma[e], loads[e], stores[e], barriers[e], shuffles[e]
        }
    }' "$out/tiny.ptx"

title "Run on this CPU with random weights, beside the f64 interpreter of the graph"
run run "$out/tiny.moec" --tokens 24
run run "$spec" --tokens 24 --reference

title "Where things are"
echo "package  $out/tiny.moec"
echo "PTX      $out/tiny.ptx"
if "$moec" doctor --no-measure 2> /dev/null | grep -q '^ptxas    absent'; then
    echo "ptxas    absent: the package holds PTX and no cubin"
else
    echo "ptxas    found: the package holds a cubin beside the PTX"
fi
echo "next     $moec inspect $out/tiny.moec; $moec --help; README.md"
