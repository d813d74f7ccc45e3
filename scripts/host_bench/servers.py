"""Processes that run a layer when they are told to: moec, ggml and PyTorch. Each measures its own time."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


class Absent(Exception):
    """Why there is nothing to measure."""


class Server:
    """A process that answers each line with a line."""

    def __init__(self, command, threads, separator=" "):
        numbers = {name: str(threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.command, self.separator = [str(word) for word in command], separator
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=os.environ | numbers)
        self.first = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            why = self.process.stderr.read().strip().splitlines()
            raise Absent(why[-1] if why else f"{Path(self.command[0]).name} ended")
        return line.strip()

    def ask(self, *words):
        self.process.stdin.write(self.separator.join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Limits:
    """What this machine can do."""

    def __init__(self, program, threads):
        self.server = Server([program, "limits"], threads)

    def measure(self):
        return json.loads(self.server.ask("measure"))


class Moec:
    """The layer for one target, its weights as they lie or in panels, as the spec says."""

    def __init__(self, program, spec, file, target, threads, packed=False):
        self.server = Server([program, "run", spec, file, target], threads)
        self.runners = {f"moec {target}{' packed' if packed else ''}": target}
        self.names = ["", ""]

    def batch(self, slot, name, tokens, offset, picks):
        self.names[slot] = name

    def run(self, slot, _):
        return float(self.server.ask("run", self.names[slot]))

    def write(self, _, path):
        self.server.ask("write", self.names[0], path)

    def picks(self, slot, path):
        self.server.ask("picks", self.names[slot], path)


class Ggml:
    """The experts, their weights in one type."""

    def __init__(self, program, layer, file, at, kind, threads):
        sizes = [layer.hidden, layer.intermediate, layer.experts, layer.top_k]
        self.server = Server([program, file, *sizes, layer.dtype, at["gate_up"], at["down"], threads, kind], threads)
        self.runners = {f"ggml {kind}": kind}

    def batch(self, slot, name, tokens, offset, picks):
        self.server.ask("batch", slot, tokens, offset, picks)

    def run(self, slot, _):
        return float(self.server.ask("run", slot))

    def write(self, _, path):
        self.server.ask("write", 0, path)


class Torch:
    """The experts in PyTorch, by each of its ways; in f32 too where `in_f32`."""

    def __init__(self, python, layer, file, at, threads, in_f32):
        about = {"file": str(file), "hidden": layer.hidden, "intermediate": layer.intermediate, "experts": layer.experts,
                 "top_k": layer.top_k, "dtype": layer.dtype, "gate_up": at["gate_up"], "down": at["down"], "threads": threads,
                 "in_f32": in_f32 and layer.dtype != "f32"}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as described:
            json.dump(about, described)
            described.flush()
            self.server = Server([python, FOLDER / "torch_moe.py", described.name], threads, separator="\t")
        said = json.loads(self.server.first)
        self.version = said["version"]
        self.runners = {f"PyTorch {variant}": variant for variant in said["variants"]}

    def batch(self, slot, name, tokens, offset, picks):
        self.server.ask("batch", slot, tokens, offset, picks)

    def run(self, slot, runner):
        answer = self.server.ask("run", slot, self.runners[runner])
        if answer.startswith("skipped: "):
            raise Absent(answer.removeprefix("skipped: "))
        return float(answer)

    def write(self, runner, path):
        self.server.ask("write", self.runners[runner], path)


def start(what, make):
    """A server, or nothing and a line that says why."""
    try:
        return make()
    except (Absent, OSError, BrokenPipeError) as why:
        print(f"{what} is skipped: {why}", file=sys.stderr)
        return None
