"""RMSE of explicit ALS on ml-latest-small, 5-fold random cross-validation, beside scikit-surprise's SVD.

Both see the same folds and clip to 0.5 .. 5. Settings of ALS are the package's defaults; they were
chosen on a validation part of the first fold's training data (--tune).

    SALIENCE_DATA=... python benchmarks/quality/movielens.py [--tune]
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from salience import ALS, Interactions
from salience.datasets import load_movielens

FOLDS = 5


def rmse(model: ALS, test: Interactions) -> float:
    predicted = model.score(test.users[test.rows], test.items[test.matrix.indices])
    return float(np.sqrt(np.mean((np.clip(predicted, 0.5, 5.0) - test.matrix.data) ** 2.0)))


def svd_rmse(train: Interactions, test: Interactions) -> float | None:
    """Measure scikit-surprise's SVD with its defaults; None where it is not installed."""
    try:
        from surprise import SVD, Dataset, Reader
    except ImportError:
        return None
    data = Dataset.load_from_df(train.to_frame("pandas")[["user", "item", "value"]], Reader(rating_scale=(0.5, 5)))
    model = SVD(random_state=0).fit(data.build_full_trainset())
    users, items = test.users[test.rows].tolist(), test.items[test.matrix.indices].tolist()
    predicted = [model.predict(user, item).est for user, item in zip(users, items, strict=True)]
    return float(np.sqrt(np.mean((np.array(predicted) - test.matrix.data) ** 2)))


def tune(train: Interactions) -> None:
    held_out = np.random.default_rng(1).random(len(train)) < 0.2
    inner, valid = train.select(~held_out), train.select(held_out)
    settings = itertools.product((16, 64), ((0.5, 0.5), (1.0, 0.5), (2.0, 0.5), (0.1, 1.0), (8.0, 0.0)), (10, 15, 20))
    for factors, (ridge, exponent), epochs in settings:
        model = ALS(factors, feedback="explicit", regularization=ridge, regularization_exponent=exponent,
                    epochs=epochs).fit(inner)  # fmt: skip
        print(
            f"factors {factors}, regularization {ridge}, exponent {exponent}, epochs {epochs}: {rmse(model, valid):.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    ratings = load_movielens()
    fold = np.random.default_rng(0).integers(0, FOLDS, len(ratings))
    if options.tune:
        tune(ratings.select(fold != 0))
        return
    ours, theirs = [], []
    for number in range(FOLDS):
        train, test = ratings.select(fold != number), ratings.select(fold == number)
        ours.append(rmse(ALS(feedback="explicit").fit(train), test))
        theirs.append(svd_rmse(train, test))
        print(f"fold {number}: salience ALS {ours[-1]:.4f}, surprise SVD {theirs[-1] or float('nan'):.4f}")
    print(f"mean of {FOLDS} folds: salience ALS {np.mean(ours):.4f}", end="")
    print("" if None in theirs else f", surprise SVD {np.mean([t for t in theirs if t]):.4f}")


if __name__ == "__main__":
    main()
