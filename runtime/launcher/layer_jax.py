"""The part of a module for JAX that is the same for all layers; moec writes the layer's own constants and its function below it."""

import ctypes
import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy

_ABI_VERSION = 1 << 16


class _Tensor(NamedTuple):
    """A tensor of the layer; `text` is its shape as people write it, `shape` a function of T and S."""

    name: str
    dtype: str
    text: str
    shape: Callable[[int, int], tuple[int, ...]]


class _Info(ctypes.Structure):
    """The start of moec_info."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("abi_version", ctypes.c_uint32),
        ("num_params", ctypes.c_uint32),
        ("layer", ctypes.c_char_p),
        ("compiler", ctypes.c_char_p),
        ("spec_sha256", ctypes.c_char_p),
    ]


class _Dims(ctypes.Structure):
    """moec_dims."""

    _fields_ = [("struct_size", ctypes.c_size_t), ("tokens", ctypes.c_int64), ("sequence_tokens", ctypes.c_int64)]


class _Api(ctypes.Structure):
    """The start of moec_api."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("abi_version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("info", ctypes.CFUNCTYPE(ctypes.POINTER(_Info))),
        ("manifest", ctypes.c_void_p),
        ("status_string", ctypes.c_void_p),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)),
        (
            "workspace_size",
            ctypes.CFUNCTYPE(
                ctypes.c_int32,
                ctypes.c_char_p,
                ctypes.POINTER(_Dims),
                ctypes.POINTER(ctypes.c_size_t),
                ctypes.POINTER(ctypes.c_size_t),
            ),
        ),
    ]


class _Layer:
    """A layer in a shared library, as a target of XLA's FFI."""

    def __init__(self, path, prefix, name, spec_sha256, platforms, tensors):
        self.name = name
        self.inputs, self.outputs, self.weights = tensors
        library = ctypes.CDLL(str(path))
        get_api = getattr(library, f"{prefix}_get_api")
        get_api.restype, get_api.argtypes = ctypes.POINTER(_Api), [ctypes.c_uint32]
        api = get_api(_ABI_VERSION)
        if not api:
            raise ImportError(f"{path} has another version of moec's ABI than this file: write both with one moec")
        self.api = api.contents
        if self.api.info().contents.spec_sha256.decode() != spec_sha256:
            raise ImportError(f"{path} is of another spec than this file: write both of one spec")
        handler = jax.ffi.pycapsule(getattr(library, f"__xla_ffi_{prefix}"))
        # Layers of one name and of different specs may be in one process.
        self.target = f"moec_{prefix}_{spec_sha256[:16]}"
        for platform in platforms:
            # On a GPU code is loaded before a command buffer is recorded, during which it could not be.
            stages = {"initialize": handler, "execute": handler} if platform == "CUDA" else handler
            jax.ffi.register_ffi_target(self.target, stages, platform=platform)

    def workspace_bytes(self, tokens, sequence_tokens):
        """The bytes of a workspace that may lie at any address."""
        dims = _Dims(ctypes.sizeof(_Dims), tokens, sequence_tokens)
        needed, align = ctypes.c_size_t(), ctypes.c_size_t()
        if self.api.workspace_size(None, ctypes.byref(dims), ctypes.byref(needed), ctypes.byref(align)):
            text = ctypes.create_string_buffer(512)
            self.api.last_error(text, len(text))
            raise ValueError(text.value.decode())
        return needed.value + align.value - 1 if needed.value else 0

    def check(self, tensor, array, tokens, sequence_tokens):
        """That an array is what the layer takes: here it is known in which call."""
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise TypeError(f"{self.name}: `{tensor.name}` is no array")
        if array.dtype != jax.numpy.dtype(tensor.dtype):
            raise TypeError(f"{self.name}: `{tensor.name}` is {array.dtype}, not {tensor.dtype}")
        wanted = tensor.shape(tokens, sequence_tokens)
        if array.shape != wanted:
            right = f"{list(wanted)} ({tensor.text})" if array.ndim == len(wanted) else f"[{tensor.text}]"
            raise ValueError(f"{self.name}: `{tensor.name}` is {list(array.shape)}, not {right}")

    def call(self, inputs, weights, sequence_tokens, first):
        """The outputs. `first` is the input, and its axis, that says how many tokens there are."""
        index, axis = first
        shape = getattr(inputs[index], "shape", ())
        tokens = shape[axis] if axis < len(shape) else 0
        length = tokens if sequence_tokens is None else operator.index(sequence_tokens)
        for tensor, array in zip(self.inputs + self.weights, inputs + weights, strict=True):
            self.check(tensor, array, tokens, length)
        results = [jax.ShapeDtypeStruct(tensor.shape(tokens, length), tensor.dtype) for tensor in self.outputs]
        results.append(jax.ShapeDtypeStruct((self.workspace_bytes(tokens, length),), "uint8"))
        attributes = {} if sequence_tokens is None else {"sequence_tokens": numpy.int64(length)}
        call = jax.ffi.ffi_call(self.target, results, vmap_method="sequential")
        *outputs, _ = call(*inputs, *weights, **attributes)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
