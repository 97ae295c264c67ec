"""Writes metrics.json: AUC and UAUC by scikit-learn, for tests/train/metrics_test.cpp.

Usage: .venv/bin/python tests/golden/make_metrics_golden.py
"""

import json
import pathlib

import numpy as np
from sklearn.metrics import roc_auc_score


def case(name, scores, labels, users):
    scores = np.asarray(scores, dtype=np.float32)
    labels = np.asarray(labels)
    users = np.asarray(users)
    both = [u for u in np.unique(users) if len(set(labels[users == u])) == 2]
    aucs = [roc_auc_score(labels[users == u], scores[users == u]) for u in both]
    positives = [int(labels[users == u].sum()) for u in both]
    return {
        "name": name,
        "score": [float(s) for s in scores],
        "label": [int(x) for x in labels],
        "user": [int(x) for x in users],
        "auc": roc_auc_score(labels, scores) if len(set(labels)) == 2 else None,
        "uauc": float(np.mean(aucs)) if aucs else None,
        "uauc_weighted": float(np.average(aucs, weights=positives)) if aucs else None,
        "uauc_users": len(both),
    }


def main():
    rng = np.random.default_rng(0)
    cases = []
    for name, n, users, decimals in [("no ties", 300, 20, 7), ("many ties", 300, 20, 1),
                                     ("few rows a user", 120, 90, 2), ("one user", 50, 1, 1)]:
        labels = rng.integers(0, 2, n)
        scores = np.round(rng.normal(size=n) + 0.7 * labels, decimals)
        cases.append(case(name, scores, labels, rng.integers(0, users, n) * 1_000_000_007))
    cases.append(case("all scores equal", np.zeros(10), [0, 1] * 5, [3] * 10))
    cases.append(case("one label only", rng.normal(size=5), np.ones(5, int), [0, 0, 1, 1, 1]))
    cases.append(case("extreme values", [np.finfo(np.float32).max, -np.finfo(np.float32).max, 0, -0.0, 1e-45],
                      [1, 0, 1, 0, 1], [0] * 5))
    path = pathlib.Path(__file__).with_name("metrics.json")
    path.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
