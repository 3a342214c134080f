"""Re-ranking kernels: the choice of the oracle, slot for slot, and what greedy choice promises."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from salience import ALS, Recommendations, _core
from salience.rerank import calibrated, dpp, mmr

METHODS = {"mmr": (mmr, reference.mmr), "dpp": (dpp, reference.dpp)}


def drawn(seed, lists=7, slots=20, items=40, columns=6, kind="plain"):
    """Candidates with gaps and ties, and vectors of a kind that is hard to tell apart."""
    random = np.random.default_rng(seed)
    rows = np.array([random.permutation(items)[:slots] for _ in range(lists)])
    scores = -np.sort(-random.standard_normal((lists, slots)).astype(np.float32), axis=1)
    if kind == "ties":
        scores = np.round(scores)
    rows[random.random(rows.shape) < 0.2] = -1
    rows[0] = -1
    scores[rows < 0] = -np.inf
    if kind == "genres":
        vectors = (random.random((items, columns)) < 0.3).astype(np.float32)
    elif kind == "ties":
        vectors = random.integers(-1, 2, (items, columns)).astype(np.float32)
    elif kind == "zeros":
        vectors = np.zeros((items, columns), np.float32)
    else:
        vectors = random.standard_normal((items, columns)).astype(np.float32)
    return rows, scores, vectors


def at(positions, rows):
    found = np.take_along_axis(rows, np.maximum(positions, 0), axis=1)
    found[positions < 0] = -1
    return found


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["plain", "genres", "ties", "zeros"]),
    slots=st.integers(1, 30), columns=st.integers(1, 20), k=st.integers(1, 35),
    trade_off=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), threads=st.sampled_from([1, 2, 3]),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_the_choice_is_the_oracles(method, seed, kind, slots, columns, k, trade_off, threads):
    ours, oracle = METHODS[method]
    rows, scores, vectors = drawn(seed, slots=slots, columns=columns, kind=kind)
    positions = oracle(rows, scores, vectors, k, trade_off)
    found, found_scores = ours((rows, scores), vectors, k, trade_off=trade_off, threads=threads)
    assert np.array_equal(found, at(positions, rows))
    assert np.array_equal(found_scores == -np.inf, found < 0)
    sparse, _ = ours((rows, scores), sp.csr_array(vectors), k, trade_off=trade_off, threads=threads)
    assert np.array_equal(sparse, found)


@given(
    seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["plain", "ties"]), slots=st.integers(1, 25),
    groups=st.integers(1, 9), k=st.integers(1, 30), trade_off=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_the_calibrated_choice_is_the_oracles(seed, kind, slots, groups, k, trade_off):
    random = np.random.default_rng(seed)
    rows, scores, _ = drawn(seed, slots=slots, kind=kind)
    categories = random.integers(0, 3, (40, groups)) * (random.random((40, groups)) < 0.5)
    had = random.random((len(rows), 40)) < 0.1
    had[1] = False
    history = sp.csr_matrix(had)
    found, _ = calibrated((rows, scores), categories, k, history=history, trade_off=trade_off)
    totals = np.maximum(categories.sum(axis=1, keepdims=True), 1)
    shares = (categories / totals).astype(np.float32).astype(np.float64)
    profiles = history.toarray().astype(np.float64) @ (categories / totals)
    targets = profiles / np.where(profiles.sum(axis=1, keepdims=True) > 0, profiles.sum(axis=1, keepdims=True), 1)
    again, _ = calibrated((rows, scores), categories, k, targets=targets, trade_off=trade_off)
    positions = reference.calibrated(rows, scores, shares, targets, k, trade_off)
    assert np.array_equal(again, at(positions, rows))
    # The history gives the same targets but for the last bit, which ties show; without relevance there are many.
    if kind == "plain" and trade_off < 1:
        assert np.array_equal(found, again)


def test_the_logarithm_is_right_to_the_last_digits():
    random = np.random.default_rng(3)
    x = np.concatenate([random.uniform(1e-6, 3, 10_000), 10.0 ** random.uniform(-300, 300, 10_000), [1.0]])
    expected = np.log(x.astype(np.longdouble))
    assert (np.abs(reference.fixed_log(x) - expected) <= 1e-15 * np.abs(expected) + 1e-18).all()


def test_the_determinant_is_what_the_greedy_choice_raises_most():
    """By determinants of the whole kernel, in place of Cholesky's method."""
    rows, scores, vectors = drawn(5, lists=3, slots=12, columns=9)
    found, _ = dpp((rows, scores), vectors, 6, trade_off=0.6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kernel = (1 - 1e-3) * unit @ unit.T + 1e-3 * np.eye(len(unit))
    for line in (1, 2):
        filled = rows[line] >= 0
        items, relevance = rows[line][filled].tolist(), reference._relevance(scores[line][filled])
        chosen: list[int] = []
        for picked in found[line][found[line] >= 0].tolist():
            values = {}
            for item, value in zip(items, relevance, strict=True):
                if item not in chosen:
                    with_item = [*chosen, item]
                    whole = np.linalg.slogdet(kernel[np.ix_(with_item, with_item)])[1]
                    rest = np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1] if chosen else 0.0
                    values[item] = 0.4 * value + 0.6 * (whole - rest)
            assert values[picked] >= max(values.values()) - 1e-6
            chosen.append(picked)


@pytest.mark.parametrize("method", [mmr, dpp])
def test_no_trade_off_is_the_order_of_relevance(method):
    rows, scores, vectors = drawn(11)
    found, found_scores = method((rows, scores), vectors, 20, trade_off=0.0)
    for line in range(len(rows)):
        filled = np.flatnonzero(rows[line] >= 0)
        order = filled[np.argsort(-scores[line][filled], kind="stable")]
        assert np.array_equal(found[line][: len(order)], rows[line][order])
        assert np.array_equal(found_scores[line][: len(order)], scores[line][order])
    assert (found[0] == -1).all()


def test_copies_of_an_item_come_last():
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 2, 3]]
    rows, scores = np.arange(6)[None], np.linspace(1, 0.5, 6, dtype=np.float32)[None]
    for method in (mmr, dpp):
        found, _ = method((rows, scores), vectors, 6, trade_off=0.9)
        assert found[0].tolist() == [0, 3, 4, 5, 1, 2]


def test_a_calibrated_list_has_the_shares_of_the_history():
    categories = np.repeat(np.eye(2), 20, axis=0)
    rows, scores = np.arange(40)[None], np.linspace(1, 0, 40, dtype=np.float32)[None]
    found, _ = calibrated((rows, scores), categories, 10, targets=[[0.7, 0.3]], trade_off=0.99)
    assert (found[0] < 20).sum() == 7
    plain, _ = calibrated((rows, scores), categories, 10, targets=[[0.0, 0.0]], trade_off=0.99)
    assert np.array_equal(plain, rows[:, :10])


def test_recommendations_keep_their_ids():
    random = np.random.default_rng(2)
    matrix = sp.csr_matrix((random.random((30, 25)) < 0.3).astype(np.float32))
    model = ALS(8, epochs=2).fit(matrix)
    best = model.recommend([4, 9], 12)
    found = mmr(best, model.item_factors_, 15, trade_off=0.5)
    assert isinstance(found, Recommendations)
    assert found.ids.shape == (2, 15)
    assert np.array_equal(found.ids, found.rows)
    assert np.array_equal(found.queries, [4, 9])
    for line in range(2):
        assert set(found.ids[line]) - {-1} == set(best.ids[line]) - {-1}
        shown = dict(zip(best.ids[line], best.scores[line], strict=True))
        assert all(
            shown[item] == score for item, score in zip(found.ids[line], found.scores[line], strict=True) if item >= 0
        )


def test_lists_without_slots_or_rows():
    vectors = np.ones((3, 2), np.float32)
    for rows in (np.zeros((2, 0), np.int64), np.zeros((0, 4), np.int64)):
        found, scores = mmr((rows, np.zeros(rows.shape, np.float32)), vectors, 3)
        assert found.shape == scores.shape == (len(rows), 3)
        assert (found == -1).all()
        assert (scores == -np.inf).all()


ROWS, SCORES, VECTORS = np.array([[0, 1, -1]]), np.array([[2, 1, -np.inf]], np.float32), np.ones((2, 3), np.float32)
WRONG = {
    "no tuple": (TypeError, "candidates: .*expected Recommendations", lambda: mmr(ROWS, VECTORS)),
    "rows that are no integers": (TypeError, "candidates: an array of float64", lambda: mmr((ROWS * 1.0, SCORES), VECTORS)),
    "an unknown item": (ValueError, r"candidates: item row 2 in slot 1 of list 0; expected 0 to 1, or -1", lambda: mmr((np.array([[0, 2, -1]]), SCORES), VECTORS)),
    "an unknown item, sparse": (ValueError, r"candidates: item row 2; expected 0 to 1", lambda: dpp((np.array([[0, 2, -1]]), SCORES), sp.csr_array(VECTORS))),
    "a negative item": (ValueError, "item row -5", lambda: mmr((ROWS - 5, SCORES), VECTORS)),
    "a negative item, sparse": (ValueError, "item row -6", lambda: mmr((ROWS - 5, SCORES), sp.csr_array(VECTORS))),
    "NaN among scores": (ValueError, "candidates: score nan in slot 1 of list 0", lambda: mmr((ROWS, np.array([[1, np.nan, 0]], np.float32)), VECTORS)),
    "infinite scores": (ValueError, "candidates: score inf", lambda: dpp((ROWS, np.array([[np.inf, 0, 0]], np.float32)), VECTORS)),
    "scores of another shape": (ValueError, r"scores: shape \(1, 2\); expected \(1, 3\)", lambda: mmr((ROWS, SCORES[:, :2]), VECTORS)),
    "NaN among vectors": (ValueError, "vectors: a value that is not finite in row 1", lambda: dpp((ROWS, SCORES), np.array([[1], [np.nan]], np.float32))),
    "k of zero": (ValueError, "k: 0", lambda: mmr((ROWS, SCORES), VECTORS, 0)),
    "a trade-off beyond 1": (ValueError, "trade_off: 1.5; expected 0 to 1", lambda: mmr((ROWS, SCORES), VECTORS, trade_off=1.5)),
    "a negative trade-off": (ValueError, "trade_off: -0.1", lambda: dpp((ROWS, SCORES), VECTORS, trade_off=-0.1)),
    "neither history nor targets": (ValueError, "history: .*one of the two", lambda: calibrated((ROWS, SCORES), VECTORS)),
    "negative categories": (ValueError, "categories: -1.0; expected weights of at least 0", lambda: calibrated((ROWS, SCORES), -VECTORS, targets=[[1, 0, 0]])),
    "targets of another width": (ValueError, r"targets: shape \(1, 2\); expected \(1, 3\)", lambda: calibrated((ROWS, SCORES), VECTORS, targets=[[1, 0]])),
    "infinite targets": (ValueError, "targets: a value that is not finite", lambda: calibrated((ROWS, SCORES), VECTORS, targets=[[1, 0, np.inf]])),
    "history of another shape": (ValueError, r"history: shape \(2, 2\); expected \(1, 2\)", lambda: calibrated((ROWS, SCORES), VECTORS, history=sp.csr_array((2, 2)))),
    "history as an array": (TypeError, "history: an array", lambda: calibrated((ROWS, SCORES), VECTORS, history=ROWS)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    error, words, call = WRONG[name]
    with pytest.raises(error, match=words):
        call()


def test_the_kernel_itself_refuses_another_diversity():
    with pytest.raises(ValueError, match="diversity: 'xyz'"):
        _core.diversify(ROWS, SCORES, VECTORS, 2, "xyz", 0.5, 1)
