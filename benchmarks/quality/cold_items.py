"""Items that nobody saw: ALS with words as features beside ALS without and beside content alone, on CiteULike-t.

P = 10: 7,563 articles have no training interaction, and those of them that are in the test carry 22 % of it. Only they
are candidates here; recall is divided by the number of relevant ones, a mean over users who have any. Words: TF-IDF of
mult.dat, rows of length 1.
Content alone: cosine of an article with the mean of the user's training articles. Settings of ALS are chosen on
training data: a fifth of its articles are treated as if nobody had seen them (--tune).

    SALIENCE_DATA=... python benchmarks/quality/cold_items.py [--tune]
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from salience import ALS, topk
from salience.datasets import load_citeulike
from salience.neighbors import unit_rows

ITEMS = 25_975
CUTS = (50, 100, 150)
# The best sum of --tune.
SETTINGS = {"unobserved_weight": 0.01, "regularization": 2.0, "regularization_exponent": 0.0, "epochs": 8}
FACTORS, FEATURE_REGULARIZATION = 128, 3.0


def read_counts() -> sp.csr_array:
    """Read how often each article has each word, shape (articles, words)."""
    lines = (Path(os.environ["SALIENCE_DATA"]) / "citeulike-t" / "mult.dat").read_text().splitlines()
    pairs = [[part.split(":") for part in line.split()[1:]] for line in lines]
    rows = np.repeat(np.arange(len(pairs)), [len(part) for part in pairs])
    columns, counts = (np.array([int(pair[n]) for part in pairs for pair in part]) for n in (0, 1))
    return sp.csr_array((counts.astype(np.float32), (rows, columns)), shape=(ITEMS, columns.max() + 1))


def read_words() -> sp.csr_array:
    """Weigh the words of at least 3 articles by TF-IDF; rows of unit length."""
    counts = read_counts().tocoo()
    documents = np.bincount(counts.col, minlength=counts.shape[1])
    kept = documents[counts.col] >= 3
    rows, columns = counts.row[kept], counts.col[kept]
    weights = (1 + np.log(counts.data[kept])) * np.log(counts.shape[0] / documents[columns])
    words = sp.csr_array((weights.astype(np.float32), (rows, columns)), shape=counts.shape)
    return unit_rows(words[:, np.unique(columns)])


def recalls(rank: Callable[[np.ndarray], np.ndarray], cold: np.ndarray, test: sp.csr_matrix) -> np.ndarray:
    """Mean recall at CUTS; ``rank(users)`` gives positions among ``cold``, best first."""
    relevant = sp.csr_matrix(test[:, cold])
    users = np.flatnonzero(np.diff(relevant.indptr))
    found = []
    for start in range(0, len(users), 512):
        part = users[start : start + 512]
        truth = relevant[part].toarray() > 0
        hits = np.take_along_axis(truth, rank(part), axis=1)
        found.append(np.cumsum(hits, axis=1)[:, [cut - 1 for cut in CUTS]] / truth.sum(axis=1)[:, None])
    return np.concatenate(found).mean(axis=0)


def by_factors(model: ALS, cold: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    items = np.ascontiguousarray(model.item_factors_[cold])
    return lambda users: topk(model.user_factors_[users], items, max(CUTS))[0]


def by_content(words: sp.csr_array, train: sp.csr_matrix, cold: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    profiles = unit_rows(sp.csr_array(sp.csr_array(train) @ words))
    candidates = sp.csc_array(words[cold].T)
    return lambda users: np.argsort(-(profiles[users] @ candidates).toarray(), axis=1, kind="stable")[:, : max(CUTS)]


def words_of(values: np.ndarray) -> str:
    return ", ".join(f"recall@{cut} {value:.4f}" for cut, value in zip(CUTS, values, strict=True))


def tune(train: sp.csr_matrix, words: sp.csr_array) -> None:
    warm = np.flatnonzero(np.bincount(train.indices, minlength=ITEMS))
    hidden = np.sort(np.random.default_rng(0).permutation(warm)[: len(warm) // 5])
    unseen = np.isin(np.arange(ITEMS), hidden).astype(np.float32)
    rest = sp.csr_matrix(train.multiply(1 - unseen[None, :]))
    rest.eliminate_zeros()
    print("content:", words_of(recalls(by_content(words, rest, hidden), hidden, train)), flush=True)
    for weight, ridge, strength in itertools.product((0.01, 0.03), (0.5, 1.0, 2.0), (1.0, 3.0, 10.0)):
        settings = {**SETTINGS, "unobserved_weight": weight, "regularization": ridge}
        model = ALS(FACTORS, feature_regularization=strength, **settings).fit(rest, item_features=words)
        print(weight, ridge, strength, words_of(recalls(by_factors(model, hidden), hidden, train)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    (train, test), words = (part.matrix for part in load_citeulike()), read_words()
    if options.tune:
        tune(train, words)
        return
    cold = np.flatnonzero(np.bincount(train.indices, minlength=ITEMS) == 0)
    print(f"{len(cold):,} cold articles, {words.shape[1]:,} words")
    print("content alone:", words_of(recalls(by_content(words, train, cold), cold, test)))
    plain = ALS(FACTORS, **SETTINGS).fit(train)
    print(
        "ALS without features (all scores equal, rows in order):",
        words_of(recalls(by_factors(plain, cold), cold, test)),
    )
    begun = time.perf_counter()
    model = ALS(FACTORS, feature_regularization=FEATURE_REGULARIZATION, **SETTINGS).fit(train, item_features=words)
    print(
        "ALS with words:",
        words_of(recalls(by_factors(model, cold), cold, test)),
        f"({time.perf_counter() - begun:.0f} s)",
    )


if __name__ == "__main__":
    main()
