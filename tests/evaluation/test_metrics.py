"""Ranking and rating metrics against their definitions in plain Python, and what no value may ever be."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluation_oracle as oracle
from salience.evaluation import list_ranks, metric_names, parse_metric, rating_metrics, score_ranks
from salience.evaluation.metrics import parse_metrics, summarize

CUTOFFS = (1, 3, 7, 30)
OF_LISTS = [
    name
    for k in CUTOFFS
    for name in metric_names(k)
    if (m := parse_metric(name)).formula and not m.needs_ties and m.base != "auc"
]
OF_LISTS = [
    *dict.fromkeys(OF_LISTS),
    "map",
    "mrr",
    "arhr",
    "ndcg",
    "ndcg:linear",
    "ndcg:exponential",
    "rbp",
    "rbp@7:0.35",
]
BOUNDED = [name for name in OF_LISTS if not name.startswith("arhr")]


def draw(seed, users, items, slots):
    """Lists (padded, of any length) and graded relevant items, at least one a user."""
    random = np.random.default_rng(seed)
    lists = np.array([np.resize(random.permutation(items), slots) for _ in range(users)])
    lists[:, min(items, slots) :] = -1
    lists[np.arange(slots) >= random.integers(0, slots + 1, (users, 1))] = -1
    dense = random.integers(1, 6, (users, items)) * (random.random((users, items)) < random.choice([0.1, 0.4, 0.9]))
    dense[np.arange(users), random.integers(0, items, users)] = 2
    return lists, sp.csr_matrix(dense.astype(np.float32))


def users_of(lists, relevant):
    for row, items in enumerate(lists.tolist()):
        judged = relevant[[row]]
        yield (
            [item for item in items if item >= 0],
            dict(zip(judged.indices.tolist(), judged.data.tolist(), strict=True)),
        )


@given(seed=st.integers(0, 2**32 - 1), users=st.integers(1, 6), items=st.integers(1, 20), slots=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_metrics_of_lists_are_their_definitions(seed, users, items, slots):
    lists, relevant = draw(seed, users, items, slots)
    found = list_ranks(lists, relevant).metrics(OF_LISTS)
    assert list(found) == OF_LISTS
    for name in OF_LISTS:
        expected = [oracle.ranking(name, ranked, judged) for ranked, judged in users_of(lists, relevant)]
        assert found[name] == pytest.approx(expected, abs=1e-12), name


@given(
    seed=st.integers(0, 2**32 - 1), items=st.integers(1, 8), levels=st.integers(1, 4), dtype=st.sampled_from("fd"),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_metrics_of_scores_are_their_definitions_ties_and_all(seed, items, levels, dtype):
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (3, items)).astype(dtype)
    dense = random.integers(1, 4, (3, items)) * (random.random((3, items)) < 0.5)
    dense[:, -1] = 1
    seen = (random.random((3, items)) < 0.3) & (dense == 0)
    relevant = sp.csr_matrix(dense.astype(np.float32))
    names = [
        "auc", "auc:ordered", "r_precision", "ndcg", "map", "mrr", "recall@2", "precision@3:returned", "recall@2:expected",
        "precision@3:expected", "ndcg@2:expected", "ndcg:expected",
    ]  # fmt: skip
    found = score_ranks(scores, relevant, exclude=sp.csr_matrix(seen)).metrics(names)
    for row in range(3):
        candidates = np.flatnonzero(~seen[row]).tolist()
        judged = {i: float(v) for i, v in enumerate(dense[row].tolist()) if v}
        values = scores[row].tolist()
        for name in names:
            if name.startswith("auc"):
                expected = oracle.area(values, candidates, judged, ties=name == "auc")
            elif name.endswith("expected"):
                expected = oracle.expected(name.removesuffix(":expected"), values, candidates, judged)
            else:
                expected = oracle.ranking(name, oracle.order(values, candidates), judged)
            assert found[name][row] == pytest.approx(expected, abs=1e-12, nan_ok=True), name


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 25), slots=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_no_impossible_values(seed, items, slots):
    lists, relevant = draw(seed, 5, items, slots)
    found = list_ranks(lists, relevant).metrics(OF_LISTS)
    for name in BOUNDED:
        assert (found[name] >= 0).all(), name
        assert (found[name] <= 1 + 1e-12).all(), name
    for base in ("recall", "hit_rate", "mrr", "arhr", "rbp"):
        values = [found[f"{base}@{k}"] for k in CUTOFFS]
        assert all((a <= b + 1e-15).all() for a, b in itertools.pairwise(values)), base
    for k in CUTOFFS:
        assert (found[f"recall@{k}"] <= found[f"recall@{k}:capped"]).all()
        assert (found[f"map@{k}:relevant"] <= found[f"map@{k}"]).all()
        assert (found[f"map@{k}"] <= found[f"map@{k}:returned"]).all()
        assert (found[f"ndcg@{k}:cutoff"] <= found[f"ndcg@{k}"] + 1e-12).all()
        assert (found[f"precision@{k}"] <= found[f"precision@{k}:returned"]).all()
        assert (found[f"hit_rate@{k}"] >= found[f"mrr@{k}"]).all()


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(2, 25))
@settings(max_examples=60, deadline=None)
def test_numbering_of_users_and_items_does_not_matter(seed, items):
    random = np.random.default_rng(seed)
    lists, relevant = draw(seed, 6, items, 10)
    users, renamed = random.permutation(6), random.permutation(items)
    moved = np.where(lists >= 0, renamed[lists], -1)[users]
    other = sp.csr_matrix(relevant.toarray()[:, np.argsort(renamed)])[users]
    before, after = (list_ranks(a, b).metrics(OF_LISTS) for a, b in ((lists, relevant), (moved, other)))
    for name in OF_LISTS:
        assert after[name] == pytest.approx(before[name][users], abs=1e-12), name


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 25), threads=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_threads_change_no_bit(seed, items, threads):
    lists, relevant = draw(seed, 2000, items, 10)
    one, many = (list_ranks(lists, relevant, threads=n) for n in (1, threads))
    assert np.array_equal(one.ranks, many.ranks)
    a, b = one.metrics(OF_LISTS, threads=1), many.metrics(OF_LISTS, threads=threads)
    for name in OF_LISTS:
        assert a[name].tobytes() == b[name].tobytes(), name


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_the_ideal_list_is_worth_one(seed, items):
    _, relevant = draw(seed, 4, items, 1)
    dense = relevant.toarray()
    ideal = np.argsort(-dense, axis=1, kind="stable")
    ideal[np.take_along_axis(dense, ideal, axis=1) == 0] = -1
    found = list_ranks(ideal, relevant).metrics(OF_LISTS)
    for name in OF_LISTS:
        metric = parse_metric(name)
        filled = (metric.cutoff or 1) <= (dense > 0).sum(axis=1)
        if metric.base in ("hit_rate", "mrr", "r_precision") or (
            metric.base in ("map", "ndcg") and metric.convention in (None, "returned", "linear", "exponential")
        ):
            assert found[name] == pytest.approx(np.ones(4)), name
        elif (metric.base, metric.convention) in [("precision", None), ("map", "cutoff"), ("ndcg", "cutoff")]:
            assert found[name][filled] == pytest.approx(np.ones(filled.sum())), name
        elif (metric.base, metric.convention) in [("recall", "capped"), ("precision", "returned")]:
            assert found[name] == pytest.approx(np.ones(4)), name


def test_swapping_a_miss_for_a_hit_never_hurts():
    random = np.random.default_rng(3)
    for seed in range(50):
        lists, relevant = draw(seed, 1, 15, 8)
        held = set(relevant.indices.tolist())
        misses = [slot for slot, item in enumerate(lists[0]) if item >= 0 and item not in held]
        spare = sorted(held - set(lists[0].tolist()))
        if not misses or not spare:
            continue
        better = lists.copy()
        better[0, random.choice(misses)] = random.choice(spare)
        before, after = list_ranks(lists, relevant).metrics(OF_LISTS), list_ranks(better, relevant).metrics(OF_LISTS)
        for name in OF_LISTS:
            assert after[name][0] >= before[name][0] - 1e-12, name


def test_large_grades_do_not_overflow():
    relevant = sp.csr_matrix(np.array([[5000.0, 4999.0, 1.0]], np.float32))
    found = list_ranks(np.array([[1, 0, 2]]), relevant).metrics(["ndcg@3:exponential", "ndcg@3:linear"])
    discount = 1 / math.log2(3)
    expected = (0.5 + discount) / (1 + 0.5 * discount)
    assert found["ndcg@3:exponential"] == pytest.approx([expected])
    assert 0.99 < found["ndcg@3:linear"][0] < 1


def test_users_without_held_out_items_have_no_value():
    relevant = sp.csr_matrix(np.array([[1.0, 0.0], [0.0, 0.0]], np.float32))
    found = list_ranks(np.array([[0], [1]]), relevant).metrics(["recall@1", "ndcg@1"])
    assert found["recall@1"][0] == 1
    assert np.isnan(found["recall@1"][1])
    assert np.isnan(found["ndcg@1"][1])


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ([[0, 0]], "holds item 0 more than once"),
        ([[2, -1]], "item row 2"),
        ([[-2, 0]], "item row -2"),
        ([0, 1], "shape"),
        ([[0], [1]], "expected 1 rows"),
    ],
)
def test_lists_that_are_no_rankings(lists, words):
    with pytest.raises(ValueError, match=words):
        list_ranks(np.array(lists), sp.csr_matrix(np.ones((1, 2), np.float32)))


def test_the_first_bad_list_is_named_whatever_the_threads():
    lists = np.tile(np.arange(4), (3000, 1))
    lists[[1200, 2900], 1] = 0
    for threads in (1, 4):
        with pytest.raises(ValueError, match="row 1200 holds item 0"):
            list_ranks(lists, sp.csr_matrix((3000, 4), dtype=np.float32), threads=threads)


def test_grades_must_not_be_negative():
    ranks = list_ranks(np.array([[0]]), sp.csr_matrix(np.array([[-1.0, 1.0]], np.float32)))
    assert ranks.metrics(["recall@1"])["recall@1"] == [0.5]
    with pytest.raises(ValueError, match="value -1"):
        ranks.metrics(["ndcg@1:linear"])


def test_metrics_that_lists_cannot_tell():
    with pytest.raises(ValueError, match="needs scores"):
        list_ranks(np.array([[0]]), sp.csr_matrix(np.ones((1, 2), np.float32))).metrics(["auc"])


@pytest.mark.parametrize("name", [*metric_names(7), "rbp@3:0.5", "map", "ndcg:linear", "rbp"])
def test_names_say_what_they_are(name):
    metric = parse_metric(name)
    assert metric.name == name
    assert metric.definition
    assert metric.kind in ("ranking", "lists", "rating")


@pytest.mark.parametrize(
    "name",
    ["recal@5", "recall", "recall@0", "recall@5:relevant", "auc@5", "rmse@5", "rbp@5:1.5", "rbp@5:0.0", "recall@5:0.5",
     "map:cutoff", "r_precision@3", "recall@05", "ndcg@5:graded", ""],
)  # fmt: skip
def test_names_that_say_nothing(name):
    with pytest.raises(ValueError, match="expected one of"):
        parse_metric(name)


def test_near_misses_are_suggested():
    with pytest.raises(ValueError, match="did you mean 'recall@10:capped'"):
        parse_metric("recal@10:caped")
    with pytest.raises(ValueError, match="more than once"):
        parse_metrics(["recall@1", "recall@1"])
    with pytest.raises(TypeError, match="expected a sequence"):
        parse_metrics("recall@1")


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_rating_metrics_are_their_definitions(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 6, 7)
    users = random.permutation(np.repeat(np.arange(7), counts))
    predicted, actual = random.normal(size=(2, users.size))
    names = ["rmse", "mae", "rmse:user", "mae:user"]
    found = rating_metrics(predicted, actual, users, names)
    errors = [[p - a for p, a, u in zip(predicted, actual, users, strict=True) if u == user] for user in range(7)]
    flat = [e for own in errors for e in own]
    expected = {
        "rmse": math.sqrt(sum(e * e for e in flat) / len(flat)),
        "mae": sum(map(abs, flat)) / len(flat),
        "rmse:user": sum(math.sqrt(sum(e * e for e in own) / len(own)) for own in errors) / 7,
        "mae:user": sum(sum(map(abs, own)) / len(own) for own in errors) / 7,
    }
    for name in names:
        value, _, _ = summarize(parse_metric(name), found[name], counts)
        assert value == pytest.approx(expected[name], abs=1e-12), name
