"""A layer that moec compiled, through the C ABI of its library (moec_abi.h). It needs ctypes alone.

`Library` is the shared library of one layer; it allocates no tensor and knows no framework. Errors are `LayerError`, with the text and the
status of the library."""

import ctypes
import functools
import json
import os
import threading
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

ABI_VERSION = 1 << 16
CPU, CUDA = 1, 2
INPUT, OUTPUT, WEIGHT = 0, 1, 2
# Bytes: where a workspace and prepared memory begin.
ALIGN = 256
# The memory to bind has been prepared before, of these weights and for this target.
BIND_PREPARED = 1
# Status codes of moec_abi.h that say that a caller's tensor is wrong.
_OF_TENSORS = {2, 3, 4, 5, 9}


class LayerError(ValueError):
    """What a layer refuses, or what its device reports. `status` is the code of moec_abi.h."""

    def __init__(self, text: str, status: int):
        super().__init__(text)
        self.status = status

    @property
    def is_of_tensors(self) -> bool:
        """Whether a tensor of the caller is wrong."""
        return self.status in _OF_TENSORS


class _Device(ctypes.Structure):
    _fields_ = [("device_type", c_int32), ("device_id", c_int32)]


class _DType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class Tensor(ctypes.Structure):
    """moec_tensor: DLPack's DLTensor."""

    _fields_ = [("data", c_void_p), ("device", _Device), ("ndim", c_int32), ("dtype", _DType), ("shape", POINTER(c_int64)),
                ("strides", POINTER(c_int64)), ("byte_offset", c_uint64)]


class _Param(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("shape", c_char_p), ("dtype", _DType), ("role", c_uint32), ("ndim", c_uint32), ("align", c_uint32),
                ("reserved", c_uint32)]


class _Info(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("abi_version", c_uint32), ("num_params", c_uint32), ("layer", c_char_p), ("compiler", c_char_p),
                ("spec_sha256", c_char_p), ("params", POINTER(_Param)), ("num_inputs", c_uint32), ("num_outputs", c_uint32),
                ("num_weights", c_uint32), ("num_targets", c_uint32), ("targets", POINTER(c_char_p)), ("max_tokens", c_int64)]


class _Dims(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("tokens", c_int64), ("sequence_tokens", c_int64)]


class _Options(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("device", _Device), ("get_proc", c_void_p), ("get_proc_user", c_void_p), ("parallel_for", c_void_p),
                ("parallel_for_user", c_void_p), ("threads", c_uint32), ("flags", c_uint32)]


class _BindArgs(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("weights", POINTER(POINTER(Tensor))), ("num_weights", c_uint32), ("flags", c_uint32),
                ("prepared", c_void_p), ("prepared_bytes", c_size_t), ("stream", c_void_p)]


class RunArgs(ctypes.Structure):
    """moec_run_args."""

    _fields_ = [("struct_size", c_size_t), ("params", POINTER(POINTER(Tensor))), ("num_params", c_uint32), ("flags", c_uint32),
                ("binding", c_void_p), ("workspace", c_void_p), ("workspace_bytes", c_size_t), ("stream", c_void_p), ("sequence_tokens", c_int64)]


def _function(result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)


class _Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("abi_version", c_uint32), ("reserved", c_uint32),
        ("info", _function(POINTER(_Info))),
        ("manifest", _function(c_char_p, c_char_p)),
        ("status_string", _function(c_char_p, c_int32)),
        ("last_error", _function(c_size_t, c_void_p, c_size_t)),
        ("workspace_size", _function(c_int32, c_char_p, POINTER(_Dims), POINTER(c_size_t), POINTER(c_size_t))),
        ("prepared_size", _function(c_int32, c_char_p, POINTER(c_size_t), POINTER(c_size_t))),
        ("plan", c_void_p),
        ("observed", c_void_p),
        ("create", _function(c_int32, POINTER(_Options), POINTER(c_void_p))),
        ("destroy", _function(None, c_void_p)),
        ("target", _function(c_char_p, c_void_p)),
        ("bind", _function(c_int32, c_void_p, POINTER(_BindArgs), POINTER(c_void_p))),
        ("unbind", _function(None, c_void_p)),
        ("check", _function(c_int32, c_void_p, POINTER(RunArgs))),
        ("run", _function(c_int32, c_void_p, POINTER(RunArgs))),
        ("update", _function(c_int32, c_void_p, POINTER(RunArgs))),
    ]


class Param(NamedTuple):
    """A tensor of a layer. An extent is a number, or "T" for the tokens of a batch."""

    name: str
    dtype: str
    shape: Tuple[Any, ...]
    align: int

    def extents(self, tokens: Any) -> Tuple[Any, ...]:
        """The shape at a number of tokens."""
        return tuple(tokens if extent == "T" else extent for extent in self.shape)


_DTYPES = {(0, 32): "i32", (2, 32): "f32", (2, 16): "f16", (4, 16): "bf16"}


def _param(param: _Param) -> Param:
    shape: List[Any] = []
    for extent in filter(None, param.shape.decode().split(",")):
        if extent != "T" and not extent.isdigit():
            raise LayerError(f"a tensor `{param.name.decode()}` with an extent {extent} is not supported from Python", 3)
        shape.append(extent if extent == "T" else int(extent))
    return Param(param.name.decode(), _DTYPES[param.dtype.code, param.dtype.bits], tuple(shape), param.align)


class Library:
    """The shared library of a layer, which `moec link` or `moec compile --emit cdylib` wrote.

    `prefix` is what its symbols begin with: the layer's name as an identifier. Where `spec_sha256` is given, a library of another spec is
    refused."""

    def __init__(self, path: Any, prefix: str, spec_sha256: Optional[str] = None):
        self.path, self.prefix = os.fspath(path), prefix
        get_api = ctypes.CDLL(os.path.abspath(self.path))[f"{prefix}_get_api"]
        get_api.restype, get_api.argtypes = POINTER(_Api), [c_uint32]
        table = get_api(ABI_VERSION)
        if not table:
            raise LayerError(f"{self.path} has another version of the C ABI than {ABI_VERSION >> 16}.{ABI_VERSION & 0xFFFF}", 1)
        self.api = table.contents
        info = self.api.info().contents
        self.name, self.compiler, self.spec_sha256 = info.layer.decode(), info.compiler.decode(), info.spec_sha256.decode()
        if spec_sha256 not in (None, self.spec_sha256):
            raise LayerError(f"{self.path} is `{self.name}` of the spec {self.spec_sha256[:12]}, not of {spec_sha256[:12]}: they were not made together", 1)
        params = [_param(info.params[at]) for at in range(info.num_params)]
        ends = info.num_inputs, info.num_inputs + info.num_outputs
        self.inputs, self.outputs, self.weights = params[:ends[0]], params[ends[0]:ends[1]], params[ends[1]:]
        self.targets = [info.targets[at].decode() for at in range(info.num_targets)]
        self.max_tokens: int = info.max_tokens
        self._handles: Dict[Tuple[int, int], int] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._begin_anew)
        self.workspace_bytes = functools.lru_cache(maxsize=4096)(self._workspace_bytes)

    def _begin_anew(self) -> None:
        """A child process has none of the threads, so it makes handles of its own. Another thread may have had the lock."""
        self._handles.clear()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Library, (self.path, self.prefix, self.spec_sha256)

    def succeeded(self, status: int) -> None:
        """Raises what went wrong where `status` is not 0."""
        if status:
            text = ctypes.create_string_buffer(1024)
            self.api.last_error(text, len(text))
            raise LayerError(text.value.decode(errors="replace") or self.api.status_string(status).decode(), status)

    def manifest(self, target: Optional[str] = None) -> Dict[str, Any]:
        """The manifest of a target, of the first one where there is no name."""
        text = self.api.manifest((target or self.targets[0]).encode())
        if text is None:
            raise LayerError(f"{self.path} has no target {target}, only {', '.join(self.targets)}", 8)
        return json.loads(text)

    def _workspace_bytes(self, tokens: int, sequence_tokens: int = 0) -> int:
        """Bytes of a workspace that may begin anywhere. 0 sequence tokens: the batch is one sequence."""
        size = c_size_t()
        self.succeeded(self.api.workspace_size(None, _Dims(ctypes.sizeof(_Dims), tokens, sequence_tokens), size, None))
        return size.value + ALIGN - 1

    def prepared_bytes(self, target: Optional[str] = None) -> int:
        """Bytes of memory that weights are prepared in, 0 where none are."""
        size = c_size_t()
        self.succeeded(self.api.prepared_size(target.encode() if target else None, size, None))
        return size.value

    def handle(self, device_type: int, device_id: int, threads: int = 0) -> int:
        """The layer on a device. It is made at the first call, and again in a child process; 0 threads: all CPUs of the process."""
        key = device_type, device_id
        found = self._handles.get(key)
        if found is None:
            with self._lock:
                found = self._handles.get(key)
                if found is None:
                    made = c_void_p()
                    options = _Options(ctypes.sizeof(_Options), _Device(device_type, device_id), None, None, None, None, threads, 0)
                    self.succeeded(self.api.create(options, made))
                    found = self._handles[key] = made.value or 0
        return found

    def target(self, handle: int) -> str:
        """The target that a handle runs."""
        return self.api.target(handle).decode()

    def bind(self, handle: int, weights: Any, prepared: int, prepared_bytes: int, stream: int, flags: int) -> int:
        """A binding of an array of pointers to tensors."""
        made = c_void_p()
        args = _BindArgs(ctypes.sizeof(_BindArgs), weights, len(self.weights), flags, prepared or None, prepared_bytes, stream or None)
        self.succeeded(self.api.bind(handle, args, made))
        return made.value or 0


class Arguments:
    """Tensors of a layer for its C functions, whose memory stays: only addresses and the number of tokens change between runs."""

    def __init__(self, params: List[Param], device: Tuple[int, int]):
        dtypes = {name: key for key, name in _DTYPES.items()}
        self.tensors: List[Tensor] = []
        self._of_tokens: List[Tuple[Any, int]] = []
        self.tokens = 0
        for param in params:
            shape = (c_int64 * max(len(param.shape), 1))(*param.extents(0))
            self._of_tokens += [(shape, axis) for axis, extent in enumerate(param.shape) if extent == "T"]
            code, bits = dtypes[param.dtype]
            self.tensors.append(Tensor(None, _Device(*device), len(param.shape), _DType(code, bits, 1), shape, None, 0))
        self.pointers = (POINTER(Tensor) * len(params))(*map(ctypes.pointer, self.tensors))

    def set_tokens(self, tokens: int) -> None:
        """The next run's."""
        for shape, axis in self._of_tokens:
            shape[axis] = tokens
        self.tokens = tokens
