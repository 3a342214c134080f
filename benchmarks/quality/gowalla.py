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
    "unobserved_weight": 0.02,
    "regularization": 0.003,
    "regularization_exponent": 1.0,
    "epochs": 16,
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
    grid = itertools.product((0.003, 0.01, 0.02, 0.05), (0.001, 0.003, 0.01, 0.03), (0.5, 1.0))
    for weight, ridge, exponent in grid:
        # At exponent 0.5 a ridge of the same strength is about twenty times larger.
        scale = 20.0 if exponent == 0.5 else 1.0
        model = ALS(factors, unobserved_weight=weight, regularization=ridge * scale,
                    regularization_exponent=exponent, epochs=12).fit(train)  # fmt: skip
        report = evaluate(model, train, valid, metrics=METRICS)
        print(
            f"{weight:6} {ridge * scale:7.4f} {exponent}",
            *(f"{report.values[m]:.5f}" for m in METRICS),
            flush=True,
        )


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
