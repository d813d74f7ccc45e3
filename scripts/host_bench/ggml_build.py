"""ggml's CPU backend, built for this machine outside of the repository from the source package of PyPI that has it."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .servers import Absent

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
DRIVER = Path(__file__).resolve().parent / "ggml_moe.c"
OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DGGML_BUILD_TESTS=OFF",
           "-DGGML_BUILD_EXAMPLES=OFF", "-DGGML_CCACHE=OFF"]


def cache():
    """The folder of what is built once."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "moec" / "host-bench"


def run(*command):
    """A step of building; of one that fails, the last line that it said."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        said = done.stdout.strip().splitlines()
        raise Absent(f"{Path(str(command[0])).name} failed ({said[-1] if said else 'it said nothing'})")


def built():
    """The program that runs layers in ggml, and ggml's version."""
    for tool in ("cmake", "cc"):
        if shutil.which(tool) is None:
            raise Absent(f"there is no {tool}")
    folder = cache() / f"{PACKAGE}-{VERSION}"
    source, made = folder / "source", folder / "build"
    if not source.exists():
        downloads = folder / "download"
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE, "--dest", downloads, f"{PACKAGE}=={VERSION}")
        (archive,) = downloads.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder / "unpacked", filter="data")
        (ggml,) = (folder / "unpacked").glob("*/vendor/llama.cpp/ggml")
        # The package leaves out a file that cmake fills in and that is not needed.
        (ggml / "ggml.pc.in").touch()
        ggml.rename(source)
        shutil.rmtree(folder / "unpacked")
    if not (made / "complete").exists():
        run("cmake", "-S", source, "-B", made, *OPTIONS)
        run("cmake", "--build", made, "--parallel", os.cpu_count() or 1)
        (made / "complete").touch()
    program = folder / "ggml_moe"
    libraries = sorted(made.rglob("*.a"))
    run("cc", "-O2", "-std=c11", DRIVER, f"-I{source / 'include'}", "-Wl,--start-group", *libraries, "-Wl,--end-group", "-fopenmp",
        "-lstdc++", "-lm", "-lpthread", "-ldl", "-o", program)
    lines = (source / "CMakeLists.txt").read_text(encoding="utf-8").splitlines()
    numbers = [line.split()[-1].rstrip(")") for line in lines if line.startswith(("set(GGML_VERSION_M", "set(GGML_VERSION_P"))]
    return program, f"{'.'.join(numbers)} ({PACKAGE} {VERSION})"
