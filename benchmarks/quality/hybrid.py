"""The hybrid scorer beside its components and beside fixed weights, on three data sets.

    SALIENCE_DATA=... python benchmarks/quality/hybrid.py citeulike     # articles, many without any history
    SALIENCE_DATA=... python benchmarks/quality/hybrid.py gowalla       # no content: collaborative and neighbourhoods
    SALIENCE_DATA=... python benchmarks/quality/hybrid.py movielens     # in time order; and ratings
    python benchmarks/quality/hybrid.py citeulike --tune                # how the fixed weights were chosen

Nothing is chosen on test data: settings of the components are those of cold_items.py and gowalla.py, the attention is
trained by ``fit`` on parts of the training data, and the fixed weights are the best of a random search on validation
data, a fifth of the training data (--tune). Fixed weights and single components share the hybrid's fitted components.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

import cold_items
import gowalla as gowalla_als
from salience import ALS, Collaborative, Content, History, HybridScorer, Interactions, ItemKNN, Prior
from salience.datasets import (
    citeulike_words,
    load_citeulike,
    load_gowalla,
    load_movielens,
    movielens_genres,
    movielens_tags,
)
from salience.evaluation import Report, compare, evaluate, splits

CUTOFFS = (50, 100, 150, 200, 250, 300)
# The best of --tune.
FIXED = {
    "citeulike": (1.066, 0.442, 0.242, 0.105, 0.063, 0.22, 0.002),
    "gowalla": (0.232, 0.035, 0.01, 0.392),
}
DRAWS = 80
ATTENTION: dict[str, Any] = {"rounds": 5, "most_users": 10_000, "cutoff": 100}  # of the articles


def articles() -> list:
    words = citeulike_words()[0]
    prior = ALS(128, feature_regularization=cold_items.FEATURE_REGULARIZATION, **cold_items.SETTINGS)
    plain = ALS(128, unobserved_weight=0.01, regularization=0.004, regularization_exponent=1.0, epochs=10)
    return [
        Collaborative(prior, item_features=words, name="words prior"),
        Collaborative(plain),
        Content(words, rank=512),
        History(ItemKNN(500), item_features=words, name="neighbours"),
        History(ItemKNN(100, weighting="degree"), name="graph"),
        History(ItemKNN(500, feature_weight=100.0), item_features=words, name="text neighbours"),
        Prior(),
    ]


def places() -> list:
    return [
        Collaborative(ALS(gowalla_als.FACTORS, **gowalla_als.SETTINGS)),
        History(ItemKNN(100, weighting="degree", binary=True), name="graph"),
        History(ItemKNN(200, binary=True), name="neighbours"),
        Prior(),
    ]


def movies(data: Interactions) -> list:
    genres, tags = movielens_genres(data.items)[0], movielens_tags(data.items, before=float(data.times.max()))[0]
    return [
        Collaborative(ALS(32)), Content(genres, name="genres"), Content(tags, name="tags"),
        History(ItemKNN(100, weighting="degree", binary=True)), Prior(),
    ]  # fmt: skip


def fit(model: HybridScorer, train: Interactions) -> HybridScorer:
    started = time.perf_counter()
    model.fit(train)
    print(f"fitted in {time.perf_counter() - started:.0f} s, {model.component_names}", flush=True)
    return model


def alone(model: HybridScorer) -> dict[str, HybridScorer]:
    """Every component by itself."""
    return {name: model.with_weights(np.eye(len(model.components))[n]) for n, name in enumerate(model.component_names)}


def line(name: str, values: dict[str, float] | np.ndarray) -> None:
    numbers = values.values() if isinstance(values, dict) else values
    print(f"{name:>24}  " + "  ".join(f"{value:.4f}" for value in numbers), flush=True)


def against_fixed(reports: dict[str, Report], metrics: list[str]) -> None:
    """Print paired randomization tests, Holm over the metrics."""
    found = compare(reports, metric=metrics, baseline="fixed weights")
    print(found.table())


def recall_of(lists: np.ndarray, relevant: sp.csr_matrix) -> np.ndarray:
    """Mean recall at CUTOFFS of lists of item rows."""
    total = np.zeros(len(CUTOFFS))
    for ranked, begin, end in zip(lists, relevant.indptr[:-1], relevant.indptr[1:], strict=True):
        hits = np.isin(ranked, relevant.indices[begin:end]).cumsum()
        total += hits[[cut - 1 for cut in CUTOFFS]] / (end - begin)
    return total / len(lists)


def recall_among(model: HybridScorer, test: sp.csr_matrix, items: np.ndarray) -> np.ndarray:
    """Mean recall where only some items are candidates and relevant."""
    relevant = test.multiply(items[None, :]).tocsr()
    relevant.eliminate_zeros()
    users = np.flatnonzero(np.diff(relevant.indptr))
    lists = model.recommend(model.user_map.ids_of(users), max(CUTOFFS), allow=items).rows
    return recall_of(lists, relevant[users])


def cold_users(train: Interactions, test: Interactions) -> None:
    """Leave a tenth of the readers out of training, and let them come with only some of their articles."""
    random, readers = np.random.default_rng(0), np.flatnonzero(np.diff(test.matrix.indptr))
    cold = np.sort(random.choice(readers, len(readers) // 10, replace=False))
    model = fit(HybridScorer(articles(), **ATTENTION), train.select(~np.isin(train.rows, cold)))
    relevant, shown = sp.csr_matrix(test.matrix)[cold], {"hybrid": model, **alone(model)}
    for known in (0, 1, 3, 10):
        matrix = train.matrix[cold].tolil()
        for row, all_of_them in enumerate(matrix.rows):
            kept = sorted(random.permutation(all_of_them)[:known].tolist())
            matrix.rows[row], matrix.data[row] = kept, [1.0] * len(kept)
        histories = matrix.tocsr()
        print(f"users who come with {known} articles: {len(cold)} users")
        for name, one in shown.items():
            lists = one.recommend(model.user_map.ids_of(cold), max(CUTOFFS), interactions=histories).rows
            line(name, recall_of(lists, relevant))


def citeulike() -> None:
    train, test = load_citeulike()
    model = fit(HybridScorer(articles(), **ATTENTION), train)
    metrics = [f"recall@{cut}" for cut in CUTOFFS]
    fixed = model.with_weights(FIXED["citeulike"])
    shown = {"hybrid": model, "fixed weights": fixed, **alone(model)}
    reports = {}
    print(f"{'':>24}  " + "  ".join(metrics))
    for name, one in shown.items():
        reports[name] = evaluate(one, train, test, metrics=metrics)
        line(name, reports[name].values)
    against_fixed({name: reports[name] for name in ("hybrid", "fixed weights")}, metrics)
    counts, relevant = np.bincount(train.matrix.indices, minlength=train.shape[1]), sp.csr_matrix(test.matrix)
    for words, items in (("cold items only", counts == 0), ("warm items only", counts > 0)):
        print(f"{words}: {np.count_nonzero(items)} items")
        for name, one in shown.items():
            line(name, recall_among(one, relevant, items))
    cold_users(train, test)


def gowalla() -> None:
    train, valid, test = load_gowalla()
    both = gowalla_als.together(train, valid)
    data = gowalla_als.weighted(both, gowalla_als.ITEM_POWER)
    model = fit(HybridScorer(places(), rounds=1, held_out_by="time", most_users=30_000), data)
    reports = {}
    for name, one in {"hybrid": model, "fixed weights": model.with_weights(FIXED["gowalla"]), **alone(model)}.items():
        reports[name] = evaluate(one, both, test, metrics=gowalla_als.METRICS)
        line(name, reports[name].values)
    against_fixed({name: reports[name] for name in ("hybrid", "fixed weights")}, list(gowalla_als.METRICS))


def movielens() -> None:
    data = load_movielens()
    split = splits.temporal(data)
    model = fit(HybridScorer(movies(split.train), most_users=600), split.train)
    reports = {}
    for name, one in {"hybrid": model, **alone(model)}.items():
        reports[name] = evaluate(one, split.train, split.test, metrics=["ndcg@10"])
        low, high = reports[name].interval("ndcg@10")
        print(f"{name:>24}  NDCG@10 {reports[name].values['ndcg@10']:.4f} ({low:.4f} to {high:.4f})")
    errors: dict[str, list[float]] = {"hybrid": [], "explicit ALS": []}
    genres, tags = movielens_genres(data.items)[0], movielens_tags(data.items)[0]
    for part in splits.kfold(data, folds=5, seed=0):
        explicit = ALS(feedback="explicit")
        hybrid = HybridScorer(
            [explicit, Content(genres, name="genres"), Content(tags, name="tags"), History(ItemKNN(50), power=1.0)],
            objective="rating",
        ).fit(part.train)
        for name, one in (("hybrid", hybrid), ("explicit ALS", explicit.fit(part.train))):
            errors[name].append(evaluate(one, part.train, part.test, metrics=["rmse"]).values["rmse"])
    for name, values in errors.items():
        print(f"{name:>24}  5-fold RMSE {np.mean(values):.4f}")


def tune(name: str) -> None:
    """Search fixed weights on data that the components have not seen."""
    if name == "citeulike":
        data = load_citeulike()[0]
        held_out = np.random.default_rng(0).random(len(data)) < 0.2
        train, valid, components, metrics = (
            data.select(~held_out),
            data.select(held_out),
            articles(),
            [f"recall@{c}" for c in CUTOFFS],
        )
    else:
        split = splits.temporal(load_gowalla()[0])  # valid was drawn by chance, test was not
        some = np.random.default_rng(0).choice(split.test.shape[0], 6000, replace=False)
        train, valid, components, metrics = (
            gowalla_als.weighted(split.train, gowalla_als.ITEM_POWER),
            split.test.select(np.isin(split.test.rows, some)),
            places(),
            list(gowalla_als.METRICS),
        )
    random, count = np.random.default_rng(1), len(components)
    model = HybridScorer(components, attention="fixed", weights=np.ones(count)).fit(train)
    best: tuple[float, tuple[float, ...]] = (0.0, ())
    for draw in range(DRAWS):
        around = FIXED[name] if draw < 1 or not best[1] else best[1]
        spread = 0.0 if draw == 0 else 1.0 if draw < DRAWS // 2 else 0.4
        weights = tuple(np.round(np.array(around) * np.exp(spread * random.standard_normal(count)), 3).tolist())
        found = evaluate(model.with_weights(weights), train, valid, metrics=metrics).values
        if sum(found.values()) > best[0]:
            best = sum(found.values()), weights
            print(f"{draw}: {best[0]:.4f} {weights} {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known: dict[str, Callable[[], None]] = {"citeulike": citeulike, "gowalla": gowalla, "movielens": movielens}
    parser.add_argument("data", choices=known)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    if options.tune:
        tune(options.data)
    else:
        known[options.data]()


if __name__ == "__main__":
    main()
