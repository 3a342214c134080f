"""Checks of arguments that several modules of this room share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from salience._arrays import describe

if TYPE_CHECKING:
    from salience.interactions import IdMap, Interactions


def fraction(value: Any, *, argument: str) -> float:
    """Return ``value`` as a float strictly between 0 and 1, or raise naming ``argument``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{argument}: {describe(value)}; expected a number between 0 and 1")
    number = float(value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{argument}: {number}; expected a number strictly between 0 and 1")
    return number


def clip_bounds(value: Any, *, argument: str = "clip") -> tuple[float, float] | None:
    """Return ``(low, high)`` or None, or raise naming ``argument``."""
    if value is None:
        return None
    expected = "expected (low, high), two finite numbers with low < high, or None"
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{argument}: {describe(value)}; {expected}")
    if any(isinstance(x, (bool, np.bool_)) or not isinstance(x, Real) for x in value):
        raise TypeError(f"{argument}: {describe(value)}; {expected}")
    low, high = float(value[0]), float(value[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{argument}: ({low}, {high}); {expected}")
    return low, high


def same_axes(train: Interactions, test: Interactions, train_name: str = "train", test_name: str = "test") -> None:
    """Raise a ValueError unless both parts have the same users and items in the same order."""
    cut = "cut both from one Interactions"
    if train.shape != test.shape:
        raise ValueError(
            f"{test_name}: {test.shape[0]} users x {test.shape[1]} items; expected the axes of {train_name}, "
            f"{train.shape[0]} x {train.shape[1]} ({cut})"
        )
    for axis, ours, theirs in (
        ("users", train.user_map, test.user_map),
        ("items", train.item_map, test.item_map),
    ):
        if not same_ids(ours, theirs):
            raise ValueError(
                f"{test_name}: {axis} whose ids differ from those of {train_name}; expected the same {axis} in the "
                f"same order ({cut})"
            )


def same_ids(first: IdMap, second: IdMap) -> bool:
    """Tell whether two axes have the same ids in the same order."""
    # Parts cut from one Interactions share their maps: only strangers are compared id by id.
    if first is second or len(first) != len(second):
        return first is second
    return (first.identity and second.identity) or np.array_equal(first.ids, second.ids)


def overlap(first: Interactions, second: Interactions) -> int:
    """Count the (user, item) pairs that both parts hold. O(entries)."""
    return int(_pattern(first).multiply(_pattern(second)).nnz)


def _pattern(interactions: Interactions) -> Any:
    # Ones in place of the values: a stored zero is an interaction too.
    matrix = interactions.matrix
    ones = np.ones(matrix.nnz, dtype=np.int8)
    return sp.csr_matrix((ones, matrix.indices, matrix.indptr), shape=matrix.shape)
