"""Rows of published tables, one command each: our figure beside the published one, and whether they agree.

    SALIENCE_DATA=... python benchmarks/quality/published.py gowalla-popularity
    python benchmarks/quality/published.py --list       # every row, also those that cannot be reproduced yet

The exit status is 1 where a figure differs from the published one by more than the row allows, and 2 where a row
needs a model that this version does not have. Nothing is tuned here: settings are those of the source.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from salience import ALS, Interactions, Popularity
from salience.datasets import load_citeulike, load_gowalla
from salience.evaluation import Factors, evaluate

BARS = "BARS leaderboard, LightGCN split, full ranking, recall over all relevant items"
TOIS = "Ferrari Dacrema et al., TOIS 2021, additional material, citeulike-t P=10"
TIE_ORDERS = 100
TOIS_CUTOFFS = (50, 100, 150, 200, 250, 300)


@dataclass(frozen=True)
class Row:
    """A row of a published table.

    Attributes
    ----------
    source, model : str
    published : dict of metric to value
    tolerance : float
        Half a unit of the last published digit where the row is determined; more where it depends on a seed.
    data : callable or None
        Returns train and test.
    make : callable or None
        Makes the model; None where this version lacks it.
    note : str
        What the figure depends on, or what is missing.
    tied : bool
        Items of equal popularity are ranked in an order that the source does not give: the published figure
        must be among those of random orders.
    """

    source: str
    model: str
    published: dict[str, float]
    tolerance: float
    data: Callable[[], tuple[Interactions, Interactions]]
    make: Callable[[], Any] | None = None
    note: str = ""
    tied: bool = False


def gowalla() -> tuple[Interactions, Interactions]:
    train, valid, test = load_gowalla()
    return Interactions.from_csr(train.matrix + valid.matrix), test


def tois(*values: float) -> dict[str, float]:
    return {f"recall@{k}": value for k, value in zip(TOIS_CUTOFFS, values, strict=True)}


def bars(recall: float, ndcg: float) -> dict[str, float]:
    return {"recall@20": recall, "ndcg@20": ndcg}


def tois_als() -> ALS:
    """Set ALS up with the table's settings: confidence 1 + 50 log(1 + 1 / 0.0032) on observed pairs, ridge 0.01."""
    extra = 50 * np.log1p(1 / 0.0032)
    return ALS(49, alpha=extra, unobserved_weight=1.0, regularization=0.01 * extra / (1 + extra),
               regularization_exponent=0.0, epochs=105)  # fmt: skip


ROWS = {
    "gowalla-popularity": Row(BARS, "ItemPop", bars(0.0416, 0.0317), 5e-5, gowalla, Popularity),
    "gowalla-itemknn": Row(BARS, "ItemKNN", bars(0.1570, 0.1214), 5e-5, gowalla, note="ItemKNN"),
    "gowalla-ease": Row(BARS, "EASE", bars(0.1765, 0.1467), 5e-5, gowalla, note="EASE"),
    "citeulike-popularity": Row(
        TOIS, "TopPop", tois(0.0578, 0.0862, 0.1100, 0.1257, 0.1416, 0.1568), 5e-5, load_citeulike, Popularity,
        f"items of equal popularity in {TIE_ORDERS} random orders", tied=True,
    ),
    "citeulike-als": Row(
        TOIS, "iALS", tois(0.2338, 0.3107, 0.3566, 0.3925, 0.4175, 0.4374), 0.005, load_citeulike, tois_als,
        "depends on the starting point",
    ),
    "citeulike-itemknn": Row(
        TOIS, "ItemKNN CF cosine", tois(0.2133, 0.2658, 0.2964, 0.3173, 0.3342, 0.3457), 5e-4, load_citeulike,
        note="ItemKNN",
    ),
    "citeulike-ease": Row(
        TOIS, "EASE", tois(0.2130, 0.2611, 0.2886, 0.3084, 0.3253, 0.3383), 5e-4, load_citeulike, note="EASE"
    ),
    "citeulike-hybrid": Row(
        TOIS, "ItemKNN CFCBF cosine", tois(0.2675, 0.3490, 0.3939, 0.4246, 0.4519, 0.4740), 5e-4, load_citeulike,
        note="item features in ItemKNN",
    ),
}  # fmt: skip


def figures_of_tie_orders(train: Interactions, test: Interactions, metrics: list[str]) -> np.ndarray:
    """Measure popularity with equal counts in random orders; shape (orders, metrics)."""
    counts = np.bincount(train.matrix.indices, minlength=train.shape[1]).astype(np.float32)
    everyone = np.ones((train.shape[0], 1), np.float32)
    found = []
    for seed in range(TIE_ORDERS):
        order = np.random.default_rng(seed).random(len(counts), np.float32) / 2
        report = evaluate(Factors(everyone, (counts + order)[:, None]), train, test, metrics=metrics)
        found.append([report.values[metric] for metric in metrics])
    return np.array(found)


def reproduce(name: str) -> int:
    """Fit, measure and print one row; returns the exit status."""
    row = ROWS[name]
    print(f"{name}: {row.model} ({row.source})")
    if row.make is None:
        print(f"not reproducible yet: needs {row.note}, which this version does not have")
        return 2
    train, test = row.data()
    started = time.perf_counter()
    model = row.make().fit(train)
    fitted = time.perf_counter()
    report = evaluate(model, train, test, metrics=list(row.published))
    print(f"fitted in {fitted - started:.1f} s, evaluated in {time.perf_counter() - fitted:.1f} s")
    ours = np.array([list(report.values.values())])
    if row.tied:
        ours = np.concatenate([ours, figures_of_tie_orders(train, test, list(row.published))])
    agrees = True
    for (metric, published), low, high in zip(row.published.items(), ours.min(axis=0), ours.max(axis=0), strict=True):
        value = report.values[metric]
        near = low - row.tolerance <= published <= high + row.tolerance
        agrees &= near
        verdict = "agrees" if near else f"DIFFERS by {value - published:+.4f}"
        spread = f" (orders of ties: {low:.4f} to {high:.4f})" if row.tied else ""
        print(f"{metric:>10}  ours {value:.5f}{spread}  published {published:.4f}  {verdict}")
    users = report.counts[next(iter(row.published))]
    print(f"{users:,} users; tolerance {row.tolerance:g}" + (f": {row.note}" if row.note else ""))
    return 0 if agrees else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list or options.row is None:
        for name, row in ROWS.items():
            print(f"{name:22} {row.model:22} {'' if row.make else f'not yet: needs {row.note}'}")
        return
    sys.exit(reproduce(options.row))


if __name__ == "__main__":
    main()
