"""Evaluation of a model, or of finished lists, on held-out interactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._arrays import describe, whole
from salience.evaluation import _checks
from salience.evaluation.metrics import (
    FloatArray,
    IntArray,
    Metric,
    parse_metrics,
    ranking_metrics,
    rating_metrics,
)
from salience.evaluation.report import Report, make_report
from salience.interactions import Interactions, as_interactions

Progress = Callable[[int, int], None]

DEFAULT_METRICS = ("recall@20", "ndcg@20", "map@20", "mrr@20", "hit_rate@20")

# Large enough to hide the cost of a call, small enough that the ids of a block stay in memory.
_PAIRS_A_CALL = 1 << 18


def evaluate(
    model: Any,
    train: Any,
    test: Any,
    *,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    exclude_seen: bool = True,
    allow_overlap: bool = False,
    batch: int = 4096,
    clip: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a fitted model on interactions it has not seen.

    Ranking metrics rank all items for every user with at least one test interaction; every test
    interaction is relevant, whatever its value. To count only high ratings as relevant, pass
    ``test.select(test.matrix.data >= 4)``, and join the report with one of the rating metrics on
    all of ``test`` by :meth:`Report.merged`. Rating metrics compare the model's scores with the
    values of all test pairs.

    Parameters
    ----------
    model : Recommender
        With ``recommend(users, k, *, exclude_seen)`` for ranking metrics, whose result holds
        ``rows``, int64 (users, k) padded with -1, and ``ids``, the same as item ids; and with
        ``score(users, items)`` for rating metrics, one number a pair, NaN where it has none. It is
        asked with the ids of ``test``. Where it has a ``user_map`` and ``item_map``, users and
        items they do not know are not asked for. Its items may be others than those of ``test``:
        they are matched by id, and an item that ``test`` does not know is a miss.
    train, test : Interactions or scipy sparse matrix
        With the same axes, as :mod:`salience.evaluation.splits` makes them.
    metrics : sequence of str or Metric
        Names as in :mod:`salience.evaluation.metrics`.
    exclude_seen : bool
        Have the model leave out what the user had in training.
    allow_overlap : bool
        Accept pairs that are in both train and test. With ``exclude_seen`` they can never be
        recommended, and still count as relevant.
    batch : int
        Users per call of ``recommend``; does not change the result.
    clip : (float, float), optional
        Range that predicted ratings are cut to.
    progress : callable, optional
        Called as ``progress(done, total)`` after each call of the model, in users to rank for plus
        pairs to score.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or the model lacks the method that a metric needs.
    ValueError
        If a metric is unknown or its cut-off larger than the number of items, the axes differ,
        ``test`` is empty, train and test overlap, or the model answers in another shape than asked,
        with an item twice in a list, with infinite scores, or with no score at all.

    Notes
    -----
    The cost is that of the model; the metrics add O(users k log k).
    """
    data = as_interactions(train, argument="train"), as_interactions(test, argument="test")
    parsed = parse_metrics(metrics)
    bounds = _checks.clip_bounds(clip)
    users_a_call = whole(batch, argument="batch", least=1)
    ranking = [metric for metric in parsed if metric.cutoff is not None]
    rating = [metric for metric in parsed if metric.cutoff is None]
    _check_model(model, ranking, rating)
    _check_progress(progress)
    _check_cutoffs(ranking, data[1])
    _check_parts(*data, allow_overlap=allow_overlap or not exclude_seen)

    task = _Task(model, *data, _Meter(progress, *_work(data[1], ranking, rating)))
    reports = []
    if ranking:
        reports.append(task.rank(ranking, exclude_seen=exclude_seen, batch=users_a_call))
    if rating:
        reports.append(task.rate(rating, bounds))
    return _in_order(Report.merged(reports), parsed)


def evaluate_lists(
    recommended: npt.ArrayLike | Mapping[Any, Sequence[Any]],
    test: Any,
    *,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
) -> Report:
    """Measure recommended lists that any other system has made.

    Parameters
    ----------
    recommended : integer array of shape (users, k), or mapping of user id to item ids
        Best first. An array holds item rows, one line for every user row of ``test``, padded with
        -1. In a mapping the lists may differ in length; a user who is not in it got no list, and
        what goes beyond the largest cut-off is ignored.
    test : Interactions or scipy sparse matrix
        Every interaction is relevant.
    metrics : sequence of str or Metric
        Ranking metrics; names as in :mod:`salience.evaluation.metrics`.

    Returns
    -------
    Report
        ``cold_users`` counts the evaluated users with an empty list; they score 0.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a metric is unknown, of ratings, or its cut-off larger than the number of items, ``test``
        is empty, a list holds an item twice or an id that ``test`` does not know, or the shape is
        wrong.
    """
    held_out = as_interactions(test, argument="test")
    parsed = parse_metrics(metrics)
    for metric in parsed:
        if metric.cutoff is None:
            raise ValueError(f"metrics: {metric.name!r}; expected ranking metrics only")
    _check_cutoffs(parsed, held_out)
    _check_not_empty(held_out)
    k = _largest_cutoff(parsed)
    if isinstance(recommended, Mapping):
        lists = _lists_of_mapping(recommended, held_out, k)
    else:
        lists = _lists_of_array(recommended, held_out)

    rows = _relevant_rows(held_out)
    values = ranking_metrics(lists[rows], held_out.matrix[rows], parsed)
    filled = (lists[rows, :k] >= 0).sum(axis=1)
    return make_report(
        {metric: values[metric.name] for metric in parsed},
        held_out.user_map.ids_of(rows),
        cold_users=int(np.count_nonzero(filled == 0)),
        users_without_test=held_out.shape[0] - rows.size,
        short_lists=int(np.count_nonzero(filled < k)),
    )


@dataclass
class _Meter:
    """Adds up what is done and tells the caller."""

    progress: Progress | None
    total: int
    done: int = 0

    def advance(self, amount: int) -> None:
        self.done += amount
        if self.progress is not None:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class _Task:
    """A model and what to evaluate it on, all checked."""

    model: Any
    train: Interactions
    test: Interactions
    meter: _Meter

    def rank(self, metrics: Sequence[Metric], *, exclude_seen: bool, batch: int) -> Report:
        rows = _relevant_rows(self.test)
        users = self.test.user_map.ids_of(rows)
        known = _known(self.model, "user_map", users)
        k = _largest_cutoff(metrics)
        short = 0
        values: dict[Metric, list[FloatArray]] = {metric: [] for metric in metrics}
        for start in range(0, rows.size, batch):
            part = slice(start, start + batch)
            asked = known[part]
            lists = np.full((asked.size, k), -1, dtype=np.int64)
            short += asked.size
            if asked.any():
                found = _recommend(self.model, users[part][asked], k, exclude_seen=exclude_seen)
                lists[asked] = _rows_in(self.test, *found)
                short -= int(np.count_nonzero((found[0] >= 0).all(axis=1)))
            measured = ranking_metrics(lists, self.test.matrix[rows[part]], metrics)
            for metric in metrics:
                values[metric].append(measured[metric.name])
            self.meter.advance(asked.size)
        return make_report(
            {metric: np.concatenate(parts) for metric, parts in values.items()},
            users,
            cold_users=self._count_cold(rows, known),
            users_without_test=self.test.shape[0] - rows.size,
            short_lists=short,
        )

    def rate(self, metrics: Sequence[Metric], clip: tuple[float, float] | None) -> Report:
        scores = self._scores()
        scored = np.flatnonzero(~np.isnan(scores))
        if not scored.size:
            raise ValueError(
                f"model: no score for any of the {scores.size} test pairs; expected some, to compute rating metrics"
            )
        predicted = scores[scored] if clip is None else np.clip(scores[scored], *clip)
        rows, users = np.unique(self.test.rows[scored], return_inverse=True)
        actual = self.test.matrix.data[scored].astype(np.float64)
        values = rating_metrics(predicted, actual, users, metrics)
        ids = self.test.user_map.ids_of(rows)
        tested = _relevant_rows(self.test)
        known = _known(self.model, "user_map", self.test.user_map.ids_of(tested))
        return make_report(
            {metric: values[metric.name] for metric in metrics},
            ids,
            pairs=np.bincount(users).astype(np.int64),
            cold_users=self._count_cold(tested, known),
            users_without_test=self.test.shape[0] - tested.size,
            unscored_pairs=scores.size - scored.size,
        )

    def _scores(self) -> FloatArray:
        """Score every test pair; NaN where the model cannot."""
        users = self.test.user_map.ids_of(self.test.rows)
        items = self.test.item_map.ids_of(self.test.matrix.indices)
        known = _known(self.model, "user_map", users) & _known(self.model, "item_map", items)
        scores = np.full(len(self.test), np.nan)
        for start in range(0, len(self.test), _PAIRS_A_CALL):
            pairs = np.arange(start, min(start + _PAIRS_A_CALL, len(self.test)))
            asked = pairs[known[pairs]]
            if asked.size:
                scores[asked] = _score(self.model, users[asked], items[asked])
            self.meter.advance(pairs.size)
        return scores

    def _count_cold(self, rows: IntArray, known: npt.NDArray[np.bool_]) -> int:
        learned = np.diff(self.train.matrix.indptr)[rows] > 0
        return int(np.count_nonzero(~(learned & known)))


def _recommend(model: Any, users: npt.NDArray[Any], k: int, *, exclude_seen: bool) -> tuple[IntArray, npt.NDArray[Any]]:
    answer = model.recommend(users, k, exclude_seen=exclude_seen)
    rows, ids = np.asarray(answer.rows), np.asarray(answer.ids)
    for name, array in (("rows", rows), ("ids", ids)):
        if array.shape != (users.size, k):
            raise ValueError(
                f"model: recommend() gave {name} of shape {array.shape}; expected "
                f"{(users.size, k)}, short lists padded with -1"
            )
    if rows.dtype.kind not in "iu":
        raise TypeError(f"model: recommend() gave rows of {rows.dtype}; expected integers")
    return rows, ids


def _rows_in(test: Interactions, rows: IntArray, ids: npt.NDArray[Any]) -> IntArray:
    """Turn a model's item rows into those of ``test``; -1 for items that it does not know."""
    filled = rows >= 0
    found, names = rows[filled], ids[filled]
    # A model fitted on the same axes, the usual case, needs no look-up: its rows have these ids.
    if not (found.size and found.max() < test.shape[1] and np.array_equal(test.items[found], names)):
        found = test.item_map.find(names, argument="model: item ids")
    lists = np.full(rows.shape, -1, dtype=np.int64)
    lists[filled] = found
    return lists


def _score(model: Any, users: npt.NDArray[Any], items: npt.NDArray[Any]) -> FloatArray:
    scores = np.asarray(model.score(users, items), dtype=np.float64)
    if scores.shape != users.shape:
        raise ValueError(f"model: score() gave shape {scores.shape}; expected {users.shape}, one for every pair")
    infinite = int(np.count_nonzero(np.isinf(scores)))
    if infinite:
        raise ValueError(
            f"model: score() gave {infinite} infinite values; expected finite ones, or NaN where there is no score"
        )
    return scores


def _known(model: Any, axis: str, ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    id_map = getattr(model, axis, None)
    if id_map is None:
        return np.ones(ids.size, dtype=np.bool_)
    return np.asarray(id_map.find(ids, argument=f"test: ids for the model's {axis}") >= 0)


def _relevant_rows(test: Interactions) -> IntArray:
    return np.flatnonzero(np.diff(test.matrix.indptr))


def _largest_cutoff(metrics: Sequence[Metric]) -> int:
    return max(metric.cutoff for metric in metrics if metric.cutoff is not None)


def _work(test: Interactions, ranking: Sequence[Metric], rating: Sequence[Metric]) -> tuple[int]:
    users = _relevant_rows(test).size if ranking else 0
    return (users + (len(test) if rating else 0),)


def _in_order(report: Report, metrics: Sequence[Metric]) -> Report:
    values = {metric.name: report.values[metric.name] for metric in metrics}
    report.values.clear()
    report.values.update(values)
    return report


def _lists_of_mapping(recommended: Mapping[Any, Sequence[Any]], test: Interactions, k: int) -> IntArray:
    lists = np.full((test.shape[0], k), -1, dtype=np.int64)
    if not recommended:
        return lists
    for user, items in recommended.items():
        if isinstance(items, (str, bytes)) or not hasattr(items, "__len__"):
            raise TypeError(f"recommended: {describe(items)} for user {user!r}; expected a sequence of item ids")
    kept = [list(items[:k]) for items in recommended.values()]
    lengths = np.array([len(items) for items in kept], dtype=np.int64)
    users = test.user_map.rows(list(recommended), argument="recommended: user ids")
    names = [item for items in kept for item in items]
    if names:
        slots = np.arange(len(names)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found = test.item_map.rows(names, argument="recommended: item ids")
        lists[np.repeat(users, lengths), slots] = found
    return lists


def _lists_of_array(recommended: npt.ArrayLike, test: Interactions) -> IntArray:
    lists = np.asarray(recommended)
    if lists.ndim != 2 or lists.shape[0] != test.shape[0]:
        raise ValueError(
            f"recommended: shape {lists.shape}; expected ({test.shape[0]}, k), one line for every user row of test"
        )
    return lists


def _check_model(model: Any, ranking: Sequence[Metric], rating: Sequence[Metric]) -> None:
    for metrics, method, call in (
        (ranking, "recommend", "recommend(users, k, *, exclude_seen)"),
        (rating, "score", "score(users, items)"),
    ):
        if metrics and not callable(getattr(model, method, None)):
            raise TypeError(f"model: {describe(model)} without {method}(); expected {call} for {metrics[0].name!r}")


def _check_progress(progress: Any) -> None:
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: {describe(progress)}; expected a callable of (done, total) or None")


def _check_cutoffs(metrics: Sequence[Metric], test: Interactions) -> None:
    for metric in metrics:
        if metric.cutoff is not None and metric.cutoff > test.shape[1]:
            raise ValueError(
                f"metrics: {metric.name!r}; expected a cut-off of at most {test.shape[1]}, the number of items"
            )


def _check_not_empty(test: Interactions) -> None:
    if not len(test):
        raise ValueError("test: empty; expected at least one interaction")


def _check_parts(train: Interactions, test: Interactions, *, allow_overlap: bool) -> None:
    _check_not_empty(test)
    _checks.same_axes(train, test)
    shared = 0 if allow_overlap else _checks.overlap(train, test)
    if shared:
        raise ValueError(
            f"test: {shared} of {len(test)} pairs in train too, which can never be recommended "
            "with exclude_seen=True; expected none (allow_overlap=True accepts them)"
        )
