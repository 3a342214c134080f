"""Ranks of held-out items: counted one by one from the canonical scores of the oracle."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from salience import _core, show_config
from salience.evaluation import Ranks, factor_lists, factor_ranks, score_ranks


def problem(random, users, items, kind):
    """Factors, held-out items and exclusions, some of which are held out too."""
    d = int(random.choice([0, 1, 7, 15, 16, 17, 40, 90]))
    q, x = (random.standard_normal((n, d), dtype=np.float32) for n in (users, items))
    if kind == "ties":
        q, x = (random.integers(-1, 2, (n, d)).astype(np.float32) for n in (users, items))
    if kind == "huge":
        x = x * np.float32(1e30)
        q = q * np.float32(1e30)
    if kind == "tiny":
        x = x * np.float32(1e-40)
    if kind == "close":  # so near each other that float32 sums cannot tell them apart
        x = (np.ones(d) + 1e-6 * random.standard_normal((items, d)) * (random.random((items, 1)) < 0.2)).astype(
            np.float32
        )
    held_out, exclude = (sp.csr_matrix(random.random((users, items)) < share) for share in (0.2, 0.3))
    return q, x, held_out, exclude, random.random(items) < 0.8


def counted(scores, held_out, exclude, allowed):
    """The contract, counted by comparing each held-out item with each candidate."""
    ranks, better, equal, lengths = [], [], [], []
    seen = exclude.toarray()
    for row, values in enumerate(scores):
        candidates = np.flatnonzero(allowed & ~seen[row])
        lengths.append(len(candidates))
        for item in held_out[[row]].indices:
            if item not in candidates:
                counts = (0, 0, 0)
            else:
                above = int((values[candidates] > values[item]).sum())
                tied = candidates[values[candidates] == values[item]]
                counts = (above + int((tied < item).sum()) + 1, above, len(tied) - 1)
            for out, count in zip((ranks, better, equal), counts, strict=True):
                out.append(count)
    return [np.array(a, np.int64) for a in (ranks, lengths, better, equal)]


def check(found, expected):
    for mine, theirs in zip((found.ranks, found.lengths, found.better, found.equal), expected, strict=True):
        assert np.array_equal(mine, theirs)


@given(
    seed=st.integers(0, 2**32 - 1), users=st.integers(0, 70), items=st.integers(1, 600),
    kind=st.sampled_from(["plain", "ties", "huge", "tiny", "close"]), threads=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_ranks_by_factors_are_counted(seed, users, items, kind, threads):
    q, x, held_out, exclude, allowed = problem(np.random.default_rng(seed), users, items, kind)
    scores = reference.similarity(q, x)
    found = factor_ranks(q, x, held_out, exclude=exclude, allow=allowed, threads=threads)
    check(found, counted(scores, held_out, exclude, allowed))


@given(
    seed=st.integers(0, 2**32 - 1), users=st.integers(1, 30), items=st.integers(1, 600),
    dtype=st.sampled_from([np.float32, np.float64]), threads=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_ranks_by_scores_are_counted(seed, users, items, dtype, threads):
    random = np.random.default_rng(seed)
    _, _, held_out, exclude, allowed = problem(random, users, items, "plain")
    scores = random.normal(size=(users, items)).round(1).astype(dtype)
    spots = random.random(scores.shape) < 0.1
    scores[spots] = random.choice([np.inf, -np.inf, 0.0, -0.0, 5e-324], spots.sum())
    scores[exclude.toarray()] = np.nan  # no candidate: its score does not matter
    found = score_ranks(scores, held_out, exclude=exclude, allow=allowed, threads=threads)
    check(found, counted(scores, held_out, exclude, allowed))


@given(seed=st.integers(0, 2**32 - 1), users=st.integers(1, 40), items=st.integers(1, 700), k=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_ranks_in_the_top_are_the_first_of_all_ranks(seed, users, items, k):
    q, x, held_out, exclude, allowed = problem(np.random.default_rng(seed), users, items, "ties")
    k = min(k, items)
    found, lists = factor_lists(q, x, held_out, k, exclude=exclude, allow=allowed)
    everything = factor_ranks(q, x, held_out, exclude=exclude, allow=allowed)
    assert np.array_equal(found.ranks, np.where(everything.ranks <= k, everything.ranks, 0))
    assert np.array_equal(found.lengths, np.minimum(everything.lengths, k))
    excluded = exclude.toarray() | ~allowed
    assert np.array_equal(lists, reference.topk(q, x, k, excluded=excluded)[0])


def test_many_users_in_batches():
    random = np.random.default_rng(1)
    q, x = (random.integers(-2, 3, (n, 6)).astype(np.float32) for n in (9000, 300))
    held_out, exclude = (sp.random_array((9000, 300), density=0.02, rng=random, format="csr") for _ in range(2))
    found, _ = factor_lists(q, x, held_out, 40, exclude=exclude)
    everything = factor_ranks(q, x, held_out, exclude=exclude)
    assert np.array_equal(found.ranks, np.where(everything.ranks <= 40, everything.ranks, 0))


def test_every_instruction_set_ranks_alike():
    random = np.random.default_rng(2)
    _, _, held_out, exclude, _ = problem(random, 50, 900, "plain")
    q, x = (random.integers(-9, 10, (n, 40)).astype(np.float32) for n in (50, 900))
    expected = factor_ranks(q, x, held_out, exclude=exclude)
    scores = reference.similarity(q, x).astype(np.float64)
    chosen = show_config()["kernels"]
    try:
        for row in show_config()["instruction_sets"]:
            if not row["offered"]:
                continue
            _core.use_instruction_set(row["name"])
            for found in (
                factor_ranks(q, x, held_out, exclude=exclude),
                score_ranks(scores, held_out, exclude=exclude),
            ):
                assert np.array_equal(found.ranks, expected.ranks), row["name"]
                assert np.array_equal(found.equal, expected.equal), row["name"]
    finally:
        _core.use_instruction_set(chosen)


def test_nan_is_an_error_where_it_matters():
    scores = np.zeros((3, 4), np.float32)
    scores[2, 1] = np.nan
    held_out = sp.csr_matrix(np.eye(3, 4, dtype=np.float32))
    with pytest.raises(ValueError, match="NaN for item row 1 in row 2"):
        score_ranks(scores, held_out)
    assert score_ranks(scores, held_out, allow=[0, 2, 3]).lengths.tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="users: a value that is not finite in row 2"):
        factor_ranks(scores, scores, sp.csr_matrix((3, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q, x, h: factor_ranks(q, x[:, :2], h), "same number of columns"),
        (lambda q, x, h: factor_ranks(q, x, h[:2]), "held_out: shape"),
        (lambda q, x, h: factor_ranks(q, x, h, exclude=h[:, :2]), "exclude: shape"),
        (lambda q, x, h: factor_lists(q, x, h, 9), "k: 9"),
        (lambda q, x, h: score_ranks(q, h), "held_out: shape"),
    ],
)
def test_wrong_shapes(call, words):
    random = np.random.default_rng(0)
    q, x = (random.standard_normal((n, 3), dtype=np.float32) for n in (4, 5))
    with pytest.raises(ValueError, match=words):
        call(q, x, sp.csr_matrix((4, 5), dtype=np.float32))


def test_unsorted_patterns_cannot_reach_the_kernel():
    pattern = (np.array([0, 2], np.int64), np.array([1, 0], np.int32))
    with pytest.raises(ValueError, match="row 0 holds column 1 before 0"):
        _core.list_ranks(np.zeros((1, 1), np.int64), pattern, 2, 1)
    with pytest.raises(ValueError, match="column index 5"):
        _core.list_ranks(np.zeros((1, 1), np.int64), (pattern[0], np.array([1, 5], np.int32)), 2, 1)


@pytest.mark.parametrize("wrong", [{"ranks": [5]}, {"ranks": [-1]}, {"lengths": [9]}, {"better": [4]}, {"equal": [9]}])
def test_ranks_that_cannot_be(wrong):
    held_out = sp.csr_matrix(([1.0], ([0], [1])), shape=(1, 4))
    parts = {"ranks": [1], "lengths": [4], "better": [0], "equal": [0]}
    ranks = Ranks(held_out, **{name: np.array(wrong.get(name, value), np.int64) for name, value in parts.items()})
    with pytest.raises(ValueError, match=next(iter(wrong)) if "better" not in wrong else "equal|better"):
        ranks.metrics(["ndcg@2:expected", "ndcg"])


def test_interrupting_a_long_ranking():
    code = """
import numpy as np, scipy.sparse as sp, _thread, signal, threading, time
from salience.evaluation import factor_ranks
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be told to ignore it
x = np.ones((60000, 256), np.float32)
held_out = sp.csr_matrix((60000, 60000), dtype=np.float32)
threading.Timer(0.5, _thread.interrupt_main).start()
start = time.monotonic()
try:
    factor_ranks(x, x, held_out)
except KeyboardInterrupt:
    print("stopped", time.monotonic() - start < 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "stopped True", done.stderr
