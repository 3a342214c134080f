"""What lists are like beyond how many hits they hold: coverage, novelty, diversity, calibration, ...

The definitions, by name, are in :mod:`salience.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _arrays, _core
from salience._arrays import describe
from salience.evaluation.metrics import FloatArray, IntArray, Metric, parse_metrics
from salience.evaluation.ranks import exclusion

BoolArray = npt.NDArray[np.bool_]

_TAIL = 0.2  # share of the training interactions that the long tail holds at most
_SMOOTHING = 0.01  # of the list's categories by the user's, so that no divergence is infinite
_ROWS = 4096  # users whose features are looked at together


@dataclass(frozen=True, eq=False)
class Lists:
    """Recommended lists and what is known about their users and items.

    Attributes
    ----------
    rows : int64 array of shape (n, slots)
        Item rows, best first, padded with -1. Rows from ``items`` on are items that nothing is known about.
        Slots beyond those given are empty.
    items : int
        How many items there are.
    relevant : scipy CSR matrix of shape (n, items), optional
        The users' test interactions; for serendipity.
    history : scipy CSR matrix of shape (n, items), optional
        The users' training interactions; for lift, serendipity and calibration.
    counts : int64 array of shape (items,), optional
        Training users of each item; for novelty, popularity, the long tail and serendipity.
    training_users : int
        Users with a training interaction; for novelty.
    features : float array or sparse matrix of shape (items, d), optional
        For diversity and, not negative, as weights of categories for calibration.
    """

    rows: IntArray
    items: int
    relevant: Any = None
    history: Any = None
    counts: IntArray | None = None
    training_users: int = 0
    features: Any = None

    def metrics(self, metrics: Sequence[str | Metric]) -> dict[str, FloatArray | float]:
        """Compute metrics of lists.

        Parameters
        ----------
        metrics : sequence of str or Metric
            Names of the table "Beyond accuracy" in :mod:`salience.evaluation.metrics`.

        Returns
        -------
        dict of str to float64 array of shape (n,), or float
            One value a user, NaN where a user has none; a float for what only all lists together have.

        Raises
        ------
        ValueError
            If a metric is unknown or of another kind, or needs something that is not given.
        """
        found: dict[str, FloatArray | float] = {}
        for metric in parse_metrics(metrics):
            if metric.kind != "lists" or metric.cutoff is None:
                raise ValueError(f"metrics: {metric.name!r}; expected metrics of lists")
            check_given(
                [metric], counts=self.counts, history=self.history, relevant=self.relevant, features=self.features
            )
            _, formula = _FORMULAS[metric.base, metric.convention]
            found[metric.name] = formula(_Top(self, metric.cutoff))
        return found

    @cached_property
    def unit_features(self) -> Any:
        """Features scaled to length 1; zero where they are zero."""
        matrix, dense = as_features(self.features, self.items), not sp.issparse(self.features)
        squares = np.square(matrix).sum(axis=1) if dense else np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
        scale = np.divide(1.0, np.sqrt(squares), out=np.zeros(len(squares)), where=squares > 0)
        return matrix * scale[:, None] if dense else sp.diags_array(scale) @ matrix

    @cached_property
    def categories(self) -> Any:
        """Shares of every item in the categories, a sparse matrix; nothing where an item has none."""
        return _arrays.shares(as_features(self.features, self.items), argument="item_features")

    @cached_property
    def popularity_ranks(self) -> IntArray:
        """Rank of every item by popularity, from 1, the same for equal counts."""
        assert self.counts is not None
        distinct, where = np.unique(self.counts, return_inverse=True)
        return (distinct.size - where).astype(np.int64)


def check_given(metrics: Sequence[Metric], **given: Any) -> None:
    """Raise a ValueError where a metric of lists needs something that is None."""
    said = {"features": "item_features", "counts": "train", "history": "train", "relevant": "test"}
    for metric in metrics:
        needs = _FORMULAS[metric.base, metric.convention][0] if metric.kind == "lists" else ()
        for need in needs:
            if given[need] is None:
                raise ValueError(f"{said[need]}: None; expected what {metric.name!r} is computed from")


def as_features(features: Any, items: int) -> Any:
    """Return features as a float64 array or CSR array, checked."""
    if sp.issparse(features):
        matrix: Any = sp.csr_array(features).astype(np.float64)
        values = matrix.data
    else:
        matrix = values = np.asarray(features)
        if matrix.dtype.kind not in "fiub":
            raise TypeError(f"item_features: {describe(features)}; expected an array or sparse matrix of numbers")
        matrix = values = matrix.astype(np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != items:
        raise ValueError(f"item_features: shape {matrix.shape}; expected one row for each of the {items} items")
    if not np.isfinite(values).all():
        raise ValueError("item_features: a value that is not finite; expected finite numbers")
    return matrix


class _Top:
    """The first k slots of all lists."""

    def __init__(self, lists: Lists, k: int) -> None:
        self.lists, self.k = lists, k
        self.rows = lists.rows[:, :k]
        self.known = (self.rows >= 0) & (self.rows < lists.items)
        self.sizes = (self.rows >= 0).sum(axis=1)

    @property
    def popularity(self) -> IntArray:
        """Training users of each item."""
        assert self.lists.counts is not None  # check_given has made sure
        return self.lists.counts

    @cached_property
    def hits(self) -> BoolArray:
        """Whether each slot holds a relevant item."""
        users, _ = np.nonzero(self.known)
        found = np.zeros(self.rows.shape, dtype=np.bool_)
        found[self.known] = _holds(self.lists.relevant, users, self.rows[self.known])
        return found

    def item_values(self, values: npt.NDArray[Any], other: float = 0.0) -> FloatArray:
        """Look up a number for every slot: 0 where it is empty, ``other`` for an item that is not known."""
        found = np.where(self.rows >= self.lists.items, other, 0.0)
        found[self.known] = values[self.rows[self.known]]
        return found

    def mean(self, values: FloatArray) -> FloatArray:
        """Mean over the filled slots of every user; NaN for empty lists."""
        return _divide(values.sum(axis=1), self.sizes)

    def counts_of_items(self) -> IntArray:
        return np.bincount(self.rows[self.known], minlength=self.lists.items)

    def indicator(self, part: slice) -> Any:
        """Ones where a user of ``part`` is recommended a known item, a sparse matrix."""
        known, rows = self.known[part], self.rows[part]
        users, _ = np.nonzero(known)
        return sp.csr_array((np.ones(len(users)), (users, rows[known])), shape=(len(rows), self.lists.items))


def _divide(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    out = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def _holds(matrix: Any, users: IntArray, items: IntArray) -> BoolArray:
    """Tell which (user, item) pairs a canonical CSR matrix stores."""
    columns = matrix.shape[1]
    stored = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * columns + matrix.indices
    wanted = users * columns + items
    if not stored.size:
        return np.zeros(wanted.shape, dtype=np.bool_)
    at = np.minimum(np.searchsorted(stored, wanted), stored.size - 1)
    return np.asarray(stored[at] == wanted)


def _coverage(top: _Top) -> float:
    return float(np.count_nonzero(top.counts_of_items())) / top.lists.items


def _user_coverage(top: _Top) -> FloatArray:
    return np.asarray(top.sizes > 0, dtype=np.float64)


def _gini(top: _Top) -> float:
    counts = np.sort(top.counts_of_items()).astype(np.float64)
    total, n = counts.sum(), counts.size
    if not total:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) @ counts) / (n * total))


def _entropy(top: _Top) -> float:
    counts = top.counts_of_items()
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares @ np.log(shares))) if shares.size else float("nan")


def _novelty(top: _Top) -> FloatArray:
    users = max(top.lists.training_users, 1)
    surprise = -np.log2(np.maximum(top.popularity, 1) / users)
    return top.mean(top.item_values(surprise, float(np.log2(users))))


def _popularity(top: _Top) -> FloatArray:
    return top.mean(top.item_values(top.popularity))


def _lift(top: _Top) -> FloatArray:
    history = top.lists.history
    users = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
    seen = np.bincount(users, weights=top.popularity[history.indices], minlength=history.shape[0])
    return _divide(_popularity(top), _divide(seen, np.diff(history.indptr))) - 1.0


def long_tail(counts: IntArray) -> BoolArray:
    """Mark the least popular items, which together hold no more than 20 % of all interactions.

    Items of equal popularity are in or out together.
    """
    distinct, where, items = np.unique(counts, return_inverse=True, return_counts=True)
    held = np.cumsum(distinct * items)
    return np.asarray((held <= _TAIL * held[-1])[where])


def _tail_share(top: _Top) -> FloatArray:
    return top.mean(top.item_values(long_tail(top.popularity), 1.0))


def _diversity(top: _Top) -> FloatArray:
    """1 - the mean cosine of all pairs, which the length of the sum of unit vectors tells."""
    units = top.lists.unit_features
    found = np.empty(len(top.rows))
    for start in range(0, len(top.rows), _ROWS):
        part = slice(start, start + _ROWS)
        picked = top.indicator(part)
        sums = picked @ units
        own = picked @ _squares(units)
        found[part] = _squares(sums) - own
    pairs = top.sizes * (top.sizes - 1)
    return np.asarray(1.0 - _divide(found, pairs))


def _squares(matrix: Any) -> FloatArray:
    squared = matrix.multiply(matrix) if sp.issparse(matrix) else np.square(matrix)
    return np.asarray(squared.sum(axis=1), dtype=np.float64).ravel()


def _serendipity(top: _Top) -> FloatArray:
    items = top.lists.items
    personal = (items - np.arange(top.rows.shape[1])) / items
    general = np.where(top.popularity > 0, (items + 1 - top.lists.popularity_ranks) / items, 0.0)
    surprise = np.maximum(personal - top.item_values(general), 0.0)
    return np.asarray((surprise * top.hits).sum(axis=1) / top.k)


def _unexpected(top: _Top) -> FloatArray:
    history, counts = top.lists.history, top.popularity.astype(np.float32)[:, None]
    seen, ones = exclusion(history, history.shape), np.ones((len(top.rows), 1), np.float32)
    k = min(top.k, top.lists.items)
    popular, _ = _core.topk(ones, counts, "float32", k, "dot", seen, None, 0)
    expected = (top.rows[:, :, None] == popular[:, None, :]).any(axis=2) if k <= 64 else _isin(top.rows, popular)
    return np.asarray((top.hits & ~expected).sum(axis=1) / top.k)


def _isin(rows: IntArray, others: IntArray) -> BoolArray:
    return np.array([np.isin(a, b) for a, b in zip(rows, others, strict=True)])


def _distributions(top: _Top) -> tuple[FloatArray, FloatArray]:
    """Return the categories of users' histories and of their lists, each adding up to 1 (or 0)."""
    categories = top.lists.categories
    profiles = sp.csr_array(
        (np.ones(top.lists.history.nnz), top.lists.history.indices, top.lists.history.indptr),
        shape=top.lists.history.shape,
    )
    both = []
    for weights in (profiles, top.indicator(slice(None))):
        sums = np.asarray((weights @ categories).todense(), dtype=np.float64)
        both.append(np.divide(sums, sums.sum(axis=1, keepdims=True), out=np.zeros_like(sums), where=sums > 0))
    return both[0], both[1]


def _divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return sum p ln(p / q) of every row; NaN where either is empty."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=(p > 0) & (q > 0))
    total = np.asarray((p * np.log(ratio)).sum(axis=1))
    total[(p.sum(axis=1) == 0) | (q.sum(axis=1) == 0)] = np.nan
    return total


def _calibration(top: _Top) -> FloatArray:
    history, listed = _distributions(top)
    smoothed = (1 - _SMOOTHING) * listed + _SMOOTHING * history
    smoothed[listed.sum(axis=1) == 0] = 0.0
    # Not negative but for rounding.
    return np.maximum(_divergence(history, smoothed), 0.0)


def _jensen_shannon(top: _Top) -> FloatArray:
    history, listed = _distributions(top)
    middle = (history + listed) / 2
    middle[(history.sum(axis=1) == 0) | (listed.sum(axis=1) == 0)] = 0.0
    bits = (_divergence(history, middle) + _divergence(listed, middle)) / (2 * np.log(2.0))
    return np.asarray(np.clip(bits, 0.0, 1.0))


_FORMULAS: dict[tuple[str, str | None], tuple[tuple[str, ...], Callable[[_Top], FloatArray | float]]] = {
    ("coverage", None): ((), _coverage),
    ("user_coverage", None): ((), _user_coverage),
    ("gini", None): ((), _gini),
    ("entropy", None): ((), _entropy),
    ("novelty", None): (("counts",), _novelty),
    ("popularity", None): (("counts",), _popularity),
    ("popularity", "lift"): (("counts", "history"), _lift),
    ("tail_share", None): (("counts",), _tail_share),
    ("diversity", None): (("features",), _diversity),
    ("serendipity", None): (("relevant", "counts"), _serendipity),
    ("serendipity", "unexpected"): (("relevant", "counts", "history"), _unexpected),
    ("calibration", None): (("features", "history"), _calibration),
    ("calibration", "jensen_shannon"): (("features", "history"), _jensen_shannon),
}
