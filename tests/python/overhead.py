"""What a call from Python costs beside the call in C: `overhead.py FOLDER`, with MOEC in the environment. It prints, and holds nothing: times
are those of a machine. One token of a small layer, one thread; medians of 7 rounds of 2000 calls."""

import statistics
import sys
import time

import torch
from made import BLOCKS, compiled
from safetensors.torch import load_file

torch.set_num_threads(1)
module = compiled(sys.argv[1], "qwen3_moe", (BLOCKS / "qwen3_moe.toml").read_text())
file = load_file(BLOCKS / "qwen3_moe.safetensors")
layer = module.MoELayer.from_state_dict({key[2:]: value for key, value in file.items() if key.startswith("w.")})
x = file["in.hidden"].reshape(-1, 32)[:1].clone()
weights, op, matrix = layer.weights(), module.layer.call, layer.weights()[1][0]
library = module.layer.library


def microseconds(call, calls=2000):
    rounds = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - began) / calls * 1e6)
    return statistics.median(rounds)


def in_c():
    """A run by ctypes, and what ctypes takes for a function that does nothing."""
    handle = library.handle(1, 0)
    record = module._Record(module.layer, module._Place((1, 0), handle, None), weights, None)
    y, workspace = torch.empty_like(x), torch.empty(library.workspace_bytes(1), dtype=torch.uint8)
    record.arguments.set_tokens(1)
    for tensor, given in zip(record.activations, (x, y)):
        tensor.data = given.data_ptr()
    record.run.workspace = workspace.data_ptr() + -workspace.data_ptr() % 256
    record.run.workspace_bytes = workspace.numel() - 255
    run, nothing = library.api.run, library.api.status_string
    return microseconds(lambda: run(handle, record.run)), microseconds(lambda: nothing(0))


with torch.inference_mode():
    op(x, weights), layer(x)
    c, empty = in_c()
    measured = {"the operator": lambda: op(x, weights), "MoELayer": lambda: layer(x), "torch linear": lambda: torch.nn.functional.linear(x, matrix)}
    print(f"run by ctypes: {c:.1f} us, of which a call that does nothing {empty:.1f} us")
    for name, call in measured.items():
        took = microseconds(call)
        print(f"{name}: {took:.1f} us, {took - c + empty:.1f} us above the call in C")
