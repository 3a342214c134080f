"""RMSE and MAE of explicit ALS on ml-latest-small, 5-fold random cross-validation, beside scikit-surprise.

All see the same folds and clip to 0.5 .. 5. Settings of ALS are the package's defaults, chosen on validation data by
als_defaults.py; those of the peers are theirs.

    SALIENCE_DATA=... python benchmarks/quality/movielens.py      # SVD++ takes minutes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from salience import ALS, Interactions
from salience.datasets import load_movielens

FOLDS = 5
Predictions = np.ndarray


def by_salience(train: Interactions, test: Interactions) -> Predictions:
    model = ALS(feedback="explicit").fit(train)
    return np.clip(model.score(test.users[test.rows], test.items[test.matrix.indices]), 0.5, 5.0)


def by_surprise(name: str) -> Callable[[Interactions, Interactions], Predictions] | None:
    """Return a model of scikit-surprise with its defaults; None where it is not installed."""
    try:
        import surprise
    except ImportError:
        return None

    def predict(train: Interactions, test: Interactions) -> Predictions:
        frame = train.to_frame("pandas")[["user", "item", "value"]]
        data = surprise.Dataset.load_from_df(frame, surprise.Reader(rating_scale=(0.5, 5)))
        model = getattr(surprise, name)(random_state=0).fit(data.build_full_trainset())
        pairs = zip(test.users[test.rows].tolist(), test.items[test.matrix.indices].tolist(), strict=True)
        return np.array([model.predict(user, item).est for user, item in pairs])

    return predict


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ratings = load_movielens()
    fold = np.random.default_rng(0).integers(0, FOLDS, len(ratings))
    models: dict[str, Any] = {
        "salience ALS": by_salience,
        **{f"surprise {n}": by_surprise(n) for n in ("SVD", "SVDpp")},
    }
    errors: dict[str, list[tuple[float, float, float]]] = {name: [] for name in models}
    for number in range(FOLDS):
        train, test = ratings.select(fold != number), ratings.select(fold == number)
        for name, predict in models.items():
            if predict is None:
                print(f"{name}: scikit-surprise is not installed")
                continue
            begun = time.perf_counter()
            error = predict(train, test) - test.matrix.data
            spent = time.perf_counter() - begun
            errors[name].append((float(np.sqrt(np.mean(error**2.0))), float(np.abs(error).mean()), spent))
            print(
                f"fold {number}, {name}: RMSE {errors[name][-1][0]:.4f}, MAE {errors[name][-1][1]:.4f}, {spent:.1f} s",
                flush=True,
            )
    for name, found in errors.items():
        if found:
            rmse, mae, spent = np.mean(found, axis=0)
            print(f"mean of {FOLDS} folds, {name}: RMSE {rmse:.4f}, MAE {mae:.4f}, {spent:.1f} s")


if __name__ == "__main__":
    main()
