"""Recall and NDCG of ALS on Gowalla (the LightGCN split), as in the published tables.

Settings are chosen on valid alone (--tune); the final model is fitted on train + valid and measured
on test once, by the package and by an independent NumPy computation that must agree to 1e-6.

    SALIENCE_DATA=... python benchmarks/quality/gowalla.py [--tune]
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from salience import ALS, Interactions
from salience.datasets import load_gowalla
from salience.evaluation import evaluate

METRICS = ("recall@20", "ndcg@20")
FACTORS = 1024
# The best of --tune on valid.
SETTINGS = {
    "unobserved_weight": 0.045,
    "regularization": 0.002,
    "regularization_exponent": 1.0,
    "epochs": 5,
}
ITEM_POWER = 0.35


def weighted(data: Interactions, item_power: float) -> Interactions:
    """Give interactions with popular items less confidence; the mean stays 1."""
    items = np.bincount(data.matrix.indices, minlength=data.shape[1])
    values = (items / items.mean())[data.matrix.indices] ** -item_power
    return data.weighted(values / values.mean())


def together(train: Interactions, valid: Interactions) -> Interactions:
    """Train and valid, whose times, as there are none, are the middle of the lists."""
    middle = np.full(len(valid), 0.5)
    return train.joined(Interactions(valid.matrix, valid.user_map, valid.item_map, middle))


def independent(model: ALS, train: Interactions, test: Interactions) -> dict[str, float]:
    """Recall@20 and NDCG@20 from the factors alone: dense float64 scores, one user at a time."""
    users = np.flatnonzero(np.diff(test.matrix.indptr))
    discounts = 1.0 / np.log2(np.arange(2, 22))
    items = model.item_factors_.astype(np.float64)
    recalls, gains = [], []
    for user in users:
        scores = np.float32(items @ model.user_factors_[user].astype(np.float64))
        scores[train.matrix[user].indices] = -np.inf
        best = np.lexsort((np.arange(len(scores)), -scores))[:20]
        relevant = set(test.matrix[user].indices.tolist())
        hits = np.array([item in relevant for item in best.tolist()])
        recalls.append(hits.sum() / len(relevant))
        gains.append(discounts[hits].sum() / discounts[: min(20, len(relevant))].sum())
    return {"recall@20": float(np.mean(recalls)), "ndcg@20": float(np.mean(gains))}


def tune(train: Interactions, valid: Interactions) -> None:
    """Print what settings give on valid after four, five and six epochs, the best last."""
    found = []
    pairs = ((0.02, 0.001), (0.02, 0.002), (0.045, 0.001), (0.045, 0.002), (0.1, 0.0005), (0.1, 0.001), (0.2, 0.0006))
    for (weight, ridge), power in itertools.product(pairs, (0.0, 0.25, 0.35)):
        data = weighted(train, power)

        def measure(epoch: int, model: ALS, *, data: Interactions = data, power: float = power) -> None:
            if epoch < 4:
                return
            values = evaluate(model, data, valid, metrics=METRICS).values
            words = f"weight {model.unobserved_weight}, regularization {model.regularization}, item power {power}"
            found.append((sum(values.values()), f"{values} {words}, epochs {epoch}"))
            print(found[-1][1], flush=True)

        ALS(FACTORS, unobserved_weight=weight, regularization=ridge, regularization_exponent=1.0, epochs=6).fit(
            data, callback=measure
        )
    print("best:", max(found)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    train, valid, test = load_gowalla()
    if options.tune:
        tune(train, valid)
        return
    both = weighted(together(train, valid), ITEM_POWER)
    started = time.perf_counter()
    model = ALS(FACTORS, **SETTINGS).fit(both)
    print(f"fit: {time.perf_counter() - started:.1f} s, {FACTORS} factors, {SETTINGS}")
    report = evaluate(model, both, test, metrics=METRICS)
    print(report.table())
    check = independent(model, both, test)
    for metric in METRICS:
        difference = abs(check[metric] - report.values[metric])
        print(f"{metric}: {report.values[metric]:.6f}, independently {check[metric]:.6f} (difference {difference:.1e})")
        assert difference < 1e-6, metric


if __name__ == "__main__":
    main()
