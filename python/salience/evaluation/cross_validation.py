"""Cross-validation: fit and evaluate once per fold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from salience._arrays import describe, whole
from salience.evaluation import _checks, splits
from salience.evaluation.metrics import Metric, parse_metrics
from salience.evaluation.report import Report
from salience.evaluation.runner import DEFAULT_METRICS, Progress, evaluate
from salience.interactions import as_interactions


def cross_validate(
    make_model: Callable[[], Any],
    interactions: Any,
    *,
    folds: int = 5,
    seed: int = 0,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    exclude_seen: bool = True,
    batch: int = 4096,
    clip: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Fit and evaluate a model once per fold, each time on the other folds.

    Parameters
    ----------
    make_model : callable
        Makes a fresh, unfitted model with ``fit(interactions)``, and what :func:`evaluate` needs.
    interactions : Interactions or scipy sparse matrix
        What to split by :func:`salience.evaluation.splits.kfold`.
    folds, seed : int
        As there.
    metrics, exclude_seen, batch, clip
        As in :func:`evaluate`.
    progress : callable, optional
        Called as ``progress(done, total)`` after each fold.

    Returns
    -------
    Report
        ``values`` are means over the folds and ``fold_deviations`` the standard deviations between
        them. ``standard_errors`` are sqrt((1/K + 1/(K - 1)) s^2) for K folds with variance s^2:
        folds share training data, and s / sqrt(K) would be too small (Nadeau and Bengio, Inference
        for the generalization error, Machine Learning 52, 2003). ``per_user`` is each user's mean
        over the folds that tested on the user. ``counts`` are all users, or pairs, ever tested on;
        ``cold_users``, ``short_lists`` and ``unscored_pairs`` add up over folds.

    Raises
    ------
    TypeError, ValueError
        As :func:`evaluate` and :func:`salience.evaluation.splits.kfold`, or if ``make_model`` is
        not callable or makes something that cannot be fitted.
    """
    data = as_interactions(interactions)
    parsed = parse_metrics(metrics)
    _checks.clip_bounds(clip)
    whole(batch, argument="batch", least=1)
    for argument, value in (("make_model", make_model), ("progress", progress)):
        if value is not None and not callable(value):
            raise TypeError(f"{argument}: {describe(value)}; expected a callable")
    parts = splits.kfold(data, folds=folds, seed=seed)

    reports = []
    for done, part in enumerate(parts, start=1):
        model = make_model()
        if not callable(getattr(model, "fit", None)):
            raise TypeError(f"make_model: made {describe(model)}; expected a model with fit()")
        model.fit(part.train)
        reports.append(
            evaluate(
                model,
                part.train,
                part.test,
                metrics=parsed,
                exclude_seen=exclude_seen,
                batch=batch,
                clip=clip,
            )
        )
        if progress is not None:
            progress(done, len(parts))
    return _join(reports, parsed, data.shape[0])


def _join(reports: Sequence[Report], metrics: Sequence[Metric], users: int) -> Report:
    names = [metric.name for metric in metrics]
    fold_values = {n: np.array([report.values[n] for report in reports]) for n in names}
    inflation = math.sqrt(1 / len(reports) + 1 / (len(reports) - 1))
    per_user, ids = {}, {}
    for name in names:
        tested = np.concatenate([report.users[name] for report in reports])
        values = np.concatenate([report.per_user[name] for report in reports])
        ids[name], where = np.unique(tested, return_inverse=True)
        per_user[name] = np.bincount(where, weights=values) / np.bincount(where)
    return Report(
        values={n: float(np.mean(fold_values[n])) for n in names},
        per_user=per_user,
        users=ids,
        counts={m.name: sum(r.counts[m.name] for r in reports) if m.pooled else ids[m.name].size for m in metrics},
        standard_errors={n: inflation * float(np.std(fold_values[n], ddof=1)) for n in names},
        cold_users=sum(report.cold_users for report in reports),
        users_without_test=users - max(array.size for array in ids.values()),
        short_lists=sum(report.short_lists for report in reports),
        unscored_pairs=sum(report.unscored_pairs for report in reports),
        fold_values=fold_values,
    )
