#!/usr/bin/env python3
"""Compares our tokenizer with HF `tokenizers` on random strings and on variants of a tokenizer.json.

usage: fuzz_tokenizer.py TOKENIZER_CLI TOKENIZER_JSON [--count N] [--seed S]

TOKENIZER_CLI is the test program tokenizer_cli. Exit code 77 (skipped) where `tokenizers` is not installed.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from tokenizer_cases import merge_patch, sentencepiece_variants, strings, variants


def ours(cli, directory, texts):
    data = b"".join(struct.pack("<I", len(t)) + t for t in (text.encode() for text in texts))
    out = subprocess.run([cli, directory], input=data, stdout=subprocess.PIPE, check=True).stdout
    results, at = [], 0
    for _ in texts:
        (count,) = struct.unpack_from("<I", out, at)
        ids = list(struct.unpack_from(f"<{count}i", out, at + 4))
        at += 4 + 4 * count
        (size,) = struct.unpack_from("<I", out, at)
        results.append((ids, out[at + 4:at + 4 + size].decode()))
        at += 4 + size
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cli")
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        from tokenizers import Tokenizer
    except ImportError:
        print("skipped: the Python package tokenizers is not installed")
        return 77
    if not arguments.tokenizer.exists():
        print(f"skipped: {arguments.tokenizer} is missing")
        return 77

    base = json.loads(arguments.tokenizer.read_text())
    special = [token["content"] for token in base["added_tokens"]]
    failures = 0
    makes = variants if base["pre_tokenizer"] else sentencepiece_variants
    for number, (name, patch) in enumerate(makes(base).items()):
        texts = strings(arguments.count, arguments.seed * 1000 + number, special)
        with tempfile.TemporaryDirectory() as directory:
            text = json.dumps(merge_patch(base, patch))
            pathlib.Path(directory, "tokenizer.json").write_text(text)
            results = ours(arguments.cli, directory, texts)
        hf = Tokenizer.from_str(text)
        encodings = hf.encode_batch(texts, add_special_tokens=False)
        wrong = 0
        for string, encoding, (ids, decoded) in zip(texts, encodings, results):
            if ids != encoding.ids or decoded != hf.decode(encoding.ids, skip_special_tokens=False):
                wrong += 1
                if wrong <= 3:
                    print(f"{name}: {string!r}\n  HF   {encoding.ids}\n  ours {ids}\n  decoded {decoded!r}")
        print(f"{name}: {len(texts)} strings, {wrong} differ")
        failures += wrong
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
