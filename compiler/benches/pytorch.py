#!/usr/bin/env python3
"""moec beside PyTorch on this CPU: the same random weights and tokens, bf16, taking turns.

    python3 compiler/benches/pytorch.py [SPEC] [--tokens 1,16,128,2048] [--rounds 7] [--threads 2] [--python PYTHON]

PyTorch runs the layer as it is usually written, a loop over the experts that were hit, and with `grouped_mm` where it
has that for this CPU. Printed are the medians, and the medians of the ratios of neighbouring runs: above 1, moec is
faster. The largest difference of the outputs, relative to the largest output, says that all did the same work.
Exit code 3: there is no PyTorch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=ROOT / "examples/specs/qwen3-30b-a3b.toml")
    parser.add_argument("--tokens", default="1,16,128,2048", help="batch sizes")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each, of which the median is shown")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", help="a Python that has PyTorch")
    return parser.parse_args()


def find_torch(args):
    """The torch module; runs this script again under --python, and ends where there is none."""
    if args.python and not os.environ.get("MOEC_BENCH_PYTHON"):
        os.environ["MOEC_BENCH_PYTHON"] = args.python
        os.execvp(args.python, [args.python, *sys.argv])
    try:
        import torch
    except ImportError as error:
        print(f"PyTorch is not found by {sys.executable} ({error}): name a Python that has it with --python", file=sys.stderr)
        sys.exit(3)
    return torch


class Reference:
    """A layer of gated silu experts in PyTorch."""

    def __init__(self, torch, spec):
        self.torch = torch
        moe, router, expert = spec["moe"], spec["router"], spec["expert"]
        plain = router["score"] == "softmax" and router["order"] == "score_topk" and not spec.get("shared")
        if not plain or expert["activation"] != "silu" or not expert["gated"]:
            sys.exit("only layers of softmax scores and gated silu experts are written down in PyTorch here")
        self.experts, self.top_k, self.renorm = moe["experts"], router["top_k"], router["renorm"] == "sum"
        hidden, intermediate = moe["hidden"], expert["intermediate"]
        self.router = self.random(self.experts, hidden)
        self.gate_up = self.random(self.experts, 2 * intermediate, hidden)
        self.down = self.random(self.experts, hidden, intermediate)
        self.hidden, self.intermediate = hidden, intermediate
        # Logits in f32, as moec has them: rounded to bf16 they often tie, and other experts are picked.
        self.exact = False

    def random(self, *shape):
        return self.torch.randn(shape, dtype=self.torch.bfloat16) * shape[-1] ** -0.5

    def tensors(self, names):
        """The weights under the names of a spec's `[weights]`."""
        stacked = {"gate": self.gate_up[:, : self.intermediate], "up": self.gate_up[:, self.intermediate :], "down": self.down}
        tensors = {names["router"]: self.router}
        for key, stack in stacked.items():
            for e in range(self.experts):
                tensors[names[key].replace("{e}", str(e))] = stack[e].contiguous()
        return tensors

    def route(self, x):
        x, router = (x.float(), self.router.float()) if self.exact else (x, self.router)
        logits = self.torch.nn.functional.linear(x, router)
        scores = self.torch.nn.functional.softmax(logits, dim=-1, dtype=self.torch.float32)
        weights, experts = self.torch.topk(scores, self.top_k, dim=-1)
        if self.renorm:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.to(self.router.dtype), experts

    def loop(self, x):
        """As in Hugging Face's models."""
        torch, linear = self.torch, self.torch.nn.functional.linear
        weights, experts = self.route(x)
        y = torch.zeros_like(x)
        mask = torch.nn.functional.one_hot(experts, self.experts).permute(2, 1, 0)
        for e in mask.sum(dim=(-1, -2)).nonzero():
            e = e[0]
            pick, token = torch.where(mask[e])
            gate, up = linear(x[token], self.gate_up[e]).chunk(2, dim=-1)
            rows = linear(torch.nn.functional.silu(gate) * up, self.down[e])
            y.index_add_(0, token, (rows * weights[token, pick, None]).to(x.dtype))
        return y

    def grouped_mm(self, x):
        """As in Hugging Face's models with `grouped_mm`."""
        torch = self.torch
        weights, experts = self.route(x)
        order = experts.flatten().argsort()
        ends = torch.bincount(experts.flatten(), minlength=self.experts).cumsum(0).to(torch.int32)
        grouped = torch.nn.functional.grouped_mm if hasattr(torch.nn.functional, "grouped_mm") else torch._grouped_mm
        gate, up = grouped(x[order // self.top_k], self.gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        rows = grouped(torch.nn.functional.silu(gate) * up, self.down.transpose(1, 2), offs=ends)
        rows = rows * weights.flatten()[order, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return rows[back].view(*experts.shape, -1).float().sum(dim=1).to(x.dtype)


class Moec:
    """The layer compiled by moec, in a process that runs it when told to."""

    def __init__(self, spec, file, threads):
        build = ["cargo", "build", "--release", "--locked", "--quiet", "--package", "moec", "--example", "serve"]
        subprocess.run(build, cwd=ROOT, check=True)
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        command = [ROOT / target / "release/examples/serve", spec, file]
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.name = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the process that runs moec ended")
        return line.strip()

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()


def main():
    args = arguments()
    torch = find_torch(args)
    from safetensors.torch import save_file

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    spec = tomllib.loads(args.spec.read_text())
    reference = Reference(torch, spec)
    batches = {t: torch.randn(t, reference.hidden, dtype=torch.bfloat16) for t in map(int, args.tokens.split(","))}

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "layer.safetensors"
        save_file(reference.tensors(spec["weights"]) | {f"x.{t}": x for t, x in batches.items()}, file)
        moec = Moec(args.spec.resolve(), file, args.threads)
        print(f"{moec.name}, PyTorch {torch.__version__}, {args.threads} threads, medians of {args.rounds}")

        variants = {"loop": reference.loop}
        try:
            reference.grouped_mm(next(iter(batches.values())))
            variants["grouped_mm"] = reference.grouped_mm
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            print(f"grouped_mm is skipped: {str(error).splitlines()[0]}")

        print(f"{'tokens':>6} {'moec ms':>9}", *(f"{name + ' ms':>13} {'ratio':>6} {'(range)':>13} {'difference':>10}" for name in variants))
        for tokens, x in batches.items():
            ours, theirs, ratios = [], {name: [] for name in variants}, {name: [] for name in variants}
            for turn in range(args.rounds + 2):
                for name, variant in variants.items():
                    start = time.perf_counter()
                    variant(x)
                    torch_time = time.perf_counter() - start
                    time.sleep(0.02)  # its threads wait for work before they sleep
                    moec_time = float(moec.ask(f"run {tokens}"))
                    if turn >= 2:  # before that, memory and caches warm up
                        ours.append(moec_time)
                        theirs[name].append(torch_time)
                        ratios[name].append(torch_time / moec_time)
            moec.ask(f"write {tokens} {folder}/y")
            y = torch.frombuffer(bytearray(Path(folder, "y").read_bytes()), dtype=torch.bfloat16).view_as(x).float()
            reference.exact = True
            cells = [f"{tokens:>6} {1e3 * statistics.median(ours):>9.2f}"]
            for name, variant in variants.items():
                expected = variant(x).float()
                difference = ((y - expected).abs().max() / expected.abs().max()).item()
                spread = f"{min(ratios[name]):.2f}..{max(ratios[name]):.2f}"
                median = 1e3 * statistics.median(theirs[name])
                cells.append(f"{median:>13.2f} {statistics.median(ratios[name]):>6.2f} {spread:>13} {difference:>10.4f}")
            reference.exact = False
            print(*cells, flush=True)


if __name__ == "__main__":
    main()
