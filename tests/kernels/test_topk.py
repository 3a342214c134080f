"""Similarity, top-k and selection: bit for bit what the oracle says."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import salience
from salience import _arrays, _core

METRICS = ("dot", "cosine", "euclidean")


def same(found, expected):
    """Equal to the bit, where every NaN is the same NaN and no zero is negative."""
    return found.dtype == expected.dtype and found.tobytes() == np.ascontiguousarray(expected).tobytes()


def vectors(random, rows, columns, kind):
    """Draw a matrix of a difficult kind."""
    plain = random.standard_normal((rows, columns), dtype=np.float32)
    if kind == "ties":
        return random.integers(-1, 2, (rows, columns)).astype(np.float32)
    if kind == "huge":
        return plain * np.float32(10) ** random.uniform(-38, 37, (rows, 1)).astype(np.float32)
    if kind == "tiny":
        return plain * np.float32(1e-40)
    if kind == "special":
        spots = random.random((rows, columns)) < 0.02
        plain[spots] = random.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38], spots.sum())
    if kind == "close":
        return np.float32(1) + plain * np.float32(1e-6)
    if kind == "zeros":
        plain[random.random(rows) < 0.5] = 0
    return plain


KINDS = ("plain", "ties", "huge", "tiny", "special", "close", "zeros")


PATHS = ("auto", "exact", "rows", "bytes", "panels")


def drawn_filters(random, queries, items):
    """Draw filters, and the mask of what they leave out."""
    excluded = random.random((queries, items)) < random.choice([0.01, 0.5, 1.0])
    denied = random.random(items) < random.choice([0.0, 0.3, 0.95])
    rows, columns = np.nonzero(excluded)
    shuffled = random.permutation(len(rows))
    pattern = sp.csr_array((np.ones(len(rows)), (rows[shuffled], columns[shuffled])), (queries, items))
    return pattern, ~denied, excluded | denied


def by_path(q, x, k, metric, path, threads, pattern=None, allowed=None, packed=False):
    """Top-k by one of the ways that topk and Index choose among."""
    exclude = None if pattern is None else _arrays.exclusion_pattern(pattern, len(q), len(x))
    array, kind = _arrays.elements(x, argument="items")
    if packed:
        return _core.Index.build(array, kind, metric, threads).search(q, k, exclude, allowed, threads, path)
    return _core.topk(q, array, kind, k, metric, exclude, allowed, threads, path)


@given(
    seed=st.integers(0, 2**32 - 1), queries=st.integers(0, 40), items=st.integers(1, 700),
    columns=st.integers(0, 70), kind=st.sampled_from(KINDS), metric=st.sampled_from(METRICS),
    k=st.integers(1, 40), filtered=st.booleans(), threads=st.sampled_from([0, 1, 2, 3, 4]),
    path=st.sampled_from(PATHS), packed=st.booleans(), dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_topk_is_the_oracle(seed, queries, items, columns, kind, metric, k, filtered, threads, path, packed, dtype):
    random = np.random.default_rng(seed)
    q, x = vectors(random, queries, columns, kind), vectors(random, items, columns, kind)
    if dtype != "float32":
        with np.errstate(all="ignore"):
            x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
    k = min(k, items)
    pattern = allowed = excluded = None
    if filtered:
        pattern, allowed, excluded = drawn_filters(random, queries, items)
    found = by_path(q, x, k, metric, path, threads, pattern, allowed, packed)
    expected = reference.topk(q, x.astype(np.float32), k, metric, excluded)
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_large_scans_in_many_blocks_and_ranges(metric, kind):
    random = np.random.default_rng(7)
    q, x = vectors(random, 20, 24, kind), vectors(random, 30000, 24, kind)
    expected = reference.topk(q, x, 25, metric)
    for threads in (1, 2, 3):
        for path in ("rows", "bytes", "panels"):
            ids, scores = by_path(q, x, 25, metric, path, threads, packed=threads == 2)
            assert np.array_equal(ids, expected[0])
            assert same(scores, expected[1])


def clustered(random, rows, columns):
    """Draw vectors so near each other that 16 bits cannot tell many of them apart."""
    return (random.standard_normal((1, columns)) + 1e-5 * random.standard_normal((rows, columns))).astype(np.float32)


CROWDS = {
    "all equal": lambda random, rows, columns: np.ones((rows, columns), np.float32),
    "all zero": lambda random, rows, columns: np.zeros((rows, columns), np.float32),
    "half zero": lambda random, rows, columns: vectors(random, rows, columns, "zeros"),
    "few values": lambda random, rows, columns: random.integers(0, 2, (rows, columns)).astype(np.float32),
    "clustered": clustered,
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("crowd", CROWDS)
def test_crowds_that_the_bound_cannot_part(crowd, metric):
    random = np.random.default_rng(3)
    x = CROWDS[crowd](random, 20000, 12)
    q = np.concatenate([vectors(random, 4, 12, "plain"), x[:1], np.zeros((1, 12), np.float32)])
    excluded = random.random((len(q), len(x))) < 0.2
    rows, columns = np.nonzero(excluded)
    pattern = sp.csr_array((np.ones(len(rows)), (rows, columns)), excluded.shape)
    for k in (1, 30):
        for path in ("rows", "bytes", "panels"):
            expected = reference.topk(q, x, k, metric, excluded)
            found = by_path(q, x, k, metric, path, 2, pattern, packed=True)
            assert np.array_equal(found[0], expected[0])
            assert same(found[1], expected[1])


@pytest.mark.parametrize(("threads", "scans"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("metric", METRICS)
def test_the_best_items_lie_where_the_scan_looks_first(metric, threads, scans):
    # The half blocks that guess_levels samples, in the first of some scans that share the blocks, which most of some
    # queries' best fill, but not all k: those guesses are too high. Others are right; items that are not finite, and
    # those left out, must not count twice.
    blocks, k = 64, 100
    random = np.random.default_rng(8)
    x = vectors(random, 192 * blocks - 92, 24, "plain")
    x[[4000, 8000, 12000], 5] = np.nan, np.inf, -np.inf
    visited = [n * scans * 39 % blocks * 192 + n % 2 * 96 for n in range(blocks // 4)]
    best = np.add.outer(visited, np.arange(0, 96, 16)).ravel()
    x[best, 0] = 30 + random.random(len(best), dtype=np.float32)
    q = vectors(random, 70, 24, "plain")
    q[::3, 0] = 30
    excluded = random.random((len(q), len(x))) < 0.002
    pattern = sp.csr_array(excluded.astype(np.float32))
    expected = reference.topk(q, x, k, metric, excluded)
    found = by_path(q, x, k, metric, "panels", threads, pattern, packed=True)
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


@pytest.mark.parametrize("path", PATHS)
def test_what_rounding_turns_around(path):
    random = np.random.default_rng(6)
    x, q = vectors(random, 5000, 32, "plain"), np.ones((1, 32), np.float32)
    x[:10], x[:10, 0] = 0.501, 126.9  # every element rounds up in 8 bits: as far above the score as e allows
    x[4000], x[4000, 0] = 0.499, 127  # and down: as far below, though this is the best
    ids, scores = by_path(q, x, 10, "dot", path, 1, packed=True)
    expected = reference.topk(q, x, 10)
    assert ids[0, 0] == 4000
    assert np.array_equal(ids, expected[0])
    assert same(scores, expected[1])


@pytest.mark.parametrize("k", [2400, 2999, 3000])
def test_k_near_the_number_of_items(k):
    random = np.random.default_rng(4)
    q, x = vectors(random, 3, 5, "ties"), vectors(random, 3000, 5, "ties")
    expected = reference.topk(q, x, k)
    for path in PATHS:
        found = by_path(q, x, k, "dot", path, 2)
        assert np.array_equal(found[0], expected[0])
        assert same(found[1], expected[1])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.2, 0.9])
def test_filters_of_many_items(share):
    random = np.random.default_rng(5)
    q, x = vectors(random, 300, 16, "plain"), vectors(random, 9000, 16, "plain")
    allowed = random.random(len(x)) < share
    excluded = random.random((len(q), len(x))) < 0.4  # thousands for every query
    rows, columns = np.nonzero(excluded)
    pattern = sp.csr_array((np.ones(len(rows)), (rows, columns)), excluded.shape)
    expected = reference.topk(q, x, 20, "dot", excluded | ~allowed)
    index = salience.Index(x)
    for found in (
        salience.topk(q, x, 20, exclude=pattern, allow=allowed),
        salience.topk(q, x, 20, exclude=pattern, deny=np.flatnonzero(~allowed)),
        index.search(q, 20, exclude=pattern, allow=np.flatnonzero(allowed)),
    ):
        assert np.array_equal(found[0], expected[0])
        assert same(found[1], expected[1])


@given(
    seed=st.integers(0, 2**32 - 1), a=st.integers(0, 40), b=st.integers(0, 40), columns=st.integers(0, 70),
    kind=st.sampled_from(KINDS), metric=st.sampled_from(METRICS),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_similarity_is_the_oracle(seed, a, b, columns, kind, metric):
    random = np.random.default_rng(seed)
    x, y = vectors(random, a, columns, kind), vectors(random, b, columns, kind)
    assert same(salience.similarity(x, y, metric=metric), reference.similarity(x, y, metric))


@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 6), columns=st.integers(1, 9000), k=st.integers(1, 60),
    kind=st.sampled_from(KINDS), dtype=st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_select_is_the_oracle(seed, rows, columns, k, kind, dtype):
    scores = vectors(np.random.default_rng(seed), rows, columns, kind).astype(dtype)
    k = min(k, columns)
    found, expected = salience.select(scores, k), reference.select(scores, k)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1], equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "order", ["random", "ascending", "descending", "best in a cluster", "mostly NaN", "equal", "few"]
)
def test_select_of_long_rows(order, dtype):
    random = np.random.default_rng(0)
    scores = random.standard_normal((3, 200_000)).astype(dtype)
    if order in ("ascending", "descending"):
        scores = np.sort(scores, axis=1)[:, :: 1 if order == "ascending" else -1]
    elif order == "best in a cluster":
        scores[:, 777:790] += 100  # between the runs that are sampled
    elif order == "mostly NaN":
        scores[random.random(scores.shape) < 0.9999] = np.nan
    elif order == "equal":
        scores[:] = -1
    elif order == "few":
        scores = np.where(random.random(scores.shape) < 1e-4, scores, dtype(-np.inf))
    for k in (1, 15, 300):
        found, expected = salience.select(scores, k), reference.select(scores, k)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1], equal_nan=True)


def test_layouts_and_types_that_float32_holds():
    random = np.random.default_rng(0)
    q, x = vectors(random, 9, 20, "plain"), vectors(random, 300, 20, "plain")
    expected = salience.topk(q, x, 7)
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((300, 33), np.float32)
    wide[:, 5:25] = x
    backwards = np.ascontiguousarray(x[::-1])[::-1]
    for same_items in (np.asfortranarray(x), frozen, wide[:, 5:25], backwards, np.repeat(x, 2, axis=1)[:, ::2]):
        found = salience.topk(np.asfortranarray(q), same_items, 7)
        assert np.array_equal(found[0], expected[0])
        assert same(found[1], expected[1])
    half = x.astype(np.float16)
    assert same(salience.similarity(q, half), reference.similarity(q, half.astype(np.float32)))


def test_unsorted_and_repeated_exclusions():
    q, x = np.ones((1, 1), np.float32), np.arange(10, dtype=np.float32)[:, None]
    pattern = sp.csr_matrix((np.ones(4), np.array([9, 2, 9, 8], np.int64), np.array([0, 4], np.int64)), (1, 10))
    assert salience.topk(q, x, 3, exclude=pattern)[0].tolist() == [[7, 6, 5]]
    assert salience.topk(q, x, 2, allow=[])[0].tolist() == [[-1, -1]]


DIGEST = """
import hashlib, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_topk import digest
print(digest())
"""


def digest():
    """Hash the answers to difficult questions."""
    state = hashlib.sha256()
    for number, kind in enumerate(KINDS):
        random = np.random.default_rng(number)
        q, x = vectors(random, 37, 45, kind), vectors(random, 6000, 45, kind)
        for metric in METRICS:
            for array in (*salience.topk(q, x, 20, metric=metric), salience.similarity(q, x[:99], metric=metric)):
                state.update(array.tobytes())
    return state.hexdigest()


def other_process(instruction_set):
    folder = os.path.dirname(__file__)  # noqa: PTH120
    path = os.pathsep.join([os.path.dirname(folder), *filter(None, sys.path)])  # noqa: PTH120
    environment = {**os.environ, "SALIENCE_ISA": instruction_set, "PYTHONPATH": path}
    command = [sys.executable, "-c", DIGEST, folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("row", salience.show_config()["instruction_sets"], ids=lambda row: row["name"])
def test_every_instruction_set_gives_the_same_bits(row):
    done = other_process(row["name"])
    if row["offered"]:
        assert done.stdout.strip() == digest(), done.stderr
    else:
        assert f"SALIENCE_ISA: {row['name']}, but {row['why_not']}" in done.stderr


def test_an_unknown_instruction_set_is_an_error():
    assert "ValueError: SALIENCE_ISA: mmx; expected one of baseline" in other_process("mmx").stderr
