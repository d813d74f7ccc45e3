"""The tensors of a published Mixtral block: `tensors.py BLOCK.safetensors FOLDER` writes each as raw bytes, `x.bin`, `y.bin`, ..

The names are those of the layer (`moec_info.params`); `y` is the published output."""

import json
import struct
import sys
from pathlib import Path


def block(path):
    """Each tensor of the layer: its shape and its bytes, row-major, float32."""
    file = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", file[:8])
    header, data = json.loads(file[8 : 8 + length]), file[8 + length :]

    def tensor(name):
        begin, end = header[name]["data_offsets"]
        return header[name]["shape"], data[begin:end]

    def rows(name):  # [1, T, H] as [T, H]
        shape, content = tensor(name)
        return shape[1:], content

    (experts, both, hidden), gate_up = tensor("w.experts.gate_up_proj")
    half = len(gate_up) // experts // 2
    halves = [gate_up[begin : begin + half] for begin in range(0, len(gate_up), half)]
    return {
        "x": rows("in.hidden"),
        "y": rows("out.hidden"),
        "router": tensor("w.gate.weight"),
        "gate": ([experts, both // 2, hidden], b"".join(halves[0::2])),
        "up": ([experts, both // 2, hidden], b"".join(halves[1::2])),
        "down": tensor("w.experts.down_proj"),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, content) in block(sys.argv[1]).items():
        (folder / f"{name}.bin").write_bytes(content)
