"""Layers for the tests of this folder: specs compiled by the moec that MOEC names."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = ROOT / "tests/fixtures/huggingface"
sys.path.insert(0, str(ROOT / "runtime/python"))


def compiled(folder, name, text, *arguments):
    """The Python file of a spec's layer as a module: made in a folder, and imported."""
    folder = Path(folder, name, *arguments)
    command = [os.environ["MOEC"], "--quiet", "--allow", "MOE1101", "compile", "-", "--emit", "python,cdylib", "--out-dir", str(folder), *arguments]
    subprocess.run(command, input=text, text=True, check=True)
    (file,) = folder.glob("*.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def refused(error, *words):
    """That what is done in it raises an error whose text has these words."""
    class Refused:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            assert kind is not None, f"no {error.__name__}"
            assert issubclass(kind, error) and all(word in str(value) for word in words), f"{kind.__name__}: {value}"
            return True

    return Refused()
