"""Compare the CUDA kernels with the CPU and the oracle on random configurations.

python tests/cuda/fuzz_cuda.py 1000                          # 1,000 of each kernel, on the emulator
python tests/cuda/fuzz_cuda.py 1000 --gpu                    # on the GPU of this machine
python tests/cuda/fuzz_cuda.py 1 --kernel topk --first 4711  # configuration 4711 again
"""

# ruff: noqa: E402, I001, T201
from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "kernels"), str(Path(__file__).parents[1])]

import ml_dtypes
import numpy as np
import scipy.sparse as sp

import reference
import salience
from salience import _device
from salience._als import padded_width
from test_als_kernels import padded
from test_blend import drawn_additions, drawn_gates, packed
from test_topk import KINDS, METRICS, clustered, drawn_filters, same, vectors


def configure(module, number, **settings):
    """Give the emulator a lane order and a machine of its own for each configuration."""
    if hasattr(module, "configure"):
        random = np.random.default_rng([number, 77])
        shared = int(random.choice([64, 99, 163, 227])) << 10
        module.configure(seed=number, shared_bytes=shared, multiprocessors=int(random.integers(1, 5)), **settings)


def topk_configuration(number):
    """Draw the arguments of one search, all from its number."""
    random = np.random.default_rng([number, 2025])
    queries = int(random.choice([0, 1, 2, 7, 8, 9, 17, 40, 64, 65, 130], p=[0.02, *[0.12] * 7, 0.06, 0.04, 0.04]))
    items = int(random.choice([1, 2, 13, 127, 128, 129, 300, 700, 1500]))
    columns = int(random.choice([0, 1, 2, 7, 8, 9, 31, 32, 33, 48, 65, 96]))
    kind = str(random.choice([*KINDS, "clustered"]))
    draw = clustered if kind == "clustered" else lambda random, rows, columns: vectors(random, rows, columns, kind)
    q, x = draw(random, queries, columns), draw(random, items, columns)
    dtype = random.choice(["float32", "float32", "float16", "bfloat16"])
    with np.errstate(all="ignore"):
        x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    k = int(min(items, random.choice([1, 2, 10, 64, 300, items])))
    pattern = allowed = excluded = None
    if random.random() < 0.4:
        pattern, allowed, excluded = drawn_filters(random, queries, items)
    tuning = {}
    if random.random() < 0.5:
        tuning["capacity"] = int(random.choice([1, k, k + 3, 2 * k + 20, 100]))
    if random.random() < 0.3:
        tuning["sample_tiles"] = int(random.choice([0, 1, 2, 5]))
    if random.random() < 0.3:
        tuning["block_rows"] = int(random.choice([128, 256, 400]))
    return {
        "queries": q, "items": x, "k": k, "metric": str(random.choice(METRICS)), "exclude": pattern,
        "allow": allowed, "deny": None, "path": str(random.choice(["auto", "exact", "rows", "panels"])),
        "tuning": tuning,
    }, excluded, bool(random.random() < 0.4)  # fmt: skip


def by_index(module, queries, items, k, metric, exclude, allow, deny, path, tuning):
    """Search through an index."""
    held = _device.Held(module, items, "items", types=("float32", "float16"))
    state = _device.DeviceIndex.build(module, held, metric, None)
    pattern = salience._arrays.exclusion_pattern(exclude, len(queries), len(items))
    mask = salience._arrays.item_mask(allow, deny, len(items))
    return state.search(queries, k, pattern, mask, 0, path, tuning=tuning)


def check_topk(module, number):
    """Say whether one search agrees with the CPU and the oracle to the bit."""
    configure(module, number)
    arguments, excluded, packed = topk_configuration(number)
    found = by_index(module, **arguments) if packed else _device.topk(module, **arguments)
    q, x, k, metric = (arguments[name] for name in ("queries", "items", "k", "metric"))
    expected = reference.topk(q, x.astype(np.float32), k, metric, excluded)
    cpu = salience.topk(q, x, k, metric=metric, exclude=arguments["exclude"], allow=arguments["allow"], device="cpu")
    return all(np.array_equal(found[0], other[0]) and same(found[1], other[1]) for other in (expected, cpu))


def blend_configuration(number):
    """Draw the arguments of one search of blended scores, all from its number."""
    random = np.random.default_rng([number, 2029])
    queries = int(random.choice([1, 2, 7, 9, 33, 64, 65, 130], p=[*[0.16] * 5, 0.08, 0.08, 0.04]))
    items, columns = int(random.choice([1, 13, 128, 129, 700, 1500])), int(random.choice([0, 1, 7, 16, 33, 64]))
    kind = str(random.choice(KINDS))
    q, x = vectors(random, queries, columns, kind), vectors(random, items, columns, kind)
    pattern = allowed = excluded = additions = gates = labels = None
    if random.random() < 0.4:
        drawn, allowed, excluded = drawn_filters(random, queries, items)
        pattern = salience._arrays.exclusion_pattern(drawn, queries, items)
    if random.random() < 0.7:
        additions = drawn_additions(random, queries, items)
    if random.random() < 0.8:
        gates = drawn_gates(random, queries, items)
        if random.random() < 0.3:  # near the limits, where scores are lost below float32 or gates are no use
            sizes = 10.0 ** random.integers(-20, 20, 2)
            gates = [(size * side).astype(np.float32) for size, side in zip(sizes, gates, strict=True)]
        if random.random() < 0.3:
            gates[1][:, 0] *= (10.0 ** random.uniform(-6, 6, items)).astype(np.float32)
        if not all((side[:, 0] > 0).all() and np.isfinite(side).all() for side in gates):
            gates = None
    if random.random() < 0.5:
        labels = random.permutation(items).astype(np.int64)
    k = int(min(items, random.choice([1, 2, 10, 64, 300])))
    tuning = {"capacity": int(random.choice([1, k, 2 * k + 20, 100]))} if random.random() < 0.4 else {}
    if random.random() < 0.3:
        tuning["sample_tiles"] = int(random.choice([0, 1, 2, 5]))
    if random.random() < 0.3:
        tuning["block_rows"] = int(random.choice([128, 256, 400]))
    path = str(random.choice(["auto", "exact", "rows", "panels"]))
    return q, x, k, (pattern, allowed, excluded), (additions, gates, labels), path, tuning


def check_blend(module, number):
    """Say whether one search of blended scores agrees with the CPU and the oracle to the bit."""
    configure(module, number)
    q, x, k, (pattern, allowed, excluded), (additions, gates, labels), path, tuning = blend_configuration(number)
    blend = None if additions is None else packed(additions), None if gates is None else tuple(gates), labels
    held = _device.Held(module, x, "items")
    if number % 3:
        state = _device.DeviceIndex.build(module, held, "dot", None)
    else:
        state = _device.StreamedIndex(module, x, "float32", "dot", np.ones(len(x), bool))
    found = state.search(q, k, pattern, allowed, 0, path, *blend, tuning=tuning)
    expected = reference.blended_topk(q, x, k, additions, gates, labels, excluded)
    cpu = salience.Index(x)._state.search(q, k, pattern, allowed, 2, "auto", *blend)
    return all(np.array_equal(found[0], other[0]) and same(found[1], other[1]) for other in (expected, cpu))


def check_similarity(module, number):
    """Compare one score matrix."""
    configure(module, number)
    random = np.random.default_rng([number, 2026])
    a, b = (int(random.choice([0, 1, 7, 31, 32, 33, 70])) for _ in range(2))
    columns, kind = int(random.choice([0, 1, 7, 8, 9, 31, 32, 33, 65, 100])), str(random.choice(KINDS))
    x, y, metric = vectors(random, a, columns, kind), vectors(random, b, columns, kind), str(random.choice(METRICS))
    found = _device.similarity(module, x, y, metric)
    return same(found, reference.similarity(x, y, metric)) and same(found, salience.similarity(x, y, metric=metric))


def check_select(module, number):
    """Compare one selection."""
    configure(module, number)
    random = np.random.default_rng([number, 2027])
    rows, columns = int(random.integers(0, 5)), int(random.choice([1, 2, 100, 1000, 8193, 20000]))
    k = int(min(columns, random.choice([1, 2, 10, 300, 1024, 1025, columns])))
    scores = vectors(random, rows, columns, str(random.choice(KINDS))).astype(random.choice([np.float32, np.float64]))
    if random.random() < 0.2:
        scores[random.random(scores.shape) < 0.999] = np.nan
    found = _device.select(module, scores, k)
    return all(
        np.array_equal(found[0], other[0]) and np.array_equal(found[1], other[1], equal_nan=True)
        for other in (reference.select(scores, k), salience.select(scores, k))
    )


def als_problem(number, solver):
    """Draw a half-step, all from its number: observations, matrices, settings and how it is cut."""
    random = np.random.default_rng([number, 2028])
    rows, factors = int(random.integers(1, 6)), int(random.choice([1, 2, 7, 16, 20, 31, 33, 64, 72]))
    items = int(random.choice([3, 12, 40, 150, 400]))
    explicit = bool(random.random() < 0.3)
    columns = factors + explicit
    density = np.minimum(random.choice([0.0, 0.02, 0.1, 0.4, 1.0], (rows, 1)), 60 / np.sqrt(columns * items) + 0.05)
    if random.random() < 0.05:  # rows that are cut
        rows, items, factors, columns = 3, 4600, 3, 3 + explicit
        density = np.array([[0.95], [0.0], [0.3]])
    dense = (random.random((rows, items)) < density) * random.integers(1, 6, (rows, items)).astype(np.float32)
    if random.random() < 0.5 and not explicit:
        dense *= random.choice([-1, 1], dense.shape)
    design = padded(random.standard_normal((items, columns)) * 10.0 ** random.uniform(-3, 1, columns) * 0.3)
    diagonal = np.zeros(padded_width(columns), np.float32)
    if not explicit:
        diagonal[:columns] = np.square(design, dtype=np.float64).sum(axis=0) * 10.0 ** random.uniform(-3, 0)
    scale = float(np.square(design).sum(axis=1).mean())
    ridge = (scale * 10.0 ** random.uniform(-1, 1, rows)).astype(np.float32)
    start = padded(random.standard_normal((rows, columns)))
    prior = padded(random.standard_normal((rows, columns))) if random.random() < 0.3 else None
    settings = {
        "is_explicit": explicit, "alpha": float(np.float32(random.uniform(0.1, 3))), "solver": solver,
        "steps": int(random.choice([1, 2, 300])) if solver != "cholesky" else 1,
        "relaxation": float(np.float32(random.choice([1.0, 1.5]))), "with_data_loss": bool(random.random() < 0.7),
        "half_gathers": bool(random.random() < 0.5), "workspace": int(random.choice([1, 1 << 14, 1 << 22])),
        "mean": 2.5 if explicit else 0.0,
    }  # fmt: skip
    shared = int(random.choice([16, 24, 64, 227])) << 10
    blocks = int(random.choice([0, 0, 300, 5000]))
    return sp.csr_array(dense), design, diagonal, ridge, start, prior, settings, shared, blocks


def halved(design):
    """Round a design as its 16-bit copy does."""
    largest = np.abs(design).max(axis=0)
    scale = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1.0))) - 14)
    return (design / scale).astype(np.float16).astype(np.float64) * scale


def solve_densely(csr, design, diagonal, ridge, start, prior, row, settings):
    """Return a row's system, its right side and, in float64, where a solver that is exact comes to."""
    line, explicit = csr[[row]], settings["is_explicit"]
    seen = design[line.indices].astype(np.float64)
    if explicit:
        targets = line.data - (seen[:, -1].astype(np.float32) + np.float32(settings["mean"])).astype(np.float64)
        weights = np.ones(line.nnz)
        seen[:, -1] = 1.0
    else:
        weights, targets = settings["alpha"] * np.abs(line.data.astype(np.float64)), (line.data > 0).astype(np.float64)
    pull = np.zeros(design.shape[1]) if prior is None else prior[row].astype(np.float64)
    system = np.diag(diagonal[: design.shape[1]].astype(np.float64) + float(ridge[row]))
    system = system + seen.T @ (weights[:, None] * seen)
    right = seen.T @ (weights * targets) + float(ridge[row]) * pull
    return system, right, weights, targets, seen


def conjugate_gradients(system, right, x, steps, tolerance):
    """Take the steps of the kernels' recurrence in float64."""
    inverse, size = 1.0 / np.diag(system), np.linalg.norm(right) or 1.0
    residual = right - system @ x
    direction = inverse * residual
    rho = residual @ direction
    for _ in range(steps):
        if np.linalg.norm(residual) <= tolerance * size:
            break
        image = system @ direction
        step = rho / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        following = residual @ (inverse * residual)
        direction, rho = inverse * residual + following / rho * direction, following
    return x


def half_step(module, csr, design, diagonal, ridge, start, prior, settings, blocks):
    """Run a half-step on the device."""
    indptr, indices = csr.indptr.astype(np.int64), csr.indices.astype(np.int32)
    rows = module.Rows(indptr, indices, csr.data.astype(np.float32), csr.shape[1], blocks)
    matrices = []
    for array in (design, start, prior):
        matrices.append(None if array is None else module.Factors(*array.shape))
        if array is not None:
            matrices[-1].upload(array)
    report = module.half_step(rows, matrices[0], matrices[1], diagonal, ridge, prior=matrices[2], tolerance=1e-6,
                              **settings)  # fmt: skip
    found = padded(np.zeros(start.shape))
    matrices[1].download(found)
    return found, report


def check_als(module, number, solver, **more):
    """Say whether every row of a half-step, and its losses, are what float64 says."""
    csr, design, diagonal, ridge, start, prior, settings, shared, blocks = als_problem(number, solver)
    if hasattr(module, "configure"):
        module.configure(**{"seed": number, "shared_bytes": shared, **more})
    found, report = half_step(module, csr, design, diagonal, ridge, start, prior, settings, blocks)
    if number % 5 == 0:  # whatever the order of lanes, the same bits
        if hasattr(module, "configure"):
            module.configure(**{"shared_bytes": shared, **more, "seed": number + 1})
        again = half_step(module, csr, design, diagonal, ridge, start, prior, settings, blocks)
        assert again[0].tobytes() == found.tobytes(), number
        assert again[1] == report, number
    data = penalty = 0.0
    explicit, wide = settings["is_explicit"], found.astype(np.float64)
    read = design.copy()
    if explicit:
        read[:, -1] = 1.0
    rounded = halved(read) if settings["half_gathers"] else read.astype(np.float64)
    for row in range(len(ridge)):
        count = csr[[row]].nnz
        if count == 0:
            assert np.array_equal(found[row], np.zeros(design.shape[1]) if prior is None else prior[row]), row
            continue
        system, right, weights, targets, seen = solve_densely(csr, design, diagonal, ridge, start, prior, row, settings)
        short = count <= 2 * min(settings["steps"], 14) and count < design.shape[1]
        if solver == "cholesky" or (solver == "auto" and short):
            solved = np.linalg.solve(system, right)
        else:
            y = rounded[csr[[row]].indices]
            dense = np.diag(diagonal[: len(right)].astype(np.float64) + float(ridge[row]))
            near = dense + y.T @ (weights[:, None] * y)
            pull = right - seen.T @ (weights * targets)
            solved = conjugate_gradients(near, pull + y.T @ (weights * targets), start[row].astype(np.float64),
                                         settings["steps"], 1e-6)  # fmt: skip
        expected = start[row] + settings["relaxation"] * (solved - start[row])
        size = max(np.linalg.norm(expected), np.linalg.norm(solved), 1e-2 * np.linalg.norm(start[row]))
        error = np.linalg.norm(found[row] - expected) / size
        limit = 1e-5 if solver == "cholesky" else 1e-6 * np.linalg.cond(system) + 1e-4
        assert error < limit, (number, row, error, limit)
        data += (weights * (targets - seen @ wide[row]) ** 2).sum() + diagonal[: len(right)] @ wide[row] ** 2
        penalty += ridge[row] * np.square(wide[row] - (0 if prior is None else prior[row])).sum()
    good = np.isclose(report["ridge_loss"], penalty, rtol=1e-5)
    return good and (not settings["with_data_loss"] or np.isclose(report["data_loss"], data, rtol=2e-5))


CHECKS = {"topk": check_topk, "blend": check_blend, "similarity": check_similarity, "select": check_select}
ALS_CHECKS = {f"als {solver}": functools.partial(check_als, solver=solver) for solver in ("auto", "cg", "cholesky")}


def main():
    """Check configurations first to first + count of each kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kernel", choices={**CHECKS, **ALS_CHECKS})
    parser.add_argument("--gpu", action="store_true", help="on the GPU of this machine instead of the emulator")
    options = parser.parse_args()
    if options.gpu:
        module = salience._backends.cuda()
    else:
        from cuda_on_cpu import build

        module = build.load()
    failed = False
    checks = {**CHECKS, **ALS_CHECKS}
    for name in [options.kernel] if options.kernel else checks:
        start, bad = time.perf_counter(), []
        for number in range(options.first, options.first + options.count):
            try:
                good = checks[name](module, number)
            except (AssertionError, FloatingPointError, RuntimeError) as error:
                print(name, number, error)
                good = False
            if not good:
                bad.append(number)
        seconds = time.perf_counter() - start
        print(f"{name}: {options.count} configurations, {len(bad)} differ {bad[:10]}, {seconds:.0f} s", flush=True)
        failed |= bool(bad)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
