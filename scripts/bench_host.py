#!/usr/bin/env python3
"""MoE layers by moec beside ggml and PyTorch on this CPU, and beside what the machine can do (`make bench-host`).

    bench_host.py [--layers qwen3-30b-a3b,..] [--dtypes bf16,f32] [--routings uniform,zipf] [--tokens 1,4,..] [--name NAME]
    bench_host.py --redraw    makes plots and page again from the results that are there
    bench_host.py --check     fails where these are not what it would make

All are processes that run the same layer on the same tokens when they are told to, by turns, and measure their own time. The
first turns are dropped; medians and ranges of the others are kept. Experts are those that moec's router picked. Before it is timed,
each is compared with moec's output. Results go to runtime/results/NAME.json, where those of the same layer, type, routing and number
of tokens are replaced, so that a long list can be measured in parts; plots to NAME.svg, and the page to examples/host-speed/README.md.

Nothing else may run meanwhile. What is not there is skipped by name: ggml is built once, from PyPI, in a folder of
XDG_CACHE_HOME or ~/.cache (needs cmake and a C++ compiler); PyTorch is that of --python."""

import argparse
import datetime
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from host_bench import ggml_build, pages
from host_bench.layers import LAYERS, PACKED, Layer, difference, least, offsets
from host_bench.servers import Absent, Ggml, Limits, Moec, Torch, start

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "runtime/results", ROOT / "examples/host-speed/README.md"
# The largest difference to moec's output, relative to the largest number, by the type of the layer, or what its weights are quantised to.
BOUNDS = {"f32": 1e-4, "bf16": 2e-2, "q8_0": 5e-2, "q4_K": 2e-1}
# From so many tokens on PyTorch's f32 may be faster than its bf16, of which it reads half as many bytes.
TOKENS_IN_F32 = 64
DROPPED, LEAST_TURNS, MOST_TURNS = 2, 3, 9
# Up to so many tokens a turn begins with a run of other tokens, which does not count: threads that slept are awake by then, and on cores of
# their own, and what caches kept are the weights of other experts. Outputs of so many are compared.
FEW_TOKENS = 64
MOST_BYTES = 8e9


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("--layers", type=words, default=list(LAYERS), help=f"of {', '.join(LAYERS)}")
    parser.add_argument("--dtypes", type=words, default=["bf16", "f32"])
    parser.add_argument("--routings", type=words, default=["uniform", "zipf"])
    parser.add_argument("--tokens", type=words, default=["1", "4", "16", "64", "128", "512", "2048", "8192"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=8.0, help="for the turns of each number of tokens, but for the fewest turns")
    parser.add_argument("--quantised", action="store_true", help="ggml's q8_0 and q4_K too, of other weights in fewer bytes")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--name", help="of the results; the date and the CPU where absent")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--check", action="store_true", help="measure and write nothing")
    return parser.parse_args()


def target_folder():
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"


def middle(measured):
    """The medians of the rates of several measurements."""
    if isinstance(measured[0], dict):
        return {key: middle([each[key] for each in measured]) for key in measured[0]}
    if isinstance(measured[0], list):
        return [middle(each) for each in zip(*measured)]
    return measured[0] if isinstance(measured[0], str) else round(statistics.median(measured))


def higher(a, b):
    """The higher of the rates of two measurements."""
    if isinstance(a, dict):
        return {key: higher(value, b[key]) for key, value in a.items()}
    if isinstance(a, list):
        return [higher(*pair) for pair in zip(a, b)]
    return a if isinstance(a, str) else max(a, b)


def memory_gb():
    (kib,) = re.findall(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"), re.M)
    return round(int(kib) * 1024 / 1e9)


def room(size):
    """A folder for the file of weights: in memory where there is room, so that no page of it has to be read again."""
    memory = Path("/dev/shm")
    free = os.statvfs(memory).f_bavail * os.statvfs(memory).f_frsize if memory.is_dir() else 0
    return memory if free > 2 * size else ggml_build.cache()


class Bench:
    """Everything that is measured in one call."""

    def __init__(self, args):
        self.args = args
        self.machine = Limits(target_folder() / "examples/serve", args.threads)
        self.limits = self.machine.measure()
        self.targets = list(dict.fromkeys(products["target"] for products in self.limits["products"]))
        # The lowest and the highest; where they are one, one.
        self.targets = list(dict.fromkeys([self.targets[0], self.targets[-1]]))
        self.peers, self.rows = {}, []
        self.ggml = start("ggml", self.build_ggml)

    def build_ggml(self):
        program, self.peers["ggml"] = ggml_build.built()
        return program

    def measure(self):
        for name in self.args.layers:
            for dtype in self.args.dtypes:
                layer = Layer(name, dtype)
                if layer.bytes > MOST_BYTES:
                    print(f"{name} in {dtype} is skipped: its weights have {layer.bytes / 1e9:.1f} GB", file=sys.stderr)
                    continue
                with tempfile.TemporaryDirectory(dir=room(layer.bytes)) as folder:
                    self.measure_layer(layer, Path(folder))

    def measure_layer(self, layer, folder):
        spec, file, serve = folder / "spec.toml", folder / "layer.safetensors", target_folder() / "examples/serve"
        packed = folder / "packed.toml"
        spec.write_text(layer.text, encoding="utf-8")
        packed.write_text(layer.text + PACKED, encoding="utf-8")
        batches = [f"{routing}.{tokens}" for routing in self.args.routings for tokens in self.args.tokens]
        batches += [f"{name}.other" for name in batches if int(name.split(".")[1]) <= FEW_TOKENS]
        subprocess.run([serve, "make", spec, file, *batches], check=True)
        at, threads = offsets(file), self.args.threads
        ours = [Moec(serve, spec, file, target, threads) for target in self.targets]
        servers = ours + [Moec(serve, packed, file, target, threads, packed=True) for target in self.targets]
        if self.ggml:
            kinds = [layer.dtype] + (["q8_0"] + (["q4_K"] if layer.intermediate % 256 == 0 else []) if self.args.quantised else [])
            servers += [start(f"ggml {kind}", lambda kind=kind: Ggml(self.ggml, layer, file, at, kind, threads)) for kind in kinds]
        in_f32 = any(int(tokens) >= TOKENS_IN_F32 for tokens in self.args.tokens)
        torch = start("PyTorch", lambda: Torch(self.args.python, layer, file, at, threads, in_f32))
        if torch:
            self.peers["PyTorch"] = torch.version
            servers.append(torch)
        servers = [server for server in servers if server]
        try:
            for routing in self.args.routings:
                # Few tokens first: they are compared, which takes Python long for many.
                for tokens in sorted(map(int, self.args.tokens)):
                    self.measure_batch(layer, folder, (servers, ours[-1]), (routing, tokens, at))
        finally:
            for server in servers:
                server.server.close()

    def measure_batch(self, layer, folder, made, batch):
        (servers, ours), (routing, tokens, at) = made, batch
        names = [f"{routing}.{tokens}"] + ([f"{routing}.{tokens}.other"] if tokens <= FEW_TOKENS else [])
        for slot, name in reversed(list(enumerate(names))):
            picks = folder / f"picks{slot}"
            ours.batch(slot, name, tokens, at[f"x.{name}"], picks)
            ours.run(slot, None)
            ours.picks(slot, picks)
            for server in servers:
                server.batch(slot, name, tokens, at[f"x.{name}"], picks)
        turns = {(server, runner): [] for server in servers for runner in server.runners}
        for server, runner in list(turns):
            if runner.startswith("PyTorch") and runner.endswith("f32") and layer.dtype != "f32" and tokens < TOKENS_IN_F32:
                del turns[server, runner]
                continue
            try:
                server.run(0, runner)
            except Absent as why:
                print(f"{runner} is skipped: {why}", file=sys.stderr)
                del turns[server, runner], server.runners[runner]
        differences = self.compare(layer, folder, ours, turns) if tokens <= FEW_TOKENS else {}
        began, turn, wanted, limits = time.perf_counter(), 0, LEAST_TURNS + DROPPED, []
        while turn < wanted:
            limits.append(self.machine.measure())
            for (server, runner), times in turns.items():
                if tokens <= FEW_TOKENS:
                    server.run(1, runner)
                times.append(server.run(0, runner))
                # Threads of others wait for work for a while before they sleep.
                time.sleep(0.05)
            turn += 1
            if turn == 1:
                one = time.perf_counter() - began
                wanted = DROPPED + max(LEAST_TURNS, min(MOST_TURNS, int(self.args.seconds / one)))
        row = {"layer": layer.name, "dtype": layer.dtype, "routing": routing, "tokens": tokens, **layer.work(picks), "runners": {}}
        for (_, runner), times in turns.items():
            kept = [1e3 * seconds for seconds in times[DROPPED:]]
            row["runners"][runner] = {"median_ms": statistics.median(kept), "least_ms": min(kept), "most_ms": max(kept), "runs": len(kept)}
            if runner in differences:
                row["runners"][runner]["difference"] = differences[runner]
        # The bus of memory may be shared with other machines, so that its speed drifts: the machine takes turns too.
        limits = middle(limits[DROPPED:])
        self.limits = higher(self.limits, limits)
        row["read"] = limits["read"]["all"]
        row["best_target"] = self.targets[-1]
        row["least_ms"] = {target: 1e3 * least(row, limits, target, row["dtype"]) for target in self.targets}
        self.rows.append(row)
        self.say(row)

    def compare(self, layer, folder, ours, turns):
        """The difference of each to moec's best target; ends where one computes another layer."""
        ours.write(None, folder / "ours")
        found = {}
        for server, runner in turns:
            server.write(runner, folder / "theirs")
            kind = runner.split()[-1]
            bound = BOUNDS[kind if runner.startswith("ggml q") else layer.dtype]
            found[runner] = difference(folder / "theirs", folder / "ours")
            if not found[runner] <= bound:
                sys.exit(f"{runner} computes another layer: its output differs by {found[runner]:.2g} of the largest number, at most {bound}")
        return found

    def say(self, row):
        rates = lambda ms: f"{row['bytes'] / ms / 1e6:6.1f} GB/s {row['flops'] / ms / 1e6:7.1f} GFLOP/s"
        print(f"{row['layer']}, {row['dtype']}, {row['routing']}, {row['tokens']} tokens, {row['hit']} experts hit")
        for target in self.targets:
            ms = row["least_ms"][target]
            print(f"  {f'limit {target}':<28}{ms:>10.3f} ms {'':>23} {rates(ms)}")
        for runner, about in row["runners"].items():
            spread = f"({about['least_ms']:.3f}..{about['most_ms']:.3f})"
            of = "" if runner.startswith("ggml q") else rates(about["median_ms"])
            print(f"  {runner:<28}{about['median_ms']:>10.3f} ms {spread:>23} {of}")
        sys.stdout.flush()


def write(bench, name):
    """Adds what was measured to the results of that name."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"peers": {}, "rows": []}
    key = lambda row: tuple(row[field] for field in ("layer", "dtype", "routing", "tokens"))
    new = {key(row): row for row in bench.rows}
    old = {key(row): row for row in before["rows"]}
    rows = [new.get(at, row) for at, row in old.items()] + [row for at, row in new.items() if at not in old]
    with open(ROOT / "Cargo.toml", "rb") as file:
        version = tomllib.load(file)["workspace"]["package"]["version"]
    results = {
        "kind": "host",
        "date": datetime.date.today().isoformat(),
        "moec": version,
        "machine": {**bench.limits, "cores": os.cpu_count(), "memory_gb": memory_gb()},
        "peers": before["peers"] | bench.peers,
        "rows": rows,
    }
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def redraw(check):
    """Plots of all results, and the page of the newest; whether they were there already."""
    found = sorted(path for path in RESULTS.glob("*.json") if json.loads(path.read_text(encoding="utf-8")).get("kind") == "host")
    if not found:
        sys.exit("there are no results of a CPU in runtime/results/")
    made = {}
    for path in found:
        results = json.loads(path.read_text(encoding="utf-8"))
        made[path.with_suffix(".svg")] = pages.plot(results)
        made[PAGE] = pages.page(path.stem, results)
    wrong = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and wrong:
        sys.exit(f"not what the results say: {', '.join(str(path.relative_to(ROOT)) for path in wrong)}; `--redraw` writes them")
    for path in [] if check else wrong:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made[path], encoding="utf-8", newline="\n")


def main():
    args = arguments()
    if not args.redraw and not args.check:
        # Gigabytes in memory are let go of where a limit of time ends this.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        ggml_build.cache().mkdir(parents=True, exist_ok=True)
        bench = Bench(args)
        bench.measure()
        cpu = re.sub(r"[^a-z0-9]+", "-", bench.limits["cpu"].lower()).strip("-")
        write(bench, args.name or f"{datetime.date.today().isoformat()}-{cpu}")
    redraw(args.check)


if __name__ == "__main__":
    main()
