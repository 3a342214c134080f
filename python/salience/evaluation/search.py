"""Search for good parameters, on validation data only."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from salience._arrays import describe, whole
from salience.evaluation import splits
from salience.evaluation.cross_validation import Done, fingerprint, fit_and_evaluate, run_all
from salience.evaluation.metrics import parse_metric
from salience.evaluation.report import Report, decode_report, encode_report
from salience.evaluation.runner import Progress
from salience.evaluation.splits import Split
from salience.interactions import as_interactions, make_frame


@dataclass(frozen=True)
class Uniform:
    """Numbers from ``low`` to ``high``, all alike; on a logarithmic scale if ``log``, whole if ``integer``."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise TypeError(f"{name}: {describe(value)}; expected a finite number")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low: {self.low} with high={self.high}; expected low < high, and low > 0 if log")

    def at(self, share: float) -> float | int:
        """Return the number below which a ``share`` of all lie."""
        high = self.high + 1 if self.integer and not self.log else self.high
        value = self.low * (self.high / self.low) ** share if self.log else self.low + share * (high - self.low)
        return min(int(value if not self.log else round(value)), int(self.high)) if self.integer else float(value)


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting and how it did on validation data."""

    parameters: dict[str, Any]
    report: Report
    value: float


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """Every setting that was tried.

    Attributes
    ----------
    metric : str
        What settings were chosen by.
    trials : tuple of Trial
        In the order they were drawn.
    """

    metric: str
    trials: tuple[Trial, ...]

    @property
    def ranked(self) -> list[Trial]:
        """Trials from the best to the worst; NaN last, ties as drawn."""
        sign = 1.0 if parse_metric(self.metric).lower_is_better else -1.0
        return sorted(self.trials, key=lambda trial: math.inf if math.isnan(trial.value) else sign * trial.value)

    @property
    def best(self) -> Trial:
        """The best trial. Its value is an optimistic estimate: it was chosen by it."""
        return self.ranked[0]

    def table(self, rows: int = 10) -> str:
        """Return the best settings as plain text."""
        best = self.ranked[: whole(rows, argument="rows", least=1)]
        names = list(best[0].parameters)
        lines = [[self.metric, *names]]
        lines += [[f"{t.value:.4f}", *(_text(t.parameters[name]) for name in names)] for t in best]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text.insert(1, "-" * max(map(len, text)))
        return "\n".join([*text, f"best {len(best)} of {len(self.trials)}, on validation data"])

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with one row a trial."""
        names = list(self.trials[0].parameters)
        columns: dict[str, Any] = {name: [trial.parameters[name] for trial in self.trials] for name in names}
        return make_frame({**columns, self.metric: [trial.value for trial in self.trials]}, backend)

    def __repr__(self) -> str:
        return f"SearchResult({len(self.trials)} trials, best {self.metric}={self.best.value:.4f})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


Space = Mapping[str, Any]


def search(
    make_model: Callable[..., Any],
    data: Any,
    space: Space,
    *,
    metric: str = "ndcg@20",
    trials: int = 20,
    method: str = "random",
    seed: int = 0,
    jobs: int = 1,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> SearchResult:
    """Try settings of a model, each fitted on a train part and measured on a validation part.

    Parameters
    ----------
    make_model : callable
        ``make_model(**parameters)`` makes an unfitted model, such as the class itself.
    data : Split, Interactions or scipy sparse matrix
        Settings are compared on the test part of a Split: give the one that :func:`splits.validation` cuts from
        the train part, never the final one. Interactions are split by :func:`splits.random`.
    space : mapping of str to Uniform or sequence
        What each parameter may be: numbers from a :class:`Uniform`, or one of a sequence of choices. Other
        values are passed on as they are.
    metric : str
        What to choose by; the larger the better, or the smaller where the metric is an error.
    trials : int
        How many settings.
    method : {"random", "grid", "optuna"}
        "random": independent draws, the same for the same seed and any number of jobs (Bergstra and Bengio,
        JMLR 13, 2012). "grid": every combination of the choices; ``trials`` is the most. "optuna": the tree-structured
        Parzen estimator of Optuna (``pip install 'salience[search]'``), one setting at a time.
    seed : int
    jobs : int
        Settings at a time, as in :func:`cross_validate`.
    resume : str or Path, optional
        File that keeps the trials that are done, as in :func:`cross_validate`.
    progress : callable, optional
        Called as ``progress(done, total)`` after each trial.
    **options
        For :func:`evaluate`.

    Returns
    -------
    SearchResult

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.
    ImportError
        If Optuna or joblib is needed and missing.
    """
    part = data if isinstance(data, Split) else splits.random(as_interactions(data, argument="data"), seed=seed)
    parse_metric(metric)
    if not callable(make_model):
        raise TypeError(f"make_model: {describe(make_model)}; expected a callable")
    if not isinstance(space, Mapping) or not space:
        raise TypeError(f"space: {describe(space)}; expected a mapping of parameters to Uniform or choices")
    count = whole(trials, argument="trials", least=1)
    settings = {"metrics": [metric], **options}
    asked = {**settings, "space": repr(space), "method": method, "seed": seed}
    if method == "optuna":
        done = Done(resume, fingerprint([part], asked), progress, count)
        drawn = _optuna(make_model, part, space, settings, metric, count, seed, done, jobs)
    else:
        drawn = _grid(space, count) if method == "grid" else _draw(space, count, seed, method)
        done = Done(resume, fingerprint([part], asked), progress, len(drawn))
        pending = [number for number in range(len(drawn)) if str(number) not in done.kept]
        tasks = [(number, (_Making(make_model, drawn[number]), part, settings)) for number in pending]
        run_all(fit_and_evaluate, tasks, jobs, lambda number, report: done.add(str(number), encode_report(report)))
    reports = [decode_report(done.kept[str(number)]) for number in range(len(drawn))]
    return SearchResult(metric, tuple(Trial(p, r, r.values[metric]) for p, r in zip(drawn, reports, strict=True)))


@dataclass(frozen=True)
class _Making:
    """Makes models with one setting; picklable where ``make`` is."""

    make: Callable[..., Any]
    parameters: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.make(**self.parameters)


def _is_choice(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, (str, bytes))


def _draw(space: Space, count: int, seed: int, method: str) -> list[dict[str, Any]]:
    if method != "random":
        raise ValueError(f"method: {method!r}; expected 'random', 'grid' or 'optuna'")
    random = np.random.Generator(np.random.PCG64(whole(seed, argument="seed")))
    drawn = []
    for shares in random.random((count, len(space))):
        parameters = {}
        for share, (name, values) in zip(shares.tolist(), space.items(), strict=True):
            parameters[name] = _pick(values, share)
        drawn.append(parameters)
    return drawn


def _pick(values: Any, share: float) -> Any:
    if isinstance(values, Uniform):
        return values.at(share)
    return values[int(share * len(values))] if _is_choice(values) and values else values


def _grid(space: Space, most: int) -> list[dict[str, Any]]:
    choices = []
    for name, values in space.items():
        if isinstance(values, Uniform):
            raise ValueError(f"space: {name!r} is a range; expected choices for a grid")
        choices.append(list(values) if _is_choice(values) else [values])
    return [dict(zip(space, picked, strict=True)) for picked in itertools.islice(itertools.product(*choices), most)]


def _optuna(
    make_model: Callable[..., Any],
    part: Split,
    space: Space,
    settings: Mapping[str, Any],
    metric: str,
    count: int,
    seed: int,
    done: Done,
    jobs: int,
) -> list[dict[str, Any]]:
    if jobs != 1:
        raise ValueError(f"jobs: {jobs} with method='optuna'; expected 1, as each setting follows from those before")
    try:
        import optuna
    except ImportError:
        raise ImportError("method: 'optuna' needs Optuna; expected pip install 'salience[search]'") from None
    direction = "minimize" if parse_metric(metric).lower_is_better else "maximize"
    study = optuna.create_study(
        direction=direction, sampler=optuna.samplers.TPESampler(seed=whole(seed, argument="seed"))
    )
    drawn = []
    for number in range(count):
        trial = study.ask()
        parameters = {name: _suggest(trial, name, values) for name, values in space.items()}
        # With the same seed and the same answers the sampler asks the same again: what is done is only told.
        if str(number) not in done.kept:
            report = fit_and_evaluate(_Making(make_model, parameters), part, settings)
            done.add(str(number), encode_report(report))
        value = decode_report(done.kept[str(number)]).values[metric]
        study.tell(trial, value)
        drawn.append(parameters)
    return drawn


def _suggest(trial: Any, name: str, values: Any) -> Any:
    if isinstance(values, Uniform):
        if values.integer:
            return trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
        return trial.suggest_float(name, values.low, values.high, log=values.log)
    return values[trial.suggest_int(name, 0, len(values) - 1)] if _is_choice(values) and values else values
