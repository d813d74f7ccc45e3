"""Calls a layer from JAX, on the tensors of a published block: `main.py FOLDER BLOCK.safetensors`, the folder with mixtral_jax.py."""

import sys
from pathlib import Path

import jax
import numpy

sys.path[:0] = [str(Path(__file__).parents[1] / "engines"), sys.argv[1]]
from tensors import block

from mixtral_jax import layer

arrays = {name: numpy.frombuffer(data, "float32").reshape(shape) for name, (shape, data) in block(sys.argv[2]).items()}
x, expected, weights = arrays["x"], arrays["y"], {name: jax.device_put(arrays[name]) for name in ("router", "gate", "up", "down")}


def compare(how, y, expected):
    wrong = numpy.count_nonzero(~(abs(numpy.asarray(y) - expected) <= 2e-5 * abs(arrays["y"]).max()))
    print(f"mixtral {how}: T = {len(expected)}, {wrong} of {expected.size} outputs differ from the published block")
    assert wrong == 0


compare("by itself", layer(x, **weights), expected)


# Among other operations, in one program of XLA; for another T it is traced once more.
@jax.jit
def with_residual(x, weights):
    return x + layer(x, **weights)


compare("under jit", with_residual(x, weights) - x, expected)
compare("under jit", with_residual(x[:7], weights) - x[:7], expected[:7])

# Each batch is a run of its own.
batches = numpy.stack([x[:9], x[10:]])
compare("under vmap", jax.vmap(lambda x: layer(x, **weights))(batches).reshape(18, -1), numpy.delete(expected, 9, 0))

# An error is an exception, where the function is called.
for wrong in (x[:, 1:], x.astype("float16")):
    try:
        with_residual(wrong, weights)
    except (ValueError, TypeError) as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError("a wrong tensor was taken")
