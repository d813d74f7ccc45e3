"""Runs a model with a layer's node by ONNX Runtime, on the tensors of a published block: `main.py LIBRARY BLOCK.safetensors`."""

import sys
from pathlib import Path

import numpy
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1]))
from tensors import block

WEIGHTS = ["router", "gate", "up", "down"]
arrays = {name: numpy.frombuffer(data, "float32").reshape(shape) for name, (shape, data) in block(sys.argv[2]).items()}
x, expected = arrays["x"], arrays["y"]

# x -> the layer -> + x: the node among others, the weights in the model.
graph = helper.make_graph(
    [helper.make_node("mixtral", ["x", *WEIGHTS], ["moe"], domain="moec"), helper.make_node("Add", ["moe", "x"], ["y"])],
    "block",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "H"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", "H"])],
    [numpy_helper.from_array(arrays[name], name) for name in WEIGHTS],
)
imports = [helper.make_opsetid("", 17), helper.make_opsetid("moec", 1)]
model = helper.make_model(graph, opset_imports=imports, ir_version=8)

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.register_custom_ops_library(sys.argv[1])
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
(y,) = session.run(["y"], {"x": x})

wrong = numpy.count_nonzero(~(abs(y - x - expected) <= 2e-5 * abs(expected).max()))
print(f"mixtral in ONNX Runtime {onnxruntime.__version__}: T = {len(x)}, {wrong} of {y.size} outputs differ from the published block")
assert wrong == 0

# Batches of other sizes need no other model.
(one,) = session.run(["y"], {"x": x[:1]})
assert numpy.allclose(one, y[:1], atol=1e-5)

# An error is an exception.
try:
    session.run(["y"], {"x": x[:, 1:].copy()})
except Exception as error:
    print(f"a wrong shape: {error}")
    assert "`x` is [19, 31], not [19, 32]" in str(error)
else:
    raise AssertionError("a wrong shape was taken")
