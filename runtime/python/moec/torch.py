"""A layer that moec compiled, in PyTorch: operators of torch.library, and a module.

Of a layer `tiny` there are, in the namespace `moec`,

* `tiny(x, weights, prepared=None, sequence_tokens=0) -> y`: functional, with memory of PyTorch's allocators;
* `tiny_out(x, weights, prepared, sequence_tokens, y, workspace) -> ()`: in the caller's memory;
* `tiny_prepare(weights) -> prepared`, where the layer prepares weights.

Other inputs stand after `x`, other outputs after `y`. On a GPU they launch on PyTorch's current stream, and may be captured into a graph.
There are no gradients yet."""

import functools
import os
import threading
import weakref
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import torch

from .library import ALIGN, BIND_PREPARED, CPU, CUDA, Arguments, LayerError, Library, Param, RunArgs, ctypes

_DTYPE_OF = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i32": torch.int32}
# Bytes in front of prepared memory, which say for what it was prepared.
_HEADER = ALIGN
_KIND = {"cpu": CPU, "cuda": CUDA}


class _Place(NamedTuple):
    """Where a layer runs."""

    kind: Tuple[int, int]
    handle: int
    # Null on a CPU.
    torch_device: Optional[torch.device]

    def stream(self) -> int:
        """The stream that PyTorch launches on now."""
        return torch.cuda.current_stream(self.torch_device).cuda_stream if self.torch_device else 0


class _Record:
    """The C arguments of a run with these weights. One run uses it at a time."""

    __slots__ = ("arguments", "activations", "run", "sequence_tokens", "workspace", "keeps", "__weakref__")

    def __init__(self, layer: "Layer", device: _Place, weights: List[torch.Tensor], prepared: Optional[torch.Tensor]):
        library = layer.library
        bound = layer.arguments_of_weights(device, weights)
        self.keeps, binding = None, 0
        if prepared is not None:
            memory = prepared
            if prepared.data_ptr() % ALIGN:
                # It has been moved: a copy, which is good as long as the original is at this address.
                memory = _aligned(prepared.numel(), prepared.device).copy_(prepared)
                self.keeps = prepared, memory
            address, length = memory.data_ptr() + _HEADER, memory.numel() - _HEADER
            binding = library.bind(device.handle, bound.pointers, address, length, device.stream(), BIND_PREPARED)
        elif not layer.prepared_bytes(device.handle):
            binding = library.bind(device.handle, bound.pointers, 0, 0, device.stream(), 0)
        params = library.inputs + library.outputs
        self.arguments = Arguments(params + ([] if binding else library.weights), device.kind)
        self.activations = self.arguments.tensors[:len(params)]
        if not binding:
            for tensor, weight in zip(self.arguments.tensors[len(params):], weights):
                tensor.data = weight.data_ptr()
        count = len(self.arguments.tensors)
        self.run = RunArgs(ctypes.sizeof(RunArgs), self.arguments.pointers, count, 0, binding or None, None, 0, None, 0)
        self.sequence_tokens, self.workspace = 0, (0, 0)
        if binding:
            weakref.finalize(self, library.api.unbind, binding)


class _Workspace(threading.local):
    """A thread's, on a CPU."""

    memory: Optional[torch.Tensor] = None
    address, length = 0, -1


def _aligned(length: int, device: torch.device) -> torch.Tensor:
    """Bytes that begin at a multiple of ALIGN."""
    whole = torch.empty(length + ALIGN - 1, dtype=torch.uint8, device=device)
    skipped = -whole.data_ptr() % ALIGN
    return whole[skipped:skipped + length]


class Layer:
    """The operators of a library's layer. `name` is what they are called, the library's prefix where it is absent."""

    def __init__(self, library: Library, name: Optional[str] = None):
        self.library, self.name = library, name or library.prefix
        self._local = _Workspace()
        # Of these weights: by what objects they are and where they lie.
        self._pools: Dict[Any, List[_Record]] = {}
        self._devices: Dict[torch.device, _Place] = {}
        self._headers: Dict[int, bytes] = {}
        self._prepared: Dict[int, int] = {}
        for kept in (self._pools, self._devices, self._headers, self._prepared):
            os.register_at_fork(after_in_child=kept.clear)
        self._wanted = [(param, _DTYPE_OF[param.dtype], param.shape) for param in library.inputs]
        first = library.inputs[0]
        self._made = [(param.shape, _DTYPE_OF[param.dtype], param[1:3] == first[1:3]) for param in library.outputs]
        self._wanted_weights = [(param, _DTYPE_OF[param.dtype], param.shape) for param in library.weights]
        self._most_prepared = library.prepared_bytes()
        self._run_in_c = library.api.run
        self._register()

    def __reduce__(self) -> Any:
        return load, (self.library.path, self.library.prefix, self.library.spec_sha256, self.name)

    def _register(self) -> None:
        library = self.library
        inputs = ", ".join(f"Tensor {_identifier(param.name)}" for param in library.inputs)
        written = ", ".join(f"Tensor({chr(ord('a') + at)}!) {_identifier(param.name)}" for at, param in enumerate(library.outputs))
        outputs = ", ".join("Tensor" for _ in library.outputs)
        outputs = f"({outputs})" if len(library.outputs) > 1 else outputs
        self._definitions = torch.library.Library("moec", "FRAGMENT")
        options = {"tags": (torch.Tag.pt2_compliant_tag,)}
        define = functools.partial(self._definitions.define, **options)
        define(f"{self.name}({inputs}, Tensor[] weights, Tensor? prepared=None, SymInt sequence_tokens=0) -> {outputs}")
        define(f"{self.name}_out({inputs}, Tensor[] weights, Tensor? prepared, SymInt sequence_tokens, {written}, Tensor(z!) workspace) -> ()")
        self._implement(self.name, self._functional)
        self._implement(f"{self.name}_out", self._into)
        torch.library.register_fake(f"moec::{self.name}", self._fake, lib=self._definitions)
        torch.library.register_fake(f"moec::{self.name}_out", lambda *given: None, lib=self._definitions)
        if self._most_prepared:
            define(f"{self.name}_prepare(Tensor[] weights) -> Tensor")
            self._implement(f"{self.name}_prepare", self._prepare)
            torch.library.register_fake(f"moec::{self.name}_prepare", self._fake_prepare, lib=self._definitions)
            self.prepare = getattr(torch.ops.moec, f"{self.name}_prepare").default
        self.call = getattr(torch.ops.moec, self.name).default
        self.call_out = getattr(torch.ops.moec, f"{self.name}_out").default

    def _implement(self, name: str, function: Any) -> None:
        def on_gpu(first: Any, *others: Any) -> Any:
            # The driver launches in the current context.
            with torch.cuda.device((first if isinstance(first, torch.Tensor) else first[0]).device):
                return function(first, *others)

        self._definitions.impl(name, function, "CPU")
        self._definitions.impl(name, on_gpu, "CUDA")

    # The operators.

    def _functional(self, *given: Any) -> Any:
        inputs, weights, prepared, sequence_tokens = self._taken(given)
        x = inputs[0]
        where = x.device
        device = self._devices.get(where) or self._device(where)
        tokens = x.shape[0] if x.dim() else 0
        made = [torch.empty_like(x) if is_like else x.new_empty([tokens if extent == "T" else extent for extent in shape], dtype=dtype)
                for shape, dtype, is_like in self._made]
        needed = self.library.workspace_bytes(tokens, sequence_tokens)
        if device.torch_device is None:
            # A run on a CPU has ended when it returns, so that a thread needs one workspace, as long as for its longest batch so far. New
            # memory would be cleared at each run.
            local = self._local
            if local.length < needed:
                local.memory = torch.empty(needed, dtype=torch.uint8)
                local.address, local.length = local.memory.data_ptr(), needed
            address, length = local.address, local.length
        else:
            workspace = torch.empty(needed, dtype=torch.uint8, device=where)
            address, length = workspace.data_ptr(), needed
        self._run(device, where, tokens, inputs, weights, prepared, sequence_tokens, made, address, length)
        return made[0] if len(made) == 1 else tuple(made)

    def _into(self, *given: Any) -> None:
        outputs, workspace = given[-1 - len(self.library.outputs):-1], given[-1]
        inputs, weights, prepared, sequence_tokens = self._taken(given[:-1 - len(outputs)])
        where = inputs[0].device
        device = self._devices.get(where) or self._device(where)
        tokens = inputs[0].shape[0] if inputs[0].dim() else 0
        for param, tensor in zip(self.library.outputs, outputs):
            self._check(param, _DTYPE_OF[param.dtype], param.extents(tokens), tensor, where)
        if not workspace.is_contiguous() or workspace.device != where:
            raise LayerError(f"{self.library.name}: the workspace has gaps, or is on another device than `{self.library.inputs[0].name}`", 5)
        length = workspace.numel() * workspace.element_size()
        self._run(device, where, tokens, inputs, weights, prepared, sequence_tokens, outputs, workspace.data_ptr(), length)

    def _taken(self, given: Any) -> Any:
        """Inputs, weights, prepared memory and S; the dispatcher leaves out what has its default."""
        count = len(self._wanted)
        if len(given) == count + 1:
            return given[:count], given[count], None, 0
        return given[:count], given[count], given[count + 1], given[count + 2] if len(given) > count + 2 else 0

    def _run(self, device: _Place, where: torch.device, tokens: int, inputs: Any, weights: Any, prepared: Optional[torch.Tensor],
             sequence_tokens: int, outputs: Any, workspace: int, workspace_bytes: int) -> None:
        for (param, dtype, shape), tensor in zip(self._wanted, inputs):
            self._check(param, dtype, tuple([tokens if extent == "T" else extent for extent in shape]), tensor, where)
        if prepared is not None:
            self._check_prepared(prepared, device.handle, where)
        of = weights if prepared is None else [*weights, prepared]
        key = (device.handle, *map(id, of), *[tensor.data_ptr() for tensor in of])
        pool = self._pools.get(key)
        if pool is None:
            pool = self._new_pool(key, where, weights, prepared)
        # A thread takes a record out of the pool for the time of its run.
        try:
            record = pool.pop()
        except IndexError:
            record = _Record(self, device, weights, prepared)
        if record.arguments.tokens != tokens:
            record.arguments.set_tokens(tokens)
        for tensor, given in zip(record.activations, (*inputs, *outputs)):
            tensor.data = given.data_ptr()
        run = record.run
        if record.workspace != (workspace, workspace_bytes):
            record.workspace, skipped = (workspace, workspace_bytes), -workspace % ALIGN
            run.workspace, run.workspace_bytes = workspace + skipped, max(workspace_bytes - skipped, 0)
        if record.sequence_tokens != sequence_tokens:
            run.sequence_tokens = record.sequence_tokens = sequence_tokens
        if device.torch_device is not None:
            run.stream = device.stream() or None
        status = self._run_in_c(device.handle, run)
        pool.append(record)
        if status:
            # Views may begin anywhere: those that begin where the kernels cannot read are copied.
            copies = [tensor.clone() if tensor.data_ptr() % param.align else tensor for (param, _, _), tensor in zip(self._wanted, inputs)]
            if all(tensor is given for tensor, given in zip(copies, inputs)):
                self.library.succeeded(status)
            else:
                self._run(device, where, tokens, copies, weights, prepared, sequence_tokens, outputs, workspace, workspace_bytes)

    def _new_pool(self, key: Any, where: torch.device, weights: Any, prepared: Optional[torch.Tensor]) -> List[_Record]:
        """Checks weights, and remembers them as long as they are these objects at these addresses."""
        if len(weights) != len(self._wanted_weights):
            raise LayerError(f"{self.library.name}: {len(weights)} weights, not {len(self._wanted_weights)}", 2)
        for (param, dtype, shape), tensor in zip(self._wanted_weights, weights):
            self._check(param, dtype, shape, tensor, where)
        for tensor in (*weights, prepared):
            if tensor is not None:
                weakref.finalize(tensor, self._pools.pop, key, None)
        return self._pools.setdefault(key, [])

    def _prepare(self, weights: Any) -> torch.Tensor:
        where = weights[0].device
        for (param, dtype, shape), tensor in zip(self._wanted_weights, weights):
            self._check(param, dtype, shape, tensor, where)
        device = self._devices.get(where) or self._device(where)
        prepared = _aligned(_HEADER + self.prepared_bytes(device.handle), where)
        prepared[:_HEADER].copy_(torch.frombuffer(bytearray(self._header(device.handle)), dtype=torch.uint8))
        address, length = prepared.data_ptr() + _HEADER, prepared.numel() - _HEADER
        bound = self.arguments_of_weights(device, weights)
        self.library.api.unbind(self.library.bind(device.handle, bound.pointers, address, length, device.stream(), 0))
        return prepared

    def arguments_of_weights(self, device: _Place, weights: Any) -> Arguments:
        """The weights for the library."""
        bound = Arguments(self.library.weights, device.kind)
        for tensor, weight in zip(bound.tensors, weights):
            tensor.data = weight.data_ptr()
        return bound

    # What they would give.

    def _fake(self, *given: Any) -> Any:
        x = given[0]
        tokens = x.shape[0]
        made = [x.new_empty(param.extents(tokens), dtype=_DTYPE_OF[param.dtype]) for param in self.library.outputs]
        return made[0] if len(made) == 1 else tuple(made)

    def _fake_prepare(self, weights: Any) -> torch.Tensor:
        length = _HEADER + self.prepared_bytes(self._device(weights[0].device).handle)
        return weights[0].new_empty((length,), dtype=torch.uint8)

    # Devices and what is checked.

    def _device(self, where: torch.device) -> _Place:
        """The layer on a device. On a CPU it has as many threads as PyTorch has when it is made."""
        if where.type not in _KIND:
            raise LayerError(f"{self.library.name} does not run on {where}, only on {' and '.join(_KIND)}", 9)
        kind = _KIND[where.type], where.index or 0
        is_cpu = where.type == "cpu"
        handle = self.library.handle(*kind, threads=torch.get_num_threads() if is_cpu else 0)
        found = self._devices[where] = _Place(kind, handle, None if is_cpu else where)
        return found

    def prepared_bytes(self, handle: int) -> int:
        """Bytes that a handle's weights are prepared in."""
        found = self._prepared.get(handle)
        if found is None:
            found = self._prepared[handle] = self.library.prepared_bytes(self.library.target(handle))
        return found

    def _header(self, handle: int) -> bytes:
        """What prepared memory begins with."""
        found = self._headers.get(handle)
        if found is None:
            text = f"moec {self.library.spec_sha256} {self.library.target(handle)}".encode()
            found = self._headers[handle] = text.ljust(_HEADER, b"\0")
        return found

    def _check_prepared(self, prepared: torch.Tensor, handle: int, device: torch.device) -> None:
        """That memory was prepared for this layer and target. On a GPU its length has to do: to read it would wait."""
        is_right = prepared.dtype is torch.uint8 and prepared.is_contiguous() and prepared.device == device
        if is_right and prepared.numel() == _HEADER + self.prepared_bytes(handle):
            if device.type != "cpu" or ctypes.string_at(prepared.data_ptr(), _HEADER) == self._header(handle):
                return
        raise LayerError(f"{self.library.name}: `prepared` is not what moec::{self.name}_prepare gives for {self.library.target(handle)}", 2)

    def _check(self, param: Param, dtype: torch.dtype, shape: Any, tensor: torch.Tensor, device: torch.device) -> None:
        if tensor.dtype is dtype and tensor.shape == shape and tensor.is_contiguous() and tensor.device == device:
            return
        wrong = f"is {tuple(tensor.shape)}, not {tuple(shape)}" if tensor.shape != torch.Size(shape) else None
        wrong = wrong or (f"is {tensor.dtype}, not {dtype}" if tensor.dtype is not dtype else None)
        wrong = wrong or (f"is on {tensor.device}, not on {device}" if tensor.device != device else "is not contiguous: call .contiguous()")
        raise LayerError(f"{self.library.name}: `{param.name}` {wrong}", 3)


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


_LAYERS: Dict[str, Layer] = {}


def load(path: Any, prefix: str, spec_sha256: Optional[str] = None, name: Optional[str] = None) -> Layer:
    """The operators of a library's layer. They are made once in a process.

    Raises `LayerError` where operators of this name are those of another spec, or for other targets."""
    name, library = name or prefix, Library(path, prefix, spec_sha256)
    found = _LAYERS.get(name)
    if found is None:
        found = _LAYERS[name] = Layer(library, name)
    elif (found.library.spec_sha256, found.library.targets) != (library.spec_sha256, library.targets):
        raise LayerError(f"moec::{name} is the layer of {found.library.path}: give that of {path} another `name`", 2)
    return found


# Weights out of the tensors of a module or a checkpoint, by the recipes of the manifest.

def _part(view: torch.Tensor, axis: int, index: int, parts: int, interleaved: bool = False) -> torch.Tensor:
    if interleaved:
        return view[(slice(None),) * axis + (slice(index, None, parts),)]
    length = view.shape[axis] // parts
    return view.narrow(axis, index * length, length)


def _without_ones(extents: Any) -> List[int]:
    return [extent for extent in extents if extent != 1]


def _stored(source: Mapping[str, Any], shape: List[int], tensor: torch.Tensor) -> Optional[torch.Tensor]:
    """A piece of this shape in a tensor that stores it as the source says; None where the tensor has another shape."""
    cut = source.get("slice")
    axes = source.get("axes") or list(range(len(shape)))
    for spare in (0, source.get("spare", 0)):
        whole = [n * (cut["parts"] if cut and cut["axis"] == axis else 1) for axis, n in enumerate(shape)]
        if whole:
            whole[0] += spare
        stored = [whole[axis] for axis in axes]
        expected = list(stored)
        if source.get("flattened"):
            first = 1 if "{e}" in source["name"] else 0
            expected[first:first + 2] = [expected[first] * expected[first + 1]]
        if _without_ones(expected) == _without_ones(tensor.shape):
            view = tensor.reshape(stored).permute([axes.index(axis) for axis in range(len(axes))])
            view = view.narrow(0, 0, whole[0] - spare) if spare else view
            return _part(view, **cut) if cut else view
    return None


def _stacked(source: Mapping[str, Any], own: torch.Tensor, tensor: torch.Tensor) -> Optional[List[Tuple[torch.Tensor, torch.Tensor]]]:
    """As `_stored`, where a first axis of the tensor has the parts of another one: each part, and where it goes."""
    axis, parts = source["stacked"]["axis"], source["stacked"]["parts"]
    if tensor.shape[:1] != (parts,):
        return None
    places = [_part(own, axis, index, parts) for index in range(parts)]
    found = [_stored(source, list(place.shape), tensor[index]) for index, place in enumerate(places)]
    return None if None in [type(view) if view is None else 0 for view in found] else list(zip(places, found))


def _pairs(weight: str, own: torch.Tensor, piece: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], prefix: str) -> Iterator[Any]:
    """Parts of a weight, what they are copies of, and the names of these."""
    def called(source: Mapping[str, Any], number: int) -> str:
        return prefix + source["name"].replace("{e}", str(number))
    source = next((source for source in piece["sources"] if called(source, 0) in tensors), None)
    if source is None:
        names = " or ".join(prefix + source["name"] for source in piece["sources"])
        raise LayerError(f"there is no tensor {names} for the weight `{weight}`", 2)
    count = own.shape[0] if "{e}" in source["name"] else 1
    for number in range(count):
        name = called(source, number)
        if name not in tensors:
            raise LayerError(f"there is no tensor {name} for the weight `{weight}`", 2)
        place = own[number:number + 1] if count > 1 else own
        view = _stored(source, list(place.shape), tensors[name])
        found = [(place, view)] if view is not None else _stacked(source, place, tensors[name]) if "stacked" in source else None
        if found is None:
            raise LayerError(f"{name} is {tuple(tensors[name].shape)}, which is not the weight `{weight}` {tuple(own.shape)}", 3)
        for into, view in found:
            yield into, view, name


def assemble(library: Library, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Tuple[List[torch.Tensor], List[str]]:
    """The weights of a layer out of tensors with names, and the names that it is made of. A weight that lies in one tensor as the layer
    needs it shares its memory; the others are copies."""
    recipes = {recipe["buffer"]: recipe["pieces"] for recipe in library.manifest()["weights"]}
    weights, used = [], []
    for param in library.weights:
        dtype = _DTYPE_OF[param.dtype]
        plain = [{"sources": [{"name": param.name}]}]
        own = torch.empty(param.shape, device="meta")
        pieces = recipes.get(param.name, plain)
        views = [found for piece in pieces for found in _pairs(param.name, _part(own, **piece["into"]) if "into" in piece else own, piece, tensors, prefix)]
        used += [name for _, _, name in views]
        first = views[0][1]
        if len(views) == 1 and first.shape == own.shape and first.is_contiguous() and first.dtype is dtype and first.data_ptr() % param.align == 0:
            weights.append(first.detach())
            continue
        weight = torch.empty(param.shape, dtype=dtype, device=first.device)
        for piece in pieces:
            into = _part(weight, **piece["into"]) if "into" in piece else weight
            for place, view, _ in _pairs(param.name, into, piece, tensors, prefix):
                place.copy_(view.detach())
        weights.append(weight)
    return weights, used


def _rows(tensor: torch.Tensor, param: Param) -> torch.Tensor:
    """An input with an axis of tokens, which a caller may have as batch and sequence."""
    return tensor.reshape(-1, *param.shape[1:]).contiguous() if param.shape[:1] == ("T",) else tensor.contiguous()


def _prepare_anew(layer: "MoELayer", _: Any) -> None:
    layer.prepare()


class MoELayer(torch.nn.Module):
    """The layer as a module: `x` is `[T, H]` or `[batch, sequence, H]`, and so are its outputs.

    Weights are buffers, so that `.to` and `state_dict` have them. Inputs beside `x`, such as `token_mask`, are keywords. Of a layer with several
    outputs the result is a tuple."""

    layer: Optional[Layer] = None

    def __init__(self, weights: Mapping[str, torch.Tensor], layer: Optional[Layer] = None):
        super().__init__()
        if layer is not None:
            self.layer = layer
        library = self._layer().library
        lacking = [param.name for param in library.weights if param.name not in weights]
        if lacking:
            raise LayerError(f"{library.name}: there is no weight {', '.join(lacking)}", 2)
        self._names = [_identifier(param.name) for param in library.weights]
        for name, param in zip(self._names, library.weights):
            self.register_buffer(name, weights[param.name])
        self.register_buffer("prepared", None, persistent=False)
        self.prepare()
        self.register_load_state_dict_post_hook(_prepare_anew)

    def _layer(self) -> Layer:
        if self.layer is None:
            raise LayerError("a MoELayer needs a layer: moec.torch.load(library, prefix)", 2)
        return self.layer

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, torch.Tensor], prefix: str = "", layer: Optional[Layer] = None) -> "MoELayer":
        """The layer with the weights of a checkpoint, under the names that the spec gives them, behind a prefix."""
        library = (layer or cls.layer).library  # type: ignore[union-attr]
        weights, _ = assemble(library, tensors, prefix)
        return cls({param.name: weight for param, weight in zip(library.weights, weights)}, layer)

    @classmethod
    def from_pretrained_block(cls, block: torch.nn.Module, layer: Optional[Layer] = None) -> "MoELayer":
        """The layer with the weights of a Hugging Face block. Raises `LayerError` where the block has parameters that the layer does not
        use: it would compute something else."""
        library = (layer or cls.layer).library  # type: ignore[union-attr]
        tensors = {**dict(block.named_buffers()), **dict(block.named_parameters())}
        weights, used = assemble(library, tensors)
        unused = [name for name, _ in block.named_parameters() if name not in used]
        if unused:
            raise LayerError(f"{library.name} does not use {', '.join(unused)} of {type(block).__name__}", 2)
        return cls({param.name: weight for param, weight in zip(library.weights, weights)}, layer)

    def prepare(self) -> None:
        """Prepares the weights, where the layer has that. Call it again after they have changed or were moved."""
        layer, weights = self._layer(), self.weights()
        is_there = layer._most_prepared and all(
            weight.device.type in _KIND and weight.dtype is dtype for weight, (_, dtype, _) in zip(weights, layer._wanted_weights))
        self.prepared = layer.prepare(weights) if is_there else None

    def _apply(self, fn: Any, recurse: bool = True) -> "MoELayer":
        before = [weight.data_ptr() for weight in self.weights()]
        prepared, self.prepared = self.prepared, None
        super()._apply(fn, recurse)
        self.prepared = prepared
        if [weight.data_ptr() for weight in self.weights()] != before:
            self.prepare()
        return self

    def weights(self) -> List[torch.Tensor]:
        """In the layer's order."""
        return [self.get_buffer(name) for name in self._names]

    def forward(self, x: torch.Tensor, **inputs: torch.Tensor) -> Any:
        layer, buffers = self._layer(), self._buffers
        library = layer.library
        if x.requires_grad and torch.is_grad_enabled():
            raise LayerError(f"{library.name} has no gradients yet: run it under torch.no_grad() or torch.inference_mode()", 2)
        given: List[torch.Tensor] = []
        if inputs or len(library.inputs) > 1:
            names = [param.name for param in library.inputs[1:]]
            if sorted(inputs) != sorted(names):
                raise LayerError(f"{library.name}: inputs beside x are {', '.join(names) or 'none'}", 2)
            given = [_rows(inputs[param.name], param) for param in library.inputs[1:]]
        is_flat = x.dim() == 2
        flat = x if is_flat else x.reshape(-1, x.shape[-1])
        if not flat.is_contiguous():
            flat = flat.contiguous()
        weights = [buffers[name] for name in self._names]
        y = layer.call(flat, *given, weights, buffers["prepared"], x.shape[1] if x.dim() == 3 else 0)
        if is_flat:
            return y
        if len(library.outputs) == 1:
            return y.view(*x.shape[:-1], *y.shape[1:])
        return tuple(one.view(*x.shape[:-1], *one.shape[1:]) if param.shape[:1] == ("T",) else one for param, one in zip(library.outputs, y))

    def extra_repr(self) -> str:
        library = self._layer().library
        return f"{library.name}, {', '.join(library.targets)}"
