"""Similarity, top-k and selection: bit for bit what the oracle says."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import salience

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


@given(
    seed=st.integers(0, 2**32 - 1), queries=st.integers(0, 40), items=st.integers(1, 700),
    columns=st.integers(0, 70), kind=st.sampled_from(KINDS), metric=st.sampled_from(METRICS),
    k=st.integers(1, 40), filtered=st.booleans(), threads=st.sampled_from([None, 1, 2, 3]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_topk_is_the_oracle(seed, queries, items, columns, kind, metric, k, filtered, threads):
    random = np.random.default_rng(seed)
    q, x = vectors(random, queries, columns, kind), vectors(random, items, columns, kind)
    k = min(k, items)
    filters, excluded = {}, None
    if filtered:
        excluded = random.random((queries, items)) < random.choice([0.01, 0.5, 1.0])
        denied = random.random(items) < random.choice([0.0, 0.3, 0.95])
        rows, columns_out = np.nonzero(excluded)
        shuffled = random.permutation(len(rows))
        pattern = sp.csr_array((np.ones(len(rows)), (rows[shuffled], columns_out[shuffled])), (queries, items))
        filters = {"exclude": pattern, "allow": np.flatnonzero(~denied)}
        excluded = excluded | denied
    found = salience.topk(q, x, k, metric=metric, threads=threads, **filters)
    expected = reference.topk(q, x, k, metric, excluded)
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_large_scans_in_many_blocks_and_ranges(metric, kind):
    random = np.random.default_rng(7)
    q, x = vectors(random, 20, 24, kind), vectors(random, 30000, 24, kind)
    expected = reference.topk(q, x, 25, metric)
    for threads in (1, 2, 3):
        ids, scores = salience.topk(q, x, 25, metric=metric, threads=threads)
        assert np.array_equal(ids, expected[0])
        assert same(scores, expected[1])


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


def test_index_follows_updates():
    random = np.random.default_rng(0)
    x = vectors(random, 50, 8, "plain")
    index = salience.Index(x[:40], metric="cosine")
    assert index.add(x[40:]).tolist() == list(range(40, 50))
    index.update([3, 4], x[[4, 3]])
    x[[3, 4]] = x[[4, 3]]
    assert len(index) == 50
    found, expected = index.search(x, 5), salience.topk(x, x, 5, metric="cosine")
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


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
