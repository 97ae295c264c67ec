"""Compares launch/fetch_model.py's directory with transformers' own conversion of the same GGUF file.

usage: check_model_conversion.py MODEL GGUF

Weights must be transformers' rounded to bf16, bit for bit. Token ids must be equal wherever the two
tokenizers mean the same: transformers adds a BOS token and does not split digits off, both against
the GGUF file's own metadata (`add_bos_token` false, `pre` smollm), so its BOS is left out and its
pre-tokenizer is given the split before comparing.
"""

import pathlib
import random
import sys

import tokenizers
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MAXIMUM_REPORTED = 5


def compare_weights(model: pathlib.Path, gguf: pathlib.Path) -> int:
    reference = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    expected = {name: value.bfloat16() for name, value in reference.state_dict().items()}
    if reference.config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    found = load_file(model / "model.safetensors")
    wrong = sorted(set(expected) ^ set(found))
    wrong += [name for name in set(expected) & set(found) if not torch.equal(expected[name], found[name])]
    print(f"weights: {len(expected)} tensors, {len(wrong)} differ {wrong[:MAXIMUM_REPORTED]}")
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).config
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim",
                "num_key_value_heads", "vocab_size", "rope_theta", "tie_word_embeddings", "max_position_embeddings"):
        if getattr(loaded, key) != getattr(reference.config, key):
            print(f"config: {key} is {getattr(loaded, key)}, expected {getattr(reference.config, key)}")
            wrong.append(key)
    return len(wrong)


def strings(count: int, seed: int):
    """Titles, prompts, whitespace, digits and random code points."""
    draw = random.Random(seed)
    yield from ["", " ", "\n\n", " Yes", " No", "Toy Story (1995)", "Misérables, Les (1995)", "  1994", "a  1 2   ³½٣",
                "<|im_start|>user\nHi<|im_end|>", "don't WE'LL it's", "\t\t x", "日本語 テスト", "👩‍👩‍👧 family", "\u2581low", "e\u0301"]
    ranges = [(32, 127)] * 6 + [(160, 0x250), (0x370, 0x600), (0x3040, 0x3100), (0x1F300, 0x1F600), (1, 32)]
    for _ in range(count):
        low, high = draw.choice(ranges)
        length = draw.randrange(1, 60)
        text = "".join(chr(draw.choice([32, 48, draw.randrange(low, high)])) for _ in range(length))
        yield text


def compare_tokenizer(model: pathlib.Path, gguf: pathlib.Path) -> int:
    reference = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).backend_tokenizer
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(individual_digits=True), reference.pre_tokenizer])
    found = AutoTokenizer.from_pretrained(model)
    wrong = compared = 0
    for text in strings(20000, seed=1):
        compared += 1
        expected = reference.encode(text, add_special_tokens=False).ids
        if found(text)["input_ids"] != expected:
            wrong += 1
            if wrong <= MAXIMUM_REPORTED:
                print(f"tokenizer: {text!r}: {found(text)['input_ids']}, expected {expected}")
    for word, token in ((" Yes", 9230), (" No", 2838)):
        wrong += found(word)["input_ids"] != [token]
    print(f"tokenizer: {compared} strings, {wrong} differ")
    return wrong


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    model, gguf = map(pathlib.Path, sys.argv[1:])
    sys.exit(1 if compare_weights(model, gguf) + compare_tokenizer(model, gguf) else 0)


if __name__ == "__main__":
    main()
