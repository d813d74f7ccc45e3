#!/usr/bin/env python3
"""What a layer is timed beside, on the same GPU and at the same batch sizes.

    peers.py serve    a job a line on stdin, an answer a line on stdout (examples/gpu-kit/src/job.rs)
    peers.py check    a small layer by each peer against a plain loop, and timed; without a GPU on the CPU (Triton's interpreter)

    grouped_mm   PyTorch: route, sort, torch._grouped_mm, activation, torch._grouped_mm, weighted sum
    fused_moe    vLLM's fused_experts where vLLM is installed, else a Triton kernel of its design, written for this kit
    dense        one product with as many floating-point operations
    copy         a copy on the device that moves as many bytes as the layer must (half of them read, half written)

Layers here are gated by silu, without biases; scores are a softmax, renormalised. What is not installed is skipped by name.
"""
import functools
import importlib
import json
import os
import sys
import time

SETS = 8  # batches of other tokens, in turn
RUNS = 48
MEASURED = 1.0  # seconds after which fewer runs will do
WARM = 3


class Skipped(Exception):
    """Why there is nothing to time."""


def module(name):
    """A module that may be absent."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # A module that is there and fails to load is absent, too.
        raise Skipped(f"{name} is not installed ({type(error).__name__}: {error})".splitlines()[0]) from error


def gpu():
    """torch, where it has a GPU."""
    torch = module("torch")
    if not torch.cuda.is_available():
        raise Skipped("torch has no CUDA device")
    return torch


class Layer:
    """Random weights and tokens of a layer's sizes."""

    def __init__(self, torch, sizes, device, dtype):
        self.torch, self.sizes, self.device, self.dtype = torch, sizes, device, dtype
        hidden, inner, experts = sizes["hidden"], sizes["intermediate"], sizes["experts"]
        torch.manual_seed(7)
        self.router = self.random(experts, hidden)
        self.gate_up = self.random(experts, 2 * inner, hidden)
        self.down = self.random(experts, hidden, inner)
        shared = sizes.get("shared_intermediate", 0)
        self.shared = (self.random(2 * shared, hidden), self.random(hidden, shared)) if shared else None

    def random(self, *shape):
        values = self.torch.empty(shape, dtype=self.dtype, device=self.device)
        return values.normal_(0.0, shape[-1] ** -0.5)

    def tokens(self, count):
        x = self.torch.empty((count, self.sizes["hidden"]), dtype=self.dtype, device=self.device)
        return x.normal_(0.0, 1.0)

    def route(self, x):
        """Weights and experts, [T, K]."""
        scores = (x @ self.router.t()).float().softmax(-1)
        weights, experts = scores.topk(self.sizes["top_k"], dim=-1)
        return weights / weights.sum(-1, keepdim=True), experts

    def activated(self, products):
        gate, up = products.chunk(2, dim=-1)
        return self.torch.nn.functional.silu(gate) * up

    def with_shared(self, x, y):
        if self.shared is None:
            return y
        return y + self.activated(x @ self.shared[0].t()) @ self.shared[1].t()

    def counts(self, experts):
        """Pairs of each expert, without a look from the host."""
        flat = experts.flatten()
        zeros = self.torch.zeros(self.sizes["experts"], dtype=self.torch.int64, device=self.device)
        return zeros.scatter_add_(0, flat, self.torch.ones_like(flat))

    def by_loop(self, x):
        """The plain loop over experts, in f32."""
        weights, experts = self.route(x)
        y = self.torch.zeros(x.shape, dtype=self.torch.float32, device=self.device)
        for expert in range(self.sizes["experts"]):
            token, place = (experts == expert).nonzero(as_tuple=True)
            inner = self.activated(x[token].float() @ self.gate_up[expert].float().t())
            y.index_add_(0, token, inner @ self.down[expert].float().t() * weights[token, place, None])
        return self.with_shared(x, y)


def grouped_mm(layer):
    torch = layer.torch
    if not hasattr(torch, "_grouped_mm"):
        raise Skipped(f"torch {torch.__version__} has no _grouped_mm")

    def run(x):
        weights, experts = layer.route(x)
        top_k = experts.shape[1]
        order = experts.flatten().argsort(stable=True)
        ends = layer.counts(experts).cumsum(0).to(torch.int32)
        inner = torch._grouped_mm(x[order // top_k], layer.gate_up.transpose(-2, -1), offs=ends)
        y = torch._grouped_mm(layer.activated(inner), layer.down.transpose(-2, -1), offs=ends)
        y = y * weights.flatten()[order, None].to(y.dtype)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        return layer.with_shared(x, y[place].view(x.shape[0], top_k, -1).sum(1))

    return run, f"torch {torch.__version__}"


def aligned(layer, experts, block):
    """vLLM's order of pairs, those of each expert together, in whole blocks; the expert of each block; the number of places."""
    torch = layer.torch
    flat = experts.flatten()
    pairs, count = flat.numel(), layer.sizes["experts"]
    counts = layer.counts(experts)
    padded = (counts + block - 1) // block * block
    ends = padded.cumsum(0)
    # A bound that needs no look at the routing.
    places = (pairs + min(count, pairs) * (block - 1) + block - 1) // block * block
    order = flat.argsort(stable=True)
    of = flat[order]
    at = torch.arange(pairs, device=flat.device) - (counts.cumsum(0) - counts)[of] + (ends - padded)[of]
    pair = torch.full((places,), pairs, dtype=torch.int32, device=flat.device)
    pair[at] = order.to(torch.int32)
    starts = torch.arange(0, places, block, device=flat.device)
    expert = torch.searchsorted(ends, starts, right=True).clamp_(max=count - 1).to(torch.int32)
    return pair, expert, ends[-1:].to(torch.int32)


def settings(tokens, experts):
    """What vLLM takes where no tuned file has the shape."""
    block = 16 if tokens <= 32 else 32 if tokens <= 96 else 64 if tokens <= 512 else 128
    return {
        "BLOCK_M": block,
        "BLOCK_N": 64 if tokens <= 64 else 128,
        "BLOCK_K": 128 if tokens <= 64 else 64,
        "GROUP_M": 16 if tokens // max(experts, 1) > 128 else 1,
        "num_warps": 4 if tokens <= 128 else 8,
        "num_stages": 4 if tokens <= 32 else 3,
    }


def triton_kernel():
    triton, tl = module("triton"), module("triton.language")
    # The kernel's text names it; Triton looks names up in the module.
    globals()["tl"] = tl

    @triton.jit
    def fused_moe_kernel(a, b, c, weights, pair_of_place, expert_of_block, num_places, N, K, num_pairs, stride_am, stride_be,
                         stride_bn, stride_cm, WEIGHTED: tl.constexpr, top_k: tl.constexpr, BLOCK_M: tl.constexpr,
                         BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr):
        # Blocks in groups of GROUP_M along M, so that they find each other's columns in the cache.
        pid = tl.program_id(0)
        blocks_n = tl.cdiv(N, BLOCK_N)
        blocks_m = tl.num_programs(0) // blocks_n
        group = pid // (GROUP_M * blocks_n)
        size = tl.minimum(blocks_m - group * GROUP_M, GROUP_M)
        block_m = group * GROUP_M + (pid % (GROUP_M * blocks_n)) % size
        block_n = (pid % (GROUP_M * blocks_n)) // size
        if block_m * BLOCK_M >= tl.load(num_places):
            return
        pair = tl.load(pair_of_place + block_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        is_pair = pair < num_pairs
        expert = tl.load(expert_of_block + block_m).to(tl.int64)
        column = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        a_at = a + (pair // top_k)[:, None] * stride_am + k[None, :]
        b_at = b + expert * stride_be + (column % N).to(tl.int64)[None, :] * stride_bn + k[:, None]
        sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(0, tl.cdiv(K, BLOCK_K)):
            inside = k < K - step * BLOCK_K
            left = tl.load(a_at, mask=is_pair[:, None] & inside[None, :], other=0.0)
            right = tl.load(b_at, mask=inside[:, None], other=0.0)
            sums += tl.dot(left, right)
            a_at += BLOCK_K
            b_at += BLOCK_K
        if WEIGHTED:
            sums *= tl.load(weights + pair, mask=is_pair, other=0.0)[:, None]
        c_at = c + pair[:, None] * stride_cm + column[None, :]
        tl.store(c_at, sums.to(c.dtype.element_ty), mask=is_pair[:, None] & (column < N)[None, :])

    return fused_moe_kernel


def fused_moe(layer):
    torch = layer.torch
    try:
        vllm = module("vllm.model_executor.layers.fused_moe")
    except Skipped:
        return own_fused_moe(layer)

    def run(x):
        weights, experts = layer.route(x)
        return layer.with_shared(x, vllm.fused_experts(x, layer.gate_up, layer.down, weights, experts.to(torch.int32)))

    try:
        run(layer.tokens(4))
    except Exception as error:  # Versions of vLLM differ in what they have to be told.
        own, detail = own_fused_moe(layer)
        return own, f"{detail}; vLLM's failed ({type(error).__name__})"
    return run, f"vLLM {module('vllm').__version__}"


def own_fused_moe(layer):
    torch, kernel = layer.torch, triton_kernel()

    def product(a, b, weights, order, pairs, top_k, weighted, how):
        c = torch.empty((pairs, b.shape[1]), dtype=a.dtype, device=a.device)
        n, k = b.shape[1:]
        blocks_m, blocks_n = order[0].numel() // how["BLOCK_M"], (n + how["BLOCK_N"] - 1) // how["BLOCK_N"]
        kernel[(blocks_m * blocks_n,)](a, b, c, weights, *order, n, k, pairs, a.stride(0), b.stride(0), b.stride(1), c.stride(0),
                                       WEIGHTED=weighted, top_k=top_k, **how)
        return c

    def run(x):
        weights, experts = layer.route(x)
        tokens, top_k = experts.shape
        how = settings(tokens, layer.sizes["experts"])
        order = aligned(layer, experts, how["BLOCK_M"])
        flat = weights.flatten()
        inner = layer.activated(product(x, layer.gate_up, flat, order, tokens * top_k, top_k, False, how))
        y = product(inner, layer.down, flat, order, tokens * top_k, 1, True, how)
        return layer.with_shared(x, y.view(tokens, top_k, -1).sum(1))

    return run, f"Triton {module('triton').__version__}, a kernel of vLLM's design"


def dense(layer):
    torch, sizes = layer.torch, layer.sizes
    columns = max(8, sizes["token_flops"] // (2 * sizes["top_k"] * sizes["hidden"]) // 8 * 8)
    factor = layer.random(columns, sizes["hidden"])
    # Rows are those of pairs: see `Server.time`.
    return (lambda rows: rows @ factor.t()), f"[T * K, H] times [H, {columns}], torch {torch.__version__}"


class Cuda:
    """Times and graphs of a GPU."""

    device = "cuda"

    def __init__(self, torch):
        self.torch = torch

    def mark(self):
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin, end):
        """Microseconds, when both are over."""
        return begin.elapsed_time(end) * 1e3

    def wait(self):
        self.torch.cuda.synchronize()

    def forget(self):
        self.torch.cuda.empty_cache()

    def captured(self, run):
        """What replays it; nothing where it cannot be captured."""
        graph = self.torch.cuda.CUDAGraph()
        try:
            with self.torch.cuda.graph(graph):
                run()
        except RuntimeError:
            self.wait()
            return None
        return graph.replay


class Cpu:
    """The same on the CPU, so that all of this script can be tried there."""

    device = "cpu"

    def mark(self):
        return time.perf_counter()

    def between(self, begin, end):
        return (end - begin) * 1e6

    def wait(self):
        pass

    def forget(self):
        pass

    def captured(self, run):
        return run


def times(machine, runs):
    """Microseconds of single runs, after some that warm up; `runs` in turn."""
    for turn in range(WARM):
        runs[turn % len(runs)]()
    machine.wait()
    begun, found = time.monotonic(), []
    for first in range(0, RUNS, 8):
        if found and time.monotonic() >= begun + MEASURED:
            break
        marks = []
        for turn in range(first, first + 8):
            begin = machine.mark()
            runs[turn % len(runs)]()
            marks.append((begin, machine.mark()))
        machine.wait()
        found += [machine.between(begin, end) for begin, end in marks]
    return found


class Server:
    """Does jobs; keeps the last layer, so that its weights are made once."""

    def __init__(self, machine=None):
        self.machine, self.key, self.layer, self.peers = machine, None, None, {}

    def of(self, job):
        torch, sizes = module("torch") if self.machine else gpu(), job["sizes"]
        self.machine = self.machine or Cuda(torch)
        key = (job["name"], tuple(sorted(sizes.items())))
        if key != self.key:
            # The memory of the last one first.
            self.key, self.layer, self.peers = None, None, {}
            self.machine.forget()
            # Triton's interpreter, on the CPU, adds bf16 as if they were integers.
            dtype = torch.bfloat16 if self.machine.device == "cuda" else torch.float32
            self.layer, self.key = Layer(torch, sizes, self.machine.device, dtype), key
        return torch, self.layer

    def peer(self, by):
        if by not in self.peers:
            self.peers[by] = {"grouped_mm": grouped_mm, "fused_moe": fused_moe, "dense": dense}[by](self.layer)
        return self.peers[by]

    def time(self, job):
        torch, layer = self.of(job)
        tokens, sizes, by = job["tokens"], job["sizes"], job["by"]
        if by == "copy":
            hit = 1.0 - (1.0 - sizes["top_k"] / max(sizes["experts"], 1)) ** tokens
            moved = sizes["expert_bytes"] * hit + sizes["other_bytes"] + 4 * tokens * sizes["hidden"]
            source = torch.ones(max(int(moved) // 2, 1), dtype=torch.uint8, device=layer.device)
            target = torch.empty_like(source)
            run, detail, sets = (lambda _: target.copy_(source)), f"{moved / 1e6:.0f} MB read and written", [None]
        else:
            run, detail = self.peer(by)
            sets = [layer.tokens(tokens) for _ in range(SETS)]
            if by == "dense":
                sets = [x.repeat_interleave(sizes["top_k"], 0) for x in sets[:2]]
        runs = [functools.partial(run, x) for x in sets]
        with torch.inference_mode():
            us = times(self.machine, runs)
            replays = [self.machine.captured(run) for run in runs]
            graph_us = times(self.machine, replays) if all(replays) else []
        return {"status": "ok", "detail": detail, "us": us, "graph_us": graph_us}

    def answer(self, line):
        try:
            return self.time(json.loads(line))
        except Skipped as why:
            return {"status": "skipped", "detail": str(why)}
        except Exception as error:
            kind = type(error).__name__
            status = "skipped" if kind == "OutOfMemoryError" else "failed"
            return {"status": status, "detail": f"{kind}: {error}".splitlines()[0]}


def serve():
    server = Server()
    for line in sys.stdin:
        print(json.dumps(server.answer(line)), flush=True)
    return 0


def check():
    """Each peer against the plain loop. Says what was skipped."""
    try:
        torch = module("torch")
    except Skipped as why:
        print(f"skipped: {why}")
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    sizes = {"hidden": 64, "intermediate": 48, "experts": 7, "top_k": 2, "shared_intermediate": 32, "token_flops": 40960,
             "expert_bytes": 129024, "other_bytes": 13184}
    wrong = 0
    for name, peer in (("grouped_mm", grouped_mm), ("fused_moe", fused_moe)):
        try:
            # The interpreter adds bf16 as if they were integers.
            dtype = torch.float32 if device == "cpu" and name == "fused_moe" else torch.bfloat16
            layer = Layer(torch, sizes, device, dtype)
            run, detail = peer(layer)
            for tokens in (1, 5, 40, 129):
                x = layer.tokens(tokens)
                meant = layer.by_loop(x)
                off = ((run(x).float() - meant).norm() / meant.norm()).item()
                wrong += not off < 0.02
                print(f"{name}, T = {tokens}: off by {off:.1e} of all; {detail}")
        except Skipped as why:
            print(f"skipped: {why}")
    server = Server(Cuda(torch) if device == "cuda" else Cpu())
    for by in ("grouped_mm", "fused_moe", "dense", "copy"):
        answer = server.answer(json.dumps({"name": "small", "tokens": 3, "by": by, "seconds": 1, "sizes": sizes}))
        wrong += answer["status"] == "failed"
        print(f"{by}: {answer['status']}, {len(answer.get('us', []))} runs: {answer['detail']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    modes = {"serve": serve, "check": check}
    if sys.argv[1:] not in ([mode] for mode in modes):
        sys.exit(f"usage: {sys.argv[0]} serve | check")
    sys.exit(modes[sys.argv[1]]())
