#!/usr/bin/env python3
"""Writes tokenizer.safetensors: 50,000 random and nasty strings with the ids that HF `tokenizers` gives them.

usage: make_tokenizer_golden.py [TOKENIZER_JSON]     (default: smollm2/tokenizer.json beside this file)

Tensors: text u8 and lengths u16[N] (bytes of each string); for each variant of the tokenizer.json NAME.ids u16 (ids of
the first strings, one behind the other) and NAME.lengths u16. Metadata: NAME → the variant's JSON merge patch.
"""
import json
import pathlib
import sys

import numpy
import tokenizers
from safetensors.numpy import save_file
from tokenizer_cases import merge_patch, strings, variants

COUNT, COUNT_OF_VARIANT = 50000, 1000


def main():
    here = pathlib.Path(__file__).parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "smollm2" / "tokenizer.json"
    base = json.loads(path.read_text())
    special = [token["content"] for token in base["added_tokens"]]
    # Short ones, so that the file stays small; every sixteenth of any length.
    texts = []
    for i, text in enumerate(strings(COUNT, 20260724, special)):
        texts.append(text if i % 16 == 0 else text[i % 7:i % 7 + 12])
    data = [text.encode() for text in texts]
    tensors = {"text": numpy.frombuffer(b"".join(data), numpy.uint8), "lengths": numpy.array([len(d) for d in data], numpy.uint16)}
    metadata = {"tokenizers": tokenizers.__version__}
    for name, patch in variants(base).items():
        hf = tokenizers.Tokenizer.from_str(json.dumps(merge_patch(base, patch)))
        chosen = texts if not patch else texts[:COUNT_OF_VARIANT]
        ids = [encoding.ids for encoding in hf.encode_batch(chosen, add_special_tokens=False)]
        tensors[f"{name}.ids"] = numpy.array([i for row in ids for i in row], numpy.uint16)
        tensors[f"{name}.lengths"] = numpy.array([len(row) for row in ids], numpy.uint16)
        metadata[name] = json.dumps(patch)
    save_file(tensors, here / "tokenizer.safetensors", metadata)
    for name, tensor in tensors.items():
        print(f"{name:24} {tensor.dtype} {tensor.shape}")


if __name__ == "__main__":
    main()
