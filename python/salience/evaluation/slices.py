"""A metric for parts of the users or items: groups, buckets of history, buckets of popularity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from salience._arrays import whole
from salience.evaluation import _checks

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Slices:
    """A metric's mean in each of some groups.

    Attributes
    ----------
    metric : str
        What was averaged.
    labels : list
        The groups.
    values : float64 array of shape (groups,)
        Means; NaN for a group without values.
    low, high : float64 array of shape (groups,)
        Bounds of the interval of each mean; NaN where a group is too small to tell.
    counts : int64 array of shape (groups,)
        Values averaged.
    """

    metric: str
    labels: list[Any]
    values: FloatArray
    low: FloatArray
    high: FloatArray
    counts: IntArray

    @property
    def gap(self) -> float:
        """The largest value minus the smallest."""
        return float(np.nanmax(self.values) - np.nanmin(self.values))

    @property
    def ratio(self) -> float:
        """The smallest value divided by the largest: 1 where all groups fare alike; NaN where all are 0."""
        largest = float(np.nanmax(self.values))
        return float(np.nanmin(self.values)) / largest if largest else math.nan

    @property
    def worst(self) -> Any:
        """The group with the smallest value."""
        return self.labels[int(np.nanargmin(self.values))]

    def table(self) -> str:
        """Return plain text, one line a group."""
        lines = [f"{self.metric}"]
        width = max(len(str(label)) for label in self.labels)
        for label, value, low, high, count in zip(
            self.labels, self.values, self.low, self.high, self.counts, strict=True
        ):
            lines.append(f"  {label!s:<{width}}  {value:.4f}  [{low:.4f}, {high:.4f}]  {count:,}")
        lines.append(f"  gap {self.gap:.4f}, ratio {self.ratio:.3f}, lowest: {self.worst}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON (None for NaN)."""

        def clean(array: FloatArray) -> list[float | None]:
            return [None if math.isnan(x) else x for x in array.tolist()]

        return {
            "metric": self.metric,
            "labels": list(self.labels),
            "values": clean(self.values),
            "low": clean(self.low),
            "high": clean(self.high),
            "counts": self.counts.tolist(),
        }


Bounds = tuple[float, float]


def by_label(values: FloatArray, labels: Sequence[Any], *, metric: str, level: float, bounds: Bounds) -> Slices:
    """Average ``values`` of each label, in sorted order of labels."""
    if len(labels) != len(values):
        raise ValueError(f"groups: {len(labels)} of them; expected one for each of the {len(values)} users")
    names = sorted(set(labels), key=lambda label: (str(type(label)), label))
    number = {name: i for i, name in enumerate(names)}
    groups = np.array([number[label] for label in labels], dtype=np.int64)
    return _average(values, groups, names, metric, level, None, bounds)


def by_count(
    values: FloatArray,
    counts: IntArray,
    *,
    metric: str,
    buckets: int,
    edges: Sequence[int] | None,
    level: float,
    bounds: Bounds,
    clusters: IntArray | None = None,
) -> Slices:
    """Average ``values`` in buckets of ``counts``; see :meth:`salience.evaluation.Report.by_history`."""
    starts = _starts(counts, whole(buckets, argument="buckets", least=1)) if edges is None else _edges(edges)
    groups = np.searchsorted(np.array(starts[1:], dtype=np.int64), counts, side="right")
    labels = [_label(first, following) for first, following in zip(starts, [*starts[1:], None], strict=True)]
    return _average(values, groups, labels, metric, level, clusters, bounds)


def _label(first: int, following: int | None) -> str:
    if following is None:
        return f"{first}+"
    return str(first) if following == first + 1 else f"{first}-{following - 1}"


def _starts(counts: IntArray, buckets: int) -> list[int]:
    """Return the first count of each bucket, such that about equally many are in each; 0 has its own."""
    positive = np.sort(counts[counts > 0])
    cuts = np.unique(positive[np.arange(buckets) * positive.size // buckets]).tolist() if positive.size else []
    # Where some have none, the smallest count opens a bucket that is said to begin right after 0.
    return [0, *([1] if cuts else []), *cuts[1:]] if positive.size < counts.size else cuts


def _edges(edges: Sequence[int]) -> list[int]:
    starts = [0, *(whole(edge, argument="edges", least=1) for edge in edges)]
    if any(a >= b for a, b in itertools.pairwise(starts)):
        raise ValueError(f"edges: {list(edges)}; expected ascending counts")
    return starts


def _average(
    values: FloatArray,
    groups: IntArray,
    labels: list[Any],
    metric: str,
    level: float,
    clusters: IntArray | None,
    bounds: Bounds,
) -> Slices:
    quantile = float(stats.norm.ppf(0.5 + _checks.fraction(level, argument="level") / 2))
    means, errors, counts = (np.full(len(labels), np.nan) for _ in range(3))
    for group in range(len(labels)):
        inside = (groups == group) & ~np.isnan(values)
        counts[group] = np.count_nonzero(inside)
        if counts[group]:
            means[group] = values[inside].mean()
            errors[group] = _standard_error(values[inside], None if clusters is None else clusters[inside])
    reach = quantile * errors
    low, high = (np.clip(end, *bounds) for end in (means - reach, means + reach))
    return Slices(metric, labels, means, low, high, counts.astype(np.int64))


def _standard_error(values: FloatArray, clusters: IntArray | None) -> float:
    """Return the standard error of the mean; of a ratio of sums over clusters where values come in clusters."""
    n = values.size
    if clusters is None:
        return float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    _, where = np.unique(clusters, return_inverse=True)
    residuals = np.bincount(where, weights=values - values.mean())
    m = residuals.size
    return math.sqrt(m / (m - 1) * float(residuals @ residuals)) / n if m > 1 else math.nan
