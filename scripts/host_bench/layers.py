"""The layers that `bench_host.py` measures: their specs, their files, and what a run of one has to do at least."""

import array
import json
import re
import struct
import tomllib
from pathlib import Path

SPECS = Path(__file__).resolve().parents[2] / "examples/specs"
# Of example specs; `like` takes the sizes of one spec and the layer of another, where the peers have no such layer.
LAYERS = {
    "qwen3-30b-a3b": {"of": "qwen3-30b-a3b"},
    "olmoe-1b-7b": {"of": "olmoe-1b-7b"},
    "mixtral-8x7b": {"of": "mixtral-8x7b"},
    "gpt-oss-20b-like": {"of": "qwen3-30b-a3b", "like": "gpt-oss-20b"},
}
ELEMENT = {"bf16": 2, "f32": 4}
PACKED = '[host]\npack = "panels"\n'
WEIGHTS = '[weights]\nrouter = "router"\ngate_up = "gate_up"\ndown = "down"\n'


class Layer:
    """A layer in an element type: gate, up and down of silu experts, without biases."""

    def __init__(self, name, dtype):
        self.name, self.dtype = name, dtype
        text = (SPECS / f"{LAYERS[name]['of']}.toml").read_text(encoding="utf-8")
        if "like" in LAYERS[name]:
            sizes = tomllib.loads((SPECS / f"{LAYERS[name]['like']}.toml").read_text(encoding="utf-8"))
            given = {"hidden": sizes["moe"]["hidden"], "experts": sizes["moe"]["experts"], "top_k": sizes["router"]["top_k"],
                     "intermediate": sizes["expert"]["intermediate"]}
            for key, value in given.items():
                text = re.sub(rf"^{key} = \d+", f"{key} = {value}", text, flags=re.M)
            text = re.sub(r'^name = ".*"', f'name = "{name}"', text, flags=re.M)
        self.text = text[: text.index("[weights]")] + f'[numerics]\ndtype = "{dtype}"\n\n[tokens]\nmax = 8192\n\n' + WEIGHTS
        spec = tomllib.loads(self.text)
        self.hidden, self.experts, self.top_k = spec["moe"]["hidden"], spec["moe"]["experts"], spec["router"]["top_k"]
        self.intermediate = spec["expert"]["intermediate"]

    @property
    def elements(self):
        """Of one expert."""
        return 3 * self.hidden * self.intermediate

    @property
    def bytes(self):
        return self.experts * self.elements * ELEMENT[self.dtype]

    def work(self, picks):
        """Experts hit, pairs, bytes of their weights, each once, and FLOPs of the products."""
        ids = array.array("i")
        data = Path(picks).read_bytes()
        ids.frombytes(data[: len(data) // 2])
        hit = len(set(ids))
        return {"hit": hit, "pairs": len(ids), "bytes": hit * self.elements * ELEMENT[self.dtype], "flops": 2 * self.elements * len(ids)}


def offsets(file):
    """Where the tensors of a safetensors file begin."""
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: 8 + length + about["data_offsets"][0] for name, about in header.items() if name != "__metadata__"}


def difference(a, b):
    """The largest of two files of f32, relative to the largest number of the second."""
    of = [array.array("f"), array.array("f")]
    for numbers, path in zip(of, (a, b)):
        numbers.frombytes(Path(path).read_bytes())
    if len(of[0]) != len(of[1]):
        raise ValueError("the outputs have two sizes")
    largest = max(map(abs, of[1]))
    return max(abs(x - y) if x == x else float("inf") for x, y in zip(*of)) / largest


def least(work, limits, target, dtype):
    """Seconds that a machine needs at least: `compiler/src/limits/mod.rs` has the same formula."""
    peaks = [p["flops"]["all"] for p in limits["products"] if p["target"] == target and p["dtype"] in ("f32", dtype)]
    products, reading = work["flops"] / max(peaks), work["bytes"] / limits["read"]["all"]
    return products if work["bytes"] <= limits["cache_bytes"] else max(products, reading)
