"""The ALS operations against dense float64 algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from salience import _core


def padded(array):
    rows, columns = array.shape
    out = np.zeros((rows, -(-columns // 16) * 16), np.float32)[:, :columns]
    out[:] = array
    return out


def problem(rows=50, items=80, factors=11, density=0.2, seed=0):
    random = np.random.default_rng(seed)
    dense = (random.random((rows, items)) < density) * random.integers(1, 6, (rows, items))
    csr = sp.csr_array(dense.astype(np.float32))
    pattern = (csr.indptr.astype(np.int64), csr.indices.astype(np.int32), csr.data)
    return csr, pattern, padded(random.standard_normal((items, factors)) * 0.3), random


def solve(pattern, design, rows, *, is_explicit=False, steps=200, threads=0, alpha=2.0, offset=0.0, ridge=0.7):
    diagonal = np.zeros(design.strides[0] // 4, np.float32)
    if not is_explicit:
        diagonal[: design.shape[1]] = np.linspace(2, 0.1, design.shape[1])
    solution = padded(np.zeros((rows, design.shape[1])))
    report = _core.half_step(
        *pattern, design, is_explicit, alpha, offset, diagonal, np.full(rows, ridge, np.float32), solution, steps, 1e-6,
        threads,
    )  # fmt: skip
    return solution, diagonal[: design.shape[1]], report


@pytest.mark.parametrize(("factors", "items"), [(1, 30), (11, 80), (16, 80), (33, 200), (130, 150)])
def test_implicit_half_step_solves_every_row(factors, items):
    csr, pattern, design, _ = problem(items=items, factors=factors)
    solution, diagonal, _ = solve(pattern, design, 50)
    y = design.astype(np.float64)
    for row in range(50):
        line = csr[[row]]
        weights = 2.0 * line.data
        seen = y[line.indices]
        system = np.diag(diagonal + 0.7) + seen.T @ (weights[:, None] * seen)
        assert np.abs(solution[row] - np.linalg.solve(system, seen.T @ weights)).max() < 1e-4


def test_explicit_half_step_solves_biases_jointly():
    csr, pattern, design, _ = problem()
    solution, _, _ = solve(pattern, design, 50, is_explicit=True, offset=3.0)
    for row in range(50):
        line = csr[[row]]
        seen = design[line.indices].astype(np.float64)
        target = line.data - 3.0 - seen[:, -1]
        seen[:, -1] = 1
        expected = np.linalg.solve(seen.T @ seen + 0.7 * np.eye(11), seen.T @ target)
        assert np.abs(solution[row] - expected).max() < 1e-3


def test_rows_too_long_to_keep_and_rows_without_observations():
    _, _, design, random = problem(items=20000, factors=16)
    matrix = sp.csr_array((random.random((3, 20000)) < 0.8).astype(np.float32) * [[1], [0], [1]], dtype=np.float32)
    matrix.eliminate_zeros()
    pattern = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data)
    solution, diagonal, _ = solve(pattern, design, 3)
    y = design[matrix[[0]].indices].astype(np.float64)
    expected = np.linalg.solve(np.diag(diagonal + 0.7) + 2 * y.T @ y, 2 * y.sum(axis=0))
    assert np.abs(solution[0] - expected).max() < 1e-4
    assert not solution[1].any()


def test_threads_and_steps():
    _, pattern, design, _ = problem(rows=3000, items=500, factors=40)
    first = solve(pattern, design, 3000, threads=1, steps=3)
    for threads in (2, 3):
        assert np.array_equal(first[0], solve(pattern, design, 3000, threads=threads, steps=3)[0])
    assert first[2][2] <= 3 * 3000
    assert first[2][0] > solve(pattern, design, 3000, steps=30)[2][0]


def test_rows_that_are_not_finite_are_named():
    _, pattern, design, _ = problem()
    indptr, indices, values = pattern
    values = values.copy()
    values[indptr[7]] = np.nan
    with pytest.raises(FloatingPointError, match="row 7:"):
        solve((indptr, indices, values), design, 50)


def test_row_loss():
    csr, pattern, design, random = problem()
    x = padded(random.standard_normal((50, 11)))
    found = _core.row_loss(*pattern, design, False, 2.0, 0.0, x, 0)
    dense = csr.toarray()
    expected = (2.0 * dense * (1 - x.astype(np.float64) @ design.T.astype(np.float64)) ** 2).sum(axis=1)
    assert np.allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(("rows", "factors"), [(0, 3), (1, 1), (300, 17), (10000, 64), (5000, 100)])
def test_gramian_and_rotation(rows, factors):
    random = np.random.default_rng(0)
    x = padded(random.standard_normal((rows, factors)))
    gramian = _core.gramian(x, 1)
    exact = x.T.astype(np.float64) @ x.astype(np.float64)
    assert np.abs(gramian - exact).max() <= 1e-5 * max(rows, 1)
    assert np.array_equal(gramian, _core.gramian(x, 3))
    rotation = np.linalg.qr(random.standard_normal((factors, factors)))[0].astype(np.float32)
    expected = x.astype(np.float64) @ rotation
    _core.rotate(x, rotation, 2)
    assert np.allclose(x, expected, atol=1e-5)
    assert not x.base[:, factors:].any()


def test_random_numbers_are_normal_and_repeatable():
    x = _core.random_normal(3, 0, 500, 200)
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    assert np.array_equal(x, _core.random_normal(3, 0, 500, 200))
    assert not np.array_equal(x, _core.random_normal(3, 1, 500, 200))
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"indices": [0, 99]}, "observations: column index 99; expected 0 to 4"),
        ({"indices": [0, -1]}, "observations: column index -1"),
        ({"indptr": [0, 3, 2]}, "observations: indptr"),
        ({"indptr": [1, 1, 2]}, "observations: indptr runs from 1"),
        ({"values": [1.0]}, "observations: 2 column indices and 1 values"),
        ({"steps": 0}, "steps: 0"),
        ({"tolerance": -1.0}, "tolerance: -1"),
        ({"ridge": [1.0]}, "ridge: 1 values"),
        ({"solution": (3, 4)}, r"solution: shape \(3, 4\); expected \(2, 4\)"),
    ],
)
def test_wrong_arguments(change, words):
    given = {"indptr": [0, 1, 2], "indices": [0, 1], "values": [1.0, 1.0], "steps": 3, "tolerance": 0.0,
             "ridge": [1.0, 1.0], "solution": (2, 4), **change}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        _core.half_step(
            np.array(given["indptr"], np.int64), np.array(given["indices"], np.int32),
            np.array(given["values"], np.float32), padded(np.ones((5, 4))), False, 1.0, 0.0, np.zeros(16, np.float32),
            np.array(given["ridge"], np.float32), padded(np.zeros(given["solution"])), given["steps"],
            given["tolerance"], 0,
        )  # fmt: skip


def test_unpadded_factors_are_refused():
    with pytest.raises(ValueError, match="factors: rows lie 5 elements apart"):
        _core.gramian(np.ones((3, 5), np.float32), 0)
