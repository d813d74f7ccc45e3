#!/usr/bin/env python3
"""Writes the traces beside it with numpy and zipfile, and prints what numpy says of them. Needs numpy and safetensors.

A softmax router of 8 experts that picks 2: loads are counts of argsort, drops come from serving all first choices in the order
of the tokens and then all second ones, with C = ceil(1.25 * S * 2 / 8)."""

import math
import pathlib
import zipfile

import numpy
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent


def say(name, logits):
    picks = numpy.argsort(-logits, axis=1, kind="stable")[:, :2]
    load = numpy.bincount(picks.ravel(), minlength=8)
    capacity = math.ceil(1.25 * len(logits) * 2 / 8)
    taken, dropped = numpy.zeros(8, int), 0
    for choice in range(2):
        for expert in picks[:, choice]:
            dropped += taken[expert] >= capacity
            taken[expert] += taken[expert] < capacity
    print(f"{name}: load {load.tolist()} C {capacity} dropped {dropped}")


numbers = numpy.random.default_rng(12)
tokens = numbers.normal(size=(60, 8)).astype(numpy.float32)
tokens[:, 3] += 0.5
say("tokens", tokens)

# Padding in three places: at the end, in between, and as whole rows of [B, S, E].
mask = numpy.zeros(100, numpy.int64)
mask[numpy.sort(numbers.choice(100, 60, replace=False))] = 1
mixed = numbers.normal(size=(100, 8)).astype(numpy.float32)
mixed[mask == 1] = tokens
ends = {kind: numpy.concatenate([tokens, numpy.full((40, 8), x, numpy.float32)]) for kind, x in (("nan", numpy.nan), ("zero", 0))}
ends["infinite"] = ends["zero"].copy()
ends["infinite"][60:, 5] = -numpy.inf
tensors = {"tokens": tokens, "mixed": mixed, "mask": mask, "flat_mask": mask.reshape(4, 25).astype(numpy.uint8), **ends}
save_file(tensors, HERE / "rows.safetensors")
numpy.save(HERE / "mask.npy", mask.astype(bool))
numpy.save(HERE / "mixed.npy", mixed.reshape(4, 25, 8))
numpy.save(HERE / "columns.npy", numpy.asfortranarray(mixed))
numpy.save(HERE / "additive.npy", numpy.where(mask == 1, 0, numpy.finfo(numpy.float32).min).astype(numpy.float32))

# Three layers of two steps, half precision in one, and something else between them.
layers = {}
for layer in (0, 2, 10):
    steps = numbers.normal(size=(2, 30, 8)).astype(numpy.float32)
    steps[:, :, layer % 8] += 2
    for step in range(2):
        layers[f"layer{layer}.step_{step:03}"] = steps[step]
    say(f"layer {layer}", steps.reshape(60, 8)[:30])
    say(f"layer {layer}, step 1", steps.reshape(60, 8)[30:])
layers["layer0.loss"] = numpy.zeros(1, numpy.float32)
numpy.savez(HERE / "layers.npz", **layers)
numpy.savez_compressed(HERE / "compressed.npz", **layers)
save_file(layers, HERE / "layers.safetensors")

# As torch.save writes it, as far as its names go.
with zipfile.ZipFile(HERE / "logits.pt", "w") as archive:
    archive.writestr("logits/data.pkl", b"\x80\x02}q\x00.")
    archive.writestr("logits/version", b"3\n")
