#!/usr/bin/env python3
"""grids_test.py GRAPHLORA SOURCE: SmolLM2-135M in fp32 trains alike on every grid of replicas and tensor ranks:
the losses of 6 steps, dropout on, agree to 1e-4 relative with those of one rank, and the scores of the trained
models to 1e-3. The model is the directory GRAPHLORA_MODEL; exit code 77: that is not set.
"""
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 6
LOSS_LIMIT, SCORE_LIMIT = 1e-4, 1e-3
GRIDS = [(1, 1), (2, 1), (1, 2), (1, 3), (2, 2)]  # replicas, tensor ranks

graphlora, source = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
if not os.environ.get("GRAPHLORA_MODEL"):
    print("skipped: GRAPHLORA_MODEL names no directory of SmolLM2-135M")
    sys.exit(77)
model = Path(os.environ["GRAPHLORA_MODEL"])
cores = len(os.sched_getaffinity(0))


def run(ranks, *arguments):
    # All grids get the machine's cores, as far as they can be shared out.
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // ranks))}
    done = subprocess.run([str(source / "launch/mpirun"), "-np", str(ranks), str(graphlora), *map(str, arguments)],
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments} on {ranks} ranks: exit code {done.returncode}\n{done.stderr}"


def losses_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def scores_of(path):
    with open(path, newline="") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


with tempfile.TemporaryDirectory() as scratch:
    work = Path(scratch)
    run(1, "generate", "--users", 60, "--items", 40, "--interactions", 900, "--communities", 3, "--output",
        work / "data")
    run(1, "pretrain", "--data", work / "data", "--output", work / "pretrained", "--pretrain.epochs", 1,
        "--pretrain.width", 32)
    expected = None
    for replicas, tensor in GRIDS:
        ranks, output = replicas * tensor, work / f"out-{replicas}-{tensor}"
        run(ranks, "train", "--data", work / "data", "--model", model, "--pretrained", work / "pretrained", "--output",
            output, "--precision", "fp32", "--tensor-parallel", tensor, "--steps", STEPS, "--batch-size", 8,
            "--prompt.history", 3, "--optim.warmup", 1, "--optim.lr", 2e-4, "--lora.targets",
            "q_proj,v_proj,o_proj,down_proj", "--inject.layers", "3,15")
        run(1, "evaluate", "--checkpoint", output, "--data", work / "data", "--model", model, "--split", "test",
            "--max-examples", 16, "--precision", "fp32", "--predictions", work / "scores.csv")
        found = losses_of(output), scores_of(work / "scores.csv")
        assert (len(found[0]), len(found[1])) == (STEPS, 16), found
        expected = expected or found
        of_losses, of_scores = (max(abs(a - b) / max(abs(b), 0.1) for a, b in zip(*pair)) for pair in zip(found, expected))
        print(f"D = {replicas}, T = {tensor}: losses {' '.join(f'{loss:.6f}' for loss in found[0])}; greatest relative "
              f"difference {of_losses:.1e}, of scores {of_scores:.1e}", flush=True)
        assert of_losses <= LOSS_LIMIT and of_scores <= SCORE_LIMIT, f"{found} against {expected}"
