#!/usr/bin/env python3
"""Computes ranking metrics a second time, from the dataset's and the embeddings' files with numpy and scikit-learn,
and compares them with `evaluate --ranking` on 1 to 4 ranks.

usage: check_ranking.py GRAPHLORA MPIEXEC [DATA PRETRAINED]

DATA is a prepared dataset, PRETRAINED the embeddings of it; without them small ones are made, one a split rule. Exit
code 77 (skipped) where the Python packages are not installed.
"""
import csv
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    import numpy as np
    from safetensors.numpy import load_file
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TRAIN, VALID, TEST = range(3)


def metrics(data, pretrained, split, k, permute=False):
    """Means over users; `permute`: with the items' rows of E in another order, which must not go unnoticed."""
    rows = load_file(data / "interactions.safetensors")
    about = json.loads((data / "dataset.json").read_text())
    users, items = about["users"], about["items"]
    e = np.concatenate([load_file(file)["weight"] for file in sorted(pretrained.glob("embeddings-*.safetensors"))])
    e = e.astype(np.float64)
    if permute:
        e[users:] = np.roll(e[users:], 1, axis=0)
    bias = json.loads((pretrained / "pretrain.json").read_text())["bias"]
    recall, ndcg, mrr = [], [], []
    for user in range(users):
        own = rows["user"] == user
        tested = own & (rows["split"] == split)
        relevant = np.zeros(items)
        relevant[rows["item"][tested & (rows["label"] == 1)]] = 1
        if not relevant.any():
            continue
        query = e[user]
        if not query.any():
            before = own & (rows["time"] < rows["time"][tested].min()) & (rows["label"] == 1)
            liked = e[users + rows["item"][before]]
            liked = liked[liked.any(axis=1)]
            query = liked.mean(axis=0) if len(liked) else query.copy()
            if bias:
                query[-2:] = 0, 1
        score = (e[users:] @ query).astype(np.float32).astype(np.float64)
        seen = rows["item"][own & (rows["split"] < split)]
        # scikit-learn averages over ties; here the lesser item comes first.
        order = np.lexsort((np.arange(items), -score))
        place_score = np.empty(items)
        place_score[order] = -np.arange(items)
        kept = np.setdiff1d(np.arange(items), seen)
        truth, place_score = relevant[kept], place_score[kept]
        ranked = truth[np.argsort(-place_score)]
        recall.append(ranked[:k].sum() / truth.sum())
        ndcg.append(ndcg_score([truth], [place_score], k=k))
        first = np.zeros_like(truth)
        first[np.argsort(-place_score)[np.argmax(ranked)]] = 1
        # With one relevant item the average precision is the reciprocal rank.
        mrr.append(label_ranking_average_precision_score([first], [place_score]))
    return {"users": len(recall), "recall": np.mean(recall), "ndcg": np.mean(ndcg), "mrr": np.mean(mrr)}


def make_inputs(graphlora, directory, rule):
    rng = random.Random(4)
    with open(directory / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "rating", "time", "title"])
        for user in range(60):
            taste = user % 4
            for item in rng.sample(range(120), rng.randrange(4, 40)):
                likes = (item % 4 == taste) != (rng.random() < 0.2)
                # Some users come late, so that a split by time has some without training rows.
                writer.writerow([user, item, 5 if likes else 2, rng.randrange(1000) + (900 if user > 50 else 0),
                                 f"Title {item}"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    data, pretrained = directory / "dataset", directory / "pretrained"
    for words in (["prepare", "--input", directory / "ratings.csv", "--format", "csv", "--split", rule, "--output", data],
                  ["pretrain", "--data", data, "--output", pretrained, "--pretrain.width", "16"]):
        subprocess.run([graphlora, *map(str, words)], check=True, env=environment, capture_output=True)
    return data, pretrained


def compare(graphlora, mpiexec, data, pretrained):
    for split, name in ((VALID, "valid"), (TEST, "test")):
        for k in (1, 10):
            expected = metrics(data, pretrained, split, k)
            wrong = metrics(data, pretrained, split, k, permute=True)
            assert wrong["mrr"] != expected["mrr"], "the metrics do not tell items apart"
            for ranks in (1, 2, 3, 4) if k == 10 else (1,):
                words = [graphlora, "evaluate", "--data", data, "--pretrained", pretrained, "--split", name,
                         "--max-examples", "50", "--ranking", "--ranking.k", str(k)]
                if ranks > 1:
                    words = [mpiexec, "--oversubscribe", "--bind-to", "none", "-np", str(ranks), *words]
                environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                               "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
                done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment)
                assert done.returncode == 0, done.stderr
                got = json.loads(done.stdout)["ranking"]
                assert got["protocol"] == "full" and got["scorer"] == "embeddings", got
                assert got["users"] == expected["users"], (got, expected)
                for metric in ("recall", "ndcg", "mrr"):
                    assert abs(got[metric] - expected[metric]) < 1e-12, (name, k, ranks, metric, got, expected)
            print(f"{data.parent.name or data}: {name}, K = {k}: {expected['users']} users, recall "
                  f"{expected['recall']:.4f}, NDCG {expected['ndcg']:.4f}, MRR {expected['mrr']:.4f}")


def main():
    graphlora, mpiexec = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    if len(sys.argv) > 3:
        compare(graphlora, mpiexec, pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4]))
        return
    for rule in ("user-time", "time"):
        with tempfile.TemporaryDirectory() as folder:
            compare(graphlora, mpiexec, *make_inputs(graphlora, pathlib.Path(folder), rule))


if __name__ == "__main__":
    main()
