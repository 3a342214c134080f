"""Evaluation of a model, or of finished lists, on held-out interactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._arrays import describe, thread_count, whole
from salience.evaluation import _checks, folding, lists, ranks, sources
from salience.evaluation.beyond import Lists, as_features, check_given
from salience.evaluation.folding import Folded
from salience.evaluation.metrics import (
    FloatArray,
    IntArray,
    Metric,
    parse_metric,
    parse_metrics,
    rating_metrics,
)
from salience.evaluation.ranks import Ranks
from salience.evaluation.report import HeldOut, Report, make_report
from salience.evaluation.sources import BlockScores, Factors, Source, known_ids
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
    fold_in: Any = None,
    item_features: Any = None,
    keep_lists: bool = False,
    sampled: int | None = None,
    seed: int = 0,
    batch: int = 4096,
    clip: tuple[float, float] | None = None,
    threads: int | None = None,
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
    model : VectorModel, Factors, BlockScores or Recommender
        What ranks by inner products (``salience.ALS`` and its like, :class:`Factors`) or scores blocks of
        users (:class:`BlockScores`) is ranked by the compiled kernels, in one pass that keeps no scores: it has
        all metrics. Any other model needs ``recommend(users, k, *, exclude_seen)``, whose result holds
        ``rows``, int64 (users, k) padded with -1, and ``ids``, the same as item ids: it has the metrics with a
        cut-off. Rating metrics need ``score(users, items)``, one number a pair, NaN where it has none. It is
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
    fold_in : Interactions or scipy sparse matrix, optional
        History of the test users that was not trained on, with the axes of ``train``; rankings and scores are made
        from it, and it is what users have seen. The model needs ``score_histories(csr)`` (ItemKNN, EASE),
        ``fold_in(csr)`` with ``item_factors_`` (ALS of either feedback, PrivateALS, Popularity), or
        ``recommend(users, k, *, exclude_seen, interactions=csr)`` and, for ratings, ``score(users, items, *,
        interactions=csr)`` with a row a pair (HybridScorer). Those of :class:`Factors` and :class:`BlockScores` are
        taken to be made from it.
    item_features : array or sparse matrix of shape (items, d), optional
        For ``diversity`` and, as weights of categories, ``calibration``.
    keep_lists : bool
        Keep the recommended lists in ``Report.lists``, as long as the largest cut-off or the number of items.
    sampled : int, optional
        Rank every held-out item among only so many candidates drawn at random instead of all: to compare with
        work that did, never to choose by. It warns; see :meth:`Ranks.sampled`. A user's value is the mean over the
        user's held-out items.
    seed : int
        Of that draw.
    batch : int
        Users per call of ``recommend``; does not change the result.
    clip : (float, float), optional
        Range that predicted ratings are cut to.
    threads : int, optional
        Of the compiled kernels; do not change the result. Default: the model's.
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
        If a metric is unknown, the axes differ, ``test`` is empty, train and test overlap, or the model answers
        in another shape than asked, with an item twice in a list, with infinite or NaN scores, or with no score
        at all.

    Notes
    -----
    A cut-off may exceed the number of candidates: denominators stay as named, and ``Report.short_lists`` counts
    the lists. The cost is that of an exact top-k search where all metrics have cut-offs; of all inner products in
    float32 where one needs the ranks of all held-out items. Metrics add O(test interactions) each.
    """
    data = as_interactions(train, argument="train"), as_interactions(test, argument="test")
    folded = None if fold_in is None else as_interactions(fold_in, argument="fold_in")
    parsed = parse_metrics(metrics)
    bounds = _checks.clip_bounds(clip)
    thread_count(threads)
    ranking = [metric for metric in parsed if metric.kind != "rating"]
    rating = [metric for metric in parsed if metric.kind == "rating"]
    _check_progress(progress)
    _check_parts(*data, folded, allow_overlap=allow_overlap or not exclude_seen)
    asking: dict[str, Any] = {"exclude_seen": exclude_seen, "threads": threads}
    asking["batch"] = whole(batch, argument="batch", least=1)
    if folded is None or isinstance(model, (Factors, BlockScores)):
        strangers = None
        source = sources.choose(model, *data, fold_in=folded, **asking)
    else:
        source = strangers = folding.choose(model, data[1], folded, **asking)
    if sampled is not None:
        _check_sampled(ranking, whole(sampled, argument="sampled", least=1))
    _check_model(model, source, strangers, ranking, rating, everything=sampled is not None)
    check_given(parsed, counts=data[0], history=data[0], relevant=data[1], features=item_features)
    features = None if item_features is None else as_features(item_features, data[1].shape[1])

    task = _Task(model, *data, folded, strangers, _Meter(progress, *_work(data[1], ranking, rating)))
    reports = []
    if ranking:
        assert source is not None
        draw = None if sampled is None else (sampled, seed)
        reports.append(task.rank(source, ranking, features, keep_lists=keep_lists, draw=draw))
    if rating:
        reports.append(task.rate(rating, bounds))
    return _in_order(Report.merged(reports), parsed)


def evaluate_lists(
    recommended: Any,
    test: Any,
    *,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    train: Any = None,
    item_features: Any = None,
    keep_lists: bool = False,
    threads: int | None = None,
) -> Report:
    """Measure recommended lists that any other system has made.

    Parameters
    ----------
    recommended : integer array of shape (users, k), mapping, frame, Recommendations or ranx Run
        Best first. An array holds item rows, one line for every user row of ``test``, padded with
        -1. A mapping has a list of item ids, or a mapping of item ids to scores, under each user id
        (:func:`read_run` makes one). A frame has columns user, item, and rank or score (also user_id, item_id).
        Lists may differ in length; a user without one got an empty list, and what goes beyond the largest cut-off
        is ignored. An item that ``test`` does not know is a miss; users whom it does not know are ignored and
        counted in ``Report.unknown_users``.
    test : Interactions, scipy sparse matrix, or mapping of user to item to relevance
        Every interaction is relevant (of a mapping, or a ranx Qrels: what has a positive relevance).
    metrics : sequence of str or Metric
        Names as in :mod:`salience.evaluation.metrics`; those without a cut-off look at whole lists. What needs
        scores (``auc``, ``...:expected``) cannot be told of lists.
    train : Interactions or scipy sparse matrix, optional
        With the axes of ``test``: for popularity, novelty and their like, and for buckets of history.
    item_features, keep_lists, threads
        As in :func:`evaluate`.

    Returns
    -------
    Report
        ``cold_users`` counts the evaluated users with an empty list; they score 0.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a metric is unknown, of ratings or not one of lists, ``test`` is empty, a list holds an item twice, no
        user or no item of the lists is in ``test``, or the shape is wrong.
    """
    held_out = as_interactions(lists.as_test(test), argument="test")
    learned = None if train is None else as_interactions(train, argument="train")
    parsed = parse_metrics(metrics)
    for metric in parsed:
        if metric.kind == "rating" or metric.base == "auc" or metric.needs_ties:
            raise ValueError(f"metrics: {metric.name!r}; expected metrics that lists tell")
    _check_not_empty(held_out)
    if learned is not None:
        _checks.same_axes(learned, held_out)
    check_given(parsed, counts=learned, history=learned, relevant=held_out, features=item_features)
    whole_lists = any(metric.cutoff is None for metric in parsed)
    k = _largest_cutoff(parsed)
    found = lists.as_rows(recommended, held_out, None if whole_lists else k)

    rows = _relevant_rows(held_out)
    top = found.rows if rows.size == len(found.rows) else found.rows[rows]
    wide = sources.widen(_part(held_out, rows), found.columns)
    asked = ranks.list_ranks(top, wide, threads=threads)
    values = _measure(asked, top, parsed, held_out, rows, learned, None, item_features)
    longest = k or top.shape[1]
    return make_report(
        values,
        held_out.user_map.ids_of(rows),
        history=None if learned is None else _counts(learned, rows),
        cold_users=int(np.count_nonzero(asked.lengths == 0)),
        users_without_test=held_out.shape[0] - rows.size,
        short_lists=int(np.count_nonzero(asked.lengths < longest)),
        unknown_users=found.unknown_users,
        held_out=_held_out(asked, held_out, rows, learned, None if whole_lists else k),
        lists=_item_ids(held_out, top) if keep_lists else None,
    )


def _measure(
    found: Ranks,
    rows_of_lists: IntArray | None,
    metrics: Sequence[Metric],
    test: Interactions,
    rows: IntArray,
    train: Interactions | None,
    fold_in: Interactions | None,
    item_features: Any,
) -> dict[Metric, FloatArray | float]:
    """Compute the metrics of ranks and of lists for the users at ``rows``."""
    by_rank = [metric for metric in metrics if metric.formula is not None]
    parts = {f"{base}@{metric.cutoff}" for metric in metrics if metric.name.endswith(":means") for base in _F1_PARTS}
    wanted = [*by_rank, *(parse_metric(name) for name in sorted(parts - {metric.name for metric in by_rank}))]
    values: dict[str, FloatArray | float] = {}
    if wanted:
        values.update(found.metrics(wanted))
    of_lists = [metric for metric in metrics if metric.kind == "lists"]
    if of_lists:
        assert rows_of_lists is not None
        seen = train if fold_in is None else fold_in
        known = Lists(
            rows_of_lists,
            test.shape[1],
            _part(test, rows),
            None if seen is None else _part(seen, rows),
            None if train is None else np.bincount(train.matrix.indices, minlength=test.shape[1]).astype(np.int64),
            0 if train is None else int(np.count_nonzero(np.diff(train.matrix.indptr))),
            item_features,
        )
        values.update(known.metrics(of_lists))
    for metric in metrics:
        if metric.base == "f1" and metric.convention == "means":
            precision, recall = (float(np.mean(values[f"{base}@{metric.cutoff}"])) for base in _F1_PARTS)
            values[metric.name] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {metric: values[metric.name] for metric in metrics}


def _measure_sampled(found: Ranks, metrics: Sequence[Metric], negatives: int, seed: int) -> dict[Metric, Any]:
    """Average the metrics of single held-out items, each among drawn candidates, over the items of a user."""
    sizes = np.diff(found.held_out.indptr)
    users = np.repeat(np.arange(sizes.size), sizes)
    values = found.sampled(negatives, seed=seed).metrics(metrics)
    return {m: np.bincount(users, weights=values[m.name], minlength=sizes.size) / sizes for m in metrics}


_F1_PARTS = ("precision", "recall")


def _held_out(
    found: Ranks, test: Interactions, rows: IntArray, train: Interactions | None, depth: int | None
) -> HeldOut:
    items = _part(test, rows).indices.astype(np.int64)
    counts = None
    if train is not None:
        counts = np.bincount(train.matrix.indices, minlength=test.shape[1])[items].astype(np.int64)
    users = np.repeat(np.arange(rows.size), np.diff(test.matrix.indptr)[rows])
    ids = items if test.item_map.identity else test.items[items]
    return HeldOut(users, ids, found.ranks, depth, counts)


def _count_tied(found: Ranks, k: int) -> int:
    """Count the users with a held-out item that ties across slot ``k``."""
    if found.better is None or found.equal is None:
        return 0
    across = (found.ranks > 0) & (found.better < k) & (found.better + found.equal >= k)
    users = np.repeat(np.arange(found.lengths.size), np.diff(found.held_out.indptr))
    return int(np.unique(users[across]).size)


def _item_ids(test: Interactions, rows: IntArray) -> npt.NDArray[Any]:
    """Return ids; items that test does not know have none."""
    return test.item_map.ids_of(np.where(rows < test.shape[1], rows, -1))


def _counts(data: Interactions, rows: IntArray) -> IntArray:
    return np.asarray(np.diff(data.matrix.indptr)[rows], dtype=np.int64)


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


class _Collected:
    """Ranks and lists of all users, filled in batch by batch."""

    def __init__(self, held_out: Any, k: int, *, ties: bool) -> None:
        self.held_out = held_out
        entries, users = held_out.nnz, held_out.shape[0]
        self.ranks = Ranks(
            held_out,
            np.zeros(entries, np.int64),
            np.zeros(users, np.int64),
            np.zeros(entries, np.int64) if ties else None,
            np.zeros(entries, np.int64) if ties else None,
        )
        self.lists = np.full((users, k), -1, dtype=np.int64)

    def put(self, start: int, asked: npt.NDArray[np.bool_], found: Ranks, rows: IntArray | None) -> None:
        """Store what was found for the users from ``start`` on for whom ``asked`` holds."""
        users = start + np.flatnonzero(asked)
        first = self.held_out.indptr[start]
        entries = first + np.flatnonzero(
            np.repeat(asked, np.diff(self.held_out.indptr[start : start + asked.size + 1]))
        )
        self.ranks.ranks[entries] = found.ranks
        self.ranks.lengths[users] = found.lengths
        for mine, theirs in ((self.ranks.better, found.better), (self.ranks.equal, found.equal)):
            if mine is not None and theirs is not None:
                mine[entries] = theirs
        if rows is not None and self.lists.shape[1]:
            self.lists[users, : rows.shape[1]] = rows[:, : self.lists.shape[1]]


@dataclass(frozen=True)
class _Task:
    """A model and what to evaluate it on, all checked."""

    model: Any
    train: Interactions
    test: Interactions
    fold_in: Interactions | None
    strangers: Folded | None
    meter: _Meter

    def rank(
        self,
        source: Source,
        metrics: Sequence[Metric],
        features: Any,
        *,
        keep_lists: bool,
        draw: tuple[int, int] | None,
    ) -> Report:
        rows = _relevant_rows(self.test)
        known = source.known(rows)
        longest = _largest_cutoff(metrics)
        depth = None if draw or any(metric.needs_all_ranks for metric in metrics) else longest
        of_lists = [metric for metric in metrics if metric.kind == "lists"]
        k = min(longest if keep_lists else _largest_cutoff(of_lists), self.test.shape[1])
        found = _Collected(_part(self.test, rows), k, ties=depth is None)
        for start in range(0, rows.size, source.users_a_call):
            asked = known[start : start + source.users_a_call]
            if asked.any():
                part = rows[start : start + source.users_a_call][asked]
                found.put(start, asked, *source.rank(part, self.test.matrix[part], depth, k))
            self.meter.advance(asked.size)
        if draw:
            values: dict[Metric, FloatArray | float] = _measure_sampled(found.ranks, metrics, *draw)
        else:
            values = _measure(found.ranks, found.lists, metrics, self.test, rows, self.train, self.fold_in, features)
        return make_report(
            values,
            self.test.user_map.ids_of(rows),
            history=self._history(rows),
            cold_users=self._count_cold(rows, known),
            users_without_test=self.test.shape[0] - rows.size,
            short_lists=int(np.count_nonzero(found.ranks.lengths < longest)),
            held_out=_held_out(found.ranks, self.test, rows, self.train, depth),
            lists=_item_ids(self.test, found.lists) if keep_lists else None,
            tied_users=_count_tied(found.ranks, longest),
            sampled=draw[0] if draw else 0,
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
        tested = _relevant_rows(self.test)
        known = known_ids(self.model, "user_map", self.test.user_map.ids_of(tested))
        return make_report(
            {metric: values[metric.name] for metric in metrics},
            self.test.user_map.ids_of(rows),
            pairs=np.bincount(users).astype(np.int64),
            history=self._history(rows),
            cold_users=self._count_cold(tested, known),
            users_without_test=self.test.shape[0] - tested.size,
            unscored_pairs=scores.size - scored.size,
        )

    def _scores(self) -> FloatArray:
        """Score every test pair; NaN where the model cannot."""
        ask = self._score_pairs if self.strangers is None else self.strangers.score_pairs
        scores = np.empty(len(self.test))
        for start in range(0, len(self.test), _PAIRS_A_CALL):
            part = slice(start, min(start + _PAIRS_A_CALL, len(self.test)))
            rows, items = self.test.rows[part], self.test.matrix.indices[part].astype(np.int64)
            scores[part] = _checked_scores(ask(rows, items), rows.shape)
            self.meter.advance(rows.size)
        return scores

    def _score_pairs(self, rows: IntArray, items: IntArray) -> FloatArray:
        users, names = self.test.user_map.ids_of(rows), self.test.item_map.ids_of(items)
        asked = known_ids(self.model, "user_map", users) & known_ids(self.model, "item_map", names)
        scores = np.full(rows.size, np.nan)
        if asked.any():
            found = self.model.score(users[asked], names[asked])
            scores[asked] = _checked_scores(found, (int(asked.sum()),))
        return scores

    def _history(self, rows: IntArray) -> IntArray:
        return _counts(self.train if self.fold_in is None else self.fold_in, rows)

    def _count_cold(self, rows: IntArray, known: npt.NDArray[np.bool_]) -> int:
        return int(np.count_nonzero(~((self._history(rows) > 0) & known)))


def _checked_scores(found: Any, shape: tuple[int, ...]) -> FloatArray:
    scores = np.asarray(found, dtype=np.float64)
    if scores.shape != shape:
        raise ValueError(f"model: score() gave shape {scores.shape}; expected {shape}, one for every pair")
    infinite = int(np.count_nonzero(np.isinf(scores)))
    if infinite:
        raise ValueError(
            f"model: score() gave {infinite} infinite values; expected finite ones, or NaN where there is no score"
        )
    return scores


def _part(data: Interactions, rows: IntArray) -> Any:
    """Return the matrix of some users, in ascending order; no copy where they are all."""
    return data.matrix if rows.size == data.shape[0] else data.matrix[rows]


def _relevant_rows(test: Interactions) -> IntArray:
    return np.flatnonzero(np.diff(test.matrix.indptr))


def _largest_cutoff(metrics: Sequence[Metric]) -> int:
    return max((metric.cutoff for metric in metrics if metric.cutoff is not None), default=0)


def _work(test: Interactions, ranking: Sequence[Metric], rating: Sequence[Metric]) -> tuple[int]:
    users = _relevant_rows(test).size if ranking else 0
    return (users + (len(test) if rating else 0),)


def _in_order(report: Report, metrics: Sequence[Metric]) -> Report:
    values = {metric.name: report.values[metric.name] for metric in metrics}
    report.values.clear()
    report.values.update(values)
    return report


def _check_sampled(ranking: Sequence[Metric], sampled: int) -> None:
    for metric in ranking:
        if metric.formula is None or metric.needs_ties:
            expected = "expected ranking metrics that do not need ties"
            raise ValueError(f"metrics: {metric.name!r} with sampled={sampled}; {expected}")


def _check_model(
    model: Any,
    source: Source | None,
    strangers: Folded | None,
    ranking: Sequence[Metric],
    rating: Sequence[Metric],
    *,
    everything: bool,
) -> None:
    if ranking and source is None:
        raise TypeError(
            f"model: {describe(model)} without recommend(); expected recommend(users, k, *, exclude_seen) for "
            f"{ranking[0].name!r}"
        )
    for metric in ranking:
        if (metric.needs_all_ranks or everything) and source is not None and not source.knows_all_ranks:
            raise TypeError(
                f"model: {describe(model)}, which only recommends; expected a VectorModel on the items of test, "
                f"Factors or BlockScores for {metric.name!r}"
            )
    if rating and strangers is None and not callable(getattr(model, "score", None)):
        raise TypeError(
            f"model: {describe(model)} without score(); expected score(users, items) for {rating[0].name!r}"
        )


def _check_progress(progress: Any) -> None:
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: {describe(progress)}; expected a callable of (done, total) or None")


def _check_not_empty(test: Interactions) -> None:
    if not len(test):
        raise ValueError("test: empty; expected at least one interaction")


def _check_parts(train: Interactions, test: Interactions, fold_in: Interactions | None, *, allow_overlap: bool) -> None:
    _check_not_empty(test)
    for name, part in (("train", train), ("fold_in", fold_in)):
        if part is None:
            continue
        _checks.same_axes(part, test)
        shared = 0 if allow_overlap else _checks.overlap(part, test)
        if shared:
            raise ValueError(
                f"test: {shared} of {len(test)} pairs in {name} too, which can never be recommended "
                "with exclude_seen=True; expected none (allow_overlap=True accepts them)"
            )
