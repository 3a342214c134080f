"""Models of published tables as their sources define them, made of the package's own where it has them.

Each function takes the training part and returns what ``salience.evaluation.evaluate`` measures. Sources: BARS
(https://github.com/reczoo/BARS, the pages of each model) and Ferrari Dacrema et al., "A troubling analysis of
reproducibility and progress in recommender systems research" (TOIS 2021) with its additional material.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from salience import ALS, EASE, Interactions, ItemKNN
from salience.datasets import citeulike_words
from salience.evaluation import BlockScores, Uniform, evaluate, search, splits

TRIALS = 40


def bars_itemknn(train: Interactions) -> BlockScores:
    """ItemCF of BARS: Sarwar's prediction, unknown entries taken as zeros.

    mean_i + sum over the 100 nearest j of s_ij (r_uj - mean_j) / sum of s_ij; cosine of whole columns, and means over
    all users ("enable_average_bias").
    """
    weights = ItemKNN(100).fit(train).similarity_
    totals = np.asarray(weights.sum(axis=1)).ravel()
    weights = sp.csr_array(sp.diags_array(1 / np.maximum(totals, 1e-12)) @ weights)
    means = np.bincount(train.matrix.indices, minlength=train.shape[1]) / train.shape[0]
    shift, columns = means - weights @ means, weights.T.tocsr()
    return BlockScores(lambda rows: (train.matrix[rows] @ columns).toarray().astype(np.float64) + shift)


def bars_ease(train: Interactions) -> EASE:
    """EASE with regularization 80, on binary data."""
    return EASE(80.0).fit(train)


def graph_filter(train: Interactions) -> BlockScores:
    """GF-CF (Shen et al., CIKM 2021): a linear filter and 0.3 times an ideal low-pass one of 256 frequencies.

    With R evened by the square roots of both sides' degrees, R~: r R~^T R~ + 0.3 r D^-1/2 V V^T D^1/2.
    """
    matrix = sp.csr_array(train.matrix, dtype=np.float64)
    users, items = (np.sqrt(np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1.0)) for axis in (1, 0))
    evened = sp.csr_array(sp.diags_array(1 / users) @ matrix @ sp.diags_array(1 / items))
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    _, _, low = svds(evened, k=256, v0=start)
    linear = sp.csr_array(evened.T @ evened)

    def score(rows: Any) -> Any:
        histories = matrix[rows]
        smooth = ((histories @ sp.diags_array(1 / items)) @ low.T) @ low * items
        return (histories @ linear).toarray() + 0.3 * smooth

    return BlockScores(score)


def tois_als(train: Interactions) -> ALS:
    """Implicit ALS with the table's settings: confidence 1 + 50 log(1 + 1 / 0.0032) on observed pairs, ridge 0.01."""
    extra = 50 * np.log1p(1 / 0.0032)
    return ALS(
        49,
        alpha=extra,
        unobserved_weight=1.0,
        regularization=0.01 * extra / (1 + extra),
        regularization_exponent=0.0,
        epochs=105,
    ).fit(train)


def tuned(make: Any, train: Interactions, space: Mapping[str, Any], *, trials: int = TRIALS) -> Any:
    """Do as the source does where it does not give its settings: search on a fifth of train, refit on all of it.

    The source searches by recall@150 too, with 50 trials of a Bayesian optimizer.
    """
    found = search(make, splits.random(train, test_fraction=0.2, seed=0), space, metric="recall@150", trials=trials)
    print(found.table(3))
    return make(**found.best.parameters).fit(train)


def tois_itemknn(train: Interactions) -> ItemKNN:
    """ItemKNN with cosine: neighbours, shrinkage and weighting from a search."""
    space = {
        "neighbors": Uniform(5, 1000, integer=True),
        "shrinkage": Uniform(0, 1000),
        "weighting": ["none", "tfidf", "bm25"],
    }
    return tuned(ItemKNN, train, space)


def tois_ease(train: Interactions) -> EASE:
    """EASE: regularization from a search."""
    return tuned(EASE, train, {"regularization": Uniform(1, 1e5, log=True)}, trials=8)


def described(words: Any, train: Interactions, **options: Any) -> BlockScores:
    """ItemKNN on items that words of shape (items, words) describe, as users do otherwise; histories scored as ever."""
    neighbours = ItemKNN(**options).fit(Interactions.from_csr(sp.csr_array(words.T)))
    return BlockScores(lambda rows: neighbours.score_histories(train.matrix[rows]).toarray())


SCALINGS = ("largest", "sum", "length")


def tois_hybrid(train: Interactions, scaling: str = "largest") -> BlockScores:
    """ItemKNN CFCBF with the table's settings: users and words (times 1.5675) describe an item together.

    TF-IDF over both, sqrt(value) log(items / (1 + items with it)), cosine with 1000 neighbours and shrinkage 1000. The
    source's words are those of ``mult_nor.mat``, which is not public any more, normalized in a way that is not known;
    these are the counts of ``mult.dat`` divided by the article's largest, by their sum, or by their Euclidean length.
    """
    words = sp.csr_array(citeulike_words(weighting="none")[0], dtype=np.float64)
    by = {
        "largest": words.max(axis=1).toarray().ravel(),
        "sum": words.sum(axis=1),
        "length": np.sqrt(words.power(2).sum(axis=1)),
    }[scaling]
    words = sp.diags_array(1 / np.maximum(by, 1e-12)) @ words
    both = sp.coo_array(sp.hstack([words * 1.5675, train.matrix.T]))
    rarity = np.log(both.shape[0] / (1 + np.bincount(both.col, minlength=both.shape[1])))
    weighted = sp.csr_array((np.sqrt(both.data) * rarity[both.col], (both.row, both.col)), shape=both.shape)
    return described(weighted, train, neighbors=1000, shrinkage=1000.0)


def tois_content(train: Interactions) -> BlockScores:
    """ItemKNN CBF with Jaccard's similarity of words: neighbours and shrinkage from a search, as :func:`tuned` does."""
    words, part = citeulike_words(weighting="none")[0], splits.random(train, test_fraction=0.2, seed=0)
    best: tuple[float, dict[str, Any]] = (-1.0, {})
    for shrinkage in (0.0, 100.0, 1000.0):
        for neighbors in (50, 200, 1000):
            options = {"neighbors": neighbors, "shrinkage": shrinkage, "similarity": "jaccard"}
            report = evaluate(described(words, part.train, **options), part.train, part.test, metrics=["recall@150"])
            best = max(best, (report.values["recall@150"], options), key=lambda pair: pair[0])
    print(f"recall@150 {best[0]:.4f} on validation data: {best[1]}")
    return described(words, train, **best[1])
