#!/usr/bin/env python3
"""Makes the PyTorch of PyPI importable on a machine without a GPU and without NVIDIA's wheels: `torch_without_cuda.py FOLDER OF torch`.

PyPI's wheel for Linux is built for CUDA, and names libraries that are 3 GB of other wheels. On a machine without a GPU none of their functions
is called. So each of them becomes a small library with the symbols that PyTorch's own ask for, whose functions give
cudaErrorNoDevice. It needs a C compiler, nm and readelf."""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# Of the system: these are there, or are missed with good reason.
SYSTEM = re.compile(r"^(libc|libm|libpthread|librt|libdl|ld-linux.*|libgcc_s|libstdc\+\+|linux-vdso|libz|libquadmath|libgomp)\.so")
CUDA = re.compile(r"^(cu[A-Z]?|__cuda|nvrtc|nvshmem|nvJit|nccl|pnccl|nvtx|_ZN\d*nvshmem)")
GIVES_TEXT = re.compile(r"Get(Error|Status)(String|Name)$|GetLastError(String)?$")
NO_DEVICE = 100


def printed(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wanted(folder):
    """Of each library that is missing the symbols that are asked of it, by their version, "" where they have none."""
    libraries = [file for file in sorted(folder.iterdir()) if ".so" in file.name and file.is_file()]
    needed, defined, asked, of_version = set(), set(), set(), {}
    for file in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", printed("readelf", "-dW", file)))
        library = None
        for line in printed("readelf", "-VW", file).splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found[1]
            elif (found := re.search(r"Name: (\S+)\s+Flags: .*Version: ", line)) and library:
                of_version[found[1]] = library
        for line in printed("nm", "-D", file).splitlines():
            *_, kind, symbol = line.split()
            (asked if kind == "U" else set() if kind in "wv" else defined).add(symbol)
    defined = {symbol.split("@")[0] for symbol in defined}
    missing = {name for name in needed if not SYSTEM.match(name)} - {file.name for file in libraries}
    runtime = next((name for name in missing if name.startswith("libcudart")), None)
    found = {name: defaultdict(set) for name in sorted(missing)}
    for symbol in asked:
        name, _, version = symbol.replace("@@", "@").partition("@")
        library = of_version.get(version) if version else runtime
        if library in missing and name not in defined and CUDA.match(name):
            found[library][version].add(name)
    for version, library in of_version.items():
        if library in missing:
            found[library][version] |= set()
    return found


def function(name):
    if GIVES_TEXT.search(name) and name not in ("cudaGetLastError", "cudaPeekAtLastError"):
        return f'const char *{name}(void) {{ return "there is no CUDA here"; }}'
    return f"void *{name}(void) {{ return 0; }}" if name.startswith("__cuda") else f"int {name}(void) {{ return {NO_DEVICE}; }}"


def main():
    folder = Path(sys.argv[1]) / "lib"
    for library, versions in wanted(folder).items():
        with tempfile.TemporaryDirectory() as made:
            source, script = Path(made, "stub.c"), Path(made, "versions")
            names = sorted({name for symbols in versions.values() for name in symbols})
            source.write_text("\n".join(map(function, names)) + "\n")
            nodes = [f"{version} {{ global: {' '.join(f'{name};' for name in sorted(symbols))} }};" for version, symbols in sorted(versions.items()) if version]
            script.write_text("\n".join(nodes) + "\n")
            command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", source, f"-Wl,-soname,{library}", "-o", folder / library]
            subprocess.run(command + ([f"-Wl,--version-script={script}"] if nodes else []), check=True)


main()
