"""What a package of moec says: runtime/PACKAGE.md as code. Nothing is loaded or run here."""
import hashlib, json, math, operator, struct
from fractions import Fraction

VERSION = 3
BYTES = {"f32": 4, "i32": 4, "f16": 2, "bf16": 2}
ROUND = {"floor": lambda a, b: a // b, "ceil": lambda a, b: -(-a // b), "half_even": lambda a, b: round(Fraction(a, b))}
OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "min": min, "max": max,
             "div": lambda a, b, rounding: ROUND[rounding](a, b)}


def refuse(why):
    raise SystemExit(f"error: {why}")


def read(path):
    """The manifest and the images of a package."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:8] != b"moec.pkg":
        refuse(f"{path} is not a package of moec")
    version, size = struct.unpack("<IQ", data[8:20].ljust(12, b"\0"))
    if version != VERSION:
        refuse(f"{path} has format version {version}, this loader reads {VERSION}")
    images = 52 + size
    if hashlib.sha256(data[52:images]).digest() != data[20:52]:
        refuse(f"{path} is damaged: the manifest does not have its hash")
    manifest = json.loads(data[52:images])
    parts = [data[images + image["offset"]:][:image["length"]] for image in manifest["images"]]
    for number, (part, image) in enumerate(zip(parts, manifest["images"])):
        if hashlib.sha256(part).hexdigest() != image["sha256"]:
            refuse(f"{path} is damaged: image {number} does not have its hash")
    if rest := len(data) - images - sum(map(len, parts)):
        refuse(f"{path} is damaged: {rest} bytes after the last image")
    return manifest, parts


def choose(targets, cpuinfo):
    """Of the targets that the CPU can run, the one with the most features."""
    with open(cpuinfo) as file:
        flags = next((line for line in file if line.startswith(("flags", "Features"))), "").replace("_", "").split()
    has = {*flags, *(name for name, flag in (("lzcnt", "abm"), ("neon", "asimd")) if flag in flags)}
    features = lambda target: target.get("cpu_features", [])
    lacks = lambda target: [feature for feature in features(target) if feature.replace("-", "") not in has]
    hosts = [target for target in targets if target["kind"] == "host"]
    if not hosts:
        refuse(f"the package has no target for a CPU, only {', '.join(target['name'] for target in targets)}")
    nearest = min(hosts, key=lambda target: (lacks(target) == features(target), len(lacks(target))))
    if lacks(nearest):
        refuse(f"this CPU lacks {', '.join(lacks(nearest))}, which the target {nearest['name']} needs")
    return max((target for target in hosts if not lacks(target)), key=lambda target: len(features(target)))


def value(formula, T, S):
    """What a formula comes to."""
    if isinstance(formula, str):
        return {"tokens": T, "sequence_tokens": S}[formula]
    (name, of), = formula.items()
    return of if name == "const" else OPERATORS[name](value(of[0], T, S), value(of[1], T, S), *of[2:])


def shape(buffer, T, S):
    """The extents of a buffer."""
    return [value(extent, T, S) for extent in buffer["shape"]]


def length(buffer, T, S):
    """The bytes of a buffer."""
    return math.prod(shape(buffer, T, S)) * BYTES[buffer["dtype"]]


def regime(target, T):
    """The launches for a batch of T tokens, and up to how many."""
    return next(regime for regime in target["regimes"] if regime["tokens_up_to"] is None or T <= regime["tokens_up_to"])


def workspace(manifest, target, T, S):
    """Where each workspace buffer lies, by index, and how long they are together."""
    buffers, own, lives = manifest["buffers"], regime(target, T), {}
    count = len(own["launches"])
    # A launch that follows another may be under way together with it.
    follows = lambda launch: launch.get("working", {}).get("follows", False)
    steps = [(launch, at - follows(launch), at) for at, launch in enumerate(own["launches"])]
    for launch, first, last in steps + [(launch, count, math.inf) for launch in target.get("update", [])]:
        for b in (arg["buffer"] for arg in launch["args"] if "buffer" in arg):
            if buffers[b]["role"] == "workspace":
                start, end = lives.get(b, (first, last))
                lives[b] = start, math.inf if "observe" in buffers[b] else max(end, last)
    meet = lambda a, b: lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
    up = lambda size: -(-size // 256) * 256

    most = manifest["max_tokens"] if own["tokens_up_to"] is None else own["tokens_up_to"]
    bounds = [bound for bound in (other["tokens_up_to"] for other in target["regimes"]) if bound is not None and bound < most]
    least = min(max(bounds, default=0) + 1, most)
    sizes = [{b: up(length(buffers[b], at, at)) for b in lives} for at in (most, math.isqrt(most * least), least)]
    needs = [max((sum(size[a] for a in lives if lives[a][0] <= lives[b][0] <= lives[a][1]) for b in lives), default=0)
             for size in sizes]

    def orders(size):
        laid = sorted(lives, key=lambda b: (-lives[b][1], -size[b], b))
        for _ in range(4):
            places = {}
            for b in laid:
                at = 0
                for other in sorted(places, key=lambda b: (places[b], b)):
                    if meet(other, b) and places[other] < at + size[b]:
                        at = max(at, places[other] + size[other])
                places[b] = at
            yield sorted(places, key=lambda b: (places[b], b))
            highest = max(places, key=lambda b: (places[b] + size[b], -b), default=None)
            if not laid or laid[0] == highest:
                return
            laid = [highest] + [b for b in laid if b != highest]

    def stacked(order, size):
        places, ends = {}, {}
        for b in order:
            places[b] = max((ends[other] for other in places if meet(other, b)), default=0)
            ends[b] = up(places[b] + size[b])
        return places, max(ends.values(), default=0)

    above = lambda order: max(1000 * stacked(order, size)[1] // max(need, 1) for size, need in zip(sizes, needs))
    order = min((order for size in sizes for order in orders(size)), key=above)
    return stacked(order, {b: length(buffers[b], T, S) for b in lives})
