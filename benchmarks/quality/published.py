"""Rows of published tables, one command each: our figure beside the published one, and whether they agree.

    SALIENCE_DATA=... python benchmarks/quality/published.py gowalla-popularity
    python benchmarks/quality/published.py --list

The exit status is 1 where a figure differs from the published one by more than the row allows. Nothing is tuned on
test: settings are those of the source or, where it gives none, found on training data by the source's protocol.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import published_models as models
from salience import Interactions, Popularity
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
        Half a unit of the last published digit where the row is determined; more where the note says what it
        depends on.
    data : callable
        Returns train and test.
    fit : callable
        From train to what is evaluated.
    note : str
        What the figure depends on.
    spread : callable, optional
        From train, test and metrics to the figures, shape (n, metrics), of everything that the source may have meant:
        the published ones must be among them.
    """

    source: str
    model: str
    published: dict[str, float]
    tolerance: float
    data: Callable[[], tuple[Interactions, Interactions]]
    fit: Callable[[Interactions], Any]
    note: str = ""
    spread: Callable[[Interactions, Interactions, list[str]], np.ndarray] | None = None


def gowalla() -> tuple[Interactions, Interactions]:
    train, valid, test = load_gowalla()
    return Interactions.from_csr(train.matrix + valid.matrix), test


def popularity(train: Interactions) -> Popularity:
    return Popularity().fit(train)


def tois(*values: float) -> dict[str, float]:
    return {f"recall@{k}": value for k, value in zip(TOIS_CUTOFFS, values, strict=True)}


def bars(recall: float, ndcg: float, *others: float) -> dict[str, float]:
    """Name the columns of BARS; ``others`` are recall and NDCG at 50, hit rates at 20 and 50."""
    names = ("recall@20", "ndcg@20", "recall@50", "ndcg@50", "hit_rate@20", "hit_rate@50")
    return dict(zip(names, (recall, ndcg, *others), strict=False))


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


def figures_of_scalings(train: Interactions, test: Interactions, metrics: list[str]) -> np.ndarray:
    """Measure the hybrid neighbourhoods with every scaling of the words of an article."""
    reports = [evaluate(models.tois_hybrid(train, by), train, test, metrics=metrics) for by in models.SCALINGS]
    return np.array([list(report.values.values()) for report in reports])


ROWS = {
    "gowalla-popularity": Row(BARS, "ItemPop", bars(0.0416, 0.0317), 5e-5, gowalla, popularity),
    "gowalla-itemknn": Row(
        BARS, "ItemCF", bars(0.1570, 0.1214, 0.2549, 0.1527, 0.5094, 0.6650), 6e-4, gowalla, models.bars_itemknn,
        "which of equally similar neighbours are kept",
    ),
    "gowalla-ease": Row(
        BARS, "EASE", bars(0.1765, 0.1467, 0.2701, 0.1760, 0.5727, 0.7081), 1e-4, gowalla, models.bars_ease,
        "rounding in float32, here and there",
    ),
    "gowalla-gfcf": Row(
        BARS, "GF-CF", bars(0.1849, 0.1518), 1e-4, gowalla, models.graph_filter, "the precision of 256 singular vectors"
    ),
    "citeulike-popularity": Row(
        TOIS, "TopPop", tois(0.0578, 0.0862, 0.1100, 0.1257, 0.1416, 0.1568), 5e-5, load_citeulike, popularity,
        f"the order of items of equal popularity ({TIE_ORDERS} at random)", figures_of_tie_orders,
    ),
    "citeulike-als": Row(
        TOIS, "iALS", tois(0.2338, 0.3107, 0.3566, 0.3925, 0.4175, 0.4374), 0.005, load_citeulike, models.tois_als,
        "the starting point",
    ),
    "citeulike-itemknn": Row(
        TOIS, "ItemKNN CF cosine", tois(0.2133, 0.2658, 0.2964, 0.3173, 0.3342, 0.3457), 0.005, load_citeulike,
        models.tois_itemknn, "settings that the source does not give, searched as it did",
    ),
    "citeulike-ease": Row(
        TOIS, "EASE", tois(0.2130, 0.2611, 0.2886, 0.3084, 0.3253, 0.3383), 0.005, load_citeulike, models.tois_ease,
        "a setting that the source does not give, searched as it did",
    ),
    "citeulike-cbf": Row(
        TOIS, "ItemKNN CBF jaccard", tois(0.1681, 0.2342, 0.2851, 0.3210, 0.3505, 0.3761), 0.005, load_citeulike,
        models.tois_content, "settings that the source does not give, the best of nine by its protocol",
    ),
    "citeulike-hybrid": Row(
        TOIS, "ItemKNN CFCBF cosine", tois(0.2675, 0.3490, 0.3939, 0.4246, 0.4519, 0.4740), 5e-5, load_citeulike,
        models.tois_hybrid, "how the source scaled an article's words: by the largest, the sum or the length",
        figures_of_scalings,
    ),
}  # fmt: skip


def reproduce(name: str) -> int:
    """Fit, measure and print one row; returns the exit status."""
    row = ROWS[name]
    print(f"{name}: {row.model} ({row.source})")
    train, test = row.data()
    started = time.perf_counter()
    model = row.fit(train)
    fitted = time.perf_counter()
    report = evaluate(model, train, test, metrics=list(row.published))
    print(f"fitted in {fitted - started:.1f} s, evaluated in {time.perf_counter() - fitted:.1f} s")
    ours = np.array([list(report.values.values())])
    if row.spread is not None:
        ours = np.concatenate([ours, row.spread(train, test, list(row.published))])
    agrees = True
    for (metric, published), low, high in zip(row.published.items(), ours.min(axis=0), ours.max(axis=0), strict=True):
        value = report.values[metric]
        near = low - row.tolerance <= published <= high + row.tolerance
        agrees &= near
        verdict = "agrees" if near else f"DIFFERS by {value - published:+.4f}"
        spread = f" ({low:.4f} to {high:.4f})" if row.spread is not None else ""
        print(f"{metric:>10}  ours {value:.5f}{spread}  published {published:.4f}  {verdict}")
    users = report.counts[next(iter(row.published))]
    print(f"{users:,} users; tolerance {row.tolerance:g}" + (f", depends on {row.note}" if row.note else ""))
    return 0 if agrees else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list or options.row is None:
        for name, row in ROWS.items():
            print(f"{name:22} {row.model:22} {row.source}")
        return
    sys.exit(reproduce(options.row))


if __name__ == "__main__":
    main()
