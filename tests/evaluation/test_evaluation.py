"""Metrics, splits and evaluate against definitions written out in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from salience import ALS, Interactions, Popularity
from salience.evaluation import cross_validate, evaluate, evaluate_lists, list_ranks, splits


def naive(name, ranked, relevant, grades):
    """One user's metric, from its definition."""
    base, _, rest = name.partition("@")
    k, _, convention = rest.partition(":")
    k = int(k)
    top = [item for item in ranked[:k] if item >= 0]
    hits = [item in relevant for item in top]
    if base == "recall":
        return sum(hits) / (min(k, len(relevant)) if convention else len(relevant))
    if base == "precision":
        return sum(hits) / k
    if base == "hit_rate":
        return float(any(hits))
    if base == "mrr":
        return next((1 / rank for rank, hit in enumerate(hits, 1) if hit), 0.0)
    if base == "map":
        precisions = sum(sum(hits[:rank]) / rank for rank, hit in enumerate(hits, 1) if hit)
        return precisions / (len(relevant) if convention else min(k, len(relevant)))
    gain = (lambda item: 2 ** grades[item] - 1) if convention else (lambda item: 1.0)
    found = sum(gain(item) / math.log2(rank + 1) for rank, item in enumerate(top, 1) if item in relevant)
    ideal = sorted((gain(item) for item in relevant), reverse=True)[:k]
    best = sum(value / math.log2(rank + 1) for rank, value in enumerate(ideal, 1))
    return found / best if best else 0.0


NAMES = [
    f"{base}@{k}{convention}"
    for k in (1, 3, 7)
    for base, conventions in {
        "recall": ("", ":capped"), "precision": ("",), "hit_rate": ("",), "mrr": ("",), "map": ("", ":relevant"),
        "ndcg": ("", ":exponential"),
    }.items()
    for convention in conventions
]  # fmt: skip


@given(seed=st.integers(0, 2**32 - 1), users=st.integers(1, 8), items=st.integers(7, 15))
@settings(max_examples=60, deadline=None)
def test_ranking_metrics_are_their_definitions(seed, users, items):
    random = np.random.default_rng(seed)
    lists = np.array([random.permutation(items)[:7] for _ in range(users)])
    lists[np.arange(7) >= random.integers(0, 8, (users, 1))] = -1  # padded at the end, as recommendations are
    dense = random.integers(1, 6, (users, items)) * (random.random((users, items)) < 0.4)
    dense[:, 0] = 2
    found = list_ranks(lists, sp.csr_matrix(dense.astype(np.float32))).metrics(NAMES)
    for name in NAMES:
        for user in range(users):
            relevant = set(np.flatnonzero(dense[user]).tolist())
            expected = naive(name, lists[user].tolist(), relevant, dense[user].tolist())
            assert found[name][user] == pytest.approx(expected, abs=1e-12), name


def data(seed=0, users=80, items=50):
    random = np.random.default_rng(seed)
    dense = random.random((users, items)) < random.random(items) * 0.5
    u, i = np.nonzero(dense)
    columns = {
        "user": u + 100,
        "item": i * 2,
        "value": random.integers(1, 6, len(u)),
        "time": random.integers(0, 500, len(u)),
    }
    return Interactions._from_columns(columns, "error")


def pairs(part):
    return set(zip(part.rows.tolist(), part.matrix.indices.tolist(), strict=True))


@pytest.mark.parametrize(
    "split",
    [
        lambda d: [splits.random(d, seed=3)],
        lambda d: [splits.random(d, seed=3, per_user=True)],
        lambda d: [splits.temporal(d)],
        lambda d: [splits.leave_last(d)],
        lambda d: splits.kfold(d, folds=4),
    ],
)
def test_splits_divide_the_data_and_repeat(split):
    whole = data()
    parts, again = split(whole), split(whole)
    for part, same in zip(parts, again, strict=True):
        assert pairs(part.train) | pairs(part.test) == pairs(whole)
        assert not pairs(part.train) & pairs(part.test)
        assert len(part.train) + len(part.test) == len(whole)
        assert pairs(part.test) == pairs(same.test)
    if len(parts) > 1:
        assert sum(len(part.test) for part in parts) == len(whole)


def test_temporal_splits_keep_the_future_out():
    part = splits.temporal(data(), test_fraction=0.3)
    assert part.train.times.max() <= part.test.times.min()
    assert 0.25 < len(part.test) / len(data()) < 0.35


def test_leave_last_takes_each_users_latest():
    part = splits.leave_last(data())
    for user in range(80):
        mine, held = part.train.times[part.train.rows == user], part.test.times[part.test.rows == user]
        assert len(held) <= 1
        if len(held):
            assert mine.max() <= held[0]


def test_evaluate_agrees_with_a_loop():
    part = splits.random(data(), seed=1)
    model = ALS(8, epochs=4).fit(part.train)
    report = evaluate(model, part.train, part.test, metrics=["ndcg@5", "recall@5"], batch=7)
    users = np.flatnonzero(np.diff(part.test.matrix.indptr))
    ranked = model.recommend(part.test.users[users], 5).rows
    for name in ("ndcg@5", "recall@5"):
        expected = [
            naive(name, row.tolist(), set(part.test.matrix[[user]].indices.tolist()), None)
            for user, row in zip(users, ranked, strict=True)
        ]
        assert report.values[name] == pytest.approx(np.mean(expected), abs=1e-12)
        assert report.per_user[name] == pytest.approx(np.array(expected), abs=1e-12)
    table = report.table()
    assert f"{report.values['ndcg@5']:.4f}" in table
    assert f"{len(users)} users" in table


def test_rating_errors_pool_pairs():
    part = splits.random(data(), seed=1)
    model = ALS(4, feedback="explicit", epochs=4).fit(part.train)
    report = evaluate(model, part.train, part.test, metrics=["rmse", "mae"])
    test = part.test
    error = model.score(test.users[test.rows], test.items[test.matrix.indices]) - test.matrix.data.astype(float)
    assert report.values["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert report.values["mae"] == pytest.approx(np.mean(np.abs(error)))


def test_lists_of_other_systems():
    part = splits.random(data(), seed=1)
    model = Popularity().fit(part.train)
    ours = evaluate(model, part.train, part.test, metrics=["map@5"])
    lists = model.recommend(part.test.users, 5).rows
    assert evaluate_lists(lists, part.test, metrics=["map@5"]).values == ours.values


def test_cross_validation_is_the_mean_of_folds():
    whole = data()
    report = cross_validate(Popularity, whole, folds=3, metrics=["recall@5"])
    each = [
        evaluate(Popularity().fit(part.train), part.train, part.test, metrics=["recall@5"]).values["recall@5"]
        for part in splits.kfold(whole, folds=3)
    ]
    assert report.values["recall@5"] == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d, m, p: evaluate(m, p.train, p.test, metrics=[]), "metrics: empty"),
        (lambda d, m, p: evaluate(m, p.train, p.test, metrics=["recal@5"]), "recal@5"),
        (lambda d, m, p: evaluate(m, p.train, p.test, metrics=["recall@0"]), "recall@0"),
        (lambda d, m, p: evaluate(m, d, p.test, metrics=["recall@5"]), "in train"),
        (lambda d, m, p: splits.random(d, test_fraction=1.5), "test_fraction: 1.5"),
        (lambda d, m, p: splits.kfold(d, folds=1), "folds: 1"),
        (lambda d, m, p: splits.temporal(Interactions.from_csr(d.matrix)), "without times"),
        (lambda d, m, p: splits.leave_last(d, n=0), "n: 0"),
    ],
)
def test_wrong_arguments(call, words):
    whole = data()
    part = splits.random(whole)
    with pytest.raises(ValueError, match=words):
        call(whole, Popularity().fit(part.train), part)
