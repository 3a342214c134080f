"""Maps between two embedding spaces, and the example of two domains that share users."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from salience.domains import DomainMap


def spaces(seed, rows=80, a=6, b=4, noise=0.0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, a)).astype(np.float32)
    weights = random.standard_normal((a, b))
    y = x @ weights + 3.0 + noise * random.standard_normal((rows, b))
    return x, y.astype(np.float32), weights


def test_ridge_solves_its_normal_equations():
    x, y, _ = spaces(0, noise=1.0)
    found = DomainMap(regularization=2.5).fit(x, y)
    centred, target = x - x.mean(axis=0, dtype=np.float64), y - y.mean(axis=0, dtype=np.float64)
    expected = np.linalg.solve(centred.T @ centred + 2.5 * np.eye(6), centred.T @ target)
    assert np.allclose(found.weights_, expected)
    assert np.allclose(found.transform(x), centred @ expected + y.mean(axis=0), atol=1e-5)


def test_leave_one_out_is_what_leaving_one_out_gives():
    x, y, _ = spaces(1, rows=25, noise=2.0)
    found = DomainMap(regularization=3.0).fit(x, y)
    errors = []
    for row in range(len(x)):
        kept = np.arange(len(x)) != row
        centre, level = x[kept].mean(axis=0, dtype=np.float64), y[kept].mean(axis=0, dtype=np.float64)
        system = (x[kept] - centre).T @ (x[kept] - centre) + 3.0 * np.eye(6)
        weights = np.linalg.solve(system, (x[kept] - centre).T @ (y[kept] - level))
        errors.append(np.square(y[row] - level - (x[row] - centre) @ weights).sum())
    variance = np.square(y - y.mean(axis=0, dtype=np.float64)).sum()
    # Exact but for the ridge's part in a mean that moves, which is of the order of 1 / rows^2.
    assert found.leave_one_out_ == pytest.approx(sum(errors) / variance, rel=2e-2)


def test_noise_chooses_a_stronger_ridge():
    strengths = [DomainMap().fit(*spaces(2, rows=20, a=15, noise=noise)[:2]).regularization_ for noise in (0.01, 30.0)]
    assert strengths[0] < strengths[1]


def test_procrustes_finds_a_rotation_and_its_scale():
    random = np.random.default_rng(3)
    rotation = np.linalg.qr(random.standard_normal((5, 5)))[0]
    x = random.standard_normal((12, 5)).astype(np.float32)
    y = (2.5 * x @ rotation + 1.0).astype(np.float32)
    found = DomainMap("orthogonal").fit(x, y)
    assert np.allclose(found.weights_, 2.5 * rotation, atol=1e-5)
    assert np.allclose(found.transform(x), y, atol=1e-4)
    narrow = DomainMap("orthogonal").fit(x, y[:, :3])
    gram = narrow.weights_.T @ narrow.weights_
    assert np.allclose(gram, gram[0, 0] * np.eye(3), atol=1e-9)


def test_wrong_input_is_named():
    x, y, _ = spaces(4)
    for words, call in {
        "kind: 'affine'": lambda: DomainMap("affine"),
        "regularization: 1.0; expected None": lambda: DomainMap("orthogonal", regularization=1.0),
        "target: 79 rows; expected one for each of the 80": lambda: DomainMap().fit(x, y[1:]),
        "source: 1 rows; expected at least 2": lambda: DomainMap().fit(x[:1], y[:1]),
        "source: a value that is not finite in row 2": lambda: DomainMap().fit(
            np.where(np.arange(80)[:, None] == 2, np.float32(np.nan), x), y
        ),
        "source: 4 columns; expected 6": lambda: DomainMap().fit(x, y).transform(y),
        "DomainMap: not fitted": lambda: DomainMap().transform(x),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


def test_the_example_of_two_domains():
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "two_domains.py"))
    found = example["compare_roads"]()
    assert found["mapped film factors"] > 1.1 * found["popularity"]
    assert found["film factors as user features"] > 1.1 * found["popularity"]
