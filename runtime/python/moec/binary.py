"""The program ``moec`` that was installed with this package: where it is, and how it is run."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Iterator, Union


def path() -> str:
    """The path of the program.

    The first of: the one that the environment variable ``MOEC`` names; the one that was installed with this package, as pip does it in an
    environment, for a user, by ``--prefix`` or by ``--target``; the one on ``PATH``.

    Raises ``FileNotFoundError`` where there is none.
    """
    named = os.environ.get("MOEC")
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"MOEC names `{named}`, which is no file")
        return named
    for folder in _folders():
        program = folder / "moec"
        if program.is_file() and os.access(program, os.X_OK):
            return str(program)
    found = shutil.which("moec")
    if found is None:
        raise FileNotFoundError("the program `moec` was not found: install the wheel of moec, or name the program in MOEC")
    return found


def run(*arguments: Union[str, "os.PathLike[str]"]) -> "subprocess.CompletedProcess[str]":
    """Runs the program with these arguments and gives what it printed.

    Raises ``subprocess.CalledProcessError`` with its ``stderr`` where it fails.
    """
    command = [path(), *map(os.fspath, arguments)]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _folders() -> Iterator[Path]:
    """Where pip puts programs, those that belong to this file first."""
    package = Path(__file__).resolve().parent
    yield package.parent / "bin"
    # PREFIX/lib/python3.X/site-packages/moec
    above = package.parents
    if len(above) > 3 and above[1].name.startswith("python3"):
        yield above[3] / "bin"
    yield Path(sysconfig.get_path("scripts"))
    user = f"{os.name}_user"
    if user in sysconfig.get_scheme_names():
        yield Path(sysconfig.get_path("scripts", user))
