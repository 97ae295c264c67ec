"""What the peers' programs share: a dataset of `graphlora prepare`, and timing."""

import pathlib
import sys
import time

import numpy as np
from safetensors import safe_open

TRAIN, TEST = 0, 2


class Dataset:
    """Columns of interactions.safetensors, and the graph of training positives. Nodes: users, then items."""

    def __init__(self, directory: str):
        path = pathlib.Path(directory)
        with safe_open(path / "interactions.safetensors", framework="numpy") as file:
            self.user, self.item, self.label, self.rating, self.split = (
                file.get_tensor(name) for name in ("user", "item", "label", "rating", "split"))
        with safe_open(path / "users.safetensors", framework="numpy") as file:
            self.users = file.get_slice("id_offsets").get_shape()[0] - 1
        with safe_open(path / "items.safetensors", framework="numpy") as file:
            self.items = file.get_slice("id_offsets").get_shape()[0] - 1
        self.nodes = self.users + self.items

    def rows(self, split: int) -> np.ndarray:
        return np.flatnonzero(self.split == split)

    def edges(self) -> np.ndarray:
        """(2, 2·edges) node ids, both directions."""
        liked = (self.split == TRAIN) & (self.label == 1)
        user, item = self.user[liked], self.item[liked] + self.users
        return np.stack([np.concatenate([user, item]), np.concatenate([item, user])])

    def adjacency(self):
        """The same as a scipy CSR matrix of ones."""
        from scipy.sparse import csr_array
        row, column = self.edges()
        return csr_array((np.ones(len(row), dtype=np.float32), (row, column)), shape=(self.nodes, self.nodes))


def seconds_of(body, repetitions: int) -> list[float]:
    """Wall time of each call, after one that is not counted."""
    body()
    result = []
    for _ in range(repetitions):
        start = time.perf_counter()
        body()
        result.append(time.perf_counter() - start)
    return result


def auc(label: np.ndarray, score: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score
    if not np.isfinite(score).all():
        sys.exit("the peer's scores are not finite")
    return float(roc_auc_score(label, score))


def mean_user_auc(user: np.ndarray, label: np.ndarray, score: np.ndarray) -> float:
    """Unweighted, over users with both labels."""
    import pandas
    frame = pandas.DataFrame({"user": user, "label": label.astype(float), "score": score})
    frame["rank"] = frame.groupby("user")["score"].rank() * frame["label"]
    users = frame.groupby("user").agg(rows=("label", "size"), liked=("label", "sum"), ranks=("rank", "sum"))
    users = users[(users.liked > 0) & (users.liked < users.rows)]
    above = users.ranks - users.liked * (users.liked + 1) / 2
    return float((above / (users.liked * (users.rows - users.liked))).mean())
