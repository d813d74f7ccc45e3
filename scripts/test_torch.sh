#!/usr/bin/env bash
# Runs the tests that need PyTorch and transformers: those of fetch_torch.sh, or the ones that this Python has. MOEC is the moec to use,
# target/debug/moec where it is absent. Arguments name programs of tests/python; without any, all of them run.
set -euo pipefail
cd "$(dirname "$0")/.."

export MOEC="${MOEC:-$PWD/target/debug/moec}"
[[ -x $MOEC ]] || { echo "there is no $MOEC: cargo build --package moec" >&2; exit 1; }
if [[ -d .tools/torch ]]; then export PYTHONPATH="$PWD/.tools/torch:${PYTHONPATH:-}"; fi
if ! why="$(python3 -c 'import torch, transformers' 2>&1)"; then
    echo "skipped: tests of PyTorch: $(tail -n 1 <<< "$why")"
    exit 0
fi
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
export XDG_CACHE_HOME="$folder/cache" PYTHONDONTWRITEBYTECODE=1 TORCHINDUCTOR_CACHE_DIR="$folder/inductor" TOKENIZERS_PARALLELISM=false
# The machine's own settings are no part of what is tested.
unset MOEC_TARGET
if [[ $# == 0 ]]; then set -- operators models; fi
for program in "$@"; do
    echo "== tests/python/$program.py"
    python3 -W ignore::UserWarning "tests/python/$program.py" "$folder"
done
