"""What a caller can do wrong, from Python: the C ABI by ctypes alone. Arguments: libraries of a layer, of another,
of one for a CPU that there is not, and of one for a GPU, whose driver is the mock."""

import ctypes as c
import os
import sys

P, I32, I64, U32, SIZE = c.c_void_p, c.c_int32, c.c_int64, c.c_uint32, c.c_size_t


def struct(*fields):
    return type("Struct", (c.Structure,), {"_fields_": list(fields)})


Device = struct(("type", I32), ("id", I32))
DType = struct(("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16))
Tensor = struct(("data", P), ("device", Device), ("ndim", I32), ("dtype", DType), ("shape", c.POINTER(I64)), ("strides", c.POINTER(I64)), ("offset", c.c_uint64))
Param = struct(("name", c.c_char_p), ("shape", c.c_char_p), ("dtype", DType), ("role", U32), ("ndim", U32), ("align", U32), ("reserved", U32))
Info = struct(("struct_size", SIZE), ("abi", U32), ("params", U32), ("layer", c.c_char_p), ("compiler", c.c_char_p), ("sha256", c.c_char_p), ("param", c.POINTER(Param)),
              ("inputs", U32), ("outputs", U32), ("weights", U32), ("targets", U32), ("target", c.POINTER(c.c_char_p)), ("max_tokens", I64))
Dims = struct(("struct_size", SIZE), ("tokens", I64), ("sequence_tokens", I64))
Options = struct(("struct_size", SIZE), ("device", Device), ("get_proc", P), ("get_proc_user", P), ("parallel_for", P), ("parallel_for_user", P), ("threads", U32), ("flags", U32))
BindArgs = struct(("struct_size", SIZE), ("weights", P), ("count", U32), ("flags", U32), ("prepared", P), ("prepared_bytes", SIZE), ("stream", P))
RunArgs = struct(("struct_size", SIZE), ("params", P), ("count", U32), ("flags", U32), ("binding", P), ("workspace", P), ("workspace_bytes", SIZE), ("stream", P), ("sequence_tokens", I64))
STATUS = c.CFUNCTYPE(I32, P, P)
Api = struct(("struct_size", SIZE), ("abi", U32), ("reserved", U32), ("info", c.CFUNCTYPE(c.POINTER(Info))), ("manifest", c.CFUNCTYPE(c.c_char_p, c.c_char_p)),
             ("status_string", c.CFUNCTYPE(c.c_char_p, I32)), ("last_error", c.CFUNCTYPE(SIZE, c.c_char_p, SIZE)), ("workspace_size", c.CFUNCTYPE(I32, c.c_char_p, P, P, P)),
             ("prepared_size", P), ("plan", P), ("observed", P), ("create", STATUS), ("destroy", c.CFUNCTYPE(None, P)), ("target", c.CFUNCTYPE(c.c_char_p, P)),
             ("bind", c.CFUNCTYPE(I32, P, P, P)), ("unbind", c.CFUNCTYPE(None, P)), ("check", STATUS), ("run", STATUS), ("update", STATUS))


def table(path, version=1 << 16):
    library = c.CDLL(path)
    name = path.rsplit("/lib", 1)[1].removesuffix(".so")
    get_api = getattr(library, f"{name}_get_api")
    get_api.restype, get_api.argtypes = c.POINTER(Api), [U32]
    found = get_api(version)
    return found.contents if found else None


def told(what, status):
    text = c.create_string_buffer(512)
    api.last_error(text, len(text))
    print(f"{what}: {status}: {text.value.decode() if status else '-'}")


def create(**changed):
    handle, options = P(), Options(c.sizeof(Options), Device(1, 0), threads=1)
    for name, value in changed.items():
        setattr(options, name, value)
    return api.create(c.byref(options), c.byref(handle)), handle


def tensor(param, tokens):
    shape = [tokens if extent == "T" else int(extent) for extent in param.shape.decode().split(",")]
    elements = 1
    for extent in shape:
        elements *= extent
    memory = c.create_string_buffer(elements * param.dtype.bits // 8 + 256)
    kept.append(memory)
    data = (c.addressof(memory) + 255) // 256 * 256
    return Tensor(data, Device(1, 0), len(shape), param.dtype, (I64 * len(shape))(*shape))


kept = []
api, other, lacking, on_gpu = (table(path) for path in sys.argv[1:5])
info = api.info().contents
TOKENS = 5
tensors = [tensor(info.param[i], TOKENS) for i in range(info.params)]
dims, size = Dims(c.sizeof(Dims), TOKENS), SIZE()
assert api.workspace_size(None, c.byref(dims), c.byref(size), None) == 0
memory = c.create_string_buffer(size.value + 256)
workspace = (c.addressof(memory) + 255) // 256 * 256
status, handle = create()
assert status == 0, status


def run(what, at=None, another=None, on=None, **changed):
    params = (P * len(tensors))(*[c.addressof(t) for t in tensors])
    if at is not None:
        params[at] = c.addressof(another) if another else None
    args = RunArgs(c.sizeof(RunArgs), c.addressof(params), len(tensors), workspace=workspace, workspace_bytes=size.value)
    for name, value in changed.items():
        setattr(args, name, value)
    told(what, api.run(on or handle, c.byref(args)))


def changed(at, **fields):
    copy = Tensor.from_buffer_copy(tensors[at])
    for name, value in fields.items():
        setattr(copy, name, value)
    kept.append(copy)
    return copy


hidden = tensors[0].shape[1]
run("a run")
run("a short row", 0, changed(0, shape=(I64 * 2)(TOKENS, hidden - 1)))
run("bf16", 0, changed(0, dtype=DType(4, 16, 1)))
run("gaps", 0, changed(0, strides=(I64 * 2)(2 * hidden, 1)))
run("misaligned", 0, changed(0, offset=4))
run("on a GPU", 0, changed(0, device=Device(2, 0)))
run("no x", 0)
run("T beyond the most", 0, changed(0, shape=(I64 * 2)(info.max_tokens + 1, hidden)))
run("a weight of another shape", 2, changed(2, shape=(I64 * 2)(hidden, 7)))
run("a tensor too few", count=len(tensors) - 1)
run("a short workspace", workspace_bytes=255)
run("no workspace", workspace=None)
run("a misaligned workspace", workspace=workspace + 8)
run("S = 2 of T = 5", sequence_tokens=2)
run("no struct_size", struct_size=0)
run("T = 0", 0, changed(0, shape=(I64 * 2)(0, hidden), data=None), workspace=None)
api, mine = other, api
told_by_other = create()
assert told_by_other[0] == 0
api = mine
run("another library's handle", on=told_by_other[1])
told("1025 threads", create(threads=1025)[0])
told("device type 7", create(device=Device(7, 0))[0])
mine, api = api, lacking
told("a CPU without the features", create()[0])
api = on_gpu
told("no code for a CPU", create()[0])
for name, value in ("MOCK_ARCH", "75"), ("MOCK_VERSION", "11080"), ("MOCK_VERSION", "12020"), ("MOCK_FAIL", "cuInit 100"):
    os.environ[name] = value
    told(f"a GPU where {name} is {value}", create(device=Device(2, 0))[0])
    del os.environ[name]
api = mine
for version in (1 << 16) + 1, 2 << 16:
    assert table(sys.argv[1], version) is None
    told(f"version {version:#x}", 1)
api.destroy(handle)
other.destroy(told_by_other[1])
