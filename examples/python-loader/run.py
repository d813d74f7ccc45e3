#!/usr/bin/env python3
"""Runs a package of moec on this CPU with Python's standard library alone, as runtime/PACKAGE.md says.

    run.py LAYER.moec TENSORS.safetensors [BUFFER=TENSOR ...] [--prefix P]

Weights are put together of TENSORS, where P stands before their names. An input is the tensor of its own name, or the one that
BUFFER=TENSOR names; an output is compared with such a tensor, if there is one.
"""
import argparse, ctypes, hashlib, math, mmap, os, tempfile
from concurrent.futures import ThreadPoolExecutor

from checkpoint import assemble, numbers, tensors
from package import choose, length, read, refuse, regime, shape, value, workspace


def memory(size, content=b""):
    """So many bytes at the start of a page: the content, or zeros."""
    new = (ctypes.c_char * max(size, 1)).from_buffer(mmap.mmap(-1, max(size, 1)))
    ctypes.memmove(new, bytes(content), len(content))
    return new


class Layer:
    """A package whose kernels are loaded."""

    def __init__(self, path, cpuinfo, threads):
        self.manifest, images = read(path)
        self.target = choose(self.manifest["targets"], cpuinfo)
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(images[self.target["images"][0]])
            file.flush()
            library = ctypes.CDLL(file.name, mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self.functions = [library[kernel["symbol"]] for kernel in self.target["kernels"]]
        for function in self.functions:
            function.argtypes, function.restype = [ctypes.POINTER(ctypes.c_uint64), ctypes.c_uint64, ctypes.c_uint64], None
        self.threads, self.pool, self.bound = threads, ThreadPoolExecutor(threads), {}

    def buffers(self, role):
        """The buffers of a role, with their indices."""
        return [(at, buffer) for at, buffer in enumerate(self.manifest["buffers"]) if buffer["role"] == role]

    def launch(self, launches, addresses, T, S):
        """Makes launches one after another, the blocks of each shared out among threads."""
        for each in launches:
            words = [addresses[arg["buffer"]] if "buffer" in arg else value(*arg.values(), T, S) for arg in each["args"]]
            args, blocks = (ctypes.c_uint64 * len(words))(*words), value(each["grid"], T, S)
            share = max(1, -(-blocks // self.threads))
            run = lambda begin: self.functions[each["kernel"]](args, begin, min(begin + share, blocks))
            list(self.pool.map(run, range(0, blocks, share)))

    def bind(self, stored, prefix):
        """Puts the weights together, and what is prepared of them."""
        pieces = {recipe["buffer"]: recipe["pieces"] for recipe in self.manifest["weights"]}
        for at, buffer in self.buffers("weight"):
            self.bound[at] = memory(length(buffer, 0, 0), assemble(buffer, pieces[buffer["name"]], stored, prefix))
        self.bound |= {at: memory(length(buffer, 0, 0)) for at, buffer in self.buffers("prepared")}
        self.launch(self.target.get("prepare", []), {at: ctypes.addressof(own) for at, own in self.bound.items()}, 0, 0)

    def run(self, inputs, T, S):
        """The outputs and the observed buffers of a batch, by name: type, shape and bytes."""
        places, size = workspace(self.manifest, self.target, T, S) if T else ({}, 0)
        scratch, own = memory(size), dict(self.bound)
        own |= {at: memory(length(buffer, T, S), inputs[buffer["name"]]) for at, buffer in self.buffers("input")}
        own |= {at: memory(length(buffer, T, S)) for at, buffer in self.buffers("output")}
        addresses = {at: ctypes.addressof(memory) for at, memory in own.items()}
        addresses |= {at: ctypes.addressof(scratch) + place for at, place in places.items()}
        self.launch(regime(self.target, T)["launches"] if T else [], addresses, T, S)
        found = {buffer["name"]: (buffer, own[at].raw) for at, buffer in self.buffers("output")}
        found |= {buffer["observe"]: (buffer, scratch[places[at]:places[at] + length(buffer, T, S)])
                  for at, buffer in self.buffers("workspace") if at in places and "observe" in buffer}
        return {name: (buffer["dtype"], shape(buffer, T, S), data) for name, (buffer, data) in found.items()}


def inputs_of(layer, stored, names):
    """The bytes of each input by name, and the T and S that the shape of the first says: [T, H], or [B, S, H] with T = B S."""
    inputs, batch = {}, None
    for _, buffer in layer.buffers("input"):
        name = names.get(buffer["name"], buffer["name"])
        if name not in stored:
            refuse(f"there is no tensor {name} for the input `{buffer['name']}`")
        dtype, actual, inputs[buffer["name"]] = stored[name]
        leading = actual[:len(actual) - len(buffer["shape"]) + 1] or [0]
        batch = batch or (math.prod(leading), leading[-1])
        expected = shape(buffer, *batch)
        if [dtype, math.prod(leading), *actual[len(leading):]] != [buffer["dtype"], *expected]:
            refuse(f"{name} is {dtype} {actual}, the input `{buffer['name']}` is {buffer['dtype']} {expected}")
    if batch[0] > layer.manifest["max_tokens"]:
        refuse(f"{batch[0]} tokens, the layer takes up to {layer.manifest['max_tokens']}")
    return inputs, *batch


def error(ours, theirs):
    """The largest difference, as a part of the largest number expected."""
    apart = lambda a, b: 0 if a == b else math.inf if math.isnan(a - b) else abs(a - b)
    return max(map(apart, ours, theirs), default=0) / (max(map(abs, theirs), default=0) or 1)


def main():
    parser = argparse.ArgumentParser(description="Runs a package of moec on this CPU.")
    parser.add_argument("package")
    parser.add_argument("tensors", help="a safetensors file")
    parser.add_argument("names", nargs="*", metavar="BUFFER=TENSOR")
    parser.add_argument("--prefix", default="", help="what stands before the names of weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpuinfo", default="/proc/cpuinfo", help="where the features of the CPU are listed")
    given = parser.parse_intermixed_args()

    layer = Layer(given.package, given.cpuinfo, given.threads)
    stored, names = tensors(given.tensors), dict(name.split("=", 1) for name in given.names)
    layer.bind(stored, given.prefix)
    inputs, T, S = inputs_of(layer, stored, names)
    print(f"{layer.manifest['layer']} on {layer.target['name']}, {T} tokens")
    for name, (dtype, extents, data) in layer.run(inputs, T, S).items():
        print(f"{name:<18} {dtype} {extents}, SHA-256 {hashlib.sha256(data).hexdigest()}")
        wanted = names.get(name, name)
        if wanted in stored:
            ours, theirs = numbers(dtype, data), numbers(stored[wanted][0], stored[wanted][2])
            if len(ours) != len(theirs):
                refuse(f"{wanted} has {len(theirs)} elements, `{name}` has {len(ours)}")
            print(f"{'':<18} error {error(ours, theirs):.1e} of the largest in {wanted}")
        elif name in names:
            refuse(f"there is no tensor {wanted} for the output `{name}`")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as wrong:
        refuse(wrong)
