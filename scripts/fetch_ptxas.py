"""Unpacks NVIDIA's PTX assembler from its PyPI wheel: `fetch_ptxas.py FOLDER`.

ptxas is optional. Whatever goes wrong is said in one line and is not an error: packages then hold PTX and no cubin.
It stays an external program under NVIDIA's licence, and is never copied into a package.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "nvidia-cuda-nvcc==13.0.88"


def fetch(folder: Path) -> Path:
    """The path of ptxas in `folder`, once it is there."""
    with tempfile.TemporaryDirectory() as scratch:
        print(f"setup: downloading ptxas ({WHEEL} from PyPI, 37 MB)", flush=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:", "--dest", scratch, WHEEL]
        done = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["pip failed"]
            raise RuntimeError(lines[-1])
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.endswith("/bin/ptxas") or ".dist-info/" in n]
            archive.extractall(unpacked, names)
        (found,) = unpacked.rglob("bin/ptxas")
        found.chmod(0o755)
        subprocess.run([found, "--version"], check=True, capture_output=True)
        # Moved last, so that a folder that was interrupted is not taken for a whole one.
        place = folder / found.relative_to(unpacked)
        folder.mkdir(exist_ok=True)
        for item in unpacked.iterdir():
            shutil.rmtree(folder / item.name, ignore_errors=True)
            shutil.move(item, folder / item.name)
        return place


def main() -> None:
    try:
        print(f"setup: ptxas is {fetch(Path(sys.argv[1]))}")
    except Exception as why:  # noqa: BLE001: it is optional, whatever the reason
        print(f"ptxas not installed ({str(why).strip()}): packages will hold PTX only")


if __name__ == "__main__":
    main()
