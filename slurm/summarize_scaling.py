"""summarize_scaling.py --ranks-per-node R --csv FILE NODES=METRICS…: compares training on several numbers of nodes.

METRICS is a run's metrics.jsonl. Medians over its steps, without the first quarter. Efficiency: throughput for each
node, as a share of the first run's. Prints a table and writes the CSV; a run without enough steps is named and the
exit code is 1.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import sys

COLUMNS = ["nodes", "ranks", "steps", "batch_size", "step_seconds", "examples_per_s", "tokens_per_s",
           "exposed_communication", "speedup", "efficiency"]


def measured_steps(path: pathlib.Path) -> list:
    with path.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    steps = [line for line in lines if "step_seconds" in line]
    if len(steps) < 4:
        raise ValueError(f"only {len(steps)} steps")
    return steps[len(steps) // 4:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--csv", type=pathlib.Path, required=True)
    parser.add_argument("runs", nargs="+", metavar="NODES=METRICS")
    arguments = parser.parse_args()

    rows, missing = [], 0
    for run in arguments.runs:
        nodes, _, path = run.partition("=")
        try:
            steps = measured_steps(pathlib.Path(path))
        except (OSError, ValueError) as error:
            print(f"{nodes} nodes: {path}: {error}", file=sys.stderr)
            missing = 1
            continue
        seconds = statistics.median(step["step_seconds"] for step in steps)
        rows.append({
            "nodes": int(nodes),
            "ranks": int(nodes) * arguments.ranks_per_node,
            "steps": len(steps),
            "batch_size": steps[-1]["examples"],
            "step_seconds": seconds,
            "examples_per_s": statistics.median(step["examples"] / step["step_seconds"] for step in steps),
            "tokens_per_s": statistics.median(step["tokens"] / step["step_seconds"] for step in steps),
            "exposed_communication": statistics.median(
                step["exposed_communication_seconds"] / step["step_seconds"] for step in steps),
        })
        speedup = rows[-1]["examples_per_s"] / rows[0]["examples_per_s"]
        rows[-1]["speedup"] = speedup
        rows[-1]["efficiency"] = speedup * rows[0]["nodes"] / rows[-1]["nodes"]

    print(" ".join(f"{column:>{max(len(column), 8)}}" for column in COLUMNS))
    for row in rows:
        print(" ".join(f"{row[column]:>{max(len(column), 8)}.4g}" for column in COLUMNS))
    temporary = arguments.csv.with_name(f"{arguments.csv.name}.tmp-{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(arguments.csv)
    return missing


if __name__ == "__main__":
    sys.exit(main())
