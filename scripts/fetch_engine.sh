#!/usr/bin/env bash
# Installs the Python packages of examples of engines into .tools/engines/: `fetch_engine.sh tvm-ffi onnxruntime`. They are optional:
# whatever goes wrong is one line, and the example is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

for engine in "$@"; do
    wanted="examples/engines/$engine/requirements.txt"
    [[ -f $wanted ]] || wanted="examples/$engine/requirements.txt"
    folder=".tools/engines/$engine"
    if cmp --silent "$wanted" "$folder/requirements.txt"; then continue; fi
    echo "setup: downloading $(paste --serial --delimiters=' ' "$wanted") (PyPI)"
    rm -rf "$folder" "$folder.part"
    if why="$(python3 -m pip install --quiet --disable-pip-version-check --only-binary=:all: --target "$folder.part" --requirement "$wanted" 2>&1)"; then
        # Last, so that a folder that was interrupted is not taken for a whole one.
        cp "$wanted" "$folder.part/"
        mv "$folder.part" "$folder"
    else
        echo "setup: the packages of $engine were not installed ($(tail -n 1 <<< "$why"))"
    fi
done
