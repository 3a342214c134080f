"""The CUDA kernels: the same ids and scores to the bit as the CPU, whatever the shape and the way."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import reference
import salience
from salience import _device

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kernels")]

import fuzz_cuda  # noqa: E402
import test_blend  # noqa: E402
from barriers import ALS_KERNELS, barriers, goes_wrong  # noqa: E402
from test_screening_bound import KINDS as BOUND_KINDS  # noqa: E402
from test_screening_bound import exact, pairs, with_infinities  # noqa: E402
from test_topk import CROWDS, KINDS, METRICS, same, vectors  # noqa: E402


@pytest.mark.parametrize("start", range(0, 200, 20))
@pytest.mark.parametrize("kernel", fuzz_cuda.CHECKS)
def test_random_configurations(cuda, kernel, start):
    """The first 200 of each kernel; `python tests/cuda/fuzz_cuda.py 1000` takes them further."""
    for number in range(start, start + 20):
        assert fuzz_cuda.CHECKS[kernel](cuda, number), number


def search(module, q, x, k, metric="dot", path="auto", excluded=None, allow=None, **tuning):
    """Search and compare with the oracle; returns what the search reported."""
    pattern = None
    left_out = np.zeros((len(q), len(x)), bool) if excluded is None else excluded
    if excluded is not None:
        rows, columns = np.nonzero(excluded)
        pattern = sp.csr_array((np.ones(len(rows)), (rows, columns)), excluded.shape)
    if allow is not None:
        left_out = left_out | ~allow
    state = _device.DeviceIndex.build(module, _device.Held(module, x, "items"), metric, None)
    held = _device.Held(module, q, "queries")
    ids, scores = np.empty((len(q), k), np.int64), np.empty((len(q), k), np.float32)
    views = [module.View(a.ctypes.data, *a.shape, k, a.dtype.name, False) for a in (ids, scores)]
    exclude = salience._arrays.exclusion_pattern(pattern, len(q), len(x))
    report = state.packed.search(
        held.view, k, exclude, _device.mask_view(module, allow), *views, None, path, tuning=tuning
    )
    expected = reference.topk(q, x, k, metric, left_out)
    assert np.array_equal(ids, expected[0])
    assert same(scores, expected[1])
    return report


@pytest.mark.parametrize("path", ["rows", "panels"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_scan_keeps_few(cuda, metric, path):
    """What survives is little more than k, in one turn: the bound and the levels do their work."""
    random = np.random.default_rng(0)
    q, x = vectors(random, 24, 40, "plain"), vectors(random, 6000, 40, "plain")
    report = search(cuda, q, x, 10, metric, path)
    assert report["exhaustive"] == report["second_turns"] == 0
    assert 240 <= report["survivors"] <= 360


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("crowd", CROWDS)
def test_crowds_that_the_bound_cannot_part(cuda, crowd, metric):
    random = np.random.default_rng(3)
    x = CROWDS[crowd](random, 2500, 12)
    q = np.concatenate([vectors(random, 4, 12, "plain"), x[:1], np.zeros((1, 12), np.float32)])
    excluded = random.random((len(q), len(x))) < 0.2
    for k in (1, 30):
        for path in ("rows", "panels"):
            search(cuda, q, x, k, metric, path, excluded, capacity=200)


@pytest.mark.parametrize("path", ["rows", "panels"])
def test_buffers_that_overflow(cuda, path):
    """Capacities down to k: a second turn, and where that fails every item."""
    random = np.random.default_rng(1)
    q, x = vectors(random, 9, 20, "plain"), vectors(random, 3000, 20, "plain")
    turns = [search(cuda, q, x, 10, "dot", path, capacity=capacity) for capacity in (10, 12, 40, 3000)]
    assert turns[0]["second_turns"] > 0
    assert turns[-1]["second_turns"] == 0
    ties = vectors(random, 3000, 3, "ties")
    assert search(cuda, ties[:5], ties, 10, "dot", path, capacity=50)["exhaustive"] > 0
    # Without a first level everything passes, more than the panels can carry to their queries.
    search(cuda, q, x, 10, "dot", path, sample_tiles=0, capacity=3000)


@pytest.mark.parametrize("path", ["rows", "panels"])
def test_products_far_below_float32(cuda, path):
    """Errors are beyond all measure there, and lower bounds are none."""
    random = np.random.default_rng(2)
    q, x = (vectors(random, n, 3, "denormal") for n in (9, 200))
    for rows in (1, 5, 200):
        for tiles in (1, 2):
            search(cuda, q, x[:rows], 1, "dot", path, sample_tiles=tiles)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5])
@pytest.mark.parametrize("path", ["rows", "panels"])
def test_filters(cuda, path, share):
    random = np.random.default_rng(5)
    q, x = vectors(random, 10, 16, "plain"), vectors(random, 4000, 16, "plain")
    allow = random.random(len(x)) < share
    excluded = random.random((len(q), len(x))) < 0.4
    report = search(cuda, q, x, 20, "dot", path, excluded, allow)
    assert report["exhaustive"] == 0 or share == 0.0
    search(cuda, q, x, 20, "dot", path, excluded)
    search(cuda, q, x, 20, "euclidean", path, None, allow)


def test_items_that_are_not_finite(cuda):
    random = np.random.default_rng(6)
    for share in (0.01, 0.9):  # a few are scored apart; many leave nothing to scan
        x = vectors(random, 2000, 8, "plain")
        x[random.random(2000) < share, 3] = random.choice([np.nan, np.inf, -np.inf])
        q = np.concatenate([vectors(random, 5, 8, "plain"), x[np.isnan(x).any(axis=1)][:1]])
        for metric in METRICS:
            for path in ("rows", "panels"):
                search(cuda, q, x, 15, metric, path)


@pytest.mark.parametrize("k", [1023, 1024, 1025, 2000, 2999, 3000])
def test_large_k(cuda, k):
    random = np.random.default_rng(4)
    q, x = vectors(random, 3, 5, "ties"), vectors(random, 3000, 5, "plain")
    for path in ("exact", "rows", "panels"):
        search(cuda, q, x, k, "dot", path)


def test_wide_vectors(cuda):
    """Panels of queries stay in shared memory, or pass through it where they are too wide."""
    random = np.random.default_rng(8)
    for columns in (300, 1000):
        q, x = vectors(random, 5, columns, "plain"), vectors(random, 500, columns, "plain")
        for path in ("rows", "panels"):
            search(cuda, q, x, 5, "cosine", path)


def test_items_in_blocks_from_host_memory(cuda):
    random = np.random.default_rng(9)
    x = np.sort(vectors(random, 2000, 12, "plain"), axis=0)  # the best come last
    q = vectors(random, 11, 12, "plain")
    allow = random.random(2000) < 0.7
    excluded = random.random((11, 2000)) < 0.2
    rows, columns = np.nonzero(excluded)
    pattern = sp.csr_array((np.ones(len(rows)), (rows, columns)), excluded.shape)
    for metric in METRICS:
        expected = reference.topk(q, x, 25, metric, excluded | ~allow)
        for path in ("auto", "rows", "panels"):
            for wide in (x, np.repeat(x, 2, axis=1)[:, ::2]):
                found = _device.topk(cuda, q, wide, 25, metric, pattern, allow, None, path, {"block_rows": 384})
                assert np.array_equal(found[0], expected[0])
                assert same(found[1], expected[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", BOUND_KINDS, ids=lambda kind: kind.__name__)
def test_no_pair_violates_the_bound(cuda, kind, metric):
    checked = 0
    for seed, d in enumerate((1, 7, 32, 100)):
        q, x = pairs(kind, seed, d)
        x = x[:200]
        for path in ("panels", "rows"):
            values, errors, norms, centre = cuda.probe_screening(q, x, metric, path)
            finite = np.isfinite(q).all(axis=1)[:, None] & np.isfinite(x).all(axis=1)[None]
            assert not np.isfinite(errors[~finite]).any()
            assert metric == "euclidean" or not centre.any()
            with np.errstate(all="ignore"):
                if metric == "euclidean":
                    a, b = q.astype(np.longdouble) - centre, x.astype(np.longdouble) - centre
                    truth = (a[:, None] * b[None]).sum(axis=-1) - (b * b).sum(axis=-1)[None] / 2
                else:
                    truth = exact(q, x, metric, norms)
                comparable = np.isfinite(errors) & np.isfinite(truth.astype(np.float64)) & np.isfinite(values)
                off = np.abs(values - truth)[comparable]
                assert (off <= errors[comparable]).all()
            checked += comparable.sum()
    # Products of denormals are no float32: the rounding of their scores to 0 leaves nothing to bound.
    assert checked > 15_000 or kind.__name__ == "denormal" or kind is with_infinities


@pytest.mark.parametrize("kind", KINDS)
def test_select_of_many_values(cuda, kind):
    random = np.random.default_rng(2)
    for dtype in (np.float32, np.float64):
        scores = vectors(random, 3, 30_000, kind).astype(dtype)
        scores[1] = np.sort(scores[1])
        for k in (1, 20, 1500):
            found, expected = _device.select(cuda, scores, k), reference.select(scores, k)
            assert np.array_equal(found[0], expected[0])
            assert np.array_equal(found[1], expected[1], equal_nan=True)


def gated(random, queries, items, spread=0.5, count=3):
    """Draw gates; those of neighbouring items are alike."""
    gates = [np.exp(spread * random.standard_normal((n, count))).astype(np.float32) for n in (queries, items)]
    return [gates[0], np.sort(gates[1], axis=0)]


def search_blended(module, q, x, k, additions, gates, labels=None, path="auto", **tuning):
    """Search blended scores and compare with the oracle; returns what the search reported."""
    state = _device.DeviceIndex.build(module, _device.Held(module, x, "items"), "dot", None)
    held = _device.Held(module, q, "queries")
    ids, scores = np.empty((len(q), k), np.int64), np.empty((len(q), k), np.float32)
    views = [module.View(a.ctypes.data, *a.shape, k, a.dtype.name, False) for a in (ids, scores)]
    entries = None if additions is None else test_blend.packed(additions)
    report = state.packed.search(held.view, k, None, None, *views, None, path, entries, tuple(gates), labels, tuning)
    expected = reference.blended_topk(q, x, k, additions, gates, labels)
    assert np.array_equal(ids, expected[0])
    assert same(scores, expected[1])
    return report


@pytest.mark.parametrize("path", ["rows", "panels"])
def test_a_scan_of_gated_scores_keeps_few(cuda, path):
    """Gates cost the bound little where the items of a tile have alike ones, and not much where they do not."""
    random = np.random.default_rng(0)
    q, x = vectors(random, 24, 40, "plain"), vectors(random, 6000, 40, "plain")
    gates = gated(random, 24, 6000)
    report = search_blended(cuda, q, x, 10, None, gates, path=path)
    assert report["exhaustive"] == report["second_turns"] == 0
    assert 240 <= report["survivors"] <= 360
    unsorted = gates[0], random.permutation(gates[1])
    assert search_blended(cuda, q, x, 10, None, unsorted, path=path)["exhaustive"] == 0
    additions = sp.random_array((24, 6000), density=0.01, format="csr", rng=random, dtype=np.float32)
    additions.sort_indices()
    with_additions = search_blended(cuda, q, x, 10, 20 * additions, gates, random.permutation(6000), path)
    assert with_additions["exhaustive"] == 0
    assert with_additions["survivors"] < report["survivors"]


@pytest.mark.parametrize("path", ["rows", "panels"])
def test_gates_that_no_bound_can_serve(cuda, monkeypatch, path):
    random = np.random.default_rng(1)
    q, x = vectors(random, 20, 12, "plain"), vectors(random, 1500, 12, "plain")
    for sizes, served in (((1e20, 1e18), 0), ((1e-22, 2e-22), 0), ((1e20, 1e-20), 20), ((1.0, 1e15), 0)):
        gates = [np.float32(size) * part for size, part in zip(sizes, gated(random, 20, 1500), strict=True)]
        report = search_blended(cuda, q, x, 10, None, gates, path=path)
        scored = report["exhaustive"] + (20 if report["survivors"] == 0 and not report["exhaustive"] else 0)
        assert scored == 20 - served
    gates = gated(random, 20, 1500)
    report = search_blended(cuda, q, (1e20 * x).astype(np.float32), 10, None, [1e3 * part for part in gates], path=path)
    assert report["exhaustive"] == 0
    report = search_blended(cuda, 1e18 * q, (1e20 * x).astype(np.float32), 10, None, gates, path=path)
    assert report["exhaustive"] == 20
    test_blend.vanishing(path, "cuda")


def test_the_answer_does_not_depend_on_the_order_of_lanes(emulated):
    random = np.random.default_rng(3)
    q, x = vectors(random, 6, 20, "close"), vectors(random, 1000, 20, "close")
    for seed in range(10):
        emulated.configure(seed=seed, multiprocessors=1 + seed % 4)
        search(emulated, q, x, 10, "dot", "panels" if seed % 2 else "rows", capacity=64)


def drill(module, seed=0, skipped=""):
    """Run every kernel through every branch, small; compares with the oracle, and how well the bound served."""

    def settle(shared=163):
        nonlocal seed
        seed += 1
        module.configure(seed=seed, shared_bytes=shared << 10, skipped=skipped)

    random = np.random.default_rng(0)
    q, x = vectors(random, 70, 40, "plain"), vectors(random, 700, 40, "plain")
    x[::97] = np.nan
    excluded = random.random((70, 700)) < 0.01
    for count, metric, path in (
        (70, "euclidean", "panels"),
        (70, "dot", "panels"),
        (5, "dot", "rows"),
        (20, "cosine", "rows"),
    ):
        settle()
        some = excluded[:count]
        report = search(module, q[:count], x, 5, metric, path, some, sample_tiles=3, capacity=700)
        assert report["second_turns"] == report["exhaustive"] == 0
        search(module, q[:count], x, 12, metric, path, some, sample_tiles=3, capacity=60)
    search(module, q, x, 12, "dot", "panels", sample_tiles=0, capacity=700)
    gates, additions = gated(random, 70, 700, 0.1), sp.csr_array(20 * excluded.astype(np.float32))
    for count, path in ((70, "panels"), (5, "rows")):
        settle()
        mine = gates[0][:count], gates[1]
        report = search_blended(
            module, q[:count], x, 5, additions[:count], mine, None, path, sample_tiles=3, capacity=700
        )
        assert report["second_turns"] == report["exhaustive"] == 0
    for shared in (163, 64):  # one chunk a tile; panels that stay in shared memory and others
        settle(shared)
        report = search(module, q[:, :20].copy(), np.nan_to_num(x[:, :20]), 8, "dot", "panels", capacity=700)
        assert report["second_turns"] == report["exhaustive"] == 0
    _, errors, _, _ = module.probe_screening(q[:9], x, "euclidean", "panels")
    assert np.isfinite(errors[:, np.isfinite(x).all(axis=1)]).all()
    settle()
    search(module, q[:9], np.nan_to_num(x), 40, "dot", "exact")
    a, b = q[:33], np.nan_to_num(x[:40])
    assert same(_device.similarity(module, a, b, "cosine"), reference.similarity(a, b, "cosine"))
    scores = vectors(random, 2, 20_000, "plain")
    for k in (5, 1500):
        assert np.array_equal(_device.select(module, scores, k)[0], reference.select(scores, k)[0])


BARRIERS = barriers(["*.cuh"], (*ALS_KERNELS, "attention.cuh"))


def test_every_kernel_meets_at_every_barrier(emulated):
    drill(emulated)
    assert set(BARRIERS) <= set(emulated.barrier_sites())


@pytest.mark.parametrize("barrier", BARRIERS)
def test_no_barrier_can_be_removed(emulated, barrier):
    """Each barrier of each kernel is needed: without it some order of lanes gives a report or another answer."""
    assert any(goes_wrong(drill, emulated, attempt, barrier) for attempt in range(8))
