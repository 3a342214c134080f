"""Comparison of models on the same users: whether a difference is real, how large it is, whether it matters."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._arrays import describe, real
from salience.evaluation import _checks, statistics
from salience.evaluation.metrics import FloatArray, parse_metric
from salience.evaluation.report import Report, counted
from salience.interactions import make_frame

_HEADER = ("metric", "models", "values", "difference", "interval", "effect", "p (Holm)", "verdict")


@dataclass(frozen=True)
class Pair:
    """Two models under one metric.

    Attributes
    ----------
    metric, first, second : str
        ``second`` is compared with ``first``: where larger is better, a positive difference speaks for it.
    users : int
        Users with a value under both.
    first_mean, second_mean : float
        Means over these users.
    difference : float
        ``second_mean - first_mean``.
    low, high : float
        Bootstrap interval of the difference.
    effect_size : float
        Cohen's d of the paired differences.
    p_randomization : float
        Paired randomization (sign-flip) test; the one that decides.
    p_t : float
        Paired t test, as a check.
    p_adjusted : float
        ``p_randomization`` after Holm's correction for all pairs and metrics compared.
    p_equivalence : float or None
        Two one-sided tests against the margin; None where none was given.
    significant, equivalent : bool
        At the level asked for: ``p_adjusted``, ``p_equivalence``.
    """

    metric: str
    first: str
    second: str
    users: int
    first_mean: float
    second_mean: float
    difference: float
    low: float
    high: float
    effect_size: float
    p_randomization: float
    p_t: float
    p_adjusted: float = math.nan
    p_equivalence: float | None = None
    significant: bool = False
    equivalent: bool = False

    @property
    def better(self) -> str | None:
        """The better of the two, where the difference is significant."""
        if not self.significant or self.difference == 0:
            return None
        second = (self.difference > 0) != parse_metric(self.metric).lower_is_better
        return self.second if second else self.first

    @property
    def verdict(self) -> str:
        """What the tests say, in a word or two."""
        if self.better is not None:
            return f"{self.better} is better" + (", by less than the margin" if self.equivalent else "")
        return "equivalent" if self.equivalent else "no difference shown"


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Every pair of models under every metric, as :func:`compare` found them.

    Attributes
    ----------
    pairs : tuple of Pair
    level : float
        Of intervals; tests are at 1 - level.
    margin : float or None
        Of the equivalence tests.
    """

    pairs: tuple[Pair, ...]
    level: float
    margin: float | None = None

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[str, str] | tuple[str, str, str]) -> Pair:
        """Return the pair ``(first, second)``, with the metric before them where there are several."""
        for pair in self.pairs:
            if key in ((pair.first, pair.second), (pair.metric, pair.first, pair.second)):
                return pair
        raise KeyError(key)

    def table(self) -> str:
        """Return the comparison as plain text."""
        rows = [_HEADER, *self._rows()]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, *self._remarks()])

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON (None for what is not finite)."""

        def clean(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        pairs = [{name: clean(value) for name, value in asdict(pair).items()} for pair in self.pairs]
        return {"level": self.level, "margin": self.margin, "pairs": pairs}

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with one row a pair; pandas unless ``backend`` names another."""
        rows = [asdict(pair) for pair in self.pairs]
        return make_frame({name: [row[name] for row in rows] for name in rows[0]}, backend)

    def __repr__(self) -> str:
        return f"Comparison({len(self.pairs)} pairs, {sum(pair.significant for pair in self.pairs)} significant)"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEADER)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in self._rows()
        )
        remarks = "<br>".join(html.escape(remark) for remark in self._remarks())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{remarks}</p>"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                pair.metric,
                f"{pair.second} - {pair.first}",
                f"{pair.second_mean:.4f} - {pair.first_mean:.4f}",
                f"{pair.difference:+.4f}",
                "-" if math.isnan(pair.low) else f"[{pair.low:+.4f}, {pair.high:+.4f}]",
                "-" if math.isnan(pair.effect_size) else f"{pair.effect_size:+.3f}",
                _p_text(pair.p_adjusted),
                pair.verdict,
            )
            for pair in self.pairs
        ]

    def _remarks(self) -> list[str]:
        users = sorted({pair.users for pair in self.pairs})
        several = "" if len(users) == 1 else f"{users[0]:,} to "
        method = f"{self.level:.0%} bootstrap intervals; paired randomization tests, Holm's correction"
        remarks = [f"{several}{counted(users[-1], 'users')}; {method} for {len(self.pairs)}; effect: Cohen's d"]
        if self.margin is not None:
            remarks.append(f"equivalent: within ± {self.margin:g} by two one-sided t tests")
        return remarks


def _p_text(p: float) -> str:
    return f"{p:.4f}" if not p < 0.0001 else "< 0.0001"


def compare(
    reports: Mapping[str, Report],
    *,
    metric: str | Sequence[str] | None = None,
    baseline: str | None = None,
    level: float = 0.95,
    margin: float | None = None,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare models by the values of the same users.

    Parameters
    ----------
    reports : mapping of name to Report
        At least two, evaluated on the same users.
    metric : str or sequence of str, optional
        Metrics with a value for every user; all that the reports share where not given. ``rmse`` and ``mae``
        are compared by the users' own errors, as ``rmse:user`` and ``mae:user``.
    baseline : str, optional
        Compare the others with this model only, not each with each.
    level : float
        Of the bootstrap intervals; tests are at 1 - level.
    margin : float, optional
        Also test whether the mean difference is within ± margin: equivalence, which the lack of a significant
        difference does not show.
    resamples, permutations : int
        Of the bootstrap and the randomization test.
    seed : int

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, a report lacks a metric, or the reports are not about the same users.

    Notes
    -----
    Users who lack a value under either model are left out of that pair (``Pair.users`` counts the rest). The
    Wilcoxon test is not offered: it tests another hypothesis than a mean difference of zero. O(users
    (resamples + permutations)) a pair.
    """
    _check_reports(reports)
    share = _checks.fraction(level, argument="level")
    if margin is not None:
        margin = real(margin, argument="margin", positive=True)
    if baseline is not None and baseline not in reports:
        raise ValueError(f"baseline: {baseline!r}; expected one of {', '.join(reports)}")
    names = list(reports)
    against = (
        itertools.combinations(names, 2)
        if baseline is None
        else ((baseline, name) for name in names if name != baseline)
    )
    couples = list(against)
    options: dict[str, Any] = {
        "level": share,
        "resamples": resamples,
        "permutations": permutations,
        "seed": seed,
        "margin": margin,
    }
    pairs = [
        _pair(parse_metric(name).of_users, first, second, *_aligned(reports, name, first, second), **options)
        for name in _metrics(reports, metric)
        for first, second in couples
    ]
    adjusted = statistics.holm([pair.p_randomization for pair in pairs])
    return Comparison(
        tuple(
            replace(pair, p_adjusted=p, significant=p <= 1 - share + 1e-12)
            for pair, p in zip(pairs, adjusted, strict=True)
        ),
        share,
        margin,
    )


def _check_reports(reports: Any) -> None:
    if not isinstance(reports, Mapping):
        raise TypeError(f"reports: {describe(reports)}; expected a mapping of names to Reports")
    for name, report in reports.items():
        if not isinstance(name, str) or not isinstance(report, Report):
            raise TypeError(f"reports: {describe(report)} under {name!r}; expected Reports under names")
    if len(reports) < 2:
        raise ValueError(f"reports: {len(reports)} of them; expected at least two to compare")


def _metrics(reports: Mapping[str, Report], metric: str | Sequence[str] | None) -> list[str]:
    shared = [
        name for name in next(iter(reports.values())).per_user if all(name in r.per_user for r in reports.values())
    ]
    wanted = shared if metric is None else [metric] if isinstance(metric, str) else list(metric)
    for name in wanted:
        if name not in shared:
            raise ValueError(f"metric: {name!r}; expected one of those that all reports have for users: {shared}")
    if not wanted:
        raise ValueError("metric: no metric with values of users is in all reports; expected at least one")
    return wanted


def _aligned(reports: Mapping[str, Report], metric: str, first: str, second: str) -> tuple[FloatArray, FloatArray]:
    """Return the values of both models for the same users."""
    (a, a_users), (b, b_users) = ((reports[n].per_user[metric], reports[n].users[metric]) for n in (first, second))
    if not (a_users is b_users or np.array_equal(a_users, b_users)):
        order_a, order_b = _order(a_users), _order(b_users)
        if not np.array_equal(a_users[order_a], b_users[order_b]):
            raise ValueError(
                f"reports: {len(a_users)} users in {first!r} and {len(b_users)} in {second!r}, not the same ones; "
                f"expected both evaluated on the same users ({metric})"
            )
        a, b = a[order_a], b[order_b]
    both = ~(np.isnan(a) | np.isnan(b))
    return a[both], b[both]


def _order(users: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.argsort(users, kind="stable")


def _pair(
    metric: str,
    first: str,
    second: str,
    a: FloatArray,
    b: FloatArray,
    *,
    level: float,
    resamples: int,
    permutations: int,
    seed: int,
    margin: float | None,
) -> Pair:
    if not a.size:
        raise ValueError(f"reports: no user has {metric!r} in both {first!r} and {second!r}; expected some")
    differences = b - a
    low, high = statistics.bootstrap_interval(differences, level=level, resamples=resamples, seed=seed)
    equivalence = None if margin is None else statistics.equivalence_test(differences, margin)
    return Pair(
        metric,
        first,
        second,
        a.size,
        float(a.mean()),
        float(b.mean()),
        float(differences.mean()),
        low,
        high,
        statistics.effect_size(differences),
        statistics.sign_flip_test(differences, permutations=permutations, seed=seed),
        statistics.paired_t_test(differences),
        p_equivalence=equivalence,
        equivalent=equivalence is not None and equivalence <= 1 - level + 1e-12,
    )
