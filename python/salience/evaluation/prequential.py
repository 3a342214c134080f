"""Predict, then learn: a recommender judged event by event, in the order of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._arrays import describe, real, whole
from salience.evaluation._figures import new_figure, save_figure
from salience.evaluation.metrics import FloatArray
from salience.hybrid.events import Events, as_events
from salience.interactions import Interactions, make_frame

_RESAMPLES = 1000
_COLOURS = ("#33658a", "#d1495b", "#3c7a3f", "#8d6a9f", "#a5752b", "#555555")


@dataclass(frozen=True, eq=False, repr=False)
class PrequentialReport:
    """What :func:`prequential` found, event by event.

    Attributes
    ----------
    k : int
    ranks : array of int64, shape (n,)
        Rank from 1 of the item that was chosen next, 0 where it was not among the first ``k``.
    users : array of ids, shape (n,)
    times : array, shape (n,), or None
    recommend_seconds, learn_seconds : arrays of float64, shapes (n,) and (events,)
        What each call took.
    """

    k: int
    ranks: npt.NDArray[np.int64]
    users: npt.NDArray[Any]
    times: npt.NDArray[Any] | None
    recommend_seconds: FloatArray
    learn_seconds: FloatArray

    @property
    def gains(self) -> FloatArray:
        """NDCG of each event: 1 / log2(1 + rank), 0 where the item was not listed."""
        gains = np.zeros(len(self.ranks))
        listed = self.ranks > 0
        gains[listed] = 1.0 / np.log2(1.0 + self.ranks[listed])
        return gains

    @property
    def values(self) -> dict[str, float]:
        """Means over events of NDCG, hit rate and reciprocal rank at ``k``."""
        listed = self.ranks > 0
        reciprocal = np.where(listed, 1.0 / np.maximum(self.ranks, 1), 0.0)
        columns = {"ndcg": self.gains, "hit_rate": listed, "mrr": reciprocal}
        return {f"{name}@{self.k}": float(column.mean()) if column.size else 0.0 for name, column in columns.items()}

    def interval(self, other: PrequentialReport | None = None, *, level: float = 0.95, seed: int = 0) -> FloatArray:
        """Return a bootstrap interval of mean NDCG, or of its difference from ``other`` on the same events.

        Users are drawn, with all of their events: events of one user are alike.
        """
        gains = self.gains
        if other is not None:
            if not np.array_equal(self.users, other.users):
                raise ValueError("other: a report on other events; expected one on the same")
            gains = gains - other.gains
        _, rows = np.unique(self.users, return_inverse=True)
        sums, counts = np.bincount(rows, gains), np.bincount(rows)
        drawn = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        tail = (1.0 - real(level, argument="level")) / 2
        return np.asarray(np.quantile(means, [tail, 1.0 - tail]))

    def curve(self, window: int = 1000) -> FloatArray:
        """Return the mean NDCG of the last ``window`` events, at every event from the ``window``-th on."""
        size = whole(window, argument="window", least=1, most=max(len(self.ranks), 1))
        sums = np.concatenate([[0.0], np.cumsum(self.gains)])
        return np.asarray((sums[size:] - sums[:-size]) / size)

    def latency(self) -> dict[str, FloatArray]:
        """Return the 50th and 99th percentiles and the maximum of what calls took, in milliseconds."""
        columns = {"recommend": self.recommend_seconds, "learn": self.learn_seconds}
        return {
            name: np.append(np.percentile(column, [50, 99]), column.max()) * 1e3
            for name, column in columns.items()
            if len(column)
        }

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with one row an event: user, rank, ndcg (and time)."""
        columns = {"user": self.users, "rank": self.ranks, "ndcg": self.gains}
        if self.times is not None:
            columns["time"] = self.times
        return make_frame(columns, backend)

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.values.items())
        return f"PrequentialReport({len(self.ranks)} events, {values})"


def prequential(
    model: Any,
    events: Any,
    *,
    k: int = 10,
    learn: bool = True,
    period: float | None = None,
    each_period: Callable[[Any], Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrequentialReport:
    """Ask the model what a user will choose next, then show it, event after event.

    Parameters
    ----------
    model : HybridScorer, or any fitted recommender
        It is changed by what it learns.
    events : Events, Interactions with times, or a frame with columns user, item and optionally value and time
        Taken in the order of their times. Events of value 0 or less, and of items that the user has had before (chosen
        or disliked; not those that were shown and passed over), are learned from and not judged.
    k : int
    learn : bool
        Call ``model.observe`` after each event; without, the model stays as it is, and only leaves out what the user
        has had in the meantime.
    period : float, optional
        In the unit of the times (86,400 for days in seconds).
    each_period : callable, optional
        Called with the model before the first event of each new period: to fit it anew, every night for instance.
    progress : callable, optional
        Called as ``progress(done, total)`` after each event.

    Returns
    -------
    PrequentialReport
        Users and items that the model does not know count as not listed.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    length, stream = whole(k, argument="k", least=1), _stream(events)
    if learn and not hasattr(model, "observe"):
        raise TypeError(f"model: {describe(model)} has no observe; expected a model that learns, or learn=False")
    if (period is None) != (each_period is None):
        raise ValueError("each_period: expected with period, and period with each_period")
    if period is not None and stream.times is None:
        raise ValueError("period: events without times; expected times")
    span = None if period is None else real(period, argument="period", positive=True)
    since: dict[Any, list[Any]] = {}
    rated = getattr(model, "objective", "ranking") == "rating"
    ranks, judged, asked, taught = [], [], [], []
    current = None
    for place in range(len(stream)):
        event = stream.select(slice(place, place + 1))
        if span is not None and each_period is not None and stream.times is not None:
            number = int(stream.times[place] // span)
            if current is not None and number != current:
                each_period(model)
            current = number
        had = since.setdefault(event.users[0], [])
        if event.values[0] > 0 and not _had(model, event, had):
            started = time.perf_counter()
            ranks.append(_rank(model, event, length, [] if learn else had))
            asked.append(time.perf_counter() - started)
            judged.append(place)
        if learn:
            started = time.perf_counter()
            model.observe(event, unknown="skip")
            taught.append(time.perf_counter() - started)
        if event.values[0] != 0 or rated:  # what was passed over may be listed again, and judged when it is chosen
            had.append(event.items[0])
        if progress is not None:
            progress(place + 1, len(stream))
    times = None if stream.times is None else stream.times[judged]
    return PrequentialReport(
        length, np.array(ranks, np.int64), stream.users[judged], times, np.array(asked), np.array(taught)
    )


def _stream(events: Any) -> Events:
    if isinstance(events, Interactions):
        if events.times is None:
            raise ValueError("events: interactions without times; expected times")
        users, items = events.users[events.rows], events.items[events.matrix.indices]
        events = Events.of(users, items, events.matrix.data, times=events.times)
    return as_events(events).in_order()


def _had(model: Any, event: Events, since: list[Any]) -> bool:
    """Tell whether the user has had the item, in training or in the stream so far."""
    if event.items[0] in since:
        return True
    row, item = int(model.user_map.find(event.users)[0]), int(model.item_map.find(event.items)[0])
    seen = getattr(model, "_seen", None)
    if seen is None or row < 0 or item < 0:
        return False
    return bool(np.isin(item, seen.matrix.indices[slice(*seen.matrix.indptr[row : row + 2])]))


def _rank(model: Any, event: Events, k: int, deny: list[Any]) -> int:
    item = model.item_map.find(event.items)[0]
    if item < 0:
        return 0
    known = model.item_map.find(np.array(deny, dtype=event.items.dtype)) if deny else np.zeros(0, np.int64)
    filters = {"deny": model.item_map.ids_of(known[known >= 0])} if (known >= 0).any() else {}
    try:
        listed = model.recommend(event.users, k, **filters).rows[0]
    except ValueError:
        if model.user_map.find(event.users)[0] >= 0:
            raise
        return 0  # a model that serves nobody it does not know
    place = np.flatnonzero(listed == item)
    return int(place[0]) + 1 if place.size else 0


def plot_prequential(reports: Mapping[str, PrequentialReport], path: str | Path, *, window: int = 1000) -> None:
    """Draw the moving mean of NDCG of several models over the same events: how they adapt.

    Parameters
    ----------
    reports : mapping of name to PrequentialReport
    path : str or Path
        A file that ends in .png, .svg or .pdf.
    window : int
        Events a mean is taken over.

    Raises
    ------
    ImportError
        Where matplotlib is not installed: pip install 'salience[report]'.
    """
    if not reports:
        raise ValueError("reports: none; expected at least one")
    figure = new_figure(7.2, 3.4, caller="plot_prequential")
    axis = figure.subplots()
    for number, (name, report) in enumerate(reports.items()):
        curve = report.curve(window)
        first = len(report.ranks) - len(curve) + 1
        mean = report.gains.mean()
        axis.plot(
            np.arange(first, first + len(curve)), curve, label=f"{name} ({mean:.4f})", linewidth=1.4,
            color=_COLOURS[number % len(_COLOURS)],
        )  # fmt: skip
    sample = next(iter(reports.values()))
    axis.set(xlabel="events", ylabel=f"NDCG@{sample.k}, mean of {window:,} events", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


__all__ = ["PrequentialReport", "plot_prequential", "prequential"]
