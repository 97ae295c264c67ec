"""Compares the two programs of benchmarks/train_speed: train_ratio.py FOLDER WARM_UP_STEPS."""

import json
import pathlib
import statistics
import sys


def main() -> None:
    folder, warm_up = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    hf = [json.loads(path.read_text()) for path in sorted(folder.glob("hf-*.json"))]
    ours, memory = [], 0
    for run in sorted(folder.glob("graphlora-*")):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "loss" in line]
        ours += [line["tokens_per_s"] for line in steps if line["step"] > warm_up]
        memory = max([memory] + [line["peak_memory_bytes"] for line in steps])
    hf_rate = statistics.median(run["tokens_per_s"] for run in hf)
    our_rate = statistics.median(ours)
    print(f"transformers + PEFT  {hf_rate:8.0f} tokens/s  {[round(run['tokens_per_s']) for run in hf]}")
    print(f"graphlora            {our_rate:8.0f} tokens/s  {[round(rate) for rate in ours]}, "
          f"peak memory {memory / 2**30:.2f} GiB")
    print(f"ratio                {our_rate / hf_rate:8.2f}")
    print(f"bf16 products of this model's shapes in the same run: {max(run['matrix_gflops_bf16'] for run in hf)} GFLOP/s")


if __name__ == "__main__":
    main()
