"""Puts a finished program and the Python package into a wheel, and checks what the program asks of a system: `wheel.py PROGRAM FOLDER`.

The same files give the same bytes: entries are in the order of names, and their time is the first that a zip file can say.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "runtime/python/moec"
TAG = "py3-none-manylinux_2_28_x86_64"
GLIBC = (2, 28)
# What every Linux with this glibc has.
SYSTEM = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}
FEATURES = ["--package", "moec", "--no-default-features", "--features", "static"]
# Of what is linked in beside crates: the name of the licence's file, and where distributions have its text.
ARCHIVES = {
    "llvm": "llvm-22-dev",
    "zlib": "zlib1g-dev",
    "zstd": "libzstd-dev",
    "libffi": "libffi-dev",
    "libstdc++": "libstdc++-[0-9]*-dev",
}
# Crates give a choice of MIT in all cases but these; deny.toml says which licences there may be. After them LLVM, zlib, zstd, libffi,
# libstdc++, and the start files of glibc.
LICENCE = (
    "(MIT OR Apache-2.0) AND MIT AND MIT-0 AND ISC AND Zlib AND Unicode-3.0"
    " AND Apache-2.0 WITH LLVM-exception AND BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1 AND LGPL-2.1-or-later"
)
DESCRIPTION = """\
# moec

moec compiles a Mixture-of-Experts (MoE) layer ahead of time: a TOML file that says how tokens are routed and what an expert computes
becomes a package of kernels for NVIDIA GPUs and CPUs. This wheel has the program `moec`, with LLVM inside, and a Python package:
`moec.patch(model)` swaps the MoE blocks of a transformers model for compiled layers.

    moec run layer.toml         # compiles a layer for this CPU and runs it
    moec compile layer.toml --target host,sm_90a -o layer.moec
    moec --help

It needs Linux on x86-64 with glibc 2.28 or newer, and no compiler. The extra `ptxas` installs NVIDIA's assembler, with which packages
hold cubins beside PTX.
"""


class Refused(Exception):
    """Why there is no wheel."""


def asked_of_the_system(program: Path) -> str:
    """What the program loads and of which glibc, in a line; refused where it is more than a system has."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    with program.open("rb") as file:
        elf = ELFFile(file)
        sections = list(elf.iter_sections())
        dynamic = [tag for section in sections if isinstance(section, DynamicSection) for tag in section.iter_tags()]
        needed = sorted(tag.needed for tag in dynamic if tag.entry.d_tag == "DT_NEEDED")
        versions = [
            version.name
            for section in sections
            if isinstance(section, GNUVerNeedSection)
            for _, of_library in section.iter_versions()
            for version in of_library
        ]
    libraries = set(needed) - SYSTEM
    if libraries:
        raise Refused(f"the program needs {', '.join(sorted(libraries))}")
    numbers = [tuple(map(int, name[6:].split("."))) for name in versions if re.fullmatch(r"GLIBC_[0-9.]+", name)]
    most = max(numbers)
    if most > GLIBC:
        raise Refused(f"the program needs glibc {'.'.join(map(str, most))}")
    return f"needs {', '.join(needed)}; of glibc {'.'.join(map(str, most))}"


def output_of(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Refused(f"`{' '.join(command)}` failed")
    return done.stdout


def version() -> str:
    """That of the workspace, which the Python package has to say too."""
    text = (ROOT / "Cargo.toml").read_text()
    of_crates = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    of_python = re.search(r'^__version__ = "([^"]+)"', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    if of_crates is None or of_python is None or of_crates[1] != of_python[1]:
        raise Refused("Cargo.toml and runtime/python/moec/__init__.py say different versions")
    return of_crates[1]


def licences_of_archives() -> dict[str, bytes]:
    texts = {}
    for name, package in ARCHIVES.items():
        found = sorted(Path("/usr/share/doc").glob(f"{package}/copyright"))
        if not found:
            raise Refused(f"the licence of {name} was not found: /usr/share/doc/{package}/copyright")
        texts[f"{name}.txt"] = found[-1].read_bytes()
    import ziglang

    # Of glibc a program has the start files, of zig functions that compilers call.
    zig = Path(ziglang.__file__).parent
    texts["glibc-start-files.txt"] = (zig / "lib/libc/glibc/LICENSES").read_bytes()
    texts["zig.txt"] = (zig / "LICENSE").read_bytes()
    return texts


def licences_of_crates() -> bytes:
    """The crates that are linked in, with the texts that they ask to keep, each text once."""
    tree = output_of("cargo", "tree", "--locked", *FEATURES, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    metadata = json.loads(output_of("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"))
    listed, texts = [], {}
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        name = f"{package['name']} {package['version']}"
        if package["source"] is None or (package["name"], f"v{package['version']}") not in linked:
            continue
        listed.append(f"{name}: {package['license']}")
        files = [path for path in Path(package["manifest_path"]).parent.iterdir() if path.is_file()]
        files = sorted(path for path in files if re.match(r"(?i)(licen[cs]e|copying|notice|unlicense)", path.name))
        # Of a choice, the shorter one is enough.
        mit = [path for path in files if "mit" in path.name.lower()]
        for path in mit if mit and "MIT" in (package["license"] or "") else files:
            texts.setdefault(path.read_text(errors="replace").strip(), []).append(name)
    head = "The crates of Rust that are part of the program `moec`, beside Rust's standard library (MIT OR Apache-2.0).\n\n"
    parts = [f"{'-' * 80}\n{', '.join(sorted(set(names)))}:\n\n{text}\n" for text, names in texts.items()]
    return (head + "\n".join(listed) + "\n\n" + "\n".join(parts)).encode()


def metadata_of(number: str, licences: list[str]) -> str:
    lines = [
        "Metadata-Version: 2.4",
        "Name: moec",
        f"Version: {number}",
        "Summary: An ahead-of-time compiler for Mixture-of-Experts layers",
        "Keywords: mixture-of-experts,compiler,cuda,ptx,llvm",
        f"License-Expression: {LICENCE}",
        *(f"License-File: {name}" for name in licences),
        "Classifier: Operating System :: POSIX :: Linux",
        "Classifier: Topic :: Software Development :: Compilers",
        "Classifier: Typing :: Typed",
        "Requires-Python: >=3.9",
        "Provides-Extra: ptxas",
        "Requires-Dist: nvidia-cuda-nvcc<14,>=13; extra == 'ptxas'",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + DESCRIPTION


def package_files() -> dict[str, Path]:
    """All files of the Python package but what Python leaves there."""
    files = {}
    for path in PACKAGE.rglob("*"):
        inside = path.relative_to(PACKAGE)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
            files[f"moec/{inside.as_posix()}"] = path
    return files


def contents(program: Path, number: str) -> dict[str, tuple[bytes, int]]:
    """Names, bytes and modes of what is in the wheel, all but its RECORD."""
    about = f"moec-{number}.dist-info"
    licences = {name: (ROOT / name).read_bytes() for name in ("LICENSE-MIT", "LICENSE-APACHE")}
    licences.update(licences_of_archives())
    licences["crates.txt"] = licences_of_crates()
    files = {f"moec-{number}.data/scripts/moec": (program.read_bytes(), 0o755)}
    files.update((name, (path.read_bytes(), 0o644)) for name, path in package_files().items())
    for name, text in licences.items():
        files[f"{about}/licenses/{name}"] = (text, 0o644)
    files[f"{about}/METADATA"] = (metadata_of(number, sorted(licences)).encode(), 0o644)
    files[f"{about}/WHEEL"] = (f"Wheel-Version: 1.0\nGenerator: moec\nRoot-Is-Purelib: false\nTag: {TAG}\n".encode(), 0o644)
    return dict(sorted(files.items()))


def write(path: Path, number: str, files: dict[str, tuple[bytes, int]]) -> None:
    def digest(data: bytes) -> str:
        return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

    record = f"moec-{number}.dist-info/RECORD"
    rows = [f"{name},{digest(data)},{len(data)}\n" for name, (data, _) in files.items()]
    files = {**files, record: ("".join([*rows, f"{record},,\n"]).encode(), 0o644)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, (data, mode) in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, (0o100000 | mode) << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)


def audited(path: Path) -> str:
    """What auditwheel says; refused where it finds less than the name of the wheel says."""
    done = subprocess.run([sys.executable, "-m", "auditwheel", "show", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = " ".join(done.stdout.split())
    platform = TAG.split("-")[-1]
    if done.returncode != 0 or f'platform tag: "{platform}"' not in said:
        raise Refused(f"auditwheel does not say {platform}:\n{done.stdout}")
    return f"auditwheel: {platform}"


def main() -> None:
    program, folder = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        asks = asked_of_the_system(program)
        number = version()
        path = folder / f"moec-{number}-{TAG}.whl"
        write(path, number, contents(program, number))
        said = audited(path)
    except Refused as why:
        sys.exit(f"error: {why}")
    size, unpacked = (file.stat().st_size / 1e6 for file in (path, program))
    print(f"{path}: {size:.1f} MB, the program {unpacked:.1f} MB\n  {asks}\n  {said}\n  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
