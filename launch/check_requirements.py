"""Says by its exit status whether the running Python has every pinned version of a requirements file.

usage: check_requirements.py [--explain] FILE
"""

import importlib.metadata
import pathlib
import sys


def pinned(path: pathlib.Path):
    """Yields (name, version) of a requirements file and of those it includes with -r."""
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from pinned(path.parent / line[3:].strip())
        elif line:
            name, _, version = line.partition("==")
            yield name, version


def main() -> int:
    explain = "--explain" in sys.argv
    wrong = 0
    for name, version in pinned(pathlib.Path(sys.argv[-1])):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            wrong += 1
            if explain:
                print(f"setup: {name}: needs {version}, found {found}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
