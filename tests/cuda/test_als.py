"""ALS on the device: every row is what float64 says, training comes to what the CPU's comes to, memory and failures."""

from __future__ import annotations

import itertools
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from salience import ALS, _als, _als_backends, _backends

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kernels")]

import fuzz_cuda  # noqa: E402
from barriers import ALS_KERNELS, barriers, goes_wrong  # noqa: E402
from test_als_kernels import diagonal_of, padded, pattern_of, problem, reference, relative  # noqa: E402

SOLVERS = ("auto", "cg", "cholesky")
WORKSPACE = 1 << 22


@pytest.mark.parametrize("start", range(0, 500, 100))
@pytest.mark.parametrize("kernel", fuzz_cuda.ALS_CHECKS)
def test_random_half_steps(cuda, kernel, start):
    """The first 500 of each solver; `python tests/cuda/fuzz_cuda.py 5000 --kernel "als auto"` takes them further."""
    for number in range(start, start + 100):
        assert fuzz_cuda.ALS_CHECKS[kernel](cuda, number), number


def to_device(module, array):
    made = module.Factors(*array.shape)
    made.upload(array)
    return made


def to_host(matrix):
    found = padded(np.zeros((matrix.rows, matrix.columns)))
    matrix.download(found)
    return found


def solve(module, pattern, design, rows, *, ridge=0.7, diagonal=None, blocks=0, start=None, **settings):
    held = module.Rows(*pattern, len(design), blocks)
    solution = to_device(module, padded(np.zeros((rows, design.shape[1]))) if start is None else start)
    settings = {"alpha": 2.0, "steps": 60, "tolerance": 1e-6, "half_gathers": False, "workspace": WORKSPACE, **settings}
    if settings.get("prior") is not None:
        settings["prior"] = to_device(module, settings["prior"])
    report = module.half_step(
        held, to_device(module, design), solution, diagonal_of(design) if diagonal is None else diagonal,
        np.full(rows, ridge, np.float32), **settings,
    )  # fmt: skip
    return to_host(solution), report


@pytest.mark.parametrize("factors", [1, 31, 33, 64, 1000, 1024, 1025, 2048])
def test_any_number_of_factors(cuda, factors):
    """Rows shorter than a system and (where float64 takes no minutes) longer, and one that is empty."""
    random = np.random.default_rng(factors)
    items = 200 if factors < 1000 else 40
    dense = (random.random((4, items)) < np.array([[0.1], [0.9], [0.0], [0.4]])) * random.choice(
        [-2.0, 1.0], (4, items)
    )
    csr = sp.csr_array(dense.astype(np.float32))
    design = padded(random.standard_normal((items, factors)) * 0.3)
    rows = [reference(csr, design, row, ridge=0.7, diagonal=diagonal_of(design)) for row in range(4)]
    for solver in SOLVERS:
        for half in (False, True) if solver == "cg" else (False,):
            found, report = solve(cuda, pattern_of(csr), design, 4, solver=solver, half_gathers=half, steps=150)
            assert not found[2].any()
            for row in (0, 1, 3):
                system, right, expected = rows[row]
                residual = np.linalg.norm(right - system @ found[row]) / np.linalg.norm(right)
                assert residual < (5e-3 if half else 2e-5)
                assert solver != "cholesky" or relative(found[row], expected) < 1e-5
            assert report["worst_residual"] < 1e-5
            assert not found.base[:, factors:].any()


@pytest.mark.parametrize("factors", [264, 1025])
def test_systems_that_fit_no_shared_memory(emulated, factors):
    random = np.random.default_rng(2)
    items = factors + 30
    csr = sp.csr_array((random.random((1, items)) < 0.99).astype(np.float32))
    design = padded(random.standard_normal((items, factors)) * 0.3)
    emulated.configure(shared_bytes=48 << 10)
    found, _ = solve(emulated, pattern_of(csr), design, 1, solver="cholesky", workspace=1)
    assert relative(found[0], reference(csr, design, 0, ridge=0.7, diagonal=diagonal_of(design))[2]) < 1e-5


@pytest.mark.parametrize(
    ("rows", "factors"), [(1, 1), (1, 33), (70, 31), (70, 64), (1500, 33), (1100, 64), (300, 130), (5, 530)]
)
def test_gramian_and_rotation(cuda, rows, factors):
    random = np.random.default_rng(0)
    x = padded(random.standard_normal((rows, factors + 1)))
    held, some = to_device(cuda, x), x[:, :factors].astype(np.float64)
    for workspace in (1, WORKSPACE):
        gramian = cuda.gramian(held, factors, workspace)
        assert np.abs(gramian - some.T @ some).max() <= 1e-5 * rows
        assert np.array_equal(gramian, gramian.T)
    rotation = np.linalg.qr(random.standard_normal((factors, factors)))[0].astype(np.float32)
    cuda.rotate(held, rotation, 1)
    found = to_host(held)
    assert np.allclose(found[:, :factors], some @ rotation, atol=2e-5)
    assert np.array_equal(found[:, factors], x[:, factors])


def test_what_a_row_comes_to_depends_on_no_other(emulated):
    """In any order of lanes, in blocks that pass through the device or all at once, alone or among others."""
    random = np.random.default_rng(5)
    lengths = [1, 3, 20, 33, 130, 700, 2500, 5000, 0, 64]
    dense = np.zeros((len(lengths), 5200), np.float32)
    for row, length in enumerate(lengths):
        dense[row, random.choice(5200, length, replace=False)] = 1
    csr, design = sp.csr_array(dense), padded(random.standard_normal((5200, 20)) * 0.3)
    for solver in SOLVERS:
        settings = {"solver": solver, "half_gathers": True, "steps": 3, "with_data_loss": True}
        first, report = solve(emulated, pattern_of(csr), design, len(lengths), **settings)
        for seed, blocks in ((1, 0), (2, 1), (3, 9000)):
            assert (emulated.Rows(*pattern_of(csr), 5200, blocks).blocks > 1) == (blocks > 0)
            emulated.configure(seed=seed)
            again, other = solve(emulated, pattern_of(csr), design, len(lengths), blocks=blocks, **settings)
            assert again.tobytes() == first.tobytes()
            assert other == pytest.approx(report, rel=1e-12)
        alone, _ = solve(emulated, pattern_of(csr[[6]]), design, 1, **settings)
        assert alone[0].tobytes() == first[6].tobytes()


def test_long_rows_stop_when_they_are_done(emulated):
    """However many steps are allowed."""
    csr, pattern, design, _ = problem(rows=2, items=1500, factors=12, density=0.95)
    emulated.configure(shared_bytes=16 << 10)
    emulated.take_launches()
    found, report = solve(emulated, pattern, design, 2, solver="cg", steps=10**6, tolerance=1e-6)
    assert len(emulated.take_launches()) < 100
    assert report["conjugate_steps"] < 60
    for row in range(2):
        assert relative(found[row], reference(csr, design, row, ridge=0.7, diagonal=diagonal_of(design))[2]) < 1e-4


def test_rows_that_cannot_be_solved_are_named_with_the_cause(cuda):
    _, pattern, design, _ = problem()
    indptr, indices, values = pattern
    for solver in SOLVERS:
        bad = values.copy()
        bad[indptr[7]] = np.nan
        with pytest.raises(FloatingPointError, match="row 7: its solution is not finite"):
            solve(cuda, (indptr, indices, bad), design, 50, solver=solver)
        with pytest.raises(FloatingPointError, match="row 7: its solution is not finite"):
            solve(cuda, (indptr, indices, bad), design, 50, solver=solver, blocks=500)
    few = sp.csr_array((np.ones(5, np.float32), ([0] * 5, range(5))), shape=(2, 80))
    with pytest.raises(FloatingPointError, match="row 0: its system has no unique solution; expected a regulariz"):
        solve(cuda, pattern_of(few), design, 2, ridge=0.0, diagonal=diagonal_of(design, 0.0), solver="cholesky")


def test_rows_on_which_conjugate_gradients_fail_are_solved_exactly(cuda):
    csr, (indptr, indices, values), design, random = problem(rows=12, items=300, factors=20, density=0.5)
    spread = (values * 10.0 ** random.uniform(-9, 9, len(values))).astype(np.float32)
    wide = sp.csr_array((spread, indices, indptr), shape=csr.shape)
    start = padded(np.full((12, 20), 1e30))
    found, _ = solve(cuda, (indptr, indices, spread), design, 12, ridge=1e-6, steps=2, tolerance=0.0, start=start)
    for row in range(12):
        _, _, expected = reference(wide, design, row, ridge=1e-6, diagonal=diagonal_of(design))
        assert relative(found[row], expected) < 1e-4


WRONG = {
    "a column that is not there": ({"indices": [0, 99]}, "observations: column index 99; expected 0 to 4"),
    "pointers that fall": ({"indptr": [0, 3, 2]}, "observations: indptr"),
    "too few values": ({"values": [1.0]}, "observations: 2 column indices and 1 values"),
    "no steps": ({"steps": 0}, "steps: 0"),
    "too much relaxation": ({"relaxation": 2.0}, "relaxation: 2.* expected a number between 0 and 2"),
    "an unknown solver": ({"solver": "magic"}, "solver: 'magic'; expected 'auto'"),
    "a solver of the CPU": ({"solver": "subspace"}, "solver: one that runs on the CPU only"),
    "a short ridge": ({"ridge": [1.0]}, "ridge: 1 values; expected 2"),
    "a short diagonal": ({"diagonal": [1.0]}, "diagonal: 1 values; expected 16"),
    "another prior": ({"prior": (3, 4)}, r"prior: shape \(3, 4\); expected \(2, 4\)"),
    "another solution": ({"solution": (3, 4)}, r"solution: shape \(3, 4\); expected \(2, 4\)"),
    "another design": ({"design": (6, 4)}, r"design: shape \(6, 4\); expected \(5, 4\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments(emulated, wrong):
    change, words = WRONG[wrong]
    given = {"indptr": [0, 1, 2], "indices": [0, 1], "values": [1.0, 1.0], "ridge": [1.0, 1.0], "solution": (2, 4),
             "design": (5, 4), "diagonal": np.zeros(16), "prior": None, **change}  # fmt: skip
    pattern = [np.array(given.pop(name), kind) for name, kind in
               (("indptr", np.int64), ("indices", np.int32), ("values", np.float32))]  # fmt: skip
    solution, design, ridge, diagonal = (given.pop(name) for name in ("solution", "design", "ridge", "diagonal"))
    if given["prior"] is not None:
        given["prior"] = emulated.Factors(*given["prior"])
    with pytest.raises(ValueError, match=words):
        emulated.half_step(
            emulated.Rows(*pattern, 5, 0), emulated.Factors(*design), emulated.Factors(*solution),
            np.array(diagonal, np.float32), np.array(ridge, np.float32), **given,
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"source: shape \(2, 4\); expected \(3, 4\)"):
        emulated.Factors(3, 4).upload(padded(np.zeros((2, 4))))


def explained(module, csr, design, targets):
    """Explain two targets by each history; returns parts as a matrix of targets and entries."""
    rows = csr.shape[0]
    history = np.repeat(np.arange(rows, dtype=np.int32), 2)
    counts = np.diff(csr.indptr)[history]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    parts, _ = module.explain(
        *pattern_of(csr), to_device(module, design), diagonal_of(design), np.full(rows, 0.7, np.float32), prior=None,
        is_explicit=False, alpha=2.0, mean=0.0, targets=targets, history=history, first_part=bounds[:-1],
        part_count=int(bounds[-1]), workspace=1,
    )  # fmt: skip
    return parts


def drill(module, seed=0, skipped=""):
    """Run every kernel through every branch, small; compares with float64."""

    def settle(shared=99 << 10):
        nonlocal seed
        seed += 1
        module.configure(seed=seed, shared_bytes=shared, skipped=skipped, multiprocessors=1)

    def check(csr, design, shared, **settings):
        settle(shared)
        prior = padded(np.full((csr.shape[0], design.shape[1]), 0.1))
        found, report = solve(
            module, pattern_of(csr), design, csr.shape[0], prior=prior, with_data_loss=True, **settings
        )
        loss = 0.0
        for row in range(csr.shape[0]):
            expected = reference(csr, design, row, ridge=0.7, diagonal=diagonal_of(design), prior=prior)[2]
            assert relative(found[row], expected) < (3e-3 if settings.get("half_gathers") else 2e-4)
            error = 1 - design[csr[[row]].indices] @ found[row].astype(np.float64)
            loss += 2 * np.square(error).sum() + diagonal_of(design)[: design.shape[1]] @ np.square(found[row])
        assert report["data_loss"] == pytest.approx(loss, rel=1e-5)

    random = np.random.default_rng(0)

    def drawn(lengths, items, factors):
        dense = np.zeros((len(lengths), items), np.float32)
        for row, length in enumerate(lengths):
            dense[row, random.choice(items, length, replace=False)] = 1
        return sp.csr_array(dense), padded(random.standard_normal((items, factors)) * 0.3)

    csr, design = drawn([3, 30, 40, 150], 160, 20)
    check(csr, design, 99 << 10, solver="cg", half_gathers=True, steps=12)
    check(csr, design, 99 << 10, solver="cg", steps=12)
    check(csr[[2, 3]], design, 12 << 10, solver="cg", steps=12)  # in segments, of several chunks
    check(*drawn([2600, 2100], 2700, 3), 99 << 10, solver="cg", steps=6)  # several segments
    check(csr, design, 99 << 10, solver="cholesky")
    long, wide = drawn([60, 70, 50], 80, 40)
    check(long, wide, 9 << 10, solver="cholesky", workspace=1)  # one block for one row after another
    check(*drawn([5, 18, 31, 25, 17, 30], 32, 40), 9 << 10, solver="cholesky", workspace=1)
    check(*drawn([4300], 4400, 9), 99 << 10, solver="cholesky")  # cut, its parts added up
    settle(9 << 10)
    targets = padded(random.standard_normal((6, 40)))
    parts, at = explained(module, long, wide, targets), 0
    for number, target in enumerate(targets):
        system, _, _ = reference(long, wide, number // 2, ridge=0.7, diagonal=diagonal_of(wide))
        seen = wide[long[[number // 2]].indices]
        assert np.allclose(parts[at : at + len(seen)], 2 * seen @ np.linalg.solve(system, target), atol=1e-8)
        at += len(seen)
    settle()
    x = padded(random.standard_normal((70, 70)))
    held, some = to_device(module, x), x.astype(np.float64)
    assert np.allclose(module.gramian(held, 70, WORKSPACE), some.T @ some, atol=1e-4)
    module.rotate(held, np.ascontiguousarray(x[:, ::-1]), WORKSPACE)
    assert np.allclose(to_host(held), some @ some[:, ::-1], atol=1e-4)


BARRIERS = barriers(ALS_KERNELS)


def test_every_kernel_meets_at_every_barrier(emulated):
    drill(emulated)
    assert set(BARRIERS) <= set(emulated.barrier_sites())


@pytest.mark.parametrize("barrier", BARRIERS)
def test_no_barrier_can_be_removed(emulated, barrier):
    """Each barrier of each kernel is needed: without it some order of lanes gives a report or another answer."""
    assert any(goes_wrong(drill, emulated, attempt, barrier) for attempt in range(8))


# --- Training ---


def interactions(seed=0, users=70, items=50, density=0.2, dislikes=False):
    """Draw ratings; a user and an item have none, an item has nearly all users."""
    random = np.random.default_rng(seed)
    dense = random.integers(1, 6, (users, items)) * (random.random((users, items)) < density)
    if dislikes:
        dense *= random.choice([-1, 1, 1], dense.shape)
    dense[:, 7] = 3
    dense[3] = dense[:, 5] = 0
    return sp.csr_matrix(dense.astype(np.float32))


def losses(matrix, device, fit=None, **settings):
    model = ALS(device=device, seed=3, **settings).fit(matrix, **(fit or {}))
    return np.array(model.loss_history_), model


@pytest.mark.parametrize("factors", [1, 9, 24])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_training_comes_to_the_losses_of_the_cpu(cuda, feedback, solver, factors):
    matrix = interactions(dislikes=feedback == "implicit")
    settings = {"factors": factors, "feedback": feedback, "solver": solver, "epochs": 10}
    (expected, host), (found, model) = (losses(matrix, device, **settings) for device in ("cpu", "cuda"))
    assert np.abs(found / expected - 1).max() < 1e-4
    scores, others = (m.user_factors_ @ m.item_factors_.T for m in (model, host))
    assert np.abs(scores - others).max() < 5e-3 * np.abs(others).max()
    assert model.user_factors_.dtype == np.float32
    if solver != "cholesky":
        assert model.residual_history_ == pytest.approx(host.residual_history_, rel=0.3, abs=2e-5)


def test_gathers_of_16_bits_leave_the_loss_as_it_is(cuda, monkeypatch):
    found = []
    for half in (True, False):
        monkeypatch.setattr(_als_backends, "_HALF_GATHERS", half)
        settings = {"factors": 20, "solver": "cg", "epochs": 10, "unobserved_weight": 1.0, "regularization": 0.01}
        found.append(losses(interactions(4), "cuda", **settings)[0])
    assert np.abs(found[0] / found[1] - 1).max() < 1e-4
    assert not np.array_equal(*found)


@pytest.mark.parametrize("settings", [{"unobserved_weight": 0.0}, {"feedback": "explicit", "regularization": 1e-3}])
def test_a_fit_that_comes_close_to_its_data_has_the_losses_of_the_cpu(cuda, settings):
    expected, found = (
        losses(interactions(1), device, factors=12, epochs=10, **settings)[0] for device in ("cpu", "cuda")
    )
    assert np.abs(found / expected - 1).max() < 1e-4
    assert found[-1] < 0.2 * found[0]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_features_pull_as_on_the_cpu(cuda, monkeypatch, feedback, sparse, direct):
    if not direct:
        monkeypatch.setattr(_als, "_DIRECT_FEATURES", 2)
    matrix, random = interactions(1), np.random.default_rng(1)
    features = {"item_features": random.random((50, 6)) < 0.4, "user_features": random.standard_normal((70, 3))}
    if sparse:
        features = {name: sp.csr_matrix(part.astype(np.float32)) for name, part in features.items()}
    settings = {"factors": 7, "feedback": feedback, "epochs": 5, "fit": features}
    (expected, host), (found, model) = (losses(matrix, device, **settings) for device in ("cpu", "cuda"))
    assert np.abs(found / expected - 1).max() < 1e-4
    assert np.allclose(
        model.item_factors_[5] @ model.user_factors_.T, host.item_factors_[5] @ host.user_factors_.T, atol=5e-3
    )
    assert np.abs(model.item_factors_[5]).max() > 0  # nobody saw it: its features say where it is


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_life_after_training_is_that_of_the_cpu(cuda, feedback):
    random = np.random.default_rng(1)
    matrix, user_features = interactions(2), random.standard_normal((70, 3))
    model = ALS(9, feedback=feedback, epochs=3, device="cpu").fit(matrix, user_features=user_features)
    new = interactions(9, users=6)
    new_items = interactions(8, items=12)

    def answers():
        reasons = model.explain([0, 3, 12, 12], [1, 30, 7, 8])
        other = model.explain(np.arange(6), np.arange(6), interactions=new, user_features=user_features[:6])
        return [
            model.fold_in(new, user_features=user_features[:6]),
            model.fold_in_items(new_items),
            *[np.append(reason.contributions, [reason.base, reason.score]) for reason in (*reasons, *other)],
        ], [reason.items.tolist() for reason in (*reasons, *other)]

    expected, order = answers()
    model.device = "cuda"
    found, again = answers()
    assert order == again
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    grown = model.partial_fit(interactions(4, users=75), user_features=random.standard_normal((75, 3)))
    assert grown.user_factors_.shape == (75, 9)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_nobody_and_nothing_is_asked_about(cuda, feedback, device):
    model = ALS(4, feedback=feedback, epochs=1, device=device).fit(interactions())
    columns = 4 + (feedback == "explicit")
    assert model.fold_in(sp.csr_matrix((0, 50), dtype=np.float32)).shape == (0, columns)
    assert model.fold_in_items(sp.csr_matrix((70, 0), dtype=np.float32)).shape == (0, columns)
    assert not model.fold_in(sp.csr_matrix((2, 50), dtype=np.float32)).any()
    nobody = np.array([], np.int64)
    assert model.explain(nobody, nobody) == []


EDGES = {
    "one pair": np.ones((1, 1)), "one user": np.ones((1, 40)), "one item": np.ones((40, 1)), "only dislikes": -np.ones((12, 9)),
    "one user has it all": np.eye(21, 1) * np.ones(60), "rows beyond a segment": np.ones((1, 4200)),
}  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("edge", EDGES)
def test_shapes_at_the_edge_train_as_on_the_cpu(emulated, edge, solver):
    matrix = sp.csr_matrix(EDGES[edge].astype(np.float32))
    (expected, host), (found, model) = (
        losses(matrix, device, factors=5, solver=solver, epochs=3) for device in ("cpu", "cuda")
    )
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(model.user_factors_ @ model.item_factors_.T - host.user_factors_ @ host.item_factors_.T).max() < 5e-3
    assert emulated.allocated() == 0


@pytest.mark.usefixtures("emulated")
def test_values_that_no_system_can_hold_are_named_as_on_the_cpu():
    for bad in (np.inf, 1e38):
        matrix = interactions()
        matrix.data[5] = bad
        said = []
        for device in ("cpu", "cuda"):
            with pytest.raises((ValueError, FloatingPointError)) as error:
                ALS(4, alpha=100.0, epochs=2, device=device).fit(matrix)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_threads_that_train_at_once_come_to_the_same_bits(cuda):
    expected = ALS(6, epochs=2, device="cuda").fit(interactions())
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: ALS(6, epochs=2, device="cuda").fit(interactions()), range(6)))
    for model in models:
        assert np.array_equal(model.item_factors_, expected.item_factors_)


def test_a_model_moves_between_devices(cuda):
    """Trained on one, warm started on the other, grown on the CPU, and asked on both."""
    model = ALS(6, epochs=2, device="cuda").fit(interactions(1))
    for device in ("cpu", "cuda"):
        before = model.loss_history_[-1]
        model.device = device
        model.fit(interactions(1), warm_start=True)
        assert model.loss_history_[-1] < before
    model.partial_fit(interactions(3, users=75, items=52))
    new = interactions(4, users=5, items=52)
    found = []
    for device in ("cpu", "cuda"):
        model.device = device
        found.append(model.fold_in(new))
    assert np.allclose(*found, rtol=1e-4, atol=1e-5)


def test_training_runs_on_the_device_and_gives_its_memory_back(emulated):
    before = emulated.allocated()
    model = ALS(6, epochs=2, device="cuda").fit(interactions())
    kernels = {name.strip("()").split("<")[0] for name, *_ in emulated.take_launches()}
    assert {"gramian_tile", "rotate_tile", "conjugate_rows", "exact_short_rows", "measure_loss"} <= kernels
    model.fold_in(interactions())
    assert emulated.allocated() == before


def test_the_same_bits_in_every_run(emulated):
    matrix, seen = interactions(6, users=200), []
    for seed in range(3):
        emulated.configure(seed=seed, multiprocessors=seed + 1)
        seen.append(ALS(12, epochs=3, device="cuda").fit(matrix))
    for model in seen[1:]:
        assert np.array_equal(model.user_factors_, seen[0].user_factors_)
        assert np.array_equal(model.item_factors_, seen[0].item_factors_)
        assert model.loss_history_ == seen[0].loss_history_


def test_validation_keeps_the_best_epoch(emulated):
    scores = iter([1.0, 3.0, 2.0, 2.5, 0.0])
    model = ALS(4, epochs=9, device="cuda").fit(interactions(), validation=lambda model: next(scores), patience=3)
    assert model.best_epoch_ == 2
    two = ALS(4, epochs=2, device="cuda").fit(interactions())
    assert np.array_equal(model.user_factors_, two.user_factors_)


# --- Memory and failures ---

LITTLE = 180_000  # bytes: enough for all but the observations of 400 users and 30 items


def test_observations_beyond_the_memory_pass_through_it(emulated, capsys):
    matrix = interactions(7, users=400, items=30, density=0.5)
    settings = {"factors": 8, "epochs": 3, "device": "cuda"}
    whole = ALS(**settings).fit(matrix, progress=True)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("ALS on emulated: ")
    assert "through" not in line
    emulated.configure(memory=LITTLE)
    parts = ALS(**settings).fit(matrix, progress=True)
    line = capsys.readouterr().err.splitlines()[0]
    assert "of observations through two blocks of" in line
    assert np.array_equal(parts.user_factors_, whole.user_factors_)
    assert np.array_equal(parts.item_factors_, whole.item_factors_)
    assert parts.loss_history_ == pytest.approx(whole.loss_history_, rel=1e-12)


@pytest.mark.parametrize("settings", [{}, {"feedback": "explicit"}, {"solver": "cholesky"}])
def test_every_size_of_memory_is_enough_or_refused_at_once(emulated, settings):
    matrix = interactions(7, users=400, items=30, density=0.5)
    whole, outcomes = ALS(8, epochs=1, device="cuda", **settings).fit(matrix), []
    for memory in range(100_000, 320_000, 30_000):
        emulated.configure(memory=memory)
        emulated.take_launches()
        model, words = ALS(8, epochs=1, device="cuda", **settings), ""
        try:
            model.fit(matrix)
        except MemoryError as error:
            words = str(error)
        if words:
            assert "bytes needed at least" in words
        else:
            assert np.array_equal(model.user_factors_, whole.user_factors_)
            assert np.array_equal(model.item_factors_, whole.item_factors_)
        outcomes.append(len(emulated.take_launches()))
    assert outcomes[0] == 0
    assert len(set(outcomes)) > 2  # refused without a launch, in blocks of several sizes, whole


def test_too_little_memory_is_an_error_with_bytes(emulated, monkeypatch):
    emulated.configure(memory=100_000)
    words = r"device: too little memory to train 64 factors of 70 users and 50 items: [\d,]+ bytes needed at least, [\d,]+ of 100,000 bytes free"
    with pytest.raises(MemoryError, match=words):
        ALS(64, epochs=2, device="cuda").fit(interactions())
    monkeypatch.setattr(_als_backends, "_TRAINING_PAYS_FROM", 1.0)
    ALS(64, epochs=2).fit(interactions())  # "auto" does what it can
    assert not emulated.take_launches()


def test_what_a_plan_promises_is_enough(emulated):
    """The least memory that a plan accepts suffices, for every kind of model."""
    matrix, random = interactions(3, users=300, items=40), np.random.default_rng(0)
    for settings, fit in (
        ({"factors": 30}, {}),
        ({"factors": 5, "feedback": "explicit"}, {"callback": lambda epoch, model: None}),
        ({"factors": 5}, {"item_features": random.standard_normal((40, 4)), "validation": lambda model: 1.0}),
        ({"factors": 70, "solver": "cholesky"}, {}),
    ):
        low, high = 10_000, 30_000_000
        while high - low > 5_000:  # the least that is accepted
            middle = (low + high) // 2
            emulated.configure(memory=middle)
            model = ALS(epochs=1, device="cuda", **settings)
            try:
                copies = 1 + bool(fit.get("callback")) + 2 * bool(fit.get("validation"))
                features = [fit.get("item_features"), None]
                observed = [_als.Observations.of(m) for m in (matrix, matrix.T.tocsr())]
                sizes = _als_backends.Sizes.of(observed, features, copies)
                _als_backends.for_training("cuda", model._objective, sizes)
                high = middle
            except MemoryError:
                low = middle
        emulated.configure(memory=high)
        ALS(epochs=2, device="cuda", **settings).fit(matrix, **fit)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_lost_gpu_leaves_the_checkpoint_usable(emulated, tmp_path, blocks):
    matrix, path = interactions(7, users=400, items=30, density=0.5), tmp_path / "run.ckpt"
    memory = LITTLE if blocks else 1 << 30

    def model():
        return ALS(8, epochs=5, device="cuda")

    emulated.configure(memory=memory)
    whole = model().fit(matrix)

    def lose(epoch, current):
        if epoch == 3:
            emulated.configure(memory=memory, launches=7)

    words = (
        r"CUDA: .*: cudaErrorLaunchFailure .*; training stopped after epoch 3, and .*run.ckpt holds epoch 3: fit again"
    )
    with pytest.raises(RuntimeError, match=words):
        model().fit(matrix, checkpoint=path, callback=lose)
    with pytest.raises(RuntimeError, match="cudaErrorLaunchFailure"):
        model().fit(matrix)  # a lost GPU stays lost
    emulated.configure(memory=memory)
    resumed = model().fit(matrix, checkpoint=path)
    assert np.array_equal(resumed.user_factors_, whole.user_factors_)
    assert resumed.loss_history_ == pytest.approx(whole.loss_history_, rel=1e-12)


def test_a_run_that_began_on_a_gpu_goes_on_on_the_cpu(emulated, tmp_path):
    matrix, path = interactions(), tmp_path / "run.ckpt"

    def fill(epoch, current):  # somebody else takes the memory
        if epoch == 2:
            emulated.configure(memory=emulated.allocated() + 1000)

    words = (
        r"device: too little memory for .*: \d+ bytes wanted, .*; training stopped after epoch 3, and .* holds epoch 2"
    )
    with pytest.raises(MemoryError, match=words):
        ALS(8, epochs=4, device="cuda").fit(matrix, checkpoint=path, callback=fill)
    found = ALS(8, epochs=4, device="cpu").fit(matrix, checkpoint=path)
    assert found.loss_history_ == pytest.approx(ALS(8, epochs=4, device="cpu").fit(matrix).loss_history_, rel=1e-4)


def failures(emulated, kind, work, memory=1 << 30, stride=1):
    """Let work() fail at one point after another, until it does not; yields each error's type and words."""
    for number in itertools.count(0, stride):
        emulated.configure(memory=memory, **{kind: number})
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            found = type(error), str(error)
        else:
            found = None
        emulated.configure(memory=memory)
        if found is None:
            return
        yield found


FAILURES = {
    "launches": (1, RuntimeError, "CUDA: .*: cudaErrorLaunchFailure"),
    "calls": (7, RuntimeError, "CUDA: .*: cudaErrorLaunchFailure"),
    "allocations": (1, MemoryError, r"device: too little memory for .*: \d+ bytes wanted"),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("blocks", [False, True])
def test_wherever_a_fit_fails_nothing_is_lost(emulated, tmp_path, kind, blocks):
    """The model is what it was, device memory is given back, and the checkpoint goes on to the same bits."""
    first, path = interactions(0, users=30, items=20), tmp_path / "run.ckpt"
    data = interactions(7, users=400, items=30, density=0.5) if blocks else interactions(5, users=25, items=24)
    memory, features = LITTLE if blocks else 1 << 30, None if blocks else {"item_features": np.eye(24, 3)}
    whole = ALS(8, epochs=2, device="cuda").fit(data, **features or {})
    stride, error_type, words = FAILURES[kind]
    model = ALS(8, epochs=2, device="cuda").fit(first)
    before, held, points = dict(model.__dict__), emulated.allocated(), 0

    def refit():
        model.fit(data, checkpoint=path, **features or {})

    for found, said in failures(emulated, kind, refit, memory, stride):
        assert issubclass(found, error_type)
        assert re.match(words, said)
        assert ("run.ckpt holds epoch" in said) == path.exists()
        assert emulated.allocated() == held
        assert {name: value is before[name] for name, value in model.__dict__.items()} == dict.fromkeys(before, True)
        if path.exists() and points % 10 == 0:
            resumed = ALS(8, epochs=2, device="cuda").fit(data, checkpoint=path, **features or {})
            assert np.array_equal(resumed.user_factors_, whole.user_factors_)
            path.unlink()
        points += 1
    assert points > 20
    assert np.array_equal(model.user_factors_, whole.user_factors_)


@pytest.mark.parametrize("kind", FAILURES)
def test_wherever_folding_in_or_explaining_fails_memory_is_given_back(emulated, kind):
    model = ALS(5, epochs=1, device="cuda").fit(interactions())
    _, error_type, words = FAILURES[kind]
    work = {
        "fold_in": lambda: model.fold_in(interactions(9, users=6)),
        "fold_in_items": lambda: model.fold_in_items(interactions(8, items=12)),
        "explain": lambda: model.explain([0, 12], [1, 7]),
    }
    for name, call in work.items():
        expected = call()
        errors = list(failures(emulated, kind, call))
        assert errors, name
        for found, said in errors:
            assert issubclass(found, error_type)
            assert re.match(words, said)
        assert emulated.allocated() == 0
        if name != "explain":
            assert np.array_equal(call(), expected)


def test_what_a_callback_has_seen_stays_where_a_fit_fails_later(emulated):
    model = ALS(4, epochs=4, device="cuda").fit(interactions(0, users=30, items=20))

    def lose(epoch, current):
        if epoch == 2:
            emulated.configure(launches=9)

    with pytest.raises(RuntimeError, match="training stopped after epoch 2") as kept:
        model.fit(interactions(5), callback=lose)
    assert emulated.allocated() == 0  # though the error, with its traceback, is there
    assert kept.tb is not None
    emulated.configure()
    two = ALS(4, epochs=2, device="cuda").fit(interactions(5))
    assert np.array_equal(model.item_factors_, two.item_factors_)
    assert (model.best_epoch_, model.loss_history_) == (2, two.loss_history_)
    assert model.recommend([69], 3).ids.shape == (1, 3)


def test_auto_goes_where_it_pays_and_what_cannot_be_served_says_why(emulated, monkeypatch):
    ALS(4, epochs=1).fit(interactions())
    assert not emulated.take_launches()
    monkeypatch.setattr(_als_backends, "_TRAINING_PAYS_FROM", 1.0)
    model = ALS(4, epochs=1).fit(interactions())
    assert emulated.take_launches()
    model.fold_in(interactions())
    assert not emulated.take_launches()
    monkeypatch.setattr(_als_backends, "_SOLVING_PAYS_FROM", 1.0)
    model.fold_in(interactions())
    assert emulated.take_launches()
    for settings in ({"solver": "subspace"}, {"nonnegative": True}):
        ALS(4, epochs=1, **settings).fit(interactions())
        assert not emulated.take_launches()
        with pytest.raises(ValueError, match="with device 'cuda'; expected 'auto', 'cg', 'cholesky' there"):
            ALS(4, device="cuda", **settings)
    monkeypatch.setattr(_backends, "_driver_trouble", lambda: "there is no NVIDIA driver on this machine")
    ALS(4, epochs=1).fit(interactions())
    with pytest.raises(RuntimeError, match="device: 'cuda', but there is no NVIDIA driver on this machine"):
        ALS(4, epochs=1, device="cuda").fit(interactions())
