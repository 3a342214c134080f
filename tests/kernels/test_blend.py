"""Blended scores: additions, gates and labels against the oracle, on every path."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import salience
from salience import _arrays

sys.path.insert(0, str(Path(__file__).parent))
from test_topk import KINDS, drawn_filters, same, vectors


def drawn_additions(random, queries, items):
    """Some entries for some queries, many of them alike."""
    matrix = sp.random_array(
        (queries, items), density=random.choice([0.0, 0.02, 0.5]), format="csr", rng=random, dtype=np.float32
    )
    matrix.data = random.choice([-2.0, 0.0, 0.25, 1.0, 3.0, 1e6], matrix.nnz).astype(np.float32)
    matrix.sort_indices()
    return matrix


def drawn_gates(random, queries, items):
    count, spread = int(random.integers(1, 6)), float(random.choice([0.0, 0.3, 3.0]))
    gates = [np.exp(spread * random.standard_normal((n, count))).astype(np.float32) for n in (queries, items)]
    for matrix in gates:
        matrix[:, 1:][random.random(matrix[:, 1:].shape) < 0.3] = 0
    if random.random() < 0.5:
        gates[1] = gates[1][np.lexsort(gates[1].T)]
    return gates


def packed(csr):
    return (csr.indptr.astype(np.int64), csr.indices.astype(np.int32)), csr.data


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=250, deadline=None)
def test_blended_scores_are_the_oracle(seed):
    random = np.random.default_rng(seed)
    queries, items = int(random.choice([1, 2, 5, 17, 33])), int(random.choice([1, 13, 191, 400, 900]))
    columns, kind = int(random.choice([1, 7, 16, 33])), str(random.choice(KINDS))
    q, x = vectors(random, queries, columns, kind), vectors(random, items, columns, kind)
    pattern = allowed = excluded = additions = gates = labels = None
    if random.random() < 0.4:
        drawn, allowed, excluded = drawn_filters(random, queries, items)
        pattern = _arrays.exclusion_pattern(drawn, queries, items)
    if random.random() < 0.7:
        additions = drawn_additions(random, queries, items)
    if random.random() < 0.7:
        gates = drawn_gates(random, queries, items)
    if random.random() < 0.5:
        labels = random.permutation(items).astype(np.int64)
    k = int(min(items, random.choice([1, 2, 10, 64])))
    index = salience.Index(x)
    found = index._state.search(
        q, k, pattern, allowed, int(random.integers(1, 4)), str(random.choice(["auto", "exact", "rows", "bytes", "panels"])),
        None if additions is None else packed(additions), None if gates is None else tuple(gates), labels,
    )  # fmt: skip
    expected = reference.blended_topk(q, x, k, additions, gates, labels, excluded)
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


def test_a_large_catalogue_with_gates_that_vary_within_blocks():
    random = np.random.default_rng(3)
    q, x = (random.standard_normal((n, 24)).astype(np.float32) for n in (300, 20_000))
    gates = tuple(np.exp(0.5 * random.standard_normal((n, 4))).astype(np.float32) for n in (300, 20_000))
    additions = sp.random_array((300, 20_000), density=0.01, format="csr", rng=random, dtype=np.float32)
    additions.sort_indices()
    found = salience.Index(x)._state.search(q, 20, None, None, 2, "auto", packed(additions), gates)
    expected = reference.blended_topk(q, x, 20, additions, gates)
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


@pytest.mark.parametrize("sizes", [(1e20, 1e20), (1e20, 1e18), (1e-22, 2e-22)])
def test_denominators_at_the_limits_of_float32(sizes):
    random = np.random.default_rng(4)
    q, x = (random.standard_normal((n, 12)).astype(np.float32) for n in (20, 3000))
    gates = tuple(
        (size * np.exp(random.uniform(-3, 0, (n, 2)))).astype(np.float32)
        for size, n in zip(sizes, (20, 3000), strict=True)
    )
    q *= np.float32(min(1.0, sizes[0] * 1e10))
    found = salience.Index(x)._state.search(q, 20, None, None, 2, "panels", None, gates)
    expected = reference.blended_topk(q, x, 20, None, gates)
    assert np.array_equal(found[0], expected[0])
    assert same(found[1], expected[1])


def vanishing(path, device):
    """Search where all quotients are too small for float32, and so alike."""
    random = np.random.default_rng(4)
    x = -np.abs(random.standard_normal((3000, 12))).astype(np.float32)
    q = (1e-12 * np.abs(random.standard_normal((20, 12)))).astype(np.float32)
    gates = tuple(np.full((n, 1), size, np.float32) for n, size in ((20, 1e17), (3000, 1e18)))
    found = salience.Index(x, device=device)._state.search(q, 20, None, None, 0, path, None, gates)
    assert (found[0] == np.arange(20)).all()
    assert not found[1].any()


@pytest.mark.parametrize("path", ["rows", "bytes", "panels"])
def test_quotients_below_float32_are_equal(path):
    vanishing(path, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "cosine"}, "metric: not 'dot'"),
        ({"additions": (([0, 2, 2], [1, 0]), [1.0, 2.0])}, "additions: row 0 is not in ascending order"),
        ({"additions": (([0, 1, 1], [1]), [np.nan])}, "additions: row 0 holds a value that is not finite"),
        ({"additions": (([0, 1, 1], [1]), [1.0, 2.0])}, "additions: 2 values; expected 1"),
        ({"additions": (([0, 1, 1], [9]), [1.0])}, "additions"),
        ({"gates": (np.ones((2, 2)), np.ones((5, 1)))}, "item_gates: shape"),
        ({"gates": (np.zeros((2, 1)), np.ones((5, 1)))}, "query_gates: row 0 holds 0.000000 in column 0"),
        ({"gates": (np.ones((2, 1)), np.full((5, 1), np.inf))}, "item_gates: row 0 holds inf"),
        ({"labels": [0, 1, 2, 3, 3]}, "labels: 3 of row 4"),
        ({"labels": [0, 1]}, "labels: 2 of them"),
    ],
)
def test_unsound_blends_are_errors(change, message):
    x = np.ones((5, 3), np.float32)
    additions, gates, labels = change.get("additions"), change.get("gates"), change.get("labels")
    if additions is not None:
        (indptr, indices), values = additions
        additions = (np.array(indptr, np.int64), np.array(indices, np.int32)), np.array(values, np.float32)
    if gates is not None:
        gates = tuple(np.asarray(part, np.float32) for part in gates)
    elif "metric" in change:
        gates = (np.ones((2, 1), np.float32), np.ones((5, 1), np.float32))
    index = salience.Index(x, metric=change.get("metric", "dot"))
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        index._state.search(
            x[:2], 2, None, None, 1, "auto", additions, gates, None if labels is None else np.array(labels)
        )
