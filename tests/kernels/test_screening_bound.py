"""The bound of csrc/core/screening_bound.h: a search for violations, over a million pairs in every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

import salience
from salience import _core

METRICS = ("dot", "cosine", "euclidean")
QUERIES, ITEMS = 40, 400


def gaussian(random, rows, d):
    return random.standard_normal((rows, d))


def norm_spread(random, rows, d):
    return gaussian(random, rows, d) * 10.0 ** random.uniform(-37, 36, (rows, 1))


def element_spread(random, rows, d):
    return gaussian(random, rows, d) * 10.0 ** random.uniform(-20, 10, (rows, d))


def denormal(random, rows, d):
    return gaussian(random, rows, d) * 1e-41


def duplicates(random, rows, d):
    return gaussian(random, 3, d)[random.integers(0, 3, rows)]


def anisotropic(random, rows, d):
    return gaussian(np.random.default_rng(1), 1, d) + 0.5 * gaussian(random, rows, d)


def nearly_constant(random, rows, d):
    return 1 + 1e-6 * gaussian(random, rows, d)


def halfway(random, rows, d):
    """Fall between two neighbours of bfloat16, always on the side that rounds away."""
    return random.choice([1 + 2.0**-9 + 2.0**-20, 1 + 3 * 2.0**-9 - 2.0**-20], (rows, 1)) * np.ones((rows, d))


def one_hot(random, rows, d):
    return np.eye(d)[random.integers(0, d, rows)] * gaussian(random, rows, 1)


def near_the_limits(random, rows, d):
    edges = [3.3895e38, 3.4e38, 1.17e-38, 1.2e-38, 2.0**-126, 2.0**-133, 1.4e-45, 1.0, -3.39e38]
    return random.choice(edges, (rows, d))


def apart_in_a_row(random, rows, d):
    """One element dwarfs the rest of its row, by so much that 8 bits hold nothing of them."""
    x = gaussian(random, rows, d) * 10.0 ** random.uniform(-30, 0, (rows, 1))
    x[:, 0] = random.choice([1.0, -1e3, 1e-20, 1e20], rows)
    return x


def halfway_in_a_byte(random, rows, d):
    """Fall between two neighbours of 8 bits, all on the same side."""
    x = 10.0 ** random.uniform(-5, 5, (rows, 1)) * (random.integers(0, 120, (rows, d)) + 0.499)
    x[:, 0] = 127 / 120 * x.max(axis=1)
    return x


def heavy_tailed(random, rows, d):
    return random.standard_cauchy((rows, d)) ** 3


def with_infinities(random, rows, d):
    x = gaussian(random, rows, d)
    x[random.random((rows, d)) < 0.002] = np.inf
    x[random.random((rows, d)) < 0.002] = np.nan
    x[random.random(rows) < 0.1] = 0
    return x


KINDS = (gaussian, norm_spread, element_spread, denormal, duplicates, anisotropic, nearly_constant, halfway,
         one_hot, near_the_limits, apart_in_a_row, halfway_in_a_byte, heavy_tailed, with_infinities)  # fmt: skip


def pairs(kind, seed, d):
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        q, x = (kind(random, rows, d).clip(-3.4e38, 3.4e38).astype(np.float32) for rows in (QUERIES, ITEMS))
    q[:5] = x[:5]  # residuals that point the same way
    return q, x


def exact(q, x, metric, norms):
    """S of the bound's header plus the query's offset, in extended precision."""
    a, b = q.astype(np.longdouble), x.astype(np.longdouble)
    if metric == "euclidean":
        squares = ((a[:, None, :] - b[None]) ** 2).sum(axis=-1)
        return (norms[:, None].astype(np.longdouble) ** 2 - squares) / 2
    products = (a[:, None, :] * b[None]).sum(axis=-1)
    if metric == "cosine":
        lengths = np.sqrt((a * a).sum(axis=-1))[:, None] * np.sqrt((b * b).sum(axis=-1))[None]
        products = np.where(lengths == 0, 0, products / np.where(lengths == 0, 1, lengths))
    return products


def of_canonical(q, x, metric, norms):
    scores = salience.similarity(q, x, metric=metric).astype(np.longdouble)
    return (norms[:, None].astype(np.longdouble) ** 2 - scores**2) / 2 if metric == "euclidean" else scores


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_pair_violates_the_bound(kind, metric):
    checked, tightest = 0, 0.0
    for seed, d in enumerate((1, 7, 32, 100)):
        q, x = pairs(kind, seed, d)
        for path in ("panels", "rows", "bytes"):
            values, errors, offsets, norms = _core.probe_screening(q, x, metric, path)
            finite = np.isfinite(q).all(axis=1)[:, None] & np.isfinite(x).all(axis=1)[None]
            assert not np.isfinite(errors[~finite]).any()  # what is not finite is always scored exactly
            bounded = np.isfinite(errors)
            with np.errstate(all="ignore"):
                found = values + offsets[:, None].astype(np.longdouble)
                for truth in (exact(q, x, metric, norms), of_canonical(q, x, metric, norms)):
                    comparable = bounded & np.isfinite(truth)
                    off = np.abs(found - truth)[comparable]
                    assert (off <= errors[comparable]).all()
                    # What overflows float32 counts as the largest float32: see level_of_screened.
                    checked += comparable.sum()
                    tightest = max(tightest, float((off / errors[comparable]).max(initial=0)))
    if kind is not with_infinities and kind is not near_the_limits:
        assert checked > 30_000  # times kinds, metrics: over a million
    if kind is halfway and metric == "dot":
        assert tightest > 0.3 or _core.encoding() == "fixed_point"  # the bound is no looser than it must be
