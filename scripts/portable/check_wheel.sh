#!/bin/sh
# Installs a wheel into an empty environment of Python and uses it: `check_wheel.sh WHEEL SPEC FOLDER`. It needs nothing but python3 with
# venv, and is run in bare systems too.
set -eu
wheel="$1"
spec="$2"
folder="$3"

say() { printf '    %s\n' "$*"; }
fails() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-index "$wheel"
moec="$folder/venv/bin/moec"
say "$("$moec" --version), $("$folder/venv/bin/python" --version), pip $("$folder/venv/bin/pip" --version | cut -d ' ' -f 2)"

"$moec" -q run "$spec" --tokens 24 --reference > "$folder/run" || fails "moec run"
grep -q 'expert sets identical' "$folder/run" || fails "moec run: $(cat "$folder/run")"
say "moec run: $(grep '^reference' "$folder/run")"
"$moec" -q compile "$spec" --target host,sm_90a -o "$folder/layer.moec" || fails "moec compile"
"$moec" -q run "$folder/layer.moec" --tokens 24 > "$folder/run" || fails "moec run, of a package"
"$moec" -q link "$folder/layer.moec" -o "$folder/layer.so" || fails "moec link"
"$moec" -q check "$spec" --emulate > "$folder/emulated" || fails "moec check --emulate"
say "compiled for this CPU and a GPU, run as a package, linked, emulated"

cat > "$folder/check.py" << 'EOF'
import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

import moec
from moec import binary

program, spec, layer = sys.argv[1:]
assert Path(binary.path()).samefile(program), binary.path()
assert moec.__version__ in binary.run("--version").stdout
assert (Path(moec.__file__).parent / "py.typed").is_file()
binary.run("check", spec)
try:
    binary.run("check", "no-such-file.toml")
    raise AssertionError("an error was lost")
except subprocess.CalledProcessError as error:
    assert "MOE" in error.stderr, error.stderr
module = subprocess.run([sys.executable, "-m", "moec", "check", "no-such-file.toml"], stderr=subprocess.DEVNULL)
assert module.returncode == 1, module.returncode

# By ctypes alone: weights of zeros give zeros.
if importlib.util.find_spec("moec.library"):
    from moec import library

    tokens, size_of = 24, {"f32": 4, "i32": 4, "f16": 2, "bf16": 2}
    made = library.Library(layer, "tiny")
    handle, kept = made.handle(library.CPU, 0), []

    def aligned(length, byte=0):
        memory = ctypes.create_string_buffer(bytes([byte]) * (length + library.ALIGN))
        kept.append(memory)
        return ctypes.addressof(memory) + -ctypes.addressof(memory) % library.ALIGN

    def filled(params, byte):
        arguments = library.Arguments(params, (library.CPU, 0))
        arguments.set_tokens(tokens)
        for tensor, param in zip(arguments.tensors, params):
            length = size_of[param.dtype]
            for extent in param.extents(tokens):
                length *= extent
            tensor.data = aligned(length, byte)
        return arguments

    weights = filled(made.weights, 0)
    length = made.prepared_bytes(made.target(handle))
    binding = made.bind(handle, weights.pointers, aligned(length) if length else 0, length, 0, 0)
    tensors = filled(made.inputs + made.outputs, 0x3F)
    length = made.workspace_bytes(tokens)
    size = ctypes.sizeof(library.RunArgs)
    arguments = library.RunArgs(size, tensors.pointers, len(tensors.tensors), 0, binding, aligned(length), length, None, 0)
    made.succeeded(made.api.run(handle, arguments))
    last = tensors.tensors[-1]
    assert not any(ctypes.string_at(last.data, tokens * made.outputs[-1].shape[-1] * size_of[made.outputs[-1].dtype])), "outputs are not zeros"
    print("    a layer was run by ctypes")
EOF
"$folder/venv/bin/python" "$folder/check.py" "$moec" "$spec" "$folder/layer.so" || fails "the Python package"
# In a folder of its own, as a script that ships it would have it.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --target "$folder/target" "$wheel"
"$folder/venv/bin/pip" uninstall --quiet --disable-pip-version-check --yes moec
PYTHONPATH="$folder/target" "$folder/venv/bin/python" "$folder/check.py" "$folder/target/bin/moec" "$spec" "$folder/layer.so" || fails "the Python package by --target"
say "the Python package finds it and runs it, in an environment and by --target"
