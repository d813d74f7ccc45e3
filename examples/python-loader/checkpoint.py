"""Tensors of a safetensors file, and weights put together of them by the recipes of a manifest."""
import json, math, mmap, struct

from package import BYTES, length, refuse, shape


def tensors(path):
    """Of each tensor the type, the shape and the bytes, by name. The file stays mapped."""
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(data[:8], "little")
    listed = json.loads(bytes(data[8:start]))
    listed.pop("__metadata__", None)
    place = lambda begin, end: data[start + begin:start + end]
    return {name: (of["dtype"].lower(), of["shape"], place(*of["data_offsets"])) for name, of in listed.items()}


def numbers(dtype, data):
    """The elements of a tensor."""
    if dtype == "bf16":
        dtype, data = "f32", b"".join(b"\0\0" + data[at:at + 2] for at in range(0, len(data), 2))
    code = {"f64": "d", "f32": "f", "f16": "e", "i64": "q", "i32": "i"}.get(dtype)
    if code is None:
        refuse(f"numbers of type {dtype} cannot be compared")
    return struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)


# An array of a tensor's elements is its extents, how far apart neighbours are along each axis, and where the first lies.

def dense(extents, order):
    """The array of all elements, its axes stored in this order."""
    steps, step = [0] * len(extents), 1
    for axis in reversed(order):
        steps[axis], step = step, step * extents[axis]
    return extents, steps, 0


def part(array, axis, index, parts, interleaved=False):
    """One of several equal parts along an axis."""
    (*extents,), (*steps,), first = array
    extents[axis] //= parts
    first += index * steps[axis] * (1 if interleaved else extents[axis])
    steps[axis] *= parts if interleaved else 1
    return extents, steps, first


def places(array):
    """Where the elements are, the last axis fastest."""
    extents, steps, first = array
    found = [first]
    for extent, step in zip(extents, steps):
        found = [place + index * step for place in found for index in range(extent)]
    return found


def stored(source, extents, actual):
    """The array of these extents in a tensor of shape `actual`, as the source says; None where the shape is another one."""
    cut, order = source.get("slice"), source.get("axes") or range(len(extents))
    for spare in (0, source.get("spare", 0)):
        whole = [n * (cut["parts"] if cut and cut["axis"] == axis else 1) for axis, n in enumerate(extents)]
        whole[0] += spare
        expected = [whole[axis] for axis in order]
        if source.get("flattened"):
            first = "{e}" in source["name"]
            expected[first:first + 2] = [expected[first] * expected[first + 1]]
        if [n for n in expected if n != 1] == [n for n in actual if n != 1]:
            _, steps, _ = dense(whole, order)
            array = [whole[0] - spare, *whole[1:]], steps, 0
            return part(array, **cut) if cut else array


def stacked(source, own, actual):
    """As `stored`, where a first axis of the tensor has the parts of another one: that array, and where it goes."""
    axis, parts = source["stacked"]["axis"], source["stacked"]["parts"]
    extents, steps, first = part(own, axis, 0, parts)
    one = stored(source, extents, actual[1:]) if actual[:1] == [parts] else None
    if one:
        return ([parts, *one[0]], [math.prod(actual[1:]), *one[1]], one[2]), \
            ([parts, *extents], [steps[axis] * extents[axis], *steps], first)


def assemble(buffer, pieces, tensors, prefix):
    """The bytes of a weight."""
    name, dtype, extents = buffer["name"], buffer["dtype"], shape(buffer, 0, 0)
    weight, code = bytearray(length(buffer, 0, 0)), {2: "H", 4: "I"}[BYTES[buffer["dtype"]]]
    into = memoryview(weight).cast(code)
    for piece in pieces:
        own = dense(extents, range(len(extents)))
        own = part(own, **piece["into"]) if "into" in piece else own
        called = lambda source, number: prefix + source["name"].replace("{e}", str(number))
        source = next((source for source in piece["sources"] if called(source, 0) in tensors), piece["sources"][0])
        count = own[0][0] if "{e}" in source["name"] else 1
        for number in range(count):
            tensor, to = called(source, number), part(own, 0, number, count)
            if tensor not in tensors:
                refuse(f"there is no tensor {tensor} for the weight `{name}`")
            actual_dtype, actual, data = tensors[tensor]
            array = stored(source, to[0], actual)
            if array is None and "stacked" in source:
                array, to = stacked(source, to, actual) or (None, to)
            if array is None or actual_dtype != dtype:
                refuse(f"{tensor} is {actual_dtype} {actual}, the weight `{name}` is {dtype} {extents}")
            origin = data.cast(code)
            for place, at in zip(places(to), places(array)):
                into[place] = origin[at]
    return weight
