"""Report: what an evaluation found, with the values of every user behind it."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._arrays import describe
from salience.evaluation.metrics import Metric, parse_metric, summarize
from salience.interactions import make_frame

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_HEADER = ("metric", "value", "standard error", "counted")


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
    fold_values : dict of str to float64 array
        Value in each fold after cross-validation, else empty.
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
    fold_values: dict[str, FloatArray] = field(default_factory=dict)

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
            fold_values={k: v for part in parts for k, v in part.fold_values.items()},
        )

    @property
    def fold_deviations(self) -> dict[str, float]:
        """Standard deviation between the folds of a cross-validation (n - 1 in the divisor)."""
        return {name: float(np.std(values, ddof=1)) for name, values in self.fold_values.items()}

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
                "value": value,
                "standard_error": None if math.isnan(error) else error,
                "count": self.counts[name],
                "definition": parse_metric(name).definition,
            }
            if name in self.fold_values:
                metrics[name]["folds"] = self.fold_values[name].tolist()
                metrics[name]["fold_deviation"] = deviations[name]
        return {
            "metrics": metrics,
            "cold_users": self.cold_users,
            "users_without_test": self.users_without_test,
            "short_lists": self.short_lists,
            "unscored_pairs": self.unscored_pairs,
        }

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
            unit = "pairs" if parse_metric(name).pooled else "users"
            cells: tuple[str, ...] = (
                name,
                f"{value:.4f}",
                "-" if math.isnan(error) else f"± {error:.4f}",
                f"{self.counts[name]:,} {unit}",
            )
            if self.fold_values:
                cells += (f"{deviations[name]:.4f}" if name in deviations else "-",)
            rows.append(cells)
        return rows

    def _remarks(self) -> list[str]:
        remarks = (
            (self.cold_users, "cold users among them: nothing known from training"),
            (self.users_without_test, "users without test interactions, not evaluated"),
            (self.short_lists, "lists shorter than the largest cut-off"),
            (self.unscored_pairs, "test pairs without a score, not in the rating metrics"),
        )
        return [f"{count:,} {text}" for count, text in remarks if count]


def make_report(
    values_per_user: dict[Metric, FloatArray],
    users: npt.NDArray[Any],
    *,
    pairs: IntArray | None = None,
    **aside: int,
) -> Report:
    """Summarize the values of users into a Report.

    Parameters
    ----------
    values_per_user : dict of Metric to float64 array of shape (n,)
        As :func:`ranking_metrics` and :func:`rating_metrics` return them.
    users : array of shape (n,)
        The ids of the users.
    pairs : int64 array of shape (n,), optional
        Rated pairs of each user; needed by ``rmse`` and ``mae``.
    **aside
        Counts of users and pairs left aside, as the attributes of :class:`Report`.
    """
    summaries = {m.name: summarize(m, array, pairs) for m, array in values_per_user.items()}
    return Report(
        values={name: value for name, (value, _, _) in summaries.items()},
        per_user={metric.name: array for metric, array in values_per_user.items()},
        users=dict.fromkeys(summaries, users),
        counts={name: count for name, (_, _, count) in summaries.items()},
        standard_errors={name: error for name, (_, error, _) in summaries.items()},
        **aside,  # type: ignore[arg-type]
    )
