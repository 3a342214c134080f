"""What lists are like beyond hits, against definitions in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluation_oracle as oracle
from salience.evaluation import Lists, metric_names, parse_metric
from salience.evaluation.beyond import long_tail

K = 4
NAMES = [name for name in metric_names(K) if parse_metric(name).kind == "lists"]


def draw(seed, users=12, items=9, features="dense"):
    random = np.random.default_rng(seed)
    lists = np.array([random.permutation(items)[:6] for _ in range(users)])
    lists[np.arange(6) >= random.integers(0, 7, (users, 1))] = -1
    history, relevant = (sp.csr_matrix(random.random((users, items)) < share) for share in (0.4, 0.3))
    weights = random.random((items, 3)) * (random.random((items, 3)) < 0.7)
    weights[0] = 0
    return Lists(
        lists,
        items,
        relevant,
        history,
        np.asarray((history > 0).sum(axis=0)).ravel().astype(np.int64),
        int((np.diff(history.indptr) > 0).sum()),
        sp.csr_array(weights) if features == "sparse" else weights,
    )


def mean(values):
    return sum(values) / len(values) if values else math.nan


def expected_of_user(name, lists, user):
    top = [item for item in lists.rows[user].tolist()[:K] if item >= 0]
    history = lists.history[[user]].indices.tolist()
    relevant = set(lists.relevant[[user]].indices.tolist())
    counts = lists.counts.tolist()
    features = np.asarray(lists.features.todense() if sp.issparse(lists.features) else lists.features).tolist()
    if name == "user_coverage":
        return float(bool(top))
    if name == "novelty":
        return mean([-math.log2(max(counts[i], 1) / lists.training_users) for i in top])
    if name == "popularity":
        return mean([counts[i] for i in top])
    if name == "popularity:lift":
        return mean([counts[i] for i in top]) / mean([counts[i] for i in history]) - 1
    if name == "tail_share":
        total, tail = sum(counts), set()
        for level in sorted(set(counts)):
            group = {i for i, c in enumerate(counts) if c <= level}
            if sum(counts[i] for i in group) <= 0.2 * total:
                tail = group
        return mean([float(i in tail) for i in top])
    if name == "diversity":
        return oracle.diversity(top, features)
    if name == "calibration":
        return oracle.calibration(history, top, features)
    if name == "calibration:jensen_shannon":
        return oracle.jensen_shannon(history, top, features)
    if name == "serendipity":
        n, levels = lists.items, sorted(set(counts), reverse=True)
        general = [(n + 1 - (levels.index(c) + 1)) / n if c else 0.0 for c in counts]
        return sum(max((n + 1 - slot) / n - general[i], 0) for slot, i in enumerate(top, 1) if i in relevant) / K
    assert name == "serendipity:unexpected"
    unseen = sorted((i for i in range(lists.items) if i not in history), key=lambda i: (-counts[i], i))
    return sum(i in relevant and i not in unseen[:K] for i in top) / K


@given(seed=st.integers(0, 2**32 - 1), features=st.sampled_from(["dense", "sparse"]))
@settings(max_examples=50, deadline=None)
def test_they_are_their_definitions(seed, features):
    lists = draw(seed, features=features)
    found = lists.metrics(NAMES)
    counts = np.bincount(lists.rows[:, :K][lists.rows[:, :K] >= 0], minlength=lists.items).tolist()
    together = {"coverage": sum(c > 0 for c in counts) / lists.items, "gini": oracle.gini, "entropy": oracle.entropy}
    for name in NAMES:
        metric = parse_metric(name)
        short = f"{metric.base}:{metric.convention}" if metric.convention else metric.base
        if not metric.has_users:
            value = together[short]
            expected = value if isinstance(value, float) else value(counts) if sum(counts) else math.nan
            assert found[name] == pytest.approx(expected, abs=1e-12, nan_ok=True), name
            continue
        for user in range(len(lists.rows)):
            try:
                expected = expected_of_user(short, lists, user)
            except ZeroDivisionError:
                expected = math.nan
            assert found[name][user] == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_bounds_at_the_extremes():
    everything = Lists(np.arange(6).reshape(3, 2), 6).metrics(["coverage@2", "gini@2", "entropy@2"])
    assert everything["coverage@2"] == 1
    assert everything["gini@2"] == pytest.approx(0)
    assert everything["entropy@2"] == pytest.approx(math.log(6))
    one = Lists(np.zeros((3, 1), np.int64), 6).metrics(["coverage@1", "gini@1", "entropy@1"])
    assert one["coverage@1"] == pytest.approx(1 / 6)
    assert one["gini@1"] == pytest.approx(5 / 6)
    assert one["entropy@1"] == 0


def test_a_list_with_the_users_own_categories_is_calibrated():
    features = np.eye(3)
    lists = Lists(np.array([[0, 1], [2, -1]]), 3, history=sp.csr_matrix([[1, 1, 0], [0, 1, 0]]), features=features)
    found = lists.metrics(["calibration@2", "calibration@2:jensen_shannon"])
    assert found["calibration@2"][0] == pytest.approx(0, abs=1e-12)
    assert found["calibration@2"][1] == pytest.approx(math.log(100))
    assert found["calibration@2:jensen_shannon"] == pytest.approx([0, 1])


def test_items_of_equal_popularity_are_in_the_tail_together():
    assert long_tail(np.array([1, 1, 8])).tolist() == [True, True, False]
    assert long_tail(np.array([2, 2, 2, 4])).tolist() == [False] * 4
    assert long_tail(np.array([0, 5])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("novelty@2", "train: None"),
        ("diversity@2", "item_features: None"),
        ("serendipity@2", "train: None"),
        ("recall@2", "expected metrics of lists"),
    ],
)
def test_what_is_missing_is_named(name, words):
    with pytest.raises(ValueError, match=words):
        Lists(np.array([[0, 1]]), 3, relevant=sp.csr_matrix((1, 3))).metrics([name])


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones((2, 2)), "one row for each of the 3 items"),
        (np.full((3, 1), np.nan), "not finite"),
        (-np.ones((3, 1)), "at least 0"),
    ],
)
def test_features_are_checked(features, words):
    lists = Lists(np.array([[0, 1]]), 3, history=sp.csr_matrix([[1, 0, 0]]), features=features)
    with pytest.raises(ValueError, match=words):
        lists.metrics(["calibration@2"])
