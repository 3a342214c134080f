"""Confidence of events, and weights of entries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

from salience import Interactions
from salience.confidence import confidence


def test_dwell_saturates_around_the_typical():
    found = confidence(dwell=[0, 30, 60, 120, 1e9], typical_dwell=60)
    assert np.allclose(found, [0, math.log2(1.5), 1, math.log2(3), math.log2(1 + 1e9 / 60)])
    assert np.array_equal(confidence(dwell=[0, 10, 20, 30]), confidence(dwell=[0, 10, 20, 30], typical_dwell=20))
    assert confidence(dwell=[0, 0]).tolist() == [0, 0]
    assert found.dtype == np.float32


def test_what_is_given_is_multiplied():
    found = confidence(dwell=[60, 120], typical_dwell=60, completion=[0.5, 1.0], weights=[4, -1])
    assert np.allclose(found, [2.0, -math.log2(3)])
    assert confidence(completion=[0.25, 1]).tolist() == [0.25, 1]


WRONG = {
    "nothing": (ValueError, "dwell: None", {}),
    "lengths": (ValueError, "completion: .*one for each event", {"dwell": [1, 2], "completion": [1]}),
    "negative dwell": (ValueError, "dwell: -1", {"dwell": [-1]}),
    "completion beyond 1": (ValueError, "completion: 1.5", {"completion": [1.5]}),
    "NaN": (ValueError, "weights: nan", {"weights": [np.nan]}),
    "words": (TypeError, "weights: .*expected numbers", {"weights": ["a"]}),
    "a matrix": (ValueError, r"dwell: shape \(1, 1\)", {"dwell": [[1.0]]}),
    "a typical dwell of 0": (ValueError, "typical_dwell: 0", {"dwell": [1], "typical_dwell": 0}),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    error, words, arguments = WRONG[name]
    with pytest.raises(error, match=words):
        confidence(**arguments)


def test_entries_are_weighted():
    data = Interactions.from_csr(sp.csr_matrix(np.array([[1, 0, 2], [0, 3, 0]], np.float32)))
    found = data.weighted([2.0, 0.5, -1])
    assert found.matrix.toarray().tolist() == [[2, 0, 1], [0, -3, 0]]
    assert data.matrix.data.tolist() == [1, 2, 3]
    for words, weights in ((r"weights: shape \(2,\); expected \(3,\)", [1, 2]), ("weights: inf", [1, np.inf, 1])):
        with pytest.raises(ValueError, match=words):
            data.weighted(weights)
    with pytest.raises(TypeError, match="weights: .*expected real numbers"):
        data.weighted(["a", "b", "c"])


def test_decay_counts_from_the_latest_time_whatever_the_epoch():
    matrix = sp.csr_matrix(np.ones((1, 3), np.float32))
    data = Interactions.from_csr(matrix)
    for shift in (0, -5000):
        data.times = np.array([-20, -10, 0]) + shift
        assert data.decayed(10.0).matrix.data.tolist() == [0.25, 0.5, 1.0]
