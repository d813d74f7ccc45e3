"""Calls a layer through tvm-ffi, with NumPy's arrays, on the tensors of a published block: `main.py LIBRARY BLOCK.safetensors`."""

import sys
from pathlib import Path

import numpy
import tvm_ffi

sys.path.append(str(Path(__file__).parents[1]))
from tensors import block

arrays = {name: numpy.frombuffer(data, "float32").reshape(shape).copy() for name, (shape, data) in block(sys.argv[2]).items()}
expected = arrays["y"]
x, y, weights = arrays["x"], numpy.zeros_like(expected), [arrays[name] for name in ("router", "gate", "up", "down")]

layer = tvm_ffi.load_module(sys.argv[1])["mixtral"]
workspace = numpy.empty(layer(len(x)), "uint8")
layer(x, y, *weights, workspace)

wrong = numpy.count_nonzero(~(abs(y - expected) <= 2e-5 * abs(expected).max()))
print(f"mixtral from NumPy: T = {len(x)}, {wrong} of {y.size} outputs differ from the published block")
assert wrong == 0

# An error is an exception.
try:
    layer(x[:, 1:].copy(), y, *weights, workspace)
except ValueError as error:
    print(f"a wrong shape: {error}")
    assert "`x` is [19, 31], not [19, 32]" in str(error)
else:
    raise AssertionError("a wrong shape was taken")
