"""The figures of the document. Each function returns None where there is nothing to draw."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.evaluation.document.drawing import QUIET, SERIES, draw
from salience.evaluation.metrics import parse_metric
from salience.evaluation.report import Report, counted
from salience.evaluation.slices import Slices

Reports = Mapping[str, Report]

_WIDTH = 9.83  # inches: the width of the page at 96 pixels an inch
_PANEL = 2.5
_LEGEND, _TITLE = 120, 32  # characters across the legend of a figure and the title of a third of it
_CUTOFF_BASES = ("recall", "ndcg", "precision", "map", "hit_rate", "mrr")
_DIVERSITY = {
    "diversity": "diversity of a list (mean 1 - cosine of its items)",
    "coverage": "share of all items recommended to somebody",
    "novelty": "novelty of a list (mean bits)",
}


@dataclass(frozen=True)
class Figure:
    """A figure of the document.

    Attributes
    ----------
    name : str
        Its anchor.
    title, caption : str
    svg : str
    columns : tuple of str, rows : tuple of tuples
        The numbers behind it.
    legend : bool
        Whether colours tell models apart.
    """

    name: str
    title: str
    caption: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: bool = True


def colours(names: Sequence[str]) -> dict[str, str]:
    """Give every model its colour."""
    return {name: SERIES[n % len(SERIES)] for n, name in enumerate(names)}


def by_cutoff(reports: Reports, *, level: float) -> Figure | None:
    """Draw every ranking metric that was measured at several cut-offs, with bootstrap intervals."""
    families = _families(reports)
    if not families:
        return None
    rows: list[tuple[str, ...]] = []
    columns = 3 if len(families) > 2 else len(families)
    lines = math.ceil(len(families) / columns)

    def paint(figure: Any) -> None:
        figure.get_layout_engine().set(hspace=0.08, wspace=0.05)
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes[len(families) :]:
            axis.set_visible(False)
        for axis, (family, members) in zip(axes, families.items(), strict=False):
            for number, (name, report) in enumerate(reports.items()):
                rows.extend(_trace(axis, number, name, report, members, level))
            axis.set_title(family)
            axis.set_ylim(bottom=0)
            cutoffs = list(members)
            axis.set_xscale("log")
            axis.set_xticks(cutoffs, [str(k) for k in cutoffs])
            axis.minorticks_off()
            axis.set_xlabel("cut-off k")

    svg = draw("by-cutoff", (_WIDTH, 0.2 + _PANEL * lines), paint)
    caption = f"Mean over users at each cut-off; bands are {level:.0%} bootstrap intervals over users."
    return Figure(
        "by-cutoff", "Quality by cut-off", caption, svg, ("metric", "model", "value", "interval"), tuple(rows)
    )


def _families(reports: Reports) -> dict[str, dict[int, str]]:
    """Group the metrics of users that all reports share, such as recall@5 and recall@10, by name and cut-off."""
    shared = [
        name for name in next(iter(reports.values())).per_user if all(name in r.per_user for r in reports.values())
    ]
    found: dict[str, dict[int, str]] = {}
    for name in shared:
        metric = parse_metric(name)
        if metric.kind == "ranking" and metric.cutoff is not None:
            family = metric.base + (f":{metric.convention}" if metric.convention else "")
            found.setdefault(family, {})[metric.cutoff] = name
    order = {base: n for n, base in enumerate(_CUTOFF_BASES)}
    several = [family for family, members in found.items() if len(members) > 1]
    several.sort(key=lambda family: (order.get(family.partition(":")[0], len(order)), ":" in family))
    return {family: dict(sorted(found[family].items())) for family in several[:6]}


def _trace(
    axis: Any, number: int, name: str, report: Report, members: Mapping[int, str], level: float
) -> list[tuple[str, ...]]:
    bounds = [report.interval(metric, level=level) for metric in members.values()]
    values = [report.values[metric] for metric in members.values()]
    low, high = zip(*bounds, strict=True)
    colour = SERIES[number % len(SERIES)]
    axis.fill_between(list(members), low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(list(members), values, color=colour, marker="o")
    return [
        (metric, name, f"{value:.4f}", _interval(a, b))
        for metric, value, (a, b) in zip(members.values(), values, bounds, strict=True)
    ]


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.4f} to {high:.4f}"


def by_history(reports: Reports, metric: str, *, level: float) -> Figure | None:
    """Draw a metric for users with little to much history."""
    if not all(metric in report.history and metric in report.per_user for report in reports.values()):
        return None
    slices = {name: report.by_history(metric, buckets=6, level=level) for name, report in reports.items()}
    label = "training interactions of the user"
    caption = (
        f"{metric} for users with little to much history, about equally many in each bucket; "
        f"bars are {level:.0%} intervals."
    )
    return _bucketed("by-history", "By what is known of the user", caption, slices, label, metric, "users")


def by_popularity(reports: Reports, k: int, *, level: float) -> Figure | None:
    """Draw the share of held-out items found, for unknown to popular items."""
    for report in reports.values():
        held_out = report.held_out
        if held_out is None or held_out.popularity is None or (held_out.depth is not None and held_out.depth < k):
            return None
    slices = {name: report.by_popularity(k, buckets=6, level=level) for name, report in reports.items()}
    label = "training users of the item"
    caption = (
        f"Share of held-out items found in the first {k}, by how many users had the item in training; "
        f"bars are {level:.0%} intervals."
    )
    return _bucketed(
        "by-popularity", "By the popularity of the item", caption, slices, label, f"found in the first {k}", "pairs"
    )


def _bucketed(
    name: str, title: str, caption: str, slices: Mapping[str, Slices], xlabel: str, ylabel: str, kind: str
) -> Figure:
    labels = [str(label) for label in next(iter(slices.values())).labels]
    counts = next(iter(slices.values())).counts
    width = 0.5 / len(slices)

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        places = np.arange(len(labels))
        for number, part in enumerate(slices.values()):
            shift = (number - (len(slices) - 1) / 2) * width
            bars = np.nan_to_num(np.maximum([part.values - part.low, part.high - part.values], 0))
            axis.errorbar(
                places + shift, part.values, bars, fmt="o", color=SERIES[number % len(SERIES)], elinewidth=1.4,
                markersize=6, clip_on=False, zorder=3,
            )  # fmt: skip
        axis.set_xticks(
            places, [f"{label}\n{counted(count, kind)}" for label, count in zip(labels, counts, strict=True)]
        )
        axis.set_xlim(-0.6, len(labels) - 0.4)
        axis.set_ylim(bottom=0)
        axis.grid(axis="x", visible=False)
        axis.set(xlabel=xlabel, ylabel=ylabel)

    rows = tuple(
        (label, model, f"{part.values[n]:.4f}", _interval(part.low[n], part.high[n]), f"{part.counts[n]:,}")
        for n, label in enumerate(labels)
        for model, part in slices.items()
    )
    svg = draw(name, (_WIDTH, 2.9), paint)
    return Figure(name, title, caption, svg, (xlabel, "model", "value", "interval", kind), rows)


def accuracy_against_diversity(reports: Reports, metric: str) -> Figure | None:
    """Draw an accuracy metric against every measure of diversity that was taken at the same cut-offs."""
    base = parse_metric(metric)
    panels = {}
    for measure, words in _DIVERSITY.items():
        pairs = _pairs_at_cutoffs(reports, base.base, base.convention, measure)
        if pairs:
            panels[words] = pairs
    if not panels:
        return None
    rows: list[tuple[str, ...]] = []

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (words, pairs) in zip(axes, panels.items(), strict=True):
            for number, (name, report) in enumerate(reports.items()):
                x = [report.values[diverse] for _, _, diverse in pairs]
                y = [report.values[accurate] for _, accurate, _ in pairs]
                axis.plot(x, y, color=SERIES[number % len(SERIES)], marker="o")
                for (k, accurate, diverse), a, b in zip(pairs, x, y, strict=True):
                    rows.append((name, accurate, f"{b:.4f}", diverse, f"{a:.4f}"))
                    if k in (pairs[0][0], pairs[-1][0]):  # between them labels would collide
                        axis.annotate(str(k), (a, b), (4, 5), textcoords="offset points", fontsize=7.5, color=QUIET)
            axis.set_xlabel(words)
            axis.margins(0.12)
        axes[0].set_ylabel(metric.partition("@")[0] + "@k")

    svg = draw("accuracy-diversity", (_WIDTH, 3.1), paint)
    caption = (
        "Each point is a cut-off k, the first and the last are marked: up is more accurate, right is more diverse. "
        "The vertical axis does not begin at 0."
    )
    columns = ("model", "accuracy", "value", "diversity", "value")
    return Figure("accuracy-diversity", "Accuracy against diversity", caption, svg, columns, tuple(rows))


def _pairs_at_cutoffs(reports: Reports, base: str, convention: str | None, measure: str) -> list[tuple[int, str, str]]:
    ending = f":{convention}" if convention else ""
    pairs = []
    for name in next(iter(reports.values())).values:
        metric = parse_metric(name)
        if metric.base == measure and metric.convention is None and metric.cutoff is not None:
            accurate = f"{base}@{metric.cutoff}{ending}"
            if all(name in report.values and accurate in report.values for report in reports.values()):
                pairs.append((metric.cutoff, accurate, name))
    return sorted(pairs)


def attention(
    model: str, weights: npt.NDArray[Any], history: npt.NDArray[Any], names: Sequence[str], *, anchor: str
) -> Figure:
    """Draw what share of attention each component of a model gets, from users with little to much history.

    Parameters
    ----------
    model : str
    weights : array of shape (users, components)
    history : array of shape (users,)
        Training interactions.
    names : sequence of str
        Of the components.
    anchor : str
        Unique in the page.
    """
    edges = np.unique(np.quantile(history, np.linspace(0, 1, 7)).astype(np.int64))
    bucket = np.clip(np.searchsorted(edges, history, side="right") - 1, 0, max(len(edges) - 2, 0))
    kept = [number for number in range(max(len(edges) - 1, 1)) if (bucket == number).any()]
    labels = [_span(history[bucket == number]) for number in kept]
    means = np.array([weights[bucket == number].mean(axis=0) for number in kept])

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        # Weights of linear attention may be negative: these are stacked to the left of 0.
        ends = {True: np.zeros(len(kept)), False: np.zeros(len(kept))}
        for component, name in enumerate(names):
            share, colour = means[:, component], SERIES[component % len(SERIES)]
            start = np.where(share >= 0, ends[True], ends[False])
            axis.barh(labels, share, left=start, color=colour, height=0.72, label=name)
            for above, end in ends.items():
                end += np.where((share >= 0) == above, share, 0.0)
        axis.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, handlelength=1)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlim(min(0.0, 1.05 * float(ends[False].min())), max(1.0, float(ends[True].max())))
        axis.set(xlabel="mean attention", ylabel="training interactions of the user")

    columns = max(1, min(len(names), _LEGEND // (max(map(len, names)) + 5)))
    lines = math.ceil(len(names) / columns)
    svg = draw(anchor, (_WIDTH, 1.1 + 0.2 * lines + 0.34 * len(kept)), paint)
    rows = tuple(
        (label, name, f"{means[n, component]:.4f}")
        for n, label in enumerate(labels)
        for component, name in enumerate(names)
    )
    caption = f"Where {model} looks: the mean weight of its components, from users with little to much history."
    title = f"Attention to components, {model}"
    return Figure(
        anchor, title, caption, svg, ("training interactions", "component", "mean weight"), rows, legend=False
    )


def _span(counts: npt.NDArray[Any]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def anchors(names: Iterable[str], kind: str) -> dict[str, str]:
    """Make an anchor of each name, readable where it is of ASCII, and unlike the others."""
    found: dict[str, str] = {}
    for name in names:
        slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-") or "model"
        anchor, number = f"{kind}-{slug}", 1
        while anchor in found.values():
            number += 1
            anchor = f"{kind}-{slug}-{number}"
        found[name] = anchor
    return found


def training_loss(histories: Sequence[tuple[str, str, Sequence[float]]], order: Sequence[str]) -> Figure | None:
    """Draw the training loss after each epoch, a panel each: objectives differ.

    Parameters
    ----------
    histories : sequence of (model, title, losses)
        Several of a model that is made of others.
    order : sequence of str
        All models, in the order of their colours.
    """
    if not histories:
        return None
    columns = min(len(histories), 3)
    lines = math.ceil(len(histories) / columns)
    titles = [textwrap.fill(title, _TITLE if columns > 1 else 2 * _TITLE) for _, title, _ in histories]
    extra = 0.17 * max(title.count("\n") for title in titles)

    def paint(figure: Any) -> None:
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes[len(histories) :]:
            axis.set_visible(False)
        for axis, title, (name, _, losses) in zip(axes, titles, histories, strict=False):
            colour = SERIES[list(order).index(name) % len(SERIES)]
            axis.plot(np.arange(1, len(losses) + 1), losses, color=colour, marker="o" if len(losses) < 30 else "")
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes[0].set_ylabel("training loss")

    svg = draw("training-loss", (_WIDTH if columns > 1 else 5.6, 0.2 + (_PANEL + extra) * lines), paint)
    rows = tuple(
        (title, str(epoch), f"{loss:.6g}") for _, title, losses in histories for epoch, loss in enumerate(losses, 1)
    )
    caption = "The objective after each epoch. Models minimize different objectives: compare shapes, not heights."
    return Figure("training-loss", "Training loss", caption, svg, ("model", "epoch", "loss"), rows, legend=False)
