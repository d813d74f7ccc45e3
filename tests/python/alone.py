"""A layer by moec.library alone, with memory of ctypes, on a published block: `alone.py FOLDER OF library.py LIBRARY BLOCK`.

The weights are prepared, so that the second binding, which is told so, needs none of them."""

import array
import ctypes
import os
import sys
from pathlib import Path

sys.path[:0] = [sys.argv[1], str(Path(__file__).parents[2] / "examples/engines")]
import library as moec
from tensors import block

path = sys.argv[2]
layer = moec.Library(path, Path(path).stem[len("lib"):])
tensors = {name: (shape, bytearray(content)) for name, (shape, content) in block(sys.argv[3]).items()}
expected = array.array("f", bytes(tensors["y"][1]))
tokens = tensors["x"][0][0]


def address(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def aligned(length):
    memory = bytearray(length + moec.ALIGN)
    return memory, address(memory) + -address(memory) % moec.ALIGN


def run(handle, binding):
    y = bytearray(len(expected) * 4)
    arguments = moec.Arguments(layer.inputs + layer.outputs, (moec.CPU, 0))
    arguments.set_tokens(tokens)
    for tensor, memory in zip(arguments.tensors, (tensors["x"][1], y)):
        tensor.data = address(memory)
    length = layer.workspace_bytes(tokens)
    kept, workspace = aligned(length)
    args = moec.RunArgs(ctypes.sizeof(moec.RunArgs), arguments.pointers, 2, 0, binding, workspace, length, None, 0)
    layer.succeeded(layer.api.run(handle, args))
    del kept
    return bytes(y)


handle = layer.handle(moec.CPU, 0, threads=2)
assert layer.handle(moec.CPU, 0) == handle
weights = moec.Arguments(layer.weights, (moec.CPU, 0))
for tensor, param in zip(weights.tensors, layer.weights):
    assert tuple(tensors[param.name][0]) == param.shape, param
    tensor.data = address(tensors[param.name][1])
target = layer.target(handle)
assert target in layer.targets and layer.manifest(target)["layer"] == layer.name
length = layer.prepared_bytes(target)
kept, prepared = aligned(length)
first = layer.bind(handle, weights.pointers, prepared, length, 0, 0)
y = run(handle, first)
wrong = sum(not abs(a - b) <= 2e-5 * max(map(abs, expected)) for a, b in zip(array.array("f", y), expected))
print(f"{layer.name}: T = {tokens}, {wrong} of {len(expected)} outputs differ, {'weights are prepared' if length else 'nothing is prepared'}")

# Had it prepared them again, it would have prepared zeros.
if length:
    for param in layer.weights[1:]:
        tensors[param.name][1][:] = bytes(len(tensors[param.name][1]))
second = layer.bind(handle, weights.pointers, prepared, length, 0, moec.BIND_PREPARED)
print(f"bound again: {'the same bits' if run(handle, second) == y else 'OTHER BITS'}")
for binding in (first, second):
    layer.api.unbind(binding)

for what, wrong in {"flags": lambda: layer.bind(handle, weights.pointers, prepared, length, 0, 6),
                    "tokens": lambda: layer.workspace_bytes(layer.max_tokens + 1),
                    "target": lambda: layer.manifest("sm_10"),
                    "spec": lambda: moec.Library(path, layer.prefix, "0" * 64)}.items():
    try:
        print(f"{what}: {wrong()}")
    except moec.LayerError as error:
        print(f"{what}: {error.status}: {str(error).replace(path, 'LIBRARY').replace(layer.spec_sha256[:12], 'SPEC')}")

# A child has a handle of its own.
child = os.fork()
if child == 0:
    other = layer.handle(moec.CPU, 0, threads=2)
    is_right = other != handle
    os._exit(0 if is_right else 1)
print(f"a child process: {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
