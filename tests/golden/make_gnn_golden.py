#!/usr/bin/env python3
"""Writes tests/golden/gnn.json: a small user-item graph, weights and the output g of each GNN, computed edge
by edge with NumPy from the definitions. Usage: make_gnn_golden.py [OUTPUT]"""
import json
import pathlib
import sys

import numpy as np

USERS, ITEMS, WIDTH, HIDDEN, RANK, HEADS = 7, 5, 6, 4, 3, 2
# In order of time; users and items are numbered by first appearance. The last user and item have no liked row.
LIKED = [(0, 0), (0, 1), (1, 0), (2, 2), (2, 1), (3, 3), (4, 0), (5, 2), (5, 3), (5, 0)]
NOT_LIKED = [(6, 4)]

random = np.random.default_rng(5)
N = USERS + ITEMS
neighbors = [[] for _ in range(N)]
for user, item in LIKED:
    neighbors[user].append(USERS + item)
    neighbors[USERS + item].append(user)
degree = [len(n) for n in neighbors]
E = random.normal(size=(N, WIDTH))


def weights(shapes):
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def spread(x, scale):
    """Sum over neighbors j of scale(i, j)·x[j]."""
    y = np.zeros_like(x)
    for i in range(N):
        for j in neighbors[i]:
            y[i] += scale(i, j) * x[j]
    return y


def symmetric(x):
    return spread(x, lambda i, j: 1 / np.sqrt(degree[i] * degree[j]))


def mean(x):
    return spread(x, lambda i, j: 1 / degree[i])


def looped(x):
    y = spread(x, lambda i, j: 1 / np.sqrt((degree[i] + 1) * (degree[j] + 1)))
    return y + x / (np.array(degree)[:, None] + 1)


def linear(w, name, x):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def lightgcn():
    w = weights({"neck.weight": (RANK, WIDTH), "neck.bias": (RANK,)})
    layers = [E]
    for _ in range(3):
        layers.append(symmetric(layers[-1]))
    return w, linear(w, "neck", sum(layers) / 4)


def ngcf():
    w, x = {}, E
    for k, (i, o) in enumerate([(WIDTH, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, RANK)]):
        p = f"gnn.layers.{k}."
        w |= weights({p + "w1.weight": (o, i), p + "w1.bias": (o,), p + "w2.weight": (o, i), p + "w2.bias": (o,)})
        s = symmetric(x)
        x = leaky(linear(w, p + "w1", x + s) + linear(w, p + "w2", s * x))
    return w, x


def gcn():
    w, x = {}, E
    for k, (i, o) in enumerate([(WIDTH, HIDDEN), (HIDDEN, RANK)]):
        p = f"gnn.layers.{k}.linear"
        w |= weights({p + ".weight": (o, i), p + ".bias": (o,)})
        x = looped(x) @ w[p + ".weight"].T + w[p + ".bias"]
        if k == 0:
            x = np.maximum(x, 0)
    return w, x


def graphsage():
    w, x = {}, E
    for k, (i, o) in enumerate([(WIDTH, HIDDEN), (HIDDEN, RANK)]):
        p = f"gnn.layers.{k}."
        w |= weights({p + "self.weight": (o, i), p + "self.bias": (o,),
                      p + "neighbor.weight": (o, i), p + "neighbor.bias": (o,)})
        x = linear(w, p + "self", x) + linear(w, p + "neighbor", mean(x))
        if k == 0:
            x = np.maximum(x, 0)
    return w, x


def gat():
    w, x = {}, E
    for k, (i, o) in enumerate([(WIDTH, HIDDEN // HEADS), (HIDDEN, RANK)]):
        p = f"gnn.layers.{k}."
        w |= weights({p + "linear.weight": (HEADS * o, i), p + "linear.bias": (HEADS * o,),
                      p + "attention_dst": (HEADS * o,), p + "attention_src": (HEADS * o,),
                      p + "attention_bias": (HEADS,)})
        h = linear(w, p + "linear", x)
        heads = []
        for head in range(HEADS):
            part = slice(head * o, (head + 1) * o)
            dst = h[:, part] @ w[p + "attention_dst"][part]
            src = h[:, part] @ w[p + "attention_src"][part]
            y = np.zeros((N, o))
            for n in range(N):
                if not neighbors[n]:
                    continue
                score = np.array([leaky(dst[n] + src[j] + w[p + "attention_bias"][head]) for j in neighbors[n]])
                alpha = np.exp(score - score.max())
                alpha /= alpha.sum()
                y[n] = sum(a * h[j, part] for a, j in zip(alpha, neighbors[n]))
            heads.append(y)
        x = np.concatenate(heads, 1) if k == 0 else sum(heads) / HEADS
        if k == 0:
            x = np.where(x > 0, x, np.expm1(x))
    return w, x


cases = {}
for build in (lightgcn, ngcf, gcn, graphsage, gat):
    w, g = build()
    cases[build.__name__] = {"weights": {name: value.tolist() for name, value in w.items()}, "g": g.tolist()}
golden = {"liked": LIKED, "not_liked": NOT_LIKED, "hidden": HIDDEN, "heads": HEADS, "rank": RANK, "E": E.tolist(),
          "cases": cases}
path = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("gnn.json"))
path.write_text(json.dumps(golden) + "\n")
