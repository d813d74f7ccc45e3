"""``python -m moec`` is ``moec``."""

import os
import sys

from moec import binary


def main() -> None:
    """Becomes the program, so that its exit code and its signals are those of this process."""
    try:
        program = binary.path()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    sys.stdout.flush()
    os.execv(program, [program, *sys.argv[1:]])


if __name__ == "__main__":
    main()
