"""Unpacks NVIDIA's PTX assembler, and fatbinary, from their PyPI wheel: `fetch_ptxas.py FOLDER`.

Both are optional. Whatever goes wrong is said in one line and is not an error: without ptxas packages hold PTX and no cubin,
without fatbinary there is no `--emit fatbin`. They stay external programs under NVIDIA's licence, and are never copied into a package.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "nvidia-cuda-nvcc==13.0.88"
PROGRAMS = ("ptxas", "fatbinary")


def fetch(folder: Path) -> list[Path]:
    """The programs' paths in `folder`, once they are there."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        print(f"setup: downloading ptxas and fatbinary ({WHEEL} from PyPI, 37 MB)", flush=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:", "--dest", scratch, WHEEL]
        done = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["pip failed"]
            raise RuntimeError(lines[-1])
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "unpacked"
        wanted = tuple(f"/bin/{name}" for name in PROGRAMS)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked, [n for n in archive.namelist() if n.endswith(wanted) or ".dist-info/" in n])
        programs = []
        for name in PROGRAMS:
            (found,) = unpacked.rglob(f"bin/{name}")
            found.chmod(0o755)
            subprocess.run([found, "--version"], check=True, capture_output=True)
            programs.append(found.relative_to(unpacked))
        # The programs last, each at once: a folder that was interrupted lacks one of them. What else is there stays.
        files = [path.relative_to(unpacked) for path in unpacked.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path in programs):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(unpacked / path, folder / path)
        return [folder / path for path in programs]


def main() -> None:
    try:
        print(f"setup: unpacked {', '.join(map(str, fetch(Path(sys.argv[1]))))}")
    except Exception as why:  # noqa: BLE001: they are optional, whatever the reason
        print(f"ptxas and fatbinary not fetched ({str(why).strip()}): without them packages hold PTX only, and there are no fat binaries")


if __name__ == "__main__":
    main()
