"""Unit rows, their products' order, and attention over histories: bit for bit what the oracle says.

tests/cuda/test_cuda_attention.py runs the same tests with another ``attend``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from salience import _core


@pytest.fixture
def attend():
    """Attention as ``_core.attend``, whatever computes it."""
    return _core.attend


def same(found, expected):
    return found.dtype == expected.dtype and found.tobytes() == np.ascontiguousarray(expected).tobytes()


def drawn(seed, users, items, columns, slots):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((items, columns)).astype(np.float32) * random.choice(
        [1e-30, 1.0, 1e18], (items, 1)
    )
    vectors = vectors.astype(np.float32)
    vectors[random.random(items) < 0.1] = 0
    histories = [random.permutation(items)[: random.integers(0, min(items, 30) + 1)] for _ in range(users)]
    candidates = random.integers(-1, items, (users, slots))
    indptr = np.cumsum([0, *(len(h) for h in histories)])
    indices = np.concatenate([*histories, []]).astype(np.int32)
    ages = random.exponential(2.0, len(indices))
    return vectors, histories, candidates, (indptr, indices), -ages


@given(
    seed=st.integers(0, 2**32 - 1), users=st.integers(0, 4), items=st.integers(1, 60), columns=st.integers(1, 70),
    slots=st.integers(1, 30), temperature=st.sampled_from([0.005, 0.1, 1.0, 50.0]), decayed=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.4, 1.0]), threads=st.sampled_from([1, 2, 3]),
)  # fmt: skip
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_attention_is_the_oracles(attend, seed, users, items, columns, slots, temperature, decayed, smoothing, threads):
    vectors, histories, candidates, pattern, ages = drawn(seed, users, items, columns, slots)
    units = _core.unit_rows(vectors, threads)
    assert same(np.ascontiguousarray(units), reference.unit_rows(vectors))
    log_weights = [ages[a:b] for a, b in zip(pattern[0], pattern[0][1:], strict=False)] if decayed else None
    found = attend(units, pattern, ages if decayed else None, candidates, temperature, smoothing, threads)
    assert same(
        found,
        reference.attend(reference.unit_rows(vectors), histories, candidates, temperature, smoothing, log_weights),
    )


def test_more_candidates_than_a_block(attend):
    vectors, histories, _, pattern, _ = drawn(8, 3, 700, 40, 1)
    candidates = np.tile(np.arange(700), (3, 1))
    candidates[:, 100:140] = -1
    units = _core.unit_rows(vectors, 0)
    found = attend(units, pattern, None, candidates, 0.2, 0.5, 2)
    assert same(found, reference.attend(reference.unit_rows(vectors), histories, candidates, 0.2, 0.5))


def test_the_limits_are_the_mean_the_sum_and_the_nearest(attend):
    random = np.random.default_rng(0)
    vectors = random.standard_normal((20, 8)).astype(np.float32)
    units = _core.unit_rows(vectors, 1)
    pattern = np.array([0, 12]), np.arange(12, dtype=np.int32)
    candidates = np.arange(12, 20)[None]
    cosines = reference.similarity(vectors[:12], vectors[12:], "cosine")
    for temperature, smoothing, expected in (
        (1e9, 1.0, cosines.mean(axis=0)), (1e9, 0.0, cosines.sum(axis=0)), (0.005, 1.0, cosines.max(axis=0)),
    ):  # fmt: skip
        found = attend(units, pattern, None, candidates, temperature, smoothing, 1)[0]
        assert np.allclose(found, expected, atol=0.02 if temperature < 1 else 1e-5)


def test_an_item_is_not_compared_with_itself_and_no_history_is_zero(attend):
    units = _core.unit_rows(np.eye(3, dtype=np.float32), 1)
    found = attend(
        units, (np.array([0, 1, 1]), np.array([0], np.int32)), None, np.array([[0, 1], [0, -1]]), 0.1, 1.0, 1
    )
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1].tolist() == [0.0, -np.inf]


def test_the_exponential_is_right_to_the_last_digits():
    x = np.random.default_rng(1).uniform(-700, 700, 20_000)
    expected = np.exp(x.astype(np.longdouble))
    assert (np.abs(reference.fixed_exp(x) - expected) <= 1e-15 * expected).all()


UNITS = _core.unit_rows(np.ones((3, 2), np.float32), 1)
PAST = np.array([0, 1]), np.array([0], np.int32)
WRONG = {
    "candidates: item row 3; expected 0 to 2, or -1": lambda attend: attend(UNITS, PAST, None, np.array([[3]]), 1.0, 1.0, 1),
    "candidates: item row -2": lambda attend: attend(UNITS, PAST, None, np.array([[-2]]), 1.0, 1.0, 1),
    r"candidates: shape \(2, 1\); expected \(1, 1\)": lambda attend: attend(UNITS, PAST, None, np.array([[0], [1]]), 1.0, 1.0, 1),
    "temperature: 0": lambda attend: attend(UNITS, PAST, None, np.array([[1]]), 0.0, 1.0, 1),
    "smoothing: 2": lambda attend: attend(UNITS, PAST, None, np.array([[1]]), 1.0, 2.0, 1),
    "log_weights: 2 values; expected 1": lambda attend: attend(UNITS, PAST, np.zeros(2), np.array([[1]]), 1.0, 1.0, 1),
    "log_weights: 1.0": lambda attend: attend(UNITS, PAST, np.ones(1), np.array([[1]]), 1.0, 1.0, 1),
    "history: column index 7": lambda attend: attend(UNITS, (PAST[0], np.array([7], np.int32)), None, np.array([[1]]), 1.0, 1.0, 1),
    "units: rows lie 2 elements apart": lambda attend: attend(np.ones((3, 2), np.float32), PAST, None, np.array([[1]]), 1.0, 1.0, 1),
    "vectors: a value that is not finite in row 1": lambda _: _core.unit_rows(np.array([[1], [np.inf]], np.float32), 1),
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_is_named(attend, words):
    with pytest.raises(ValueError, match=words):
        WRONG[words](attend)
