"""MoE blocks of Hugging Face models, compiled: `patch(model)` swaps all of them.

What a block computes is read from the model's config by `moec import`, which also holds the block's tensors against it: a block that has a
tensor of which the layer makes no use is not swapped, nor is one that gives something else for random tokens. Libraries are kept in a
folder, so that a layer is compiled once."""

import hashlib
import json
import os
import struct
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch

from . import binary
from .library import LayerError
from .torch import Layer, MoELayer, load

_STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32",
           torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8"}
_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
# Tokens by which a layer is held against its block, and the largest error relative to the largest output.
_PROBES = 8
_BOUNDS = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Targets by compute capability.
_GPUS = {80: "sm_80", 86: "sm_86", 89: "sm_89", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}


def patch(model: torch.nn.Module, *, target: Optional[str] = None, max_tokens: Optional[int] = None, spec: str = "",
          cache: Optional[Any] = None) -> List[str]:
    """Swaps every MoE block of a transformers model for the compiled layer, and gives the names of the blocks.

    `target` is one of `moec compile --target`; where it is absent, that of the device on which the blocks are. `max_tokens` is the most tokens of
    a batch, `spec` is text to add to the specs (`[host]\\npack = "panels"`), `cache` the folder of compiled libraries: where it is absent,
    `moec/libraries` in XDG_CACHE_HOME or ~/.cache.

    Swapped blocks give hidden states alone: where the original returns a tuple, what follows in it is None, and a model cannot be asked for
    router logits. There are no gradients. Raises `LayerError` where no block was swapped, and says why; a block that looks like one and was not
    swapped is a warning."""
    config = _config(model)
    compiled: Dict[Any, Any] = {}
    swapped: List[str] = []
    refused: Dict[str, str] = {}
    # Those inside of others come first.
    for name, block in reversed(list(model.named_modules())):
        if not name or not _may_be(block) or any(isinstance(part, MoELayer) for part in block.modules()):
            continue
        signature = tuple((key, tensor.shape, tensor.dtype, tensor.device) for key, tensor in _tensors(block).items())
        if signature not in compiled:
            try:
                compiled[signature] = compile_block(block, config, target=target, max_tokens=max_tokens, spec=spec, cache=cache)
            except LayerError as error:
                compiled[signature] = str(error)
        made = compiled[signature]
        if isinstance(made, Layer):
            try:
                made = Block.of(block, made)
            except LayerError as error:
                made = str(error)
        if isinstance(made, str):
            if any("expert" in child for child, _ in block.named_children()):
                refused[name] = made
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made)
        swapped.append(name)
    refused = {name: why for name, why in refused.items() if not any(other.startswith(name + ".") for other in swapped)}
    if not swapped:
        reasons = "".join(f"\n{name}: {why}" for name, why in refused.items())
        raise LayerError(f"{type(model).__name__} has no MoE block that moec compiles{reasons}", 2)
    for name, why in refused.items():
        warnings.warn(f"moec did not swap {name}: {why}", stacklevel=2)
    return swapped[::-1]


class Block(MoELayer):
    """A compiled layer in the place of a block, which returns what that returns."""

    extra = 0

    @classmethod
    def of(cls, block: torch.nn.Module, layer: Layer) -> "Block":
        """The layer with the block's weights. Raises `LayerError` where it gives something else than the block for some random tokens."""
        made, was_training = cls.from_pretrained_block(block, layer), block.training
        dtype, device = _dtype(block), next(block.parameters()).device
        width = layer.library.inputs[0].shape[-1]
        tokens = torch.randn(1, _PROBES, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        try:
            with torch.no_grad():
                given = block.eval()(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LayerError(f"{type(block).__name__} does not take hidden states alone: {error}", 2) from error
        finally:
            block.train(was_training)
        expected = given[0] if isinstance(given, tuple) else given
        if not isinstance(expected, torch.Tensor) or expected.shape != tokens.shape:
            raise LayerError(f"{type(block).__name__} does not give hidden states of the shape of its input", 2)
        with torch.no_grad():
            errors = (MoELayer.forward(made, tokens) - expected).float().abs().amax(-1)
        wrong = int((errors > _BOUNDS[dtype] * expected.float().abs().max()).sum())
        # A few tokens may have other experts, where two are equally good.
        if 2 * wrong > _PROBES:
            raise LayerError(f"{type(block).__name__} gives something else than the layer of the config, for {wrong} of {_PROBES} random tokens", 2)
        made.extra = len(given) - 1 if isinstance(given, tuple) else 0
        return made.train(was_training)

    def forward(self, x: torch.Tensor, **inputs: torch.Tensor) -> Any:
        y = super().forward(x, **inputs)
        return (y,) + (None,) * self.extra if self.extra else y


def compile_block(block: torch.nn.Module, config: Mapping[str, Any], *, target: Optional[str] = None, max_tokens: Optional[int] = None,
                  spec: str = "", cache: Optional[Any] = None) -> Layer:
    """The layer of a block, by the model's config as a dict. Raises `LayerError` with what `moec` says where it is not supported."""
    dtype = _dtype(block)
    if dtype not in _NAMES:
        raise LayerError(f"experts of {dtype} are not supported", 4)
    config = {**config, "dtype": _NAMES[dtype], "torch_dtype": _NAMES[dtype]}
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = {**config["text_config"], "dtype": _NAMES[dtype], "torch_dtype": _NAMES[dtype]}
    with tempfile.TemporaryDirectory(prefix="moec") as folder:
        header = Path(folder, "block.safetensors")
        _write_header(header, block)
        text = _moec("import", "-", "--check", str(header), "--tensor-prefix", "", given=json.dumps(config, default=str))
    if max_tokens is not None:
        text += f"\n[tokens]\nmax = {max_tokens}\n"
    text += f"\n{spec}\n" if spec else ""
    return compile_spec(text, target or _target_of(next(iter(block.parameters())).device), cache)


def compile_spec(spec: str, target: str, cache: Optional[Any] = None) -> Layer:
    """The layer of a spec's text, out of the folder of compiled libraries where it is there."""
    # `host` is another target on another machine, and a folder may be shared by several.
    machine = "\n".join(sorted(set(_features()))) if target == "host" else target
    key = hashlib.sha256("\0".join([_moec("--version"), machine, spec]).encode()).hexdigest()
    root = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moec" / "libraries"
    folder = root / key[:32]
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=key[:8], dir=root) as made:
            _moec("compile", "-", "--target", target, "--emit", "cdylib", "--out-dir", made, given=spec)
            whole = Path(made, "whole")
            whole.mkdir()
            for file in Path(made).glob("lib*.so"):
                file.rename(whole / file.name)
            try:
                whole.rename(folder)
            except OSError:
                # Another process was faster.
                if not folder.is_dir():
                    raise
    library = next(folder.glob("lib*.so"))
    prefix = library.stem[len("lib"):]
    return load(library, prefix, name=f"{prefix}_{key[:8]}")


def _moec(*arguments: str, given: str = "") -> str:
    """What moec prints."""
    done = subprocess.run([binary.path(), *arguments], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LayerError(done.stderr.strip() or f"moec {arguments[0]} ended with {done.returncode}", 2)
    return done.stdout


def _features() -> List[str]:
    """The lines that say what this CPU can do."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return [line for line in file if line.startswith(("flags", "Features"))]


def _config(model: torch.nn.Module) -> Dict[str, Any]:
    config = getattr(model, "config", None)
    if config is None:
        raise LayerError(f"{type(model).__name__} has no config: moec.transformers.compile_block takes one", 2)
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _tensors(block: torch.nn.Module) -> Dict[str, torch.Tensor]:
    return {**dict(block.named_buffers()), **dict(block.named_parameters())}


def _may_be(block: torch.nn.Module) -> bool:
    """Whether to ask moec: there are experts in it, or stacks of matrices."""
    return any("expert" in name or tensor.dim() == 3 for name, tensor in block.named_parameters())


def _dtype(block: torch.nn.Module) -> torch.dtype:
    """The element type of the experts: that of most elements."""
    counts: Dict[torch.dtype, int] = {}
    for tensor in block.parameters():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    return max(counts, key=lambda dtype: counts[dtype])


def _target_of(device: torch.device) -> str:
    if device.type == "cpu":
        return "host"
    if device.type != "cuda":
        raise LayerError(f"there is no target for {device}", 9)
    major, minor = torch.cuda.get_device_capability(device)
    # Code of a capability runs on later ones of the same generation.
    able = [found for found in _GPUS if found // 10 == major and found <= 10 * major + minor]
    if not able:
        raise LayerError(f"there is no target for compute capability {major}.{minor}", 8)
    return _GPUS[max(able)]


def _write_header(path: Path, block: torch.nn.Module) -> None:
    """A safetensors file with the block's tensors, in which there is room for the elements and none is written."""
    entries, at = {}, 0
    for name, tensor in _tensors(block).items():
        if tensor.dtype not in _STORED:
            raise LayerError(f"{name} is {tensor.dtype}, which is not supported", 4)
        length = tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
