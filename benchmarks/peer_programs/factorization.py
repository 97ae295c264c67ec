"""Matrix factorization of the training rows by another library: factorization.py --data DIR --engine ENGINE [--width C] …

  als      LensKit's BiasedMFScorer, alternating least squares on ratings
  flexmf   LensKit's FlexMFExplicitScorer, mini-batches of ratings with Adam, in PyTorch
  bpr      implicit's BayesianPersonalizedRanking, liked rows against drawn ones

With the library's own settings but for the width, the number of epochs (--epochs; 0: its own) and, for bpr, threads. Scores the test
rows by what was learned, as graphlora does by E·E; nodes without training rows have no embedding there. Prints JSON: rows of
an epoch, seconds of each epoch, AUC over all rows and the mean over users.
"""

import argparse
import json
import os
import time

import numpy as np
from dataset import TEST, TRAIN, Dataset, auc, mean_user_auc


def bpr(data: Dataset, arguments: argparse.Namespace) -> tuple:
    import implicit
    from scipy.sparse import csr_matrix
    rows = data.rows(TRAIN)
    rows = rows[data.label[rows] == 1]
    liked = csr_matrix((np.ones(len(rows), dtype=np.float32), (data.user[rows], data.item[rows])),
                       shape=(data.users, data.items))
    options = {"iterations": arguments.epochs} if arguments.epochs else {}
    model = implicit.bpr.BayesianPersonalizedRanking(factors=arguments.width, num_threads=arguments.threads, use_gpu=False,
                                                     random_state=1, **options)
    seconds = []
    model.fit(liked, show_progress=False, callback=lambda epoch, elapsed, *_: seconds.append(elapsed))
    score = np.einsum("ij,ij->i", model.user_factors[data.user[data.rows(TEST)]],
                      model.item_factors[data.item[data.rows(TEST)]])
    return f"implicit {implicit.__version__}", len(rows), seconds, score


def lenskit(scorer, data: Dataset, arguments: argparse.Namespace) -> tuple:
    import lenskit as library
    import pandas
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions
    rows, test = data.rows(TRAIN), data.rows(TEST)
    frame = pandas.DataFrame({"user_id": data.user[rows], "item_id": data.item[rows], "rating": data.rating[rows]})
    ratings = from_interactions_df(frame, users=np.arange(data.users), items=np.arange(data.items))
    trainer = scorer.create_trainer(ratings, TrainingOptions(
        rng=1, device="cpu", environment={"LK_TORCH_COMPILE": "0"}))  # compiling takes longer than it saves
    seconds = []
    for _ in range(arguments.epochs or scorer.config.epochs):
        start = time.perf_counter()
        trainer.train_epoch()
        seconds.append(time.perf_counter() - start)
    trainer.finalize()
    user, item = ratings.users.numbers(data.user[test]), ratings.items.numbers(data.item[test])
    return f"LensKit {library.__version__}", len(rows), seconds, score_of(scorer, user, item, data)


def score_of(scorer, user: np.ndarray, item: np.ndarray, data: Dataset) -> np.ndarray:
    if hasattr(scorer, "model"):
        import torch
        with torch.inference_mode():
            return scorer.score_items(torch.tensor(user), torch.tensor(item)).numpy()
    rows, test = data.rows(TRAIN), data.rows(TEST)
    known = np.isin(data.user[test], data.user[rows]) & np.isin(data.item[test], data.item[rows])
    product = np.einsum("ij,ij->i", scorer.user_embeddings[user], scorer.item_embeddings[item])
    return known * product + scorer.bias.user_biases[user] + scorer.bias.item_biases[item]


def als(data: Dataset, arguments: argparse.Namespace) -> tuple:
    from lenskit.als import BiasedMFScorer
    return lenskit(BiasedMFScorer(embedding_size=arguments.width), data, arguments)


def flexmf(data: Dataset, arguments: argparse.Namespace) -> tuple:
    from lenskit.flexmf import FlexMFExplicitScorer
    return lenskit(FlexMFExplicitScorer(embedding_size=arguments.width), data, arguments)


ENGINES = {engine.__name__: engine for engine in (als, flexmf, bpr)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["LK_NUM_THREADS"] = str(arguments.threads)
    data = Dataset(arguments.data)
    version, rows, seconds, score = ENGINES[arguments.engine](data, arguments)
    test = data.rows(TEST)
    print(json.dumps({"version": version, "rows": rows, "seconds": seconds, "auc": auc(data.label[test], score),
                      "user_auc": mean_user_auc(data.user[test], data.label[test], score)}))


if __name__ == "__main__":
    main()
