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
from nasty_strings import strings

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def byte_level(add_prefix_space=False, use_regex=True):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def variants(base):
    """(name, tokenizer.json) of everything that our reader supports."""
    def changed(**members):
        copy = json.loads(json.dumps(base))
        for name, value in members.items():
            if name in ("ignore_merges", "fuse_unk", "byte_fallback", "unk_token"):
                copy["model"][name] = value
            else:
                copy[name] = value
        return copy

    # (content, flags): HF gives a known token the vocabulary's id, another one the next free id.
    contents = [("Toy", 1), ("'s", 2), ("ab", 4), ("é", 8), ("st", 8 + 7), ("ing", 1 + 8), ("<|im", 6), ("e\u0301e", 8 + 6),
                ("the", 16 + 7), ("\n\n", 16)]
    vocabulary, added = base["model"]["vocab"], list(base["added_tokens"])
    for content, flags in contents:
        free = max(len(vocabulary) - 1, *(token["id"] for token in added)) + 1
        added.append({"id": vocabulary.get(content, free), "content": content, "single_word": flags & 1 > 0,
                      "lstrip": flags & 2 > 0, "rstrip": flags & 4 > 0, "normalized": flags & 8 > 0,
                      "special": flags & 16 > 0})
    yield "as is", base
    yield "digits", changed(pre_tokenizer=sequence({"type": "Digits", "individual_digits": True}, byte_level()))
    yield "digit runs", changed(pre_tokenizer=sequence({"type": "Digits", "individual_digits": False}, byte_level(True)))
    yield "no regex", changed(pre_tokenizer=byte_level(use_regex=False))
    yield "llama 3", changed(pre_tokenizer=sequence(split({"Regex": LLAMA3}), byte_level(use_regex=False)),
                             ignore_merges=True)
    yield "qwen 2", changed(normalizer={"type": "NFC"},
                            pre_tokenizer=sequence(split({"Regex": LLAMA3.replace("{1,3}", "")}),
                                                   byte_level(use_regex=False)))
    yield "added tokens", changed(added_tokens=added, normalizer={"type": "NFD"})
    yield "no unknown", changed(unk_token=None, fuse_unk=False)
    yield "unfused", changed(fuse_unk=False, byte_fallback=False, pre_tokenizer=byte_level(use_regex=False))
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            pattern = {"String": "e"} if invert else {"Regex": r"[aeiou\s]"}
            yield f"{behavior} {invert}", changed(pre_tokenizer=sequence(split(pattern, behavior, invert), byte_level()))


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
    for number, (name, variant) in enumerate(variants(base)):
        texts = strings(arguments.count, arguments.seed * 1000 + number, special)
        with tempfile.TemporaryDirectory() as directory:
            text = json.dumps(variant)
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
