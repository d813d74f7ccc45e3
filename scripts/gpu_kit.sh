#!/usr/bin/env bash
# Makes a folder that checks and times moec on a machine with an NVIDIA GPU, which needs neither LLVM, Rust nor a CUDA toolkit
# there: small layers with what was published and what the emulator made of them, layers of real size (their weights are made
# there), the program that runs them, and the script `run`. What is in it: examples/gpu-kit/README.md.
# usage: scripts/gpu_kit.sh [FOLDER]
#   MOEC, CHECK_GPU   the two programs; those of target/release where not set
#   CASES, TYPED      the small layers, below tests/fixtures, and those of them that are compiled in bf16 and f16 too
#   LAYERS            the layers of real size: specs
set -euo pipefail
cd "$(dirname "$0")/.."
kit="${1:-target/gpu-kit}"
moec="${MOEC:-target/release/moec}"
check="${CHECK_GPU:-target/release/check_gpu}"
# Not those that differ from another one by a number or a name.
alike='cohere2_moe_softmax|dbrx_l2|dbrx_nonorm|deepseek_v3_negbias|dots1|glm4_moe|granitemoe|llama4_k2|minimax|mistral4'
alike="/($alike|nllb_top2_drop_prenorm|olmoe|phimoe_j30|qwen3_moe|switch_cap6)[.]"
cases="${CASES:-$(cd tests/fixtures && ls huggingface/*.toml other/*.toml | grep -vE "$alike")}"
typed="${TYPED:-huggingface/mixtral.toml huggingface/deepseek_v3.toml huggingface/gpt_oss.toml huggingface/qwen2_moe.toml \
    huggingface/longcat_flash.toml huggingface/nllb_top2_drop.toml other/flaxformer_expert_choice_cf1.toml \
    other/softmoe_vmoe.toml}"
layers="${LAYERS:-$(ls examples/specs/{qwen3-30b-a3b,olmoe-1b-7b,mixtral-8x7b,gpt-oss-20b,qwen1.5-moe-a2.7b,deepseek-v3}.toml)}"
# Of small layers the PTX of sm_80 serves machines that have no target of their own here.
small=sm_80,sm_90a
# Of layers of real size that of a CPU serves `check_gpu sample`.
large=sm_80,sm_86,sm_89,sm_90a,sm_100a,sm_120a,x86-64-v3

if ldd "$check" | grep -i llvm; then echo "$check links LLVM" >&2; exit 1; fi
rm -rf "$kit"
mkdir -p "$kit/cases" "$kit/layers"
cp "$check" "$kit/check_gpu"
# Most of it are the names of functions and the lines of code.
if command -v strip > /dev/null; then strip "$kit/check_gpu"; fi
cp examples/gpu-kit/run examples/gpu-kit/peers.py examples/gpu-kit/README.md "$kit/"

# A spec of the fixtures in an element type, for their small batches alone. They leave the size of a table to their checkpoint: it
# is 50.
spec_in() {
    sed -e "s/^dtype = \"f32\"/dtype = \"$1\"/" -e 's/^mode = "hash"/&\nvocabulary = 50/' "$2"
    printf '\n[tokens]\nmax = 128\nexpected = [32]\n'
}

# A small layer from a spec on stdin: its package, and what the emulator makes of the tensors.
small_layer() {
    local name="$1" data="$2" target
    "$moec" compile - --target "$small" -o "$kit/cases/$name.moec" 2> "$kit/log" \
        || { cat "$kit/log" >&2; exit 1; }
    for target in ${small//,/ }; do
        "$moec" run "$kit/cases/$name.moec" --device emulator --target "$target" --repeat 1 --weights "$data" --tensor-prefix w. \
            --input "$data" --output "$kit/cases/$name.$target.safetensors" > "$kit/log" 2>&1 || { cat "$kit/log" >&2; exit 1; }
    done
}

for spec in $cases; do
    name="$(basename "$spec" .toml)"
    data="tests/fixtures/${spec%.toml}.safetensors"
    cp "$data" "$kit/cases/"
    spec_in f32 "tests/fixtures/$spec" | small_layer "$name" "$data"
    for dtype in bf16 f16; do
        if [[ " $typed " == *" $spec "* ]]; then
            spec_in "$dtype" "tests/fixtures/$spec" | small_layer "$name.$dtype" "$data"
        fi
    done
done
for spec in $layers; do
    name="$(basename "$spec" .toml)"
    { "$moec" compile "$spec" --target "$large" -o "$kit/layers/$name.moec" \
        && "$moec" compile "$spec" --target sm_80 --emit graph -o "$kit/layers/$name.graph"; } 2> "$kit/log" \
        || { cat "$kit/log" >&2; exit 1; }
done
rm -f "$kit/log"
megabytes="$(du -sm "$kit" | cut -f 1)"
echo "$kit: $megabytes MB, $(ls "$kit"/cases/*.moec | wc -l) small layers, $(ls "$kit"/layers/*.moec | wc -l) of real size"
if ((megabytes >= 60)); then echo "$kit should be below 60 MB" >&2; exit 1; fi
