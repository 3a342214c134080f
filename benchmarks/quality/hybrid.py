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
    "gowalla": (1.0, 0.2, 0.1, 0.05),
}
DRAWS = 80


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


def recall_among(
    model: HybridScorer, test: sp.csr_matrix, users: np.ndarray, items: np.ndarray, cuts: tuple
) -> np.ndarray:
    """Mean recall of users where only some items are candidates and relevant."""
    relevant = test[users].multiply(items[None, :]).tocsr()
    relevant.eliminate_zeros()
    counts = np.diff(relevant.indptr)
    keep = counts > 0
    lists = model.recommend(model.user_map.ids_of(users[keep]), max(cuts), allow=items).rows
    relevant = relevant[np.flatnonzero(keep)]
    total = np.zeros(len(cuts))
    for row, ranked in enumerate(lists):
        hits = np.isin(ranked, relevant.indices[relevant.indptr[row] : relevant.indptr[row + 1]]).cumsum()
        total += hits[[cut - 1 for cut in cuts]] / counts[keep][row]
    return total / keep.sum()


def citeulike() -> None:
    train, test = load_citeulike()
    model = fit(HybridScorer(articles()), train)
    metrics = [f"recall@{cut}" for cut in CUTOFFS]
    fixed = model.with_weights(FIXED["citeulike"])
    shown = {"hybrid": model, "fixed weights": fixed, **alone(model)}
    reports = {}
    print(f"{'':>24}  " + "  ".join(metrics))
    for name, one in shown.items():
        reports[name] = evaluate(one, train, test, metrics=metrics)
        line(name, reports[name].values)
    against_fixed({name: reports[name] for name in ("hybrid", "fixed weights")}, metrics)
    counts = np.bincount(train.matrix.indices, minlength=train.shape[1])
    matrix, everybody = sp.csr_matrix(test.matrix), np.flatnonzero(np.diff(test.matrix.indptr))
    few = everybody[np.diff(train.matrix.indptr)[everybody] < 10]
    for words, users, items in (
        ("cold items only", everybody, counts == 0), ("warm items only", everybody, counts > 0),
        ("users with short histories", few, np.ones(len(counts), bool)),
    ):  # fmt: skip
        if len(users):
            print(f"{words}: {len(users)} users, {np.count_nonzero(items)} items")
            for name, one in shown.items():
                line(name, recall_among(one, matrix, users, items, CUTOFFS))


def gowalla() -> None:
    train, valid, test = load_gowalla()
    both = gowalla_als.together(train, valid)
    data = gowalla_als.weighted(both, gowalla_als.ITEM_POWER)
    model = fit(HybridScorer(places(), rounds=1, held_out_by="time", most_users=2000, focus=0.5), data)
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
        train, valid, components, metrics = (
            gowalla_als.weighted(split.train, gowalla_als.ITEM_POWER),
            split.test,
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
