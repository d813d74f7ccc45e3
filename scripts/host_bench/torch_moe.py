"""An MoE layer in PyTorch that runs when it is told to, as `bench_host.py` asks: its experts on picks that are given.

    torch_moe.py LAYER.json     what to load: see `Layer`

Lines of standard input, their words apart by tabs: `batch SLOT TOKENS OFFSET PICKS`, where SLOT is 0 or 1; `run SLOT VARIANT`, answered
by the seconds that took; `write VARIANT PATH`, the last output as f32.
Exit code 3: there is no PyTorch.
"""

import json
import mmap
import sys
import time

try:
    import torch
except Exception as error:  # One that is there and fails to load is absent, too.
    print(f"PyTorch does not load: {str(error).splitlines()[0]}", file=sys.stderr)
    sys.exit(3)

TYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


class Layer:
    """The weights of a file, where they lie, and in f32 where that is asked for (`in_f32`)."""

    def __init__(self, about):
        self.about = about
        self.hidden, self.inner, self.experts, self.top_k = (about[key] for key in ("hidden", "intermediate", "experts", "top_k"))
        with open(about["file"], "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        gate_up = self.tensor(about["gate_up"], self.experts, 2 * self.inner, self.hidden)
        down = self.tensor(about["down"], self.experts, self.hidden, self.inner)
        self.weights = {about["dtype"]: (gate_up, down)}
        if about["in_f32"]:
            self.weights["f32"] = (gate_up.float(), down.float())
        self.slots, self.batches = [{}, {}], {}

    def tensor(self, offset, *shape):
        count = 1
        for extent in shape:
            count *= extent
        return torch.frombuffer(self.bytes, dtype=TYPES[self.about["dtype"]], count=count, offset=offset).view(shape)

    def batch(self, slot, tokens, offset, picks):
        x = self.tensor(offset, tokens, self.hidden)
        data = bytearray(open(picks, "rb").read())
        pairs = tokens * self.top_k
        ids = torch.frombuffer(data, dtype=torch.int32, count=pairs).view(tokens, self.top_k).long()
        shares = torch.frombuffer(data, dtype=torch.float32, count=pairs, offset=4 * pairs).view(tokens, self.top_k)
        self.slots[slot] = {dtype: (x.to(TYPES[dtype]), ids, shares.to(TYPES[dtype])) for dtype in self.weights}

    def variants(self):
        """By name: a loop over experts and, where there is such, `grouped_mm`, in each type."""
        kinds = {"loop": self.loop}
        if hasattr(torch, "_grouped_mm") or hasattr(torch.nn.functional, "grouped_mm"):
            kinds["grouped_mm"] = self.grouped_mm
        return {f"{kind} {dtype}": lambda run=run, dtype=dtype: run(dtype) for kind, run in kinds.items() for dtype in self.weights}

    def loop(self, dtype):
        """As in Hugging Face's models."""
        linear = torch.nn.functional.linear
        (gate_up, down), (x, ids, shares) = self.weights[dtype], self.batches[dtype]
        y = torch.zeros_like(x)
        mask = torch.nn.functional.one_hot(ids, self.experts).permute(2, 1, 0)
        for e in mask.sum(dim=(-1, -2)).nonzero():
            e = e[0]
            pick, token = torch.where(mask[e])
            gate, up = linear(x[token], gate_up[e]).chunk(2, dim=-1)
            rows = linear(torch.nn.functional.silu(gate) * up, down[e])
            y.index_add_(0, token, rows * shares[token, pick, None])
        return y

    def grouped_mm(self, dtype):
        """As in Hugging Face's models with `grouped_mm`."""
        (gate_up, down), (x, ids, shares) = self.weights[dtype], self.batches[dtype]
        order = ids.flatten().argsort()
        ends = torch.bincount(ids.flatten(), minlength=self.experts).cumsum(0).to(torch.int32)
        grouped = torch.nn.functional.grouped_mm if hasattr(torch.nn.functional, "grouped_mm") else torch._grouped_mm
        gate, up = grouped(x[order // self.top_k], gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        rows = grouped(torch.nn.functional.silu(gate) * up, down.transpose(1, 2), offs=ends)
        rows = rows * shares.flatten()[order, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return rows[back].view(*ids.shape, -1).float().sum(dim=1).to(x.dtype)


def main():
    about = json.loads(open(sys.argv[1]).read())
    torch.set_num_threads(about["threads"])
    torch.set_grad_enabled(False)
    layer = Layer(about)
    print(json.dumps({"version": torch.__version__, "variants": list(layer.variants())}), flush=True)
    last = {}
    for line in sys.stdin:
        command, *rest = line.rstrip("\n").split("\t")
        if command == "batch":
            layer.batch(*map(int, rest[:3]), rest[3])
            last.clear()
            answer = "there"
        elif command == "run":
            try:
                layer.batches, run = layer.slots[int(rest[0])], layer.variants()[rest[1]]
                start = time.perf_counter()
                last[rest[1]] = run()
                answer = time.perf_counter() - start
            except (AttributeError, NotImplementedError, RuntimeError) as error:
                answer = f"skipped: {str(error).splitlines()[0]}"
        elif command == "write":
            open(rest[1], "wb").write(bytes(last[rest[0]].float().contiguous().view(torch.uint8).flatten().tolist()))
            answer = "written"
        else:
            sys.exit(f"`{line}` is not a command")
        print(answer, flush=True)


if __name__ == "__main__":
    main()
