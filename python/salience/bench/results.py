"""Outcomes as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salience import _storage
from salience.bench.contest import Outcome, Result
from salience.bench.environment import headline

SCHEMA = 1
_COLUMNS = ("contestant", "version", "median ms", "quartiles", "runs", "times ours", "answer")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def milliseconds(seconds: float) -> str:
    """Three significant digits."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(outcomes: Sequence[Outcome], environment: dict[str, Any]) -> str:
    """Lay out every outcome below what it was measured on, as Markdown that also reads well in a terminal.

    "times ours" is the ratio of a contestant's median to Salience's. Who was not measured is in the table,
    with the reason.
    """
    parts = ["\n".join("- " + line for line in headline(environment))]
    for outcome in outcomes:
        rows = [_cells(outcome, result) for result in outcome.results]
        widths = [max(len(row[n]) for row in (_COLUMNS, *rows)) for n in range(len(_COLUMNS))]
        padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (_COLUMNS, *rows)]
        parts.append(f"{outcome.task}: {outcome.title}\n\n{markdown(padded[0], padded[1:])}")
    return "\n\n".join(parts)


def _cells(outcome: Outcome, result: Result) -> tuple[str, ...]:
    if result.status != "measured" or result.verdict is None:
        return (result.name, result.version, "-", "-", "-", "-", f"{result.status}: {result.note}")
    low, high = result.quartiles
    return (
        result.name,
        result.version,
        milliseconds(result.median),
        f"{milliseconds(low)} to {milliseconds(high)}",
        str(len(result.seconds)),
        f"{outcome.ratio(result):.2f}x",
        result.verdict.words,
    )


def to_json(outcomes: Sequence[Outcome], environment: dict[str, Any]) -> str:
    """Return everything that was measured, with every single time, as JSON.

    Seconds throughout; ``ratio`` is a contestant's median divided by Salience's.
    """
    found = {"schema": SCHEMA, "environment": environment, "outcomes": [outcome.to_dict() for outcome in outcomes]}
    return json.dumps(_without_nan(found), indent=1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> None:
    """Write :func:`to_json`, whole or not at all."""
    with _storage.replace_file(path) as temporary:
        temporary.write_text(to_json(outcomes, environment) + "\n", encoding="utf-8")


def write_png(path: Path, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> None:
    """Draw how many times as long as Salience everyone took, a panel per problem, on one logarithmic axis.

    Raises
    ------
    ImportError
        Where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("png: needs matplotlib; pip install 'salience[report]'") from None
    shown = [[result for result in outcome.results if result.seconds] for outcome in outcomes]
    heights = [len(results) + 1.6 for results in shown]
    figure = Figure(figsize=(9, 0.8 + 0.34 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(outcomes), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    most = max(outcome.ratio(result) for outcome, results in zip(outcomes, shown, strict=True) for result in results)
    least = min(outcome.ratio(result) for outcome, results in zip(outcomes, shown, strict=True) for result in results)
    for axis, outcome, results in zip(axes, outcomes, shown, strict=True):
        _draw_panel(axis, outcome, results)
    axes[-1].set_xlim(min(0.7, least / 1.5), most * 3)
    axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes[-1].set_xlabel("times as long as Salience (median of interleaved runs, log scale)")
    figure.suptitle("\n".join(headline(environment)), fontsize=7, color="#555", x=0.01, ha="left")
    with _storage.replace_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _draw_panel(axis: Any, outcome: Outcome, results: Sequence[Result]) -> None:
    ratios = [outcome.ratio(result) for result in results]
    colours = ["#0b6e4f" if result.peer is None else "#9aa5b1" for result in results]
    axis.barh(range(len(results)), ratios, color=colours, height=0.7)
    for place, (ratio, result) in enumerate(zip(ratios, results, strict=True)):
        disagrees = result.verdict is not None and result.verdict.agrees is False
        times = f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2g}x"
        label = f"{times}, {milliseconds(result.median)} ms" + (", ANSWER DIFFERS" if disagrees else "")
        colour = "#b00020" if disagrees else "#333"
        axis.annotate(
            label, (ratio, place), (5, 0), textcoords="offset points", va="center", fontsize=8, color=colour,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )  # fmt: skip
    axis.set_yticks(range(len(results)), [result.name for result in results], fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.axvline(1, color="#0b6e4f", linewidth=0.8)
    axis.set_title(f"{outcome.task}: {outcome.title}", fontsize=9, loc="left")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
