"""From reports to the page."""

from __future__ import annotations

import datetime
import inspect
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from salience import _storage
from salience._arrays import describe
from salience._core import __version__
from salience.evaluation import _checks
from salience.evaluation.comparison import Comparison, compare
from salience.evaluation.document import examples, figures
from salience.evaluation.metrics import parse_metric
from salience.evaluation.report import Report, counted
from salience.interactions import Interactions

_ACCURACY = ("ndcg", "recall", "map", "mrr", "hit_rate", "precision")
_ATTENTION_USERS = 5000


def write_html(
    path: str | Path,
    reports: Mapping[str, Report],
    *,
    models: Mapping[str, Any] | None = None,
    train: Interactions | None = None,
    fold_in: Interactions | None = None,
    titles: Mapping[Any, str] | None = None,
    users: Any = None,
    title: str = "How good are the recommendations?",
    subtitle: str = "",
    notes: Sequence[str] = (),
    metric: str | None = None,
    k: int = 10,
    level: float = 0.95,
) -> None:
    """Write one self-contained HTML document: no scripts, no requests, legible in light, dark and in print.

    What it holds depends on what is known: metrics by cut-off with bootstrap intervals, by the user's history
    and the item's popularity; accuracy against diversity; paired tests where there are several models; component
    attention of models with ``attention(users)``; training loss of models with ``loss_history_``; example users
    with explanations from models with ``explain(user, item)``; the definition of every metric.

    Parameters
    ----------
    path : str or Path
        Written to a temporary name and renamed.
    reports : mapping of name to Report
        One or more models, evaluated on the same users.
    models : mapping of name to model, optional
        Fitted models of the same names, for attention, loss and examples; some may be missing.
    train : Interactions, optional
        What the models have learned from: the past of the example users.
    fold_in : Interactions, optional
        As :func:`salience.evaluation.evaluate` was given it: the past of the example users then, whose lists are those
        that the reports have kept (``keep_lists=True``).
    titles : mapping of item id to str, optional
        By id, or by the id as text.
    users : sequence or array of ids, optional
        Example users; some with little, typical and much history, and one without a hit, where not given.
    title, subtitle : str
    notes : sequence of str
        Paragraphs on how it was measured.
    metric : str, optional
        The one to look at in depth; by default NDCG (or the next best) at the cut-off nearest to 20.
    k : int
        Length of the example lists.
    level : float
        Of the intervals.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or the reports are not about the same users.
    ImportError
        Where matplotlib or Jinja2 is not installed.

    Notes
    -----
    A document about 30,000 users and two models takes a few seconds and less than a megabyte.
    """
    _check(reports, models)
    share = _checks.fraction(level, argument="level")
    fitted = {} if models is None else dict(models)
    chosen = _main_metric(reports) if metric is None else metric
    if chosen is not None:
        for name, report in reports.items():
            if chosen not in report.per_user:
                raise ValueError(
                    f"metric: {chosen!r}; expected one that {name!r} has for users: {list(report.per_user)}"
                )
    page = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            subtitle=subtitle,
            notes=list(notes),
            version=__version__,
            date=datetime.date.today().isoformat(),
            names=list(reports),
            numbers={name: n % 8 + 1 for n, name in enumerate(reports)},
            headline=_headline(reports, chosen, share),
            metrics=_metric_table(reports, None if chosen is None else parse_metric(chosen).cutoff),
            asides={name: report._remarks() for name, report in reports.items()},
            comparison=_comparison(reports, chosen, share),
            figures=_figures(reports, fitted, fold_in, chosen, share),
            examples=_examples(
                reports, fitted, users, examples.Shown(train, fold_in, {} if titles is None else titles, k)
            ),
            protocol=_protocol(reports),
            definitions=_definitions(reports),
            level=f"{share:.0%}",
        )
    )
    with _storage.replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _environment() -> Any:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError:
        raise ImportError("report: needs Jinja2; pip install 'salience[report]'") from None
    here = files("salience.evaluation.document")
    environment = Environment(
        loader=FunctionLoader(lambda name: (here / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = _signed
    return environment


def _signed(value: float, digits: int) -> str:
    """Write a number with its sign; a dash where there is none, as of an interval from a single user."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _check(reports: Any, models: Any) -> None:
    if not isinstance(reports, Mapping) or not reports:
        raise TypeError(f"reports: {describe(reports)}; expected a mapping of names to Reports, at least one")
    for name, report in reports.items():
        if not isinstance(name, str) or not isinstance(report, Report):
            raise TypeError(f"reports: {describe(report)} under {name!r}; expected Reports under names")
    for name in models or ():
        if name not in reports:
            raise ValueError(f"models: {name!r}; expected names of reports: {', '.join(reports)}")
    first = next(iter(reports))
    for name, report in reports.items():
        for metric in set(report.users) & set(reports[first].users):
            if not np.array_equal(np.sort(report.users[metric]), np.sort(reports[first].users[metric])):
                raise ValueError(f"reports: {name!r} is about other users than {first!r} ({metric}); expected the same")


def _main_metric(reports: Mapping[str, Report]) -> str | None:
    """Choose NDCG, or the next best accuracy metric that all have, at the cut-off nearest to 20."""
    shared = [n for n in next(iter(reports.values())).per_user if all(n in r.per_user for r in reports.values())]
    ranking = [m for m in map(parse_metric, shared) if m.kind == "ranking" and m.base in _ACCURACY and m.cutoff]
    ranking.sort(key=lambda m: (_ACCURACY.index(m.base), m.convention or "", abs((m.cutoff or 0) - 20)))
    return ranking[0].name if ranking else None


def _headline(reports: Mapping[str, Report], metric: str | None, level: float) -> list[dict[str, str]]:
    """Return the value of the main metric for every model, the best first."""
    if metric is None:
        return []
    order = sorted(reports, key=lambda name: -reports[name].values[metric])
    lines = []
    for name in order:
        report = reports[name]
        low, high = report.interval(metric, level=level)
        lines.append(
            {
                "model": name,
                "metric": metric,
                "value": f"{report.values[metric]:.4f}",
                "interval": "" if math.isnan(low) else f"{level:.0%} interval {low:.4f} to {high:.4f}",
                "users": counted(report.counts[metric], "users"),
            }
        )
    return lines


def _metric_table(reports: Mapping[str, Report], cutoff: int | None) -> list[dict[str, Any]]:
    """Return a row a metric; those at the main cut-off or without one are marked as main."""
    names = list(dict.fromkeys(name for report in reports.values() for name in report.values))
    rows = []
    for name in names:
        metric = parse_metric(name)
        values = {model: report.values.get(name, math.nan) for model, report in reports.items()}
        known = [value for value in values.values() if not math.isnan(value)]
        # Beyond accuracy more is not simply better: nothing is singled out.
        compared = len(known) > 1 and metric.kind != "lists"
        best = (min if metric.lower_is_better else max)(known) if compared else None
        cells = []
        for model, value in values.items():
            error = reports[model].standard_errors.get(name, math.nan)
            cells.append(
                {
                    "value": "" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}",
                    "error": "" if math.isnan(error) else f"± {error:.4f}" if abs(value) < 1000 else f"± {error:,.1f}",
                    "best": value == best,
                }
            )
        main = metric.cutoff in (None, cutoff)
        rows.append({"name": name, "definition": metric.definition, "cells": cells, "main": main})
    return rows


def _comparison(reports: Mapping[str, Report], metric: str | None, level: float) -> Comparison | None:
    """Compare the models under the main metric and recall at the same cut-off: few tests keep their power."""
    if len(reports) < 2 or metric is None:
        return None
    main = parse_metric(metric)
    shared = [n for n in next(iter(reports.values())).per_user if all(n in r.per_user for r in reports.values())]
    alike = [
        name
        for name in shared
        if name == metric or ((m := parse_metric(name)).base, m.cutoff, m.convention) == ("recall", main.cutoff, None)
    ]
    return compare(reports, metric=alike, level=level)


def _figures(
    reports: Mapping[str, Report],
    models: Mapping[str, Any],
    fold_in: Interactions | None,
    metric: str | None,
    level: float,
) -> list[figures.Figure]:
    drawn: list[figures.Figure | None] = [figures.by_cutoff(reports, level=level)]
    if metric is not None:
        cutoff = parse_metric(metric).cutoff
        drawn.append(figures.by_history(reports, metric, level=level))
        drawn.append(figures.by_popularity(reports, cutoff, level=level) if cutoff else None)
        drawn.append(figures.accuracy_against_diversity(reports, metric))
    anchors = figures.anchors(models, "attention")
    drawn += [_attention(name, anchors[name], model, reports[name], fold_in) for name, model in models.items()]
    losses = [loss for name, model in models.items() for loss in _losses(name, model)]
    drawn.append(figures.training_loss(losses, list(reports)))
    return [figure for figure in drawn if figure is not None]


def _losses(name: str, model: Any) -> list[tuple[str, str, list[float]]]:
    """Return the model, a title and the losses, of a model and of those that it is made of."""
    # Of a HybridScorer the components that were fitted are not those that it was made with.
    parts = getattr(getattr(model, "_parts", None), "components", ())
    inside = [(part.name, getattr(part, "model", None)) for part in parts]
    inside.append(("first stage", getattr(model, "first", None)))
    named = [(name, model), *((f"{name}: {part}", one) for part, one in inside)]
    return [(name, title, list(h)) for title, one in named if len(h := getattr(one, "loss_history_", ())) > 1]


def _attention(
    name: str, anchor: str, model: Any, report: Report, fold_in: Interactions | None
) -> figures.Figure | None:
    """Ask a model that mixes components for its weights: ``attention(users)``, shape (users, components).

    Components are called what ``component_names`` says, or by the types of ``components``.
    """
    if not callable(getattr(model, "attention", None)) or not report.history:
        return None
    metric = next(iter(report.history))
    users, history = report.users[metric], report.history[metric]
    if len(users) > _ATTENTION_USERS:
        some = np.sort(np.random.default_rng(0).choice(len(users), _ATTENTION_USERS, replace=False))
        users, history = users[some], history[some]
    given = {}
    if fold_in is not None:
        if "interactions" not in inspect.signature(model.attention).parameters:
            return None
        given["interactions"] = fold_in.matrix[fold_in.user_map.rows(users, argument="users")]
    weights = np.asarray(model.attention(users, **given), dtype=np.float64)
    if weights.ndim != 2 or len(weights) != len(users) or not np.isfinite(weights).all():
        raise ValueError(
            f"models: attention of {name!r} has shape {weights.shape}; expected finite weights, "
            f"({len(users)}, components)"
        )
    types = [type(component).__name__ for component in getattr(model, "components", ())]
    names = [str(n) for n in getattr(model, "component_names", None) or types]
    if len(names) != weights.shape[1]:
        names = [f"component {n + 1}" for n in range(weights.shape[1])]
    return figures.attention(name, weights, history, names, anchor=anchor)


def _examples(
    reports: Mapping[str, Report], models: Mapping[str, Any], users: Sequence[Any] | None, shown: examples.Shown
) -> list[list[examples.Example]]:
    """Return the examples user by user, every model that can recommend beside the others."""
    able = {name: model for name, model in models.items() if callable(getattr(model, "recommend", None))}
    if not able:
        return []
    chosen = examples.pick(reports[next(iter(able))], shown.k) if users is None else dict.fromkeys(users, "as asked")
    return [
        [examples.show(user, why, name, model, reports[name], shown) for name, model in able.items()]
        for user, why in chosen.items()
    ]


def _protocol(reports: Mapping[str, Report]) -> str:
    """Say what was ranked: where some reports are of samples, which their own remarks name, there is no one way."""
    if any(report.sampled for report in reports.values()):
        return ""
    ranked = any(parse_metric(name).kind != "rating" for report in reports.values() for name in report.values)
    models = "Models rank all items for every user with at least one test item, without what the user had in training"
    return f"{models}; lists made elsewhere are taken as they are. " if ranked else ""


def _definitions(reports: Mapping[str, Report]) -> list[tuple[str, str]]:
    """Say once for all cut-offs how each metric is defined."""
    found: dict[str, str] = {}
    for report in reports.values():
        for name in report.values:
            metric = parse_metric(name)
            general = name if metric.cutoff is None else name.replace(f"@{metric.cutoff}", "@k")
            found[general] = metric.definition
    return sorted(found.items())
