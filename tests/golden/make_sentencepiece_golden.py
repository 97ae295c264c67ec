#!/usr/bin/env python3
"""Trains a small SentencePiece model on this project's documents and writes what HF makes of it.

usage: make_sentencepiece_golden.py          (needs transformers, tokenizers, sentencepiece, protobuf)

Writes into sentencepiece/ beside this file: tokenizer.model; tokenizer.json as HF's LlamaTokenizerFast converts it; and
golden.safetensors, strings and ids as make_tokenizer_golden.py has them, for the variants of sentencepiece_variants, with
the decoded text of each (NAME.decoded u8, NAME.decoded_lengths u16).
"""
import io
import json
import pathlib
import shutil
import tempfile

import numpy
import sentencepiece
import tokenizers
from safetensors.numpy import save_file
from tokenizer_cases import merge_patch, sentencepiece_variants, strings
from transformers import LlamaTokenizerFast

COUNT = 200


def train(directory):
    documents = sorted((directory.parents[2] / "docs").glob("*.md"))
    lines = [line for path in documents for line in path.read_text().splitlines() if 0 < len(line) < 2000]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=0.995,
        max_sentence_length=8000, user_defined_symbols=["<item>"], minloglevel=2)
    (directory / "tokenizer.model").write_bytes(model.getvalue())


def main():
    directory = pathlib.Path(__file__).resolve().parent / "sentencepiece"
    directory.mkdir(exist_ok=True)
    train(directory)
    with tempfile.TemporaryDirectory() as alone:
        shutil.copy(directory / "tokenizer.model", alone)
        fast = LlamaTokenizerFast.from_pretrained(alone)
    base = json.loads(fast.backend_tokenizer.to_str())
    (directory / "tokenizer.json").write_text(json.dumps(base, ensure_ascii=False, separators=(",", ":")) + "\n")
    special = [token["content"] for token in base["added_tokens"]]
    texts = [text[:30] for text in strings(COUNT, 20261125, special)]
    pack = lambda rows, kind: (numpy.frombuffer(b"".join(rows), numpy.uint8) if kind == "text" else
                               numpy.array([i for row in rows for i in row], numpy.uint16))
    lengths = lambda rows: numpy.array([len(row) for row in rows], numpy.uint16)
    data = [text.encode() for text in texts]
    tensors = {"text": pack(data, "text"), "lengths": lengths(data)}
    metadata = {"tokenizers": tokenizers.__version__}
    for name, patch in sentencepiece_variants(base).items():
        hf = tokenizers.Tokenizer.from_str(json.dumps(merge_patch(base, patch)))
        ids = [encoding.ids for encoding in hf.encode_batch(texts, add_special_tokens=False)]
        decoded = [hf.decode(row, skip_special_tokens=False).encode() for row in ids]
        tensors |= {f"{name}.ids": pack(ids, "ids"), f"{name}.lengths": lengths(ids),
                    f"{name}.decoded": pack(decoded, "text"), f"{name}.decoded_lengths": lengths(decoded)}
        metadata[name] = json.dumps(patch)
    save_file(tensors, directory / "golden.safetensors", metadata)
    for path in sorted(directory.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
