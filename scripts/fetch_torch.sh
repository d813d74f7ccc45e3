#!/usr/bin/env bash
# Installs PyTorch and transformers into .tools/torch/, 1.6 GB, where this Python has none: PyPI's wheel without the 3 GB of NVIDIA's, which
# it does not need on a machine without a GPU. Whatever goes wrong is one line, and the tests are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

torch='torch==2.15.0'
# What it needs to be imported, and what tests use beside it.
others=(filelock typing-extensions sympy networkx jinja2 fsspec numpy expecttest safetensors 'transformers==5.24.0')
folder=.tools/torch
if [[ -d $folder ]] || python3 -c 'import torch, transformers' 2> /dev/null; then exit 0; fi
rm -rf "$folder.part"
echo "setup: downloading $torch and transformers (PyPI, 0.7 GB)"
pip=(python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary=:all: --target "$folder.part")
if why="$( { "${pip[@]}" --no-deps "$torch" && "${pip[@]}" "${others[@]}" && scripts/torch_without_cuda.py "$folder.part/torch"; } 2>&1)"; then
    # Last, so that a folder that was interrupted is not taken for a whole one.
    mv "$folder.part" "$folder"
else
    echo "setup: PyTorch was not installed ($(tail -n 1 <<< "$why"))"
fi
