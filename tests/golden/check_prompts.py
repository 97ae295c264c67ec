#!/usr/bin/env python3
"""Builds prompts a second time, from the dataset's files with HF `tokenizers`, and compares them with `inspect --prompts`.

usage: check_prompts.py GRAPHLORA [DATA MODEL] [--templates FILE] [--history N] [--count N]

DATA is a prepared dataset, MODEL a directory with config.json and tokenizer.json; without them a small dataset with nasty
titles is made. Exit code 77 (skipped) where the Python packages are not installed.
"""
import argparse
import csv
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

try:
    import numpy
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)
from tokenizer_cases import strings as nasty_strings

MASK = 2**64 - 1


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def strings(file, name):
    offsets, data = file[f"{name}_offsets"], file[f"{name}_bytes"].tobytes()
    return [data[a:b].decode() for a, b in zip(offsets, offsets[1:])]


def first_template(path):
    """Its text and that for an empty history."""
    section = re.split(r"^\[template.*\]\n", path.read_text(), flags=re.M)[1]
    return [text.strip("\n") for text in section.split("[empty history]\n")]


def make_inputs(graphlora, directory):
    """A dataset of 30 users and 40 items, and a model directory without weights."""
    rng = random.Random(1)
    titles = [" ".join(text.replace("\0", "").split())[:60].strip() for text in nasty_strings(400, 3, ["<|im_end|>"])]
    titles = [title for title in titles if title][:40]
    with open(directory / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "rating", "time", "title"])
        for user in range(30):
            for item in rng.sample(range(len(titles)), rng.randrange(1, 25)):
                writer.writerow([f"u {user}", f"i/{item}", rng.randrange(1, 6), rng.randrange(100, 160), titles[item]])
    subprocess.run([graphlora, "prepare", "--input", directory / "ratings.csv", "--format", "csv", "--split", "user-time",
                    "--output", directory / "dataset"], stdout=subprocess.DEVNULL, check=True)
    model = directory / "model"
    model.mkdir()
    source = pathlib.Path(__file__).resolve().parent / "smollm2" / "tokenizer.json"
    (model / "tokenizer.json").write_bytes(source.read_bytes())
    (model / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8192}))
    return directory / "dataset", model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphlora")
    parser.add_argument("data", type=pathlib.Path, nargs="?")
    parser.add_argument("model", type=pathlib.Path, nargs="?")
    parser.add_argument("--templates", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2] / "configs/prompts/default.txt")
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--count", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.model is None:
            arguments.data, arguments.model = make_inputs(arguments.graphlora, pathlib.Path(directory))
        return check(arguments)


def check(arguments):
    table = load_file(arguments.data / "interactions.safetensors")
    items = load_file(arguments.data / "items.safetensors")
    titles, item_ids = strings(items, "title"), strings(items, "id")
    user_ids = strings(load_file(arguments.data / "users.safetensors"), "id")
    users = len(user_ids)
    hf = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    prefix = hf.encode("", add_special_tokens=True).ids
    template, empty = first_template(arguments.templates)

    def encode(text):
        return hf.encode(text, add_special_tokens=False).ids

    def prompt(row):
        user, item, time = (int(table[name][row]) for name in ("user", "item", "time"))
        # Rows are sorted by time, so this is the order in which they were liked.
        liked = [int(i) for i in table["item"][(table["user"] == user) & (table["label"] == 1) & (table["time"] < time)]]
        history = liked[max(0, len(liked) - arguments.history):] if arguments.history else []
        tokens, anchors = list(prefix), []
        for piece in re.split(r"(\{\w+\})", template if history else empty):
            if piece == "{history}":
                for n, liked_item in enumerate(history):
                    tokens += encode(f'"{titles[liked_item]}"' if n == 0 else f', "{titles[liked_item]}"')
            elif piece == "{title}":
                tokens += encode(f'"{titles[item]}"')
            elif piece in ("{user}", "{item}"):
                anchors.append([len(tokens), user if piece == "{user}" else users + item])
                tokens.append(-1)
            else:
                tokens += encode(piece)
        return {"row": row, "user": user_ids[user], "item": item_ids[item], "label": int(table["label"][row]),
                "tokens": tokens, "anchors": anchors}

    wrong = 0
    for split, name in enumerate(("train", "valid", "test")):
        rows = [int(row) for row in numpy.flatnonzero(table["split"] == split)]
        rows.sort(key=lambda row: splitmix64(row))  # sample seed 0
        expected = [prompt(row) for row in rows[:arguments.count]]
        out = subprocess.run([arguments.graphlora, "inspect", "--data", arguments.data, "--model", arguments.model,
                              "--split", name, "--prompts", str(arguments.count), "--json", "--prompt.max-tokens", "100000",
                              "--prompt.history", str(arguments.history), "--prompt.templates", arguments.templates],
                             stdout=subprocess.PIPE, check=True).stdout.decode()
        found = [json.loads(line) for line in out.splitlines()]
        texts = [line.pop("text") for line in found]
        if len(found) != len(expected) or not all(texts):
            print(f"{name}: {len(found)} prompts, expected {len(expected)}")
            wrong += 1
        for ours, theirs in zip(found, expected):
            if ours != theirs:
                wrong += 1
                print(f"{name}:\n  ours   {ours}\n  python {theirs}")
        lengths = [len(line["tokens"]) for line in found]
        print(f"{name}: {len(found)} prompts, {numpy.mean(lengths) if lengths else 0:.1f} tokens on average")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
