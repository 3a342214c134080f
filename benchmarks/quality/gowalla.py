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
# Chosen by --tune on valid.
SETTINGS = {
    "unobserved_weight": 0.01,
    "regularization": 0.003,
    "regularization_exponent": 1.0,
    "epochs": 6,
}


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


def tune(train: Interactions, valid: Interactions, factors: int) -> None:
    ridges = ((0.002, 1.0), (0.003, 1.0), (0.005, 1.0), (0.05, 0.5), (0.1, 0.5), (0.2, 0.5))
    for weight, (ridge, exponent), epochs in itertools.product((0.005, 0.01, 0.02), ridges, (6, 8, 16)):
        model = ALS(
            factors,
            unobserved_weight=weight,
            regularization=ridge,
            regularization_exponent=exponent,
            epochs=epochs,
        ).fit(train)
        report = evaluate(model, train, valid, metrics=METRICS)
        figures = (f"{report.values[metric]:.5f}" for metric in METRICS)
        print(weight, ridge, exponent, epochs, *figures, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--factors", type=int, default=256)
    options = parser.parse_args()
    train, valid, test = load_gowalla()
    if options.tune:
        tune(train, valid, options.factors)
        return
    both = Interactions.from_csr(train.matrix + valid.matrix)
    started = time.perf_counter()
    model = ALS(options.factors, **SETTINGS).fit(both)
    print(f"fit: {time.perf_counter() - started:.1f} s, {SETTINGS}")
    report = evaluate(model, both, test, metrics=METRICS)
    print(report.table())
    check = independent(model, both, test)
    for metric in METRICS:
        difference = abs(check[metric] - report.values[metric])
        print(f"{metric}: {report.values[metric]:.6f}, independently {check[metric]:.6f} (difference {difference:.1e})")
        assert difference < 1e-6, metric


if __name__ == "__main__":
    main()
