"""Divides a dataset's graph by one call of METIS's own library: metis.py --data DIR --parts P [--constraints 1|2]

The graph of all training positives, METIS_PartGraphKway of libmetis with its defaults, seed 1 and 5 % of imbalance. One
constraint balances nodes; two balance nodes and edges, as `graphlora partition` does. Prints JSON: the call's seconds, the edges cut, the halo
rows (foreign neighbours of each part, summed) and the balance (largest part over the mean). Building the graph is not timed.
"""

import argparse
import ctypes
import ctypes.util
import json
import sys
import time

import numpy as np
from dataset import Dataset

OK, OPTIONS, SEED = 1, 40, 8  # of metis.h, version 5
IMBALANCE = 1.05  # graphlora's, of nodes and of edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--constraints", type=int, choices=(1, 2), default=2)
    arguments = parser.parse_args()
    name = ctypes.util.find_library("metis")
    if name is None:
        sys.exit("libmetis is not installed")
    metis = ctypes.CDLL(name)

    graph = Dataset(arguments.data).adjacency()
    nodes, parts = graph.shape[0], arguments.parts
    offsets, neighbours = graph.indptr.astype(np.int32), graph.indices.astype(np.int32)
    degree = np.diff(offsets)
    weights = np.stack([np.ones_like(degree), degree], axis=1).copy() if arguments.constraints == 2 else None
    options = np.zeros(OPTIONS, dtype=np.int32)
    metis.METIS_SetDefaultOptions(options.ctypes)
    options[SEED] = 1
    imbalance = np.full(arguments.constraints, IMBALANCE, dtype=np.float32)
    owner = np.full(nodes, -1, dtype=np.int32)
    cut = ctypes.c_int32(-1)

    def number(value):
        return ctypes.byref(ctypes.c_int32(value))

    start = time.perf_counter()
    status = metis.METIS_PartGraphKway(
        number(nodes), number(arguments.constraints), offsets.ctypes, neighbours.ctypes,
        weights.ctypes if weights is not None else None, None, None, number(parts), None, imbalance.ctypes, options.ctypes,
        ctypes.byref(cut), owner.ctypes)
    seconds = time.perf_counter() - start
    if status != OK:
        sys.exit(f"METIS returned {status}")

    row = np.repeat(np.arange(nodes), degree)
    foreign = owner[row] != owner[neighbours]
    if foreign.sum() != 2 * cut.value:
        sys.exit(f"METIS tells of {cut.value} edges cut, the division cuts {foreign.sum() / 2}: is it of 64 bits?")
    pairs = np.unique(owner[row[foreign]].astype(np.int64) * nodes + neighbours[foreign])
    in_part, edges = np.bincount(owner, minlength=parts), np.bincount(owner, weights=degree, minlength=parts)
    print(json.dumps({
        "seconds": [seconds], "nodes": nodes, "edges": len(neighbours) // 2, "edge_cut": cut.value, "halo_rows": len(pairs),
        "balance_nodes": float(in_part.max() / in_part.mean()), "balance_edges": float(edges.max() / edges.mean())}))


if __name__ == "__main__":
    main()
