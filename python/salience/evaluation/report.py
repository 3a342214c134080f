"""Report: what an evaluation found, with the values of every user behind it."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience import _storage
from salience._arrays import describe
from salience.evaluation import slices, statistics
from salience.evaluation.metrics import Metric, parse_metric, summarize
from salience.evaluation.slices import Slices
from salience.interactions import make_frame

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_HEADER = ("metric", "value", "standard error", "counted")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Where every held-out item of the evaluated users stood.

    Attributes
    ----------
    users : int64 array of shape (pairs,)
        Position of the user in ``Report.users`` of any ranking metric; ascending.
    items : array of shape (pairs,)
        The ids of the held-out items.
    ranks : int64 array of shape (pairs,)
        From 1; 0 where the item was not recommended in the first ``depth``, or could not be.
    depth : int or None
        How far ranks are known; None: all are.
    popularity : int64 array of shape (pairs,), or None
        Users who had the item in training; None where the training part is not known.
    """

    users: IntArray
    items: npt.NDArray[Any]
    ranks: IntArray
    depth: int | None = None
    popularity: IntArray | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The result of an evaluation.

    Attributes
    ----------
    values : dict of str to float
        Overall value of each metric, in the order asked for.
    per_user : dict of str to float64 array
        The value of every user, for paired comparisons between models.
    users : dict of str to array
        The ids of the users behind ``per_user``, aligned with it.
    counts : dict of str to int
        Number of users averaged over, or of pairs for ``rmse`` and ``mae``.
    standard_errors : dict of str to float
        Standard error of each value as an estimate for other users like these, NaN where it cannot
        be told; see :func:`salience.evaluation.metrics.summarize`. After cross-validation, that of
        the mean over folds; see :func:`salience.evaluation.cross_validate`.
    cold_users : int
        Evaluated users of whom the model could not have learned: nothing in train, or unknown to
        the model. Unknown users count as having got an empty list.
    users_without_test : int
        Users with nothing in the test part: they cannot be evaluated and enter no mean.
    short_lists : int
        Evaluated users for whom the list had fewer items than the largest cut-off.
    unscored_pairs : int
        Test pairs left out of the rating metrics as the model gave them no score.
    unknown_users : int
        Users with a list of whom the test part knows nothing, ignored (given lists only).
    tied_users : int
        Users for whom the order of tied items decides whether a held-out item is in the largest cut-off. Known
        only where a metric needed the ranks of all held-out items; ``...:expected`` metrics average over the orders.
    sampled : int
        Candidates that every held-out item was ranked among, where not all; 0: all were.
    fold_values : dict of str to float64 array
        Value in each fold after cross-validation, else empty.
    history : dict of str to int64 array
        Training interactions of every user of ``users``, aligned with it; empty where not known.
    held_out : HeldOut or None
        The rank of every held-out item, where ranking metrics were asked for.
    lists : array of shape (users, k), or None
        The recommended item ids, best first (padded with -1 or None), where asked to keep them; aligned with
        ``users`` of any ranking metric.
    """

    values: dict[str, float]
    per_user: dict[str, FloatArray]
    users: dict[str, npt.NDArray[Any]]
    counts: dict[str, int]
    standard_errors: dict[str, float]
    cold_users: int = 0
    users_without_test: int = 0
    short_lists: int = 0
    unscored_pairs: int = 0
    unknown_users: int = 0
    tied_users: int = 0
    sampled: int = 0
    fold_values: dict[str, FloatArray] = field(default_factory=dict)
    history: dict[str, IntArray] = field(default_factory=dict)
    held_out: HeldOut | None = None
    lists: npt.NDArray[Any] | None = None

    @classmethod
    def merged(cls, reports: Iterable[Report]) -> Report:
        """Join reports with different metrics into one, such as one of ranking and one of ratings.

        Of each count of users and pairs left aside the largest is kept: the reports usually look at
        the same people.

        Raises
        ------
        TypeError
            If something is not a Report.
        ValueError
            If there is none, or a metric is in two of them.
        """
        parts = list(reports)
        if not parts:
            raise ValueError("reports: empty; expected at least one Report")
        for part in parts:
            if not isinstance(part, Report):
                raise TypeError(f"reports: holds {describe(part)}; expected Reports only")
        names = [name for part in parts for name in part.values]
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise ValueError(f"reports: {repeated[0]!r} in more than one; expected it in one")
        return cls(
            values={k: v for part in parts for k, v in part.values.items()},
            per_user={k: v for part in parts for k, v in part.per_user.items()},
            users={k: v for part in parts for k, v in part.users.items()},
            counts={k: v for part in parts for k, v in part.counts.items()},
            standard_errors={k: v for part in parts for k, v in part.standard_errors.items()},
            cold_users=max(part.cold_users for part in parts),
            users_without_test=max(part.users_without_test for part in parts),
            short_lists=max(part.short_lists for part in parts),
            unscored_pairs=max(part.unscored_pairs for part in parts),
            unknown_users=max(part.unknown_users for part in parts),
            tied_users=max(part.tied_users for part in parts),
            sampled=max(part.sampled for part in parts),
            fold_values={k: v for part in parts for k, v in part.fold_values.items()},
            history={k: v for part in parts for k, v in part.history.items()},
            held_out=next((part.held_out for part in parts if part.held_out is not None), None),
            lists=next((part.lists for part in parts if part.lists is not None), None),
        )

    @property
    def fold_deviations(self) -> dict[str, float]:
        """Standard deviation between the folds of a cross-validation (n - 1 in the divisor)."""
        return {name: float(np.std(values, ddof=1)) for name, values in self.fold_values.items()}

    def interval(
        self, metric: str, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """Return a bootstrap interval of a metric's mean, with users as the unit of sampling.

        Parameters
        ----------
        metric : str
            One with a value for every user.
        level : float
            Chance that the interval holds the mean over all users like these.
        resamples : int
            At least 100.
        seed : int

        Returns
        -------
        low, high : float
            See :func:`salience.evaluation.statistics.bootstrap_interval`.

        Raises
        ------
        ValueError
            If the metric is not in ``per_user``, or is ``rmse`` or ``mae``, which are no means over users.
        """
        if parse_metric(metric).pooled:
            raise ValueError(f"metric: {metric!r}; expected a mean over users, such as '{metric}:user'")
        values = self._values(metric)
        return statistics.bootstrap_interval(values, level=level, resamples=resamples, seed=seed)

    def by_group(self, groups: Mapping[Any, Any] | npt.ArrayLike, metric: str, *, level: float = 0.95) -> Slices:
        """Return a metric for groups of users, and the gap between them.

        Parameters
        ----------
        groups : mapping of user id to group, or array aligned with ``users[metric]``
            Users whom a mapping lacks form the group "(none)".
        metric : str
            One with a value for every user.
        level : float
            Of the intervals: means by the normal approximation, cut to what the metric can be.
        """
        if isinstance(groups, Mapping):
            labels = [groups.get(user, "(none)") for user in self.users[metric].tolist()]
        else:
            labels = np.asarray(groups).tolist()
        parsed = parse_metric(metric)
        values = self._values(metric)
        return slices.by_label(values, labels, metric=parsed.of_users, level=level, bounds=parsed.bounds)

    def by_history(
        self, metric: str, *, buckets: int = 10, edges: Sequence[int] | None = None, level: float = 0.95
    ) -> Slices:
        """Return a metric for users with little to much history, counted in training interactions.

        Parameters
        ----------
        metric : str
            One with a value for every user.
        buckets : int
            About equally many users in each; users without history (cold) are apart.
        edges : sequence of int, optional
            First counts of the buckets after the first: ``(1,)`` sets cold users against warm ones.
        level : float
        """
        if metric not in self.history:
            raise ValueError(f"metric: {metric!r} without training counts; expected a report made with train")
        parsed = parse_metric(metric)
        return slices.by_count(
            self._values(metric),
            self.history[metric],
            metric=parsed.of_users,
            buckets=buckets,
            edges=edges,
            level=level,
            bounds=parsed.bounds,
        )

    def by_popularity(
        self, k: int, *, buckets: int = 10, edges: Sequence[int] | None = None, level: float = 0.95
    ) -> Slices:
        """Return the share of held-out items found in the first ``k``, for unknown to popular items.

        Parameters
        ----------
        k : int
            No more than ``held_out.depth``.
        buckets, edges, level
            As in :meth:`by_history`, of held-out items by their training users; ``edges=(1,)`` sets cold items
            against warm ones. Standard errors allow for the several items of a user.
        """
        held_out = self.held_out
        if held_out is None or held_out.popularity is None:
            raise ValueError("report: no ranks of held-out items; expected ranking metrics, measured with train")
        if held_out.depth is not None and k > held_out.depth:
            raise ValueError(f"k: {k}; expected at most {held_out.depth}, the depth of the ranks")
        found = ((held_out.ranks > 0) & (held_out.ranks <= k)).astype(np.float64)
        name = f"share of held-out items in the first {k}"
        return slices.by_count(
            found,
            held_out.popularity,
            metric=name,
            buckets=buckets,
            edges=edges,
            level=level,
            bounds=(0.0, 1.0),
            clusters=held_out.users,
        )

    def _values(self, metric: str) -> FloatArray:
        if metric not in self.per_user:
            raise ValueError(f"metric: {metric!r}; expected one of {', '.join(self.per_user)}")
        return self.per_user[metric]

    def table(self) -> str:
        """Return the metrics as plain text, one line each, and what was left aside below."""
        rows = [self._header(), *self._rows()]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [cells[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            )
            for cells in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join(lines + self._remarks())

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the values of single users, ready for JSON (None for NaN)."""
        deviations = self.fold_deviations
        metrics: dict[str, dict[str, Any]] = {}
        for name, value in self.values.items():
            error = self.standard_errors[name]
            metrics[name] = {
                "value": None if math.isnan(value) else value,
                "standard_error": None if math.isnan(error) else error,
                "count": self.counts[name],
                "definition": parse_metric(name).definition,
            }
            if name in self.fold_values:
                metrics[name]["folds"] = self.fold_values[name].tolist()
                metrics[name]["fold_deviation"] = deviations[name]
        return {"metrics": metrics, **{name: getattr(self, name) for name in _COUNTS}}

    def save(self, path: str | Path) -> None:
        """Write the report with the values of all users as JSON; :meth:`load` reads it back.

        The file is written to a temporary name and renamed. Kept ``lists`` are not written.
        """
        with _storage.replace_file(path) as temporary:
            temporary.write_text(json.dumps(encode_report(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file is damaged, or no report.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            held = json.loads(text)
            if held["format"] != "salience report" or held["version"] != _VERSION:
                raise ValueError(f"format {held['format']!r}, version {held['version']!r}")
            return decode_report(held)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"path: {path} is damaged or no report of salience ({error})") from None

    def to_html(self, path: str | Path, *, name: str = "model", model: Any = None, **options: Any) -> None:
        """Write a document with figures, tables and example users; needs matplotlib and Jinja2.

        Parameters
        ----------
        path : str or Path
        name : str
            What the model is called.
        model : object, optional
            The fitted model, for training loss, component attention and example users.
        **options
            ``train``, ``titles``, ``title`` and others of :func:`salience.evaluation.document.write_html`, which
            also puts several models into one document.
        """
        from salience.evaluation.document import write_html

        write_html(path, {name: self}, models={} if model is None else {name: model}, **options)

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame of metric, value, standard_error and count.

        Parameters
        ----------
        backend : {"pandas", "polars", "pyarrow"}, optional
            Kind of frame; pandas where not given.

        Raises
        ------
        ValueError
            If the backend is none of these.
        ImportError
            If it is not installed.
        """
        names = list(self.values)
        columns = {
            "metric": names,
            "value": [self.values[name] for name in names],
            "standard_error": [self.standard_errors[name] for name in names],
            "count": [self.counts[name] for name in names],
        }
        return make_frame(columns, backend)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4f}" for name, value in self.values.items())
        return f"Report({values})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self._header())
        body = "".join(
            f'<tr title="{html.escape(parse_metric(cells[0]).definition)}">'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for cells in self._rows()
        )
        remarks = "<br>".join(html.escape(remark) for remark in self._remarks())
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return table + (f"<p>{remarks}</p>" if remarks else "")

    def _header(self) -> tuple[str, ...]:
        return (*_HEADER, "between folds") if self.fold_values else _HEADER

    def _rows(self) -> list[tuple[str, ...]]:
        deviations = self.fold_deviations
        rows = []
        for name, value in self.values.items():
            error = self.standard_errors[name]
            metric = parse_metric(name)
            unit = "pairs" if metric.pooled else "users" if metric.has_users else "lists"
            cells: tuple[str, ...] = (
                name,
                f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}",
                "-" if math.isnan(error) else f"± {error:.4f}",
                counted(self.counts[name], unit),
            )
            if self.fold_values:
                cells += (f"{deviations[name]:.4f}" if name in deviations else "-",)
            rows.append(cells)
        return rows

    def _remarks(self) -> list[str]:
        remarks = (
            (self.cold_users, "cold users", "among them: nothing known from training"),
            (self.users_without_test, "users", "without test interactions, not evaluated"),
            (self.short_lists, "lists", "shorter than the largest cut-off"),
            (self.unscored_pairs, "test pairs", "without a score, not in the rating metrics"),
            (self.unknown_users, "users", "with a list who are not in test, ignored"),
            (self.tied_users, "users", "whose hits depend on the order of tied items"),
            (
                self.sampled,
                "SAMPLED candidates",
                "an item, not all: not the full ranking, which may order models differently",
            ),
        )
        return [f"{counted(count, kind)} {text}" for count, kind, text in remarks if count]


def counted(number: int, kind: str) -> str:
    """Say how many: "1 user", "2,000 users"."""
    return f"{number:,} {kind.removesuffix('s') if number == 1 else kind}"


_COUNTS = (
    "cold_users",
    "users_without_test",
    "short_lists",
    "unscored_pairs",
    "unknown_users",
    "tied_users",
    "sampled",
)
_VERSION = 1


def _numbers(array: npt.NDArray[Any]) -> list[Any]:
    """Make a list for JSON, which has no NaN."""
    return [None if isinstance(x, float) and math.isnan(x) else x for x in array.tolist()]


def encode_report(report: Report) -> dict[str, Any]:
    """Return what :meth:`Report.save` writes."""
    held_out = report.held_out
    # Metrics of one kind share the array of their users: each is written once.
    groups: list[npt.NDArray[Any]] = []
    for users in report.users.values():
        if not any(users is known for known in groups):
            groups.append(users)
    number = {name: next(i for i, known in enumerate(groups) if known is users) for name, users in report.users.items()}
    return {
        "format": "salience report",
        "version": _VERSION,
        **report.to_dict(),
        "users": [group.tolist() for group in groups],
        "per_user": {
            name: {"users": number[name], "values": _numbers(values)} for name, values in report.per_user.items()
        },
        "history": {name: counts.tolist() for name, counts in report.history.items()},
        "held_out": None
        if held_out is None
        else {
            "users": held_out.users.tolist(),
            "items": held_out.items.tolist(),
            "ranks": held_out.ranks.tolist(),
            "depth": held_out.depth,
            "popularity": None if held_out.popularity is None else held_out.popularity.tolist(),
        },
    }


def _ids(values: list[Any]) -> npt.NDArray[Any]:
    return np.array(values, dtype=object if values and isinstance(values[0], str) else np.int64)


def _floats(values: list[Any]) -> FloatArray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def decode_report(held: dict[str, Any]) -> Report:
    """Return the report that :func:`encode_report` described."""
    groups = [_ids(values) for values in held["users"]]
    metrics, ranks = held["metrics"], held["held_out"]
    counts = None if ranks is None or ranks["popularity"] is None else np.array(ranks["popularity"], dtype=np.int64)
    return Report(
        values={name: math.nan if entry["value"] is None else entry["value"] for name, entry in metrics.items()},
        per_user={name: _floats(entry["values"]) for name, entry in held["per_user"].items()},
        users={name: groups[entry["users"]] for name, entry in held["per_user"].items()},
        counts={name: entry["count"] for name, entry in metrics.items()},
        standard_errors={
            name: math.nan if entry["standard_error"] is None else entry["standard_error"]
            for name, entry in metrics.items()
        },
        fold_values={name: _floats(entry["folds"]) for name, entry in metrics.items() if "folds" in entry},
        history={name: np.array(values, dtype=np.int64) for name, values in held["history"].items()},
        held_out=None
        if ranks is None
        else HeldOut(
            np.array(ranks["users"], dtype=np.int64),
            _ids(ranks["items"]),
            np.array(ranks["ranks"], dtype=np.int64),
            ranks["depth"],
            counts,
        ),
        **{name: held[name] for name in _COUNTS},
    )


def make_report(
    values_per_user: Mapping[Metric, FloatArray | float],
    users: npt.NDArray[Any],
    *,
    pairs: IntArray | None = None,
    history: IntArray | None = None,
    **rest: Any,
) -> Report:
    """Summarize the values of users into a Report.

    Parameters
    ----------
    values_per_user : dict of Metric to float64 array of shape (n,), or float
        A float where only all users together have a value.
    users : array of shape (n,)
        The ids of the users.
    pairs : int64 array of shape (n,), optional
        Rated pairs of each user; needed by ``rmse`` and ``mae``.
    history : int64 array of shape (n,), optional
        Training interactions of each user.
    **rest
        Other attributes of :class:`Report`.
    """
    arrays = {m.name: values for m, values in values_per_user.items() if isinstance(values, np.ndarray)}
    summaries = {
        m.name: summarize(m, values, pairs) if isinstance(values, np.ndarray) else (values, math.nan, users.size)
        for m, values in values_per_user.items()
    }
    return Report(
        values={name: value for name, (value, _, _) in summaries.items()},
        per_user=arrays,
        users=dict.fromkeys(arrays, users),
        counts={name: count for name, (_, _, count) in summaries.items()},
        standard_errors={name: error for name, (_, error, _) in summaries.items()},
        history={} if history is None else dict.fromkeys(arrays, history),
        **rest,
    )
