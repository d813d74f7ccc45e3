#!/usr/bin/env bash
# Makes a folder that checks moec on a machine with an NVIDIA GPU, which needs neither LLVM, Rust nor a CUDA toolkit there:
# the fixtures' packages with what the published code and the emulator say of them, and the example specs to be timed.
# usage: scripts/gpu_kit.sh [FOLDER [TARGET]]
set -euo pipefail
cd "$(dirname "$0")/.."
kit="${1:-target/gpu-kit}"
target="${2:-sm_90a}"
moec="${MOEC:-target/release/moec}"
check="${CHECK_GPU:-target/release/check_gpu}"

rm -rf "$kit"
mkdir -p "$kit/cases" "$kit/timed"
cp "$check" "$kit/check_gpu"
for spec in tests/fixtures/huggingface/*.toml tests/fixtures/other/*.toml; do
    name="$(basename "$spec" .toml)"
    data="${spec%.toml}.safetensors"
    case="$kit/cases/$name"
    cp "$data" "$case.safetensors"
    "$moec" compile "$spec" --target "$target" -o "$case.moec" 2> "$kit/log" || { echo "$name: $(head -n 1 "$kit/log")"; rm -f "$case".*; continue; }
    "$moec" run "$case.moec" --device emulator --target "$target" --repeat 1 --weights "$data" --tensor-prefix w. \
        --input "$data" --output "$case.emulated.safetensors" > /dev/null 2>&1 || echo "$name: the emulator's run failed"
done
for spec in examples/specs/{qwen3-30b-a3b,olmoe-1b-7b,mixtral-8x7b,gpt-oss-20b}.toml; do
    "$moec" compile "$spec" --target "$target" -o "$kit/timed/$(basename "$spec" .toml).moec" 2> /dev/null
done
printf '#!/bin/sh\n# Every case, then times. Exit code 1: something is wrong.\nexec "$(dirname "$0")/check_gpu" "$(dirname "$0")"\n' > "$kit/run"
chmod +x "$kit/run"
du -sh "$kit"
