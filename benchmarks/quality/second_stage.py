"""Attention over the user's history as a second stage, beside its first stage alone, on Gowalla and citeulike-t.

gowalla: ALS first (settings of gowalla.py), the top 500 looked at again by its item factors; parameters are
trained on the latest fifth of train, then everything is fitted on train + valid and measured on test once.
citeulike: ALS first (settings of cold_items.py; with --words, words are its features), the top 2,000 by vectors of the
words alone; parameters are trained on a fifth of each reader's training articles.

    SALIENCE_DATA=... python benchmarks/quality/second_stage.py gowalla|citeulike [--words] [--factors N]

Prints the metrics of both stages, and of the second with popularity or attention left out; the paired tests; and the
time that each stage takes for a user.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import numpy as np
from scipy.sparse.linalg import svds

from cold_items import FEATURE_REGULARIZATION
from cold_items import SETTINGS as WORD_SETTINGS
from gowalla import ITEM_POWER, SETTINGS, together, weighted
from salience import ALS, Interactions
from salience.datasets import citeulike_words, load_citeulike, load_gowalla
from salience.evaluation import compare, evaluate, splits
from salience.second_stage import HistoryAttention

WORD_DIMENSIONS = 256


class WordALS(ALS):
    """ALS that takes the words along wherever it is fitted."""

    words: Any = None

    def fit(self, interactions: Any, **options: Any) -> WordALS:
        return super().fit(interactions, item_features=self.words, **options)


def report(model: HistoryAttention, train: Interactions, test: Interactions, metrics: tuple[str, ...]) -> None:
    names = ("temperature", "smoothing", "half_life", "mixing", "popularity")
    print("trained:", {name: getattr(model, name) for name in names}, flush=True)
    shown: dict[str, Any] = {"first stage": model.first, "second stage": model}
    if model.popularity > 0:  # what each part of it does
        for name, changed in (("popularity only", {"mixing": 0.0}), ("attention only", {"popularity": 0.0})):
            shown[name] = copy.copy(model)
            shown[name].__dict__.update(changed)
    reports = {name: evaluate(one, train, test, metrics=metrics) for name, one in shown.items()}
    for name, found in reports.items():
        print(name, found.table(), sep="\n")
    print(compare(reports, metric=list(metrics), baseline="second stage").table())
    users = train.users[:4096]
    spent: dict[str, list[float]] = {"first stage": [], "second stage": []}
    for _ in range(3):
        for name, which in (("first stage", model.first), ("second stage", model)):
            started = time.perf_counter()
            which.recommend(users, 20)
            spent[name].append((time.perf_counter() - started) / len(users))
    print("; ".join(f"{name}: {np.median(times) * 1e6:.0f} us a user" for name, times in spent.items()))


def gowalla(factors: int) -> None:
    train, valid, test = load_gowalla()
    first = ALS(factors, **SETTINGS)
    model = HistoryAttention(first)
    split = splits.temporal(train)
    model.fit(weighted(split.train, ITEM_POWER), validation=split.test, refit=False)
    print("validation:", len(model.validation_history_), "settings, best", max(v for _, v in model.validation_history_))
    both = weighted(together(train, valid), ITEM_POWER)
    report(model.fit(both), both, test, ("recall@20", "ndcg@20"))


def citeulike(factors: int, *, with_words: bool) -> None:
    train, test = load_citeulike()
    words = citeulike_words()[0]
    _, values, vectors = svds(words.T.astype(np.float64), k=WORD_DIMENSIONS, v0=np.ones(min(words.shape)))
    meanings = np.ascontiguousarray((values[:, None] * vectors).T, np.float32)
    first: ALS = ALS(factors, **WORD_SETTINGS)
    if with_words:
        first = WordALS(factors, feature_regularization=FEATURE_REGULARIZATION, **WORD_SETTINGS)
        first.words = words
    model = HistoryAttention(first, vectors=meanings, depth=2000)
    inner = splits.random(train, test_fraction=0.2, per_user=True)
    model.fit(inner.train, validation=inner.test, cutoff=100, refit=False)
    print("validation:", len(model.validation_history_), "settings, best", max(v for _, v in model.validation_history_))
    report(model.fit(train), train, test, ("recall@50", "recall@100", "recall@300", "ndcg@100"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("gowalla", "citeulike"))
    parser.add_argument("--words", action="store_true", help="citeulike: words as features of the first stage")
    parser.add_argument("--factors", type=int, help="of the first stage; default 1024 and 128")
    options = parser.parse_args()
    if options.data == "gowalla":
        gowalla(options.factors or 1024)
    else:
        citeulike(options.factors or 128, with_words=options.words)


if __name__ == "__main__":
    main()
