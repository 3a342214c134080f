"""The ALS operations against dense float64 algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from salience import _core

EXACT = ("cholesky", "subspace")


def padded(array):
    rows, columns = array.shape
    out = np.zeros((rows, -(-columns // 16) * 16), np.float32)[:, :columns]
    out[:] = array
    return out


def pattern_of(csr):
    return csr.indptr.astype(np.int64), csr.indices.astype(np.int32), csr.data.astype(np.float32)


def problem(rows=50, items=80, factors=11, density=0.2, seed=0, dislikes=False):
    random = np.random.default_rng(seed)
    dense = (random.random((rows, items)) < density) * random.integers(1, 6, (rows, items))
    if dislikes:
        dense = dense * random.choice([-1, 1], dense.shape)
    csr = sp.csr_array(dense.astype(np.float32))
    return csr, pattern_of(csr), padded(random.standard_normal((items, factors)) * 0.3), random


def diagonal_of(design, scale=1.0):
    diagonal = np.zeros(design.strides[0] // 4, np.float32)
    diagonal[: design.shape[1]] = scale * np.linspace(2, 0.1, design.shape[1])
    return diagonal


def solve(pattern, design, rows, *, ridge=0.7, diagonal=None, start=None, **options):
    explicit = options.get("is_explicit", False)
    if diagonal is None:
        diagonal = diagonal_of(design, 0.0 if explicit else 1.0)
    solution = padded(np.zeros((rows, design.shape[1])) if start is None else start)
    ridges = np.full(rows, ridge, np.float32) if np.isscalar(ridge) else ridge
    options = {"alpha": 2.0, "steps": 200, "tolerance": 1e-6, **options}
    report = _core.half_step(*pattern, design, solution, diagonal, ridges, **options)
    return solution, report


def reference(csr, design, row, *, ridge, diagonal=None, alpha=2.0, shift=None, prior=None, is_explicit=False):
    """Solve a row densely; returns the system, its right side and its solution."""
    line, y = csr[[row]], design.astype(np.float64)
    seen = y[line.indices]
    if is_explicit:
        weights, targets = (
            np.ones(line.nnz),
            line.data - (0 if shift is None else shift[line.indices].astype(np.float64)),
        )
    else:
        weights, targets = alpha * np.abs(line.data.astype(np.float64)), (line.data > 0).astype(np.float64)
    dense = 0.0 if diagonal is None else np.diag(diagonal[: y.shape[1]].astype(np.float64))
    system = dense + float(ridge) * np.eye(y.shape[1]) + seen.T @ (weights[:, None] * seen)
    right = seen.T @ (weights * targets) + (0 if prior is None else float(ridge) * prior[row].astype(np.float64))
    return system, right, np.linalg.solve(system, right)


def relative(found, expected):
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12), items=st.integers(1, 120), factors=st.integers(1, 90), density=st.floats(0.02, 1.0),
    solver=st.sampled_from(EXACT), block=st.sampled_from([16, 32, 96]), dislikes=st.booleans(),
    with_prior=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_exact_solvers_agree_with_float64(rows, items, factors, density, solver, block, dislikes, with_prior, seed):
    csr, pattern, design, random = problem(rows, items, factors, density, seed, dislikes)
    ridge = (10.0 ** random.uniform(-2, 1, rows)).astype(np.float32)
    prior = padded(random.standard_normal((rows, factors))) if with_prior else None
    sweeps = 1 if solver == "cholesky" else 200  # blocks approach the solution sweep by sweep
    solution = None
    for _ in range(sweeps):
        before, solution = solution, solve(
            pattern, design, rows, ridge=ridge, solver=solver, block=block, prior=prior, start=solution
        )[0]  # fmt: skip
        if before is not None and np.array_equal(before, solution):
            break
    diagonal = diagonal_of(design)
    for row in range(rows):
        if csr[[row]].nnz == 0:
            assert np.array_equal(solution[row], np.zeros(factors) if prior is None else prior[row])
            continue
        _, _, expected = reference(csr, design, row, ridge=ridge[row], diagonal=diagonal, prior=prior)
        limit = 1e-5 if solver == "cholesky" else 1e-3
        assert relative(solution[row], expected) < limit


@pytest.mark.parametrize(
    ("factors", "items"), [(1, 30), (11, 80), (16, 80), (33, 200), (64, 300), (128, 150), (130, 150)]
)
@pytest.mark.parametrize("solver", ["auto", "cg"])
def test_conjugate_gradients_reach_the_solution(factors, items, solver):
    csr, pattern, design, _ = problem(items=items, factors=factors)
    solution, report = solve(pattern, design, 50, solver=solver)
    for row in range(50):
        system, _, expected = reference(csr, design, row, ridge=0.7, diagonal=diagonal_of(design))
        assert relative(solution[row], expected) < 1e-6 * np.linalg.cond(system) + 1e-5
    assert report["worst_residual"] < 1e-5
    assert report["conjugate_steps"] > 0


@pytest.mark.parametrize("solver", ["auto", "cg", "cholesky", "subspace"])
def test_explicit_half_step_solves_biases_jointly(solver):
    csr, pattern, design, random = problem()
    shift = (3 + random.standard_normal(80)).astype(np.float32)
    design[:, -1] = 1
    solution, _ = solve(pattern, design, 50, is_explicit=True, shift=shift, solver=solver)
    for row in range(50):
        _, _, expected = reference(csr, design, row, ridge=0.7, shift=shift, is_explicit=True)
        assert relative(solution[row], expected) < 1e-4


@pytest.mark.parametrize("is_explicit", [False, True])
@pytest.mark.parametrize("factors", [5, 40])
def test_nonnegative_factors_minimize_under_the_constraint(is_explicit, factors):
    csr, pattern, design, random = problem(factors=factors, density=0.4)
    design[:] = np.abs(design)
    dense = None
    if is_explicit:
        design[:, -1] = 1
    else:
        root = random.standard_normal((factors, factors))
        dense = root @ root.T
    shift = np.full(80, 3.0, np.float32) if is_explicit else None
    solution, _ = solve(pattern, design, 50, is_explicit=is_explicit, shift=shift, dense=dense, solver="nonnegative",
                        diagonal=diagonal_of(design, 0.0))  # fmt: skip
    held = factors - is_explicit
    assert (solution[:, :held] >= 0).all()
    for row in range(0, 50, 7):
        system, right, _ = reference(csr, design, row, ridge=0.7, shift=shift, is_explicit=is_explicit)
        system += 0 if dense is None else dense
        bounds = (np.append(np.zeros(held), [-np.inf] * is_explicit), np.inf)
        root = np.linalg.cholesky(system)
        expected = scipy.optimize.lsq_linear(root.T, np.linalg.solve(root, right), bounds, tol=1e-14, method="bvls").x
        assert relative(solution[row], expected) < 1e-5


def test_over_relaxation_goes_beyond_the_solution_and_lowers_the_loss():
    csr, pattern, design, random = problem(rows=20, factors=24)
    start = random.standard_normal((20, 24)).astype(np.float32)
    exact, _ = solve(pattern, design, 20, solver="cholesky")
    beyond, _ = solve(pattern, design, 20, solver="cholesky", start=start, relaxation=1.6)
    assert np.allclose(beyond, start + 1.6 * (exact - start), atol=1e-5)

    def objective(x, row):
        system, right, _ = reference(csr, design, row, ridge=0.7, diagonal=diagonal_of(design))
        return x @ system @ x - 2 * right @ x

    for solver in ("cg", "cholesky", "subspace"):
        moved, _ = solve(
            pattern, design, 20, solver=solver, block=16, steps=2, tolerance=0.0, start=start, relaxation=1.9
        )
        for row in range(20):
            assert objective(moved[row].astype(float), row) < objective(start[row].astype(float), row)


def test_losses_are_those_of_the_answer():
    csr, pattern, design, random = problem(dislikes=True)
    start, prior = random.standard_normal((50, 11)), padded(random.standard_normal((50, 11)))
    x, report = solve(pattern, design, 50, start=start, prior=prior, relaxation=1.4, steps=2, with_data_loss=True)
    wide = x.astype(np.float64)
    dense = csr.toarray()
    wanted = (dense > 0).astype(np.float64)
    data = (2.0 * np.abs(dense) * (wanted - wide @ design.T.astype(np.float64)) ** 2).sum()
    data += (wide**2 @ diagonal_of(design)[:11]).sum()
    assert report["data_loss"] == pytest.approx(data, rel=1e-5)
    assert report["ridge_loss"] == pytest.approx(0.7 * np.square(wide - prior).sum(), rel=1e-5)


@pytest.mark.parametrize("solver", ["auto", "cholesky"])
def test_long_rows_are_summed_in_segments_and_empty_rows_are_empty(solver):
    random = np.random.default_rng(0)
    items = 90_000  # more than a segmented row begins at
    design = padded(random.standard_normal((items, 16)) * 0.3)
    matrix = sp.csr_array((random.random((3, items)) < 0.9).astype(np.float32) * [[1], [0], [1]], dtype=np.float32)
    matrix.eliminate_zeros()
    assert matrix[[0]].nnz > 1 << 16
    found = [solve(pattern_of(matrix), design, 3, solver=solver, threads=threads, with_data_loss=True)
             for threads in (1, 2, 4)]  # fmt: skip
    for solution, report in found[1:]:
        assert np.array_equal(solution, found[0][0])
        assert report == found[0][1]
    solution, report = found[0]
    for row in (0, 2):
        _, _, expected = reference(matrix, design, row, ridge=0.7, diagonal=diagonal_of(design))
        assert relative(solution[row], expected) < 1e-4
    assert not solution[1].any()
    wide = solution.astype(np.float64)
    data = sum(2.0 * np.square(1 - design[matrix[[row]].indices] @ wide[row]).sum() for row in (0, 2))
    assert report["data_loss"] == pytest.approx(data + (wide**2 @ diagonal_of(design)).sum(), rel=1e-4)


@pytest.mark.parametrize("solver", ["auto", "cg", "cholesky", "subspace"])
def test_thread_count_does_not_change_a_bit(solver):
    _, pattern, design, _ = problem(rows=3000, items=500, factors=40)
    first, report = solve(pattern, design, 3000, threads=1, steps=3, solver=solver, relaxation=1.5, with_data_loss=True)
    for threads in (2, 3, 4):
        again, other = solve(pattern, design, 3000, threads=threads, steps=3, solver=solver, relaxation=1.5,
                             with_data_loss=True)  # fmt: skip
        assert np.array_equal(first, again)
        assert report == other


def test_steps_and_tolerance_bound_the_work():
    _, pattern, design, _ = problem(rows=300, items=500, factors=40)
    few, many = (solve(pattern, design, 300, solver="cg", steps=steps, tolerance=0.0)[1] for steps in (3, 30))
    assert few["conjugate_steps"] <= 3 * 300
    assert few["worst_residual"] > many["worst_residual"]
    loose = solve(pattern, design, 300, solver="cg", tolerance=1e-1)[1]
    assert loose["conjugate_steps"] < many["conjugate_steps"]
    assert loose["worst_residual"] <= 1e-1


def test_rows_that_cannot_be_solved_are_named_with_the_cause():
    _, pattern, design, _ = problem()
    indptr, indices, values = pattern
    for solver in ("auto", "cg", "cholesky", "subspace", "nonnegative"):
        bad = values.copy()
        bad[indptr[7]] = np.nan
        with pytest.raises(FloatingPointError, match="row 7: its solution is not finite"):
            solve((indptr, indices, bad), design, 50, solver=solver)
    # Five observations cannot determine eleven factors.
    few = sp.csr_array((np.ones(5, np.float32), ([0] * 5, range(5))), shape=(2, 80))
    with pytest.raises(FloatingPointError, match="row 0: its system has no unique solution; expected a regulariz"):
        solve(pattern_of(few), design, 2, ridge=0.0, diagonal=diagonal_of(design, 0.0), solver="cholesky")


def test_rows_on_which_conjugate_gradients_fail_are_solved_exactly():
    csr, pattern, design, random = problem(rows=30, items=300, factors=20, density=0.5)
    indptr, indices, values = pattern
    spread = (values * 10.0 ** random.uniform(-9, 9, len(values))).astype(np.float32)
    wide = sp.csr_array((spread, indices, indptr), shape=csr.shape)
    solution, _ = solve((indptr, indices, spread), design, 30, ridge=1e-6, steps=2, tolerance=0.0)
    assert np.isfinite(solution).all()
    exact, _ = solve((indptr, indices, spread), design, 30, ridge=1e-6, solver="cholesky")
    for row in range(30):
        _, _, expected = reference(wide, design, row, ridge=1e-6, diagonal=diagonal_of(design))
        assert relative(exact[row], expected) < 1e-4


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


@pytest.mark.parametrize("factors", [1, 3, 16, 31, 32, 64, 100, 130])
@pytest.mark.parametrize("rows", [1, 12, 31, 33, 240, 241, 500])
def test_rotation_errs_by_roundings_of_float32_alone(rows, factors):
    random = np.random.default_rng(rows * factors)
    x = padded(random.standard_normal((rows, factors)) * 10.0 ** random.uniform(-12, 12, (rows, factors)))
    x.base[:, factors:] = 7.0  # a bias may follow the factors
    x[0] = 1.0 + 2.0**-23 * np.arange(factors)  # the last bits count
    rotation = (random.standard_normal((factors, factors)) * 10.0 ** random.uniform(-6, 0, factors)).astype(np.float32)
    wide = x.astype(np.float64)
    _core.rotate(x, rotation, 1)
    room = (6 * factors + 3) * 2.0**-24 * (np.abs(wide) @ np.abs(rotation).astype(np.float64))
    assert (np.abs(x - wide @ rotation) <= room).all()
    assert (x.base[:, factors:] == 7.0).all()


def test_random_numbers_are_normal_and_repeatable():
    x = _core.random_normal(3, 0, 500, 200)
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    assert np.array_equal(x, _core.random_normal(3, 0, 500, 200, threads=1))
    assert not np.array_equal(x, _core.random_normal(3, 1, 500, 200))
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.2
    assert _core.random_normal(3, 0, 0, 5).shape == (0, 5)


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
        ({"block": 8}, "block: 8; expected a multiple of 16"),
        ({"relaxation": 2.0}, "relaxation: 2.* expected a number between 0 and 2"),
        ({"relaxation": float("nan")}, "relaxation: nan"),
        ({"relaxation": 1.5, "solver": "nonnegative"}, "relaxation: 1.5.*; expected 1"),
        ({"solver": "magic"}, "solver: 'magic'; expected 'auto'"),
        ({"ridge": [1.0]}, "ridge: 1 values; expected 2"),
        ({"diagonal": [1.0]}, "diagonal: 1 values; expected 16"),
        ({"shift": np.ones(3, np.float32)}, "shift: 3 values; expected 5"),
        ({"dense": np.ones((3, 3))}, "dense: 9 values; expected 16"),
        ({"prior": (3, 4)}, r"prior: shape \(3, 4\); expected \(2, 4\)"),
        ({"solution": (3, 4)}, r"solution: shape \(3, 4\); expected \(2, 4\)"),
    ],
)
def test_wrong_arguments(change, words):
    given = {"indptr": [0, 1, 2], "indices": [0, 1], "values": [1.0, 1.0], "ridge": [1.0, 1.0], "solution": (2, 4),
             "diagonal": np.zeros(16), **change}  # fmt: skip
    arrays = ("indptr", np.int64), ("indices", np.int32), ("values", np.float32)
    pattern = (np.array(given.pop(name), kind) for name, kind in arrays)
    solution, diagonal, ridge = (given.pop(name) for name in ("solution", "diagonal", "ridge"))
    if "prior" in given:
        given["prior"] = padded(np.zeros(given["prior"]))
    with pytest.raises(ValueError, match=words):
        _core.half_step(
            *pattern, padded(np.ones((5, 4))), padded(np.zeros(solution)), np.array(diagonal, np.float32),
            np.array(ridge, np.float32), **given,
        )  # fmt: skip


def test_unpadded_and_read_only_factors_are_refused():
    with pytest.raises(ValueError, match="factors: rows lie 5 elements apart"):
        _core.gramian(np.ones((3, 5), np.float32), 0)
    fixed = padded(np.ones((3, 16)))
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="factors: a read-only array"):
        _core.rotate(fixed, np.eye(16, dtype=np.float32), 1)
