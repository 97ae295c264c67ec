"""Checks the #include lines of src/: dependencies run one way, and some headers have one home.

usage: includes.py SRC

core ← dist, data ← graph ← model ← train ← cli; MPI and NCCL only in dist, METIS only in
graph/partition.cpp, no torch::nn in core. Prints FILE:LINE: and the fault; exits 1 if there is any.
"""

import pathlib
import re
import sys

MAY_INCLUDE = {
    "core": {"core"},
    "dist": {"core", "dist"},
    "data": {"core", "data"},
}
for _part, _below in (("graph", ("dist", "data")), ("model", ("graph",)), ("train", ("model",)), ("cli", ("train",))):
    MAY_INCLUDE[_part] = {_part}.union(*(MAY_INCLUDE[below] for below in _below))

# Header (a regular expression), where it may stand, what to say.
HOMES = [
    (r"mpi\.h|mpi-ext\.h", lambda path: path.parts[0] == "dist", "MPI belongs to src/dist"),
    (r"nccl\.h", lambda path: path.parts[0] == "dist", "NCCL belongs to src/dist"),
    (r"metis\.h", lambda path: path == pathlib.PurePath("graph/partition.cpp"), "METIS belongs to src/graph/partition.cpp"),
    (r"torch/(nn|torch|optim).*", lambda path: path.parts[0] != "core", "src/core is free of torch::nn"),
]
GENERATED = {"cli/git_commit.hpp"}  # written into the build folder
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def faults_of(source: pathlib.Path, root: pathlib.Path):
    path = source.relative_to(root)
    part = path.parts[0] if len(path.parts) > 1 else None
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        match = INCLUDE.match(line)
        if not match:
            continue
        kind, header = match.groups()
        for pattern, allowed, fault in HOMES:
            if re.fullmatch(pattern, header) and not (part and allowed(path)):
                yield f"{source}:{number}: {header}: {fault}"
        if kind == "<":
            continue
        if header not in GENERATED and not (root / header).is_file():
            yield f"{source}:{number}: \"{header}\" is not a file under {root} (includes are relative to it)"
        elif part and header.split("/")[0] not in MAY_INCLUDE.get(part, set()):
            yield f"{source}:{number}: src/{part} must not include src/{header}"


def main() -> int:
    root = pathlib.Path(sys.argv[1])
    sources = sorted(path for path in root.rglob("*") if path.suffix in {".cpp", ".hpp", ".cu", ".cuh"})
    if not sources:
        sys.exit(f"{root}: no sources")
    faults = [fault for source in sources for fault in faults_of(source, root)]
    print("\n".join(faults + [f"{len(sources)} files, {len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
