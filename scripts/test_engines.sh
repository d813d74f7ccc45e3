#!/usr/bin/env bash
# Runs the examples of engines as their READMEs say: `test_engines.sh [ENGINE...]`, all of them where none is named. MOEC is the moec to
# use, target/debug/moec where it is absent. What a machine lacks is skipped by name. Packages of Python are those of fetch_engine.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

export MOEC="${MOEC:-$PWD/target/debug/moec}"
PATH="$(dirname "$MOEC"):$PATH"
[[ -x $MOEC ]] || { echo "there is no $MOEC: cargo build --package moec" >&2; exit 1; }
# The machine's own settings are no part of what is tried.
unset MOEC_TARGET MOEC_PREBUILT_DIR

if [[ $# == 0 ]]; then
    for page in examples/engines/*/README.md examples/jax/README.md; do set -- "$@" "$(basename "$(dirname "$page")")"; done
fi

# What the example needs and the machine lacks.
lacking() {
    local tool
    case $1 in
    c | onnxruntime) set -- "$1" cc python3 ;;
    cpp) set -- "$1" c++ python3 ;;
    tvm-ffi | jax) set -- "$1" python3 ;;
    rust | candle) set -- "$1" cargo python3 ;;
    *) echo "$0: what does $1 need?" >&2; exit 1 ;;
    esac
    for tool in "${@:2}"; do
        command -v "$tool" > /dev/null || { echo "$tool"; return; }
    done
    if [[ -f $example/requirements.txt && ! -f .tools/engines/$1/requirements.txt ]]; then
        echo "the packages of scripts/fetch_engine.sh $1"
    elif [[ -f $example/Cargo.lock ]] &&
        ! cargo fetch --quiet --locked --manifest-path "$example/Cargo.toml" 2> /dev/null; then
        echo "crates of its Cargo.lock"
    fi
}

status=0
for engine in "$@"; do
    example="examples/engines/$engine"
    [[ -d $example ]] || example="examples/$engine"
    lacks="$(lacking "$engine")"
    if [[ -n $lacks ]]; then
        echo "skipped: $example: this machine lacks $lacks"
        continue
    fi
    # The packages are there already.
    commands="$(sed -n '/^```sh$/,/^```$/p' "$example/README.md" | sed -e '/^```/d' -e '/^python3 -m pip install /d')"
    [[ -n $commands ]] || { echo "$example/README.md has no commands" >&2; exit 1; }
    started=$SECONDS
    folder="target/engines/$engine"
    mkdir -p "$folder"
    if PYTHONPATH="$PWD/.tools/engines/$engine" PYTHONDONTWRITEBYTECODE=1 CARGO_TARGET_DIR="$PWD/$folder" \
        bash -euo pipefail -c "$commands" > "$folder/log" 2>&1; then
        echo "$example: ok, $((SECONDS - started)) s"
    else
        status=1
        echo "$example: FAILED"
        cat "$folder/log"
    fi
done
exit "$status"
