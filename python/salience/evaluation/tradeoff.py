"""What re-ranking costs and brings, over its trade-off; and a trade-off chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from salience import rerank
from salience._arrays import describe, real, whole
from salience.evaluation._figures import new_figure, save_figure
from salience.evaluation.metrics import FloatArray, parse_metrics
from salience.evaluation.runner import evaluate_lists
from salience.interactions import Interactions, as_interactions, make_frame
from salience.models import Recommendations

Method = Literal["mmr", "dpp", "calibrated"]

_TRADE_OFFS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SIZE = (3.4, 2.9)  # inches, of a panel


@dataclass(frozen=True, eq=False, repr=False)
class TradeoffCurve:
    """Metrics of re-ranked lists over the trade-off, as :func:`tradeoff_curve` found them.

    Attributes
    ----------
    method : str
    trade_offs : array of shape (n,)
        Ascending from 0.
    values : dict of metric name to array of shape (n,)
        The first is the accuracy that :meth:`choose` guards.
    """

    method: str
    trade_offs: FloatArray
    values: dict[str, FloatArray]

    def choose(self, *, loss: float = 0.02) -> float:
        """Return the largest trade-off up to which accuracy never falls by more than ``loss`` of that without.

        Of a curve on validation data: a choice on the data that is then reported on would flatter itself.
        """
        share = real(loss, argument="loss")
        accuracy = next(iter(self.values.values()))
        failing = np.flatnonzero(accuracy < (1.0 - share) * accuracy[0])
        return float(self.trade_offs[failing[0] - 1 if failing.size else -1])

    def table(self) -> str:
        """Return the curve as plain text."""
        rows = [["trade-off", *self.values]]
        for number, trade_off in enumerate(self.trade_offs):
            rows.append([f"{trade_off:.2f}", *(f"{values[number]:.4f}" for values in self.values.values())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with one row a trade-off; pandas unless ``backend`` names another."""
        return make_frame({"trade_off": self.trade_offs, **self.values}, backend)

    def plot(self, path: str | Path) -> None:
        """Draw accuracy against every other metric, a panel each, into a file (.png, .svg, .pdf).

        Raises
        ------
        ImportError
            Where matplotlib is not installed: pip install 'salience[report]'.
        """
        (name, accuracy), *others = self.values.items()
        figure = new_figure(_SIZE[0] * max(len(others), 1), _SIZE[1], caller="plot")
        axes = figure.subplots(1, max(len(others), 1), squeeze=False)[0]
        for axis, (other, values) in zip(axes, others, strict=False):
            axis.plot(values, accuracy, marker="o", markersize=3.5, color="#33658a")
            for number in range(0, len(self.trade_offs), 2):
                place = (values[number], accuracy[number])
                axis.annotate(
                    f"{self.trade_offs[number]:g}", place, xytext=(4, 4), textcoords="offset points", fontsize=7
                )
            axis.set(xlabel=other, ylabel=name)
            axis.grid(alpha=0.3)
        axes[0].set_title(f"{self.method}: numbers are the trade-off", loc="left", fontsize=9)
        save_figure(figure, path)

    def __repr__(self) -> str:
        return f"TradeoffCurve({self.method}, {len(self.trade_offs)} trade-offs, {', '.join(self.values)})"


def tradeoff_curve(
    method: Method,
    candidates: Recommendations,
    test: Any,
    *,
    item_features: Any,
    train: Any = None,
    vectors: Any = None,
    k: int = 10,
    trade_offs: Sequence[float] = _TRADE_OFFS,
    metrics: Sequence[str] | None = None,
    threads: int | None = None,
) -> TradeoffCurve:
    """Measure re-ranked lists over the trade-off.

    Parameters
    ----------
    method : {"mmr", "dpp", "calibrated"}
        Of :mod:`salience.rerank`.
    candidates : Recommendations
        Of a first stage, for users of ``test``, several times ``k`` long.
    test : Interactions or scipy.sparse matrix
        Held-out interactions; validation data where the curve is to choose from.
    item_features : array or sparse matrix, shape (items, d)
        Rows as the items of ``test``: what diversity and calibration are measured by, categories such as genres. Also
        what "calibrated" aims at.
    train : Interactions or scipy.sparse matrix, optional
        With the axes of ``test``; needed for calibration, as metric and as method.
    vectors : array of float32, shape (items, d), optional
        What "mmr" and "dpp" compare items by, where that is not ``item_features``.
    k : int
    trade_offs : sequence of float
        0 to 1; 0 is added where it is missing.
    metrics : sequence of str, optional
        The first is the accuracy to guard; default ndcg, diversity, coverage and (with ``train``) calibration at k.
    threads : int, optional

    Returns
    -------
    TradeoffCurve

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    if method not in ("mmr", "dpp", "calibrated"):
        raise ValueError(f"method: {method!r}; expected 'mmr', 'dpp' or 'calibrated'")
    if not isinstance(candidates, Recommendations):
        raise TypeError(f"candidates: {describe(candidates)}; expected Recommendations")
    length = whole(k, argument="k", least=1)
    steps = np.unique([0.0, *(real(value, argument="trade_offs") for value in trade_offs)])
    held_out = as_interactions(test, argument="test")
    learned = None if train is None else as_interactions(train, argument="train")
    if metrics is None:
        names = [f"{name}@{length}" for name in ("ndcg", "diversity", "coverage", "calibration")]
        metrics = names if learned is not None else names[:-1]
    parsed = parse_metrics(metrics)
    how = _arguments(method, candidates, item_features, vectors, learned)
    found: dict[str, list[float]] = {metric.name: [] for metric in parsed}
    for trade_off in steps:
        lists = getattr(rerank, method)(candidates, k=length, trade_off=float(trade_off), threads=threads, **how)
        report = evaluate_lists(
            lists, held_out, metrics=parsed, train=learned, item_features=item_features, threads=threads
        )
        for name, values in found.items():
            values.append(report.values[name])
    return TradeoffCurve(method, steps, {name: np.array(values) for name, values in found.items()})


def _arguments(
    method: Method, candidates: Recommendations, item_features: Any, vectors: Any, train: Interactions | None
) -> dict[str, Any]:
    if method != "calibrated":
        return {"vectors": item_features if vectors is None else vectors}
    if train is None:
        raise ValueError("train: None; expected the interactions that 'calibrated' takes the users' tastes from")
    history = train.matrix[train.user_map.rows(candidates.queries, argument="candidates")]
    return {"categories": item_features, "history": history}


__all__ = ["TradeoffCurve", "tradeoff_curve"]
