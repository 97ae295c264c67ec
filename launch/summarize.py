"""Compares recommenders on the same test rows: AUC ± bootstrap standard error, UAUC, paired differences.

usage: summarize.py --data DATASET --predictions NAME=FILE [...] [--main NAME] [--markdown FILE [--section NAME]]

The files are those of `graphlora evaluate --predictions FILE`. Two simple predictors are computed here
from the training rows: the item's mean rating, and the user's mean plus the item's mean.
Shapes: N rows, B bootstrap samples.
"""

import argparse
import csv
import json
import os
import pathlib
import platform
import sys

import numpy as np
from safetensors.numpy import load_file

BOOTSTRAP_SAMPLES = 1000
SIMPLE = ("item mean", "user + item mean")


def read_predictions(path: pathlib.Path):
    """((user, item) pairs, labels, scores) of a predictions file."""
    pairs, labels, scores = [], [], []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            pairs.append((row["user"], row["item"]))
            labels.append(int(float(row["label"])))
            scores.append(float(row["score"]))
    return pairs, np.array(labels), np.array(scores, dtype=np.float32)


def source_ids(path: pathlib.Path) -> list[str]:
    """Source ids of users.safetensors or items.safetensors, by index."""
    tensors = load_file(path)
    offsets, text = tensors["id_offsets"], tensors["id_bytes"].tobytes()
    return [text[start:end].decode() for start, end in zip(offsets[:-1], offsets[1:])]


def mean_by(index: np.ndarray, values: np.ndarray, size: int, default: float) -> np.ndarray:
    count = np.bincount(index, minlength=size)
    total = np.bincount(index, weights=values, minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), default)


def simple_scores(dataset: pathlib.Path, pairs) -> dict[str, np.ndarray]:
    """Scores of the two simple predictors for the given pairs; users and items unseen in training get the mean."""
    rows = load_file(dataset / "interactions.safetensors")
    train = rows["split"] == 0
    user, item, value = rows["user"][train], rows["item"][train], rows["rating"][train].astype(np.float64)
    users = {name: index for index, name in enumerate(source_ids(dataset / "users.safetensors"))}
    items = {name: index for index, name in enumerate(source_ids(dataset / "items.safetensors"))}
    overall = value.mean()
    user_mean = mean_by(user, value, len(users), overall)
    item_mean = mean_by(item, value, len(items), overall)
    pair_user = np.array([users[name] for name, _ in pairs])
    pair_item = np.array([items[name] for _, name in pairs])
    return {SIMPLE[0]: item_mean[pair_item], SIMPLE[1]: user_mean[pair_user] + item_mean[pair_item]}


def auc_of_samples(scores: np.ndarray, labels: np.ndarray, weights_BN: np.ndarray) -> np.ndarray:
    """AUC, ties counting one half, of each bootstrap sample given as row counts."""
    _, rank = np.unique(scores, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    positive = np.add.reduceat((weights_BN * labels)[:, order], starts, axis=1, dtype=np.float64)
    negative = np.add.reduceat((weights_BN * (1 - labels))[:, order], starts, axis=1, dtype=np.float64)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide((positive * (below + negative / 2)).sum(axis=1), pairs, out=np.full(len(pairs), np.nan),
                     where=pairs > 0)


def uauc(scores: np.ndarray, labels: np.ndarray, users: list[str]) -> float:
    """Unweighted mean of the AUC of the users that have both labels."""
    by_user: dict[str, list[int]] = {}
    for index, user in enumerate(users):
        by_user.setdefault(user, []).append(index)
    values = [auc_of_samples(scores[rows], labels[rows], np.ones((1, len(rows)), dtype=np.int64))[0]
              for rows in by_user.values() if 0 < labels[rows].sum() < len(rows)]
    return float(np.mean(values)) if values else float("nan")


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def training_line(checkpoint: pathlib.Path) -> str:
    """What a checkpoint folder's metrics.jsonl says about the run: examples, time, last losses."""
    try:
        lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines() if line]
    except (OSError, ValueError):
        return ""
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return ""
    seconds = sum(line["step_seconds"] for line in steps)
    tokens = sum(line["tokens_per_s"] * line["step_seconds"] for line in steps)
    tail = steps[-40:]
    loss = sum(line["loss"] for line in tail) / len(tail)
    examples = sum(line["examples"] for line in steps)
    return (f"GraphLoRA trained on {examples:,} examples in {seconds / 60:.1f} minutes "
            f"({tokens / max(seconds, 1e-9):,.0f} tokens/s); loss of the last {len(tail)} steps {loss:.3f}.")


def with_section(document: str, name: str, text: str) -> str:
    """A Markdown document whose section "## name" holds the text; the other sections stay."""
    section = f"## {name}\n\n{text}\n"
    before, heading, rest = document.partition(f"## {name}\n")
    if not heading:
        return f"{document.rstrip()}\n\n{section}".lstrip()
    _, next_heading, after = rest.partition("\n## ")
    return before + section + (next_heading + after if next_heading else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="table of recommenders on the same test rows")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="dataset directory")
    parser.add_argument("--predictions", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--main", default="GraphLoRA", help="the model whose paired differences are reported")
    parser.add_argument("--simple", default="matrix factorization", help="names (comma-separated) that count as simple")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="folder of the main model's run")
    parser.add_argument("--title", default="Test rows")
    parser.add_argument("--markdown", type=pathlib.Path, help="also write the table to this file")
    parser.add_argument("--section", help="replace only this section of the file")
    parser.add_argument("--next", action="append", default=[], help="a line on what to try next")
    arguments = parser.parse_args()

    models: dict[str, np.ndarray] = {}
    pairs = labels = None
    for argument in arguments.predictions:
        name, _, path = argument.partition("=")
        these_pairs, these_labels, scores = read_predictions(pathlib.Path(path))
        if pairs is None:
            pairs, labels = these_pairs, these_labels
        elif these_pairs != pairs or (these_labels != labels).any():
            sys.exit(f"{path}: other rows than in the first predictions file")
        models[name] = scores
    models = {**simple_scores(arguments.data, pairs), **models}
    users = [user for user, _ in pairs]

    rng = np.random.default_rng(0)
    rows = len(pairs)
    weights_BN = rng.multinomial(rows, np.full(rows, 1 / rows), size=BOOTSTRAP_SAMPLES)
    ones = np.ones((1, rows), dtype=np.int64)
    auc = {name: auc_of_samples(scores, labels, ones)[0] for name, scores in models.items()}
    samples = {name: auc_of_samples(scores, labels, weights_BN) for name, scores in models.items()}

    width = max(map(len, models)) + 2
    counted = f"{rows:,} rows of {len(set(users)):,} users, {int(labels.sum()):,} liked"
    lines = [f"{arguments.title}: {counted}", ""]
    lines += [f"| {'model':<{width}} | AUC         | UAUC |", f"|{'-' * (width + 2)}|-------------|------|"]
    for name, scores in models.items():
        error = np.nanstd(samples[name], ddof=1)
        value = f"{auc[name]:.3f} ± {error:.3f} | {uauc(scores, labels, users):.3f}".replace("0.", ".")
        lines.append(f"| {name:<{width}} | {value} |")
    lines.append("")

    if arguments.main in models:
        simple = [name for name in models if name in SIMPLE + tuple(arguments.simple.split(","))]
        best = max(simple, key=lambda name: auc[name])
        others = [best] + [name for name in models if name not in simple and name != arguments.main]
        for other in others:
            difference = auc[arguments.main] - auc[other]
            error = np.nanstd(samples[arguments.main] - samples[other], ddof=1)
            note = " (the best simple one)" if other == best else ""
            lines.append(f"{arguments.main} − {other}{note}: {difference:+.3f} ± {error:.3f}, paired on the same rows")
        lines.append("")
        if arguments.checkpoint:
            line = training_line(arguments.checkpoint)
            lines += [line, ""] if line else []
    lines += [f"± is the bootstrap standard error of the test sample ({BOOTSTRAP_SAMPLES} samples), "
              "not of training seeds.", f"Machine: {machine()}."]
    text = "\n".join(lines)
    print(text)
    if arguments.next:
        print("\nWhat to try next:")
        for line in arguments.next:
            print(f"  {line}")
    if arguments.markdown:
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        scratch = arguments.markdown.with_suffix(".tmp")
        if arguments.section:
            old = arguments.markdown.read_text(encoding="utf-8") if arguments.markdown.exists() else ""
            text = with_section(old, arguments.section, text).rstrip()
        scratch.write_text(text + "\n", encoding="utf-8")
        scratch.replace(arguments.markdown)


if __name__ == "__main__":
    main()
