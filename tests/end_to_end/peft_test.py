#!/usr/bin/env python3
"""peft_test.py GRAPHLORA SOURCE: the whole pipeline on a tiny model against HF transformers + PEFT.

Trains two ranks of fp64 with lambda_gnn = 0, exports the adapter, loads it with
PeftModel.from_pretrained, and computes every test row's margin from the prompts that `inspect`
prints, E that `export` writes and the projector in graphlora.safetensors. They must be the scores
of `evaluate`; AUC and UAUC must be scikit-learn's. Exit code 77: PEFT is not installed.
"""
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from sklearn.metrics import roc_auc_score
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

graphlora, source = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
model_dir = source / "tests/golden/tiny_llama"
os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1")


def run(*arguments, ranks=1):
    launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks > 1 else []
    command = [*launcher, graphlora, *arguments]
    return subprocess.run([str(a) for a in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def write_ratings(path):
    rng = random.Random(4)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user", "item", "rating", "time", "title"])
        for user in range(20):
            for item in rng.sample(range(15), 9):
                liked = (user % 2 == item % 2) != (rng.random() < 0.2)
                out.writerow([f"u{user}", f"m{item}", 5 if liked else 1, rng.randrange(1000), f"The Story, Part {item}"])


with tempfile.TemporaryDirectory() as scratch:
    work = Path(scratch)
    write_ratings(work / "ratings.csv")
    data, checkpoint = work / "dataset", work / "out"
    run("prepare", "--input", work / "ratings.csv", "--format", "csv", "--split", "user-time",
        "--split.test", 0.4, "--output", data)
    run("pretrain", "--data", data, "--output", work / "pretrained", "--pretrain.width", 10, "--precision", "fp64")
    run("train", "--data", data, "--model", model_dir, "--pretrained", work / "pretrained", "--output", checkpoint,
        "--steps", 8, "--batch-size", 16, "--precision", "fp64", "--inject.lambda-gnn", 0, "--inject.layers", "all",
        "--lora.targets", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", "--optim.lr", 0.02, ranks=2)
    predictions = work / "predictions.csv"
    report = json.loads(run("evaluate", "--checkpoint", checkpoint, "--data", data, "--model", model_dir,
                            "--split", "test", "--predictions", predictions, ranks=2))
    for what, target in (("adapter", work / "adapter"), ("embeddings", work / "nodes.safetensors")):
        run("export", "--checkpoint", checkpoint, "--data", data, "--model", model_dir, "--what", what, "--output", target)
    with open(predictions) as file:
        rows = list(csv.DictReader(file))
    prompts = [json.loads(line) for line in run(
        "inspect", "--data", data, "--model", model_dir, "--checkpoint", checkpoint, "--split", "test",
        "--prompts", len(rows), "--json").splitlines()]

    base = AutoModelForCausalLM.from_pretrained(model_dir, torch_dtype=torch.float64)
    peft = PeftModel.from_pretrained(base, work / "adapter", torch_dtype=torch.float64).double().eval()
    step = checkpoint / (checkpoint / "LATEST").read_text().strip()
    weights = load_file(step / "graphlora.safetensors")
    manifest = json.loads((step / "manifest.json").read_text())
    nodes = load_file(work / "nodes.safetensors")
    assert torch.equal(nodes["node_id"], torch.arange(len(nodes["node_id"]))), "node ids are not 0, 1, …"
    assert nodes["E"].dtype == torch.float64 and nodes["z"].shape[1] == 8

    def project(e):
        hidden = torch.relu(weights["projector.0.weight"] @ e + weights["projector.0.bias"])
        return weights["projector.2.weight"] @ hidden + weights["projector.2.bias"]

    def margin(prompt):
        tokens = torch.tensor(prompt["tokens"])
        embeddings = peft.get_input_embeddings()(tokens.clamp_min(0)).detach().clone()
        for position, node in prompt["anchors"]:
            assert tokens[position] == -1
            embeddings[position] = project(nodes["E"][node])
        assert (tokens == -1).sum() == len(prompt["anchors"])
        with torch.no_grad():
            logits = peft(inputs_embeds=embeddings[None]).logits[0, -1]
        return (logits[manifest["yes_token"]] - logits[manifest["no_token"]]).item()

    assert len(prompts) == len(rows) == report["rows"] >= 20
    worst = 0.0
    for prompt, row in zip(prompts, rows):
        assert (prompt["user"], prompt["item"], str(prompt["label"])) == (row["user"], row["item"], row["label"])
        worst = max(worst, abs(margin(prompt) - float(row["score"])))
    # Scores are written in fp32.
    assert worst < 1e-5, f"scores differ from PEFT's by {worst}"

    scores = [float(r["score"]) for r in rows]
    labels = [int(r["label"]) for r in rows]
    assert abs(report["auc"] - roc_auc_score(labels, scores)) < 1e-12
    users = {}
    for row, score, label in zip(rows, scores, labels):
        users.setdefault(row["user"], ([], []))[0].append(label)
        users[row["user"]][1].append(score)
    both = [(y, s) for y, s in users.values() if 0 < sum(y) < len(y)]
    uauc = sum(roc_auc_score(y, s) for y, s in both) / len(both)
    assert report["uauc_users"] == len(both) and abs(report["uauc"] - uauc) < 1e-12
    print(f"{len(rows)} rows: largest difference to PEFT {worst:.2e}; AUC {report['auc']:.4f} as scikit-learn's")
