r"""Metrics of ranked lists and of predicted ratings, each under a name that states its convention.

Libraries disagree about what "recall" or "MAP" divides by, and the difference can exceed that
between two models. Here the name says which is meant. For one user with the relevant items R (the
user's test interactions), a list of recommended items whose first k slots hold ``hits`` members of
R, and ``rel_j`` = 1 where slot j (counted from 1) is a hit and 0 elsewhere:

================== =============================================================================
name               value for one user
================== =============================================================================
recall@k           hits / \\|R\\|
recall@k:capped    hits / min(k, \\|R\\|)
precision@k        hits / k, also where the list is shorter than k
hit_rate@k         1 where hits > 0, else 0
map@k              sum over j <= k of rel_j * (hits in the first j) / j, over min(k, \\|R\\|)
map@k:relevant     the same sum over \\|R\\|
mrr@k              1 / (slot of the first hit), 0 without a hit in the first k
ndcg@k             sum over j <= k of rel_j / log2(j + 1), over the same sum for min(k, \\|R\\|)
                   leading hits
ndcg@k:graded      sum over j <= k of (2^v - 1) / log2(j + 1), v the test value of the item in
                   slot j, over the same sum for R sorted by value; 0 where every v is 0
================== =============================================================================

A ranking metric's value is the mean over users. For ratings, with the error e = predicted - actual
of every rated pair:

========= ======================================================================================
name      value
========= ======================================================================================
rmse      square root of the mean of e^2 over all pairs
mae       mean of \\|e\\| over all pairs
rmse:user mean over users of the square root of the mean of e^2 over the user's pairs
mae:user  mean over users of the mean of \\|e\\| over the user's pairs
========= ======================================================================================

NDCG: Järvelin and Kekäläinen, ACM TOIS 20(4), 2002; graded gains: Burges et al., ICML 2005.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_RATING_DEFINITIONS = {
    ("rmse", None): "square root of the mean squared error over all rated pairs",
    ("mae", None): "mean absolute error over all rated pairs",
    ("rmse", "user"): "mean over users of the user's root mean squared error",
    ("mae", "user"): "mean over users of the user's mean absolute error",
}

_RANKING_DEFINITIONS = {
    ("recall", None): "hits / relevant items",
    ("recall", "capped"): "hits / min(k, relevant items)",
    ("precision", None): "hits / k",
    ("hit_rate", None): "1 where there is a hit in the first k",
    ("map", None): "sum of the precisions at the hits / min(k, relevant items)",
    ("map", "relevant"): "sum of the precisions at the hits / relevant items",
    ("mrr", None): "1 / slot of the first hit",
    ("ndcg", None): "binary gains, log2 discount, ideal over min(k, relevant items)",
    ("ndcg", "graded"): "gains 2^value - 1, log2 discount, ideal over the k largest gains",
}

# Seventeen digits keep every cut-off within int64.
_NAME = re.compile(r"(?P<base>\w+)(?:@(?P<cutoff>[1-9][0-9]{0,16}))?(?::(?P<convention>\w+))?")


@dataclass(frozen=True)
class Metric:
    """A metric as its name states it; made by :func:`parse_metric`.

    Attributes
    ----------
    name : str
        The full name, such as ``"recall@20:capped"``.
    base : str
        The name without cut-off and convention, such as ``"recall"``.
    cutoff : int or None
        k, the number of slots looked at; None for rating metrics.
    convention : str or None
        What follows the colon; None for the default convention.
    """

    name: str
    base: str
    cutoff: int | None
    convention: str | None

    @property
    def definition(self) -> str:
        """The formula in one line."""
        key = (self.base, self.convention)
        return _RANKING_DEFINITIONS.get(key) or _RATING_DEFINITIONS[key]

    @property
    def pooled(self) -> bool:
        """Whether the value is taken over all pairs at once, not as a mean over users."""
        return self.cutoff is None and self.convention is None


def metric_names(cutoff: int | str = "k") -> list[str]:
    """Names of all metrics, ranking metrics at ``cutoff``."""
    names = [_spell(base, cutoff, convention) for base, convention in _RANKING_DEFINITIONS]
    return names + [_spell(base, None, convention) for base, convention in _RATING_DEFINITIONS]


def parse_metric(name: str) -> Metric:
    """Read a metric's name, such as ``"ndcg@10"``, ``"recall@20:capped"`` or ``"rmse"``.

    Raises
    ------
    TypeError
        If ``name`` is not a string.
    ValueError
        If there is no such metric; the message lists the known ones and suggests a near miss.
    """
    return _parse(name, "name")


def parse_metrics(metrics: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Read a sequence of metric names.

    Raises
    ------
    TypeError
        If ``metrics`` is not a sequence of names.
    ValueError
        If it is empty, names a metric twice or names an unknown one.
    """
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise TypeError(f"metrics: {metrics!r}; expected a sequence of names, such as ['recall@20', 'ndcg@20']")
    if not metrics:
        raise ValueError("metrics: empty; expected at least one name, such as 'recall@20'")
    parsed = tuple(m if isinstance(m, Metric) else _parse(m, "metrics") for m in metrics)
    names = [metric.name for metric in parsed]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"metrics: {repeated[0]!r} more than once; expected each name once")
    return parsed


def _spell(base: str, cutoff: int | str | None, convention: str | None) -> str:
    return f"{base}{'' if cutoff is None else f'@{cutoff}'}{f':{convention}' if convention else ''}"


def _parse(name: str, argument: str) -> Metric:
    if not isinstance(name, str):
        raise TypeError(f"{argument}: {name!r}; expected the name of a metric, such as 'recall@20'")
    match = _NAME.fullmatch(name)
    if match:
        base, convention = match["base"], match["convention"]
        cutoff = int(match["cutoff"]) if match["cutoff"] else None
        known = _RATING_DEFINITIONS if cutoff is None else _RANKING_DEFINITIONS
        if (base, convention) in known:
            return Metric(name, base, cutoff, convention)
    digits = re.search(r"@([1-9][0-9]{0,16})(?![0-9])", name)
    near = difflib.get_close_matches(name, metric_names(digits[1] if digits else "20"), n=1)
    suggestion = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"{argument}: {name!r}; expected one of {', '.join(metric_names())}, k a whole number of at least 1{suggestion}"
    )


@dataclass(frozen=True)
class _Hits:
    """The hits of all lists, ordered by user and then by position.

    Working on the hits instead of on (users, k) tables makes every metric cost what there is to
    count, and sums each user's terms in the order of the list.
    """

    users: IntArray  # row of each hit
    positions: IntArray  # its slot, counted from 0
    ordinals: IntArray  # how many hits the same user has before it
    entries: IntArray  # where the hit is stored in the relevant matrix
    relevant: sparse.csr_matrix[np.float64]
    sizes: IntArray  # relevant items of each user

    def total(self, weights: FloatArray | None, kept: npt.NDArray[np.bool_]) -> FloatArray:
        """Sum ``weights`` (ones where None) of the kept hits over each user."""
        chosen = None if weights is None else weights[kept]
        totals = np.bincount(self.users[kept], weights=chosen, minlength=self.sizes.size)
        return totals.astype(np.float64, copy=False)

    def count(self, k: int) -> FloatArray:
        return self.total(None, self.positions < k)


def rank_hits(recommended: npt.ArrayLike, relevant: sparse.spmatrix | sparse.sparray) -> npt.NDArray[np.bool_]:
    """Tell which slots of recommended lists hold a relevant item.

    Parameters
    ----------
    recommended : integer array of shape (n, k)
        Item rows, best first; -1 fills the slots that hold nothing and may stand anywhere.
    relevant : scipy sparse matrix of shape (n, items)
        Every stored entry is a relevant item, whatever its value.

    Returns
    -------
    bool array of shape (n, k)
        True where the slot holds an item that ``relevant`` stores for that row.

    Raises
    ------
    TypeError
        If ``recommended`` does not hold integers or ``relevant`` is not sparse.
    ValueError
        If the shapes disagree, an item row is out of range, or a list holds an item twice: such a
        list is no ranking, and counting the item twice would push recall beyond 1.

    Notes
    -----
    O(n k log k + m log(n k)) for m relevant entries; no loop over users.
    """
    lists, matrix = _check_lists(recommended, relevant)
    hits = _find_hits(lists, matrix)
    marks = np.zeros(lists.shape, dtype=np.bool_)
    marks[hits.users, hits.positions] = True
    return marks


def ranking_metrics(
    recommended: npt.ArrayLike,
    relevant: sparse.spmatrix | sparse.sparray,
    metrics: Sequence[str | Metric],
) -> dict[str, FloatArray]:
    """Compute ranking metrics for every user.

    Parameters
    ----------
    recommended : integer array of shape (n, k)
        Item rows, best first, padded with -1; k at least the largest cut-off.
    relevant : scipy sparse matrix of shape (n, items)
        The relevant items of each user, at least one in every row. The values matter only to
        graded metrics, which need them finite and not negative.
    metrics : sequence of str or Metric
        Names as in :mod:`salience.evaluation.metrics`.

    Returns
    -------
    dict of str to float64 array of shape (n,)
        Every user's value, between 0 and 1 and never NaN, by metric name in the order asked for.

    Raises
    ------
    TypeError, ValueError
        As :func:`rank_hits`; also if a metric is unknown or of ratings, a list is shorter than a
        cut-off, or a row of ``relevant`` is empty.

    Notes
    -----
    O(n k log k + m log(n k)) for m relevant entries, then O(hits) a metric.
    """
    parsed = parse_metrics(metrics)
    cutoffs = {metric.name: metric.cutoff for metric in parsed if metric.cutoff is not None}
    for metric in parsed:
        if metric.cutoff is None:
            raise ValueError(f"metrics: {metric.name!r}; expected ranking metrics only")
    lists, matrix = _check_lists(recommended, relevant)
    for name, cutoff in cutoffs.items():
        if lists.shape[1] < cutoff:
            raise ValueError(
                f"recommended: {lists.shape[1]} columns; expected at least {cutoff} for {name!r} "
                "(fill shorter lists with -1)"
            )
    empty = np.flatnonzero(np.diff(matrix.indptr) == 0)
    if empty.size:
        raise ValueError(
            f"relevant: {empty.size} rows without an entry, the first of them row {empty[0]}; "
            "expected at least one relevant item for every user"
        )
    if any(metric.convention == "graded" for metric in parsed):
        _check_grades(matrix)
    hits = _find_hits(lists, matrix)
    return {m.name: _FORMULAS[m.base, m.convention](hits, cutoffs[m.name]) for m in parsed}


def _check_lists(recommended: npt.ArrayLike, relevant: Any) -> tuple[IntArray, sparse.csr_matrix[np.float64]]:
    if not sparse.issparse(relevant):
        raise TypeError(f"relevant: {type(relevant).__name__}; expected a scipy sparse matrix")
    lists = np.asarray(recommended)
    if lists.ndim != 2:
        raise ValueError(f"recommended: shape {lists.shape}; expected (users, k)")
    if not np.issubdtype(lists.dtype, np.integer):
        raise TypeError(f"recommended: {lists.dtype} values; expected integer item rows")
    users, items = relevant.shape
    if lists.shape[0] != users:
        raise ValueError(
            f"recommended: shape {lists.shape}; expected {users} rows, one for every row of "
            f"relevant, which has shape {relevant.shape}"
        )
    if lists.size and not (lists.min() >= -1 and lists.max() < items):
        wrong = lists[(lists < -1) | (lists >= items)]
        raise ValueError(
            f"recommended: item row {wrong[0]}; expected rows from 0 to {items - 1}, or -1 for an empty slot"
        )
    matrix = sparse.csr_matrix(relevant)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return lists.astype(np.int64, copy=False), matrix


def _check_grades(relevant: sparse.csr_matrix[np.float64]) -> None:
    wrong = relevant.data[~((relevant.data >= 0) & np.isfinite(relevant.data))]
    if wrong.size:
        raise ValueError(f"relevant: value {wrong[0]}; expected finite values of at least 0 for graded metrics")


def _find_hits(lists: IntArray, relevant: sparse.csr_matrix[np.float64]) -> _Hits:
    users, items = relevant.shape
    sizes = np.diff(relevant.indptr).astype(np.int64)
    nothing = np.empty(0, dtype=np.int64)
    if not lists.size or not relevant.nnz:
        return _Hits(nothing, nothing, nothing, nothing, relevant, sizes)

    # Item and slot in one integer: a plain sort of the rows orders the items of a list and still
    # knows where each stood, and one look-up per relevant entry (few) replaces one per slot (many).
    bits = (lists.shape[1] - 1).bit_length()
    packed = (lists << bits) | np.arange(lists.shape[1])
    packed.sort(axis=1)
    sorted_items = packed >> bits
    _check_repeats(sorted_items)

    # One ascending key for all lists; empty slots (-1) take key 0 of their row, which no item has.
    first_keys = np.arange(users, dtype=np.int64) * (items + 1) + 1
    keys = (sorted_items + first_keys[:, None]).ravel()
    wanted = np.repeat(first_keys, sizes) + relevant.indices
    slots = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    entries = np.flatnonzero(keys[slots] == wanted)

    hit_users = np.repeat(np.arange(users, dtype=np.int64), sizes)[entries]
    positions = packed.ravel()[slots[entries]] & ((1 << bits) - 1)
    order = np.lexsort((positions, hit_users))
    hit_users = hit_users[order]
    ordinals = np.arange(order.size) - np.searchsorted(hit_users, hit_users)
    return _Hits(hit_users, positions[order], ordinals, entries[order], relevant, sizes)


def _check_repeats(sorted_items: IntArray) -> None:
    repeated = (sorted_items[:, 1:] == sorted_items[:, :-1]) & (sorted_items[:, 1:] >= 0)
    if repeated.any():
        row, column = np.argwhere(repeated)[0]
        raise ValueError(
            f"recommended: row {row} holds item {sorted_items[row, column]} more than once; "
            "expected each item at most once in a list"
        )


def _recall(hits: _Hits, k: int) -> FloatArray:
    return hits.count(k) / hits.sizes


def _recall_capped(hits: _Hits, k: int) -> FloatArray:
    return hits.count(k) / np.minimum(k, hits.sizes)


def _precision(hits: _Hits, k: int) -> FloatArray:
    return hits.count(k) / k


def _hit_rate(hits: _Hits, k: int) -> FloatArray:
    return (hits.count(k) > 0).astype(np.float64)


def _precision_sum(hits: _Hits, k: int) -> FloatArray:
    return hits.total((hits.ordinals + 1) / (hits.positions + 1), hits.positions < k)


def _average_precision(hits: _Hits, k: int) -> FloatArray:
    return _precision_sum(hits, k) / np.minimum(k, hits.sizes)


def _average_precision_relevant(hits: _Hits, k: int) -> FloatArray:
    return _precision_sum(hits, k) / hits.sizes


def _reciprocal_rank(hits: _Hits, k: int) -> FloatArray:
    first = (hits.ordinals == 0) & (hits.positions < k)
    return hits.total(1.0 / (hits.positions + 1), first)


def _discount(positions: IntArray) -> FloatArray:
    discounts: FloatArray = 1.0 / np.log2(positions + 2.0)
    return discounts


def _ndcg(hits: _Hits, k: int) -> FloatArray:
    longest = min(k, int(hits.sizes.max(initial=1)))
    ideal = np.cumsum(_discount(np.arange(longest)))
    gained = hits.total(_discount(hits.positions), hits.positions < k)
    quotient: FloatArray = gained / ideal[np.minimum(k, hits.sizes) - 1]
    return quotient


def _ndcg_graded(hits: _Hits, k: int) -> FloatArray:
    values = hits.relevant.data.astype(np.float64)
    rows = np.repeat(np.arange(hits.sizes.size), hits.sizes)
    best_first = np.lexsort((-values, rows))
    starts = hits.relevant.indptr[:-1].astype(np.int64)
    # 2^v - 1 overflows for play counts. Relative to the user's largest value it cannot, and the
    # scale cancels in the quotient; expm1 keeps small values exact.
    largest = values[best_first[starts]]
    gains = np.exp2(values - largest[rows]) * -np.expm1(-values * math.log(2.0))

    ranks = np.arange(values.size) - starts[rows]
    counted = ranks < k
    terms = gains[best_first][counted] * _discount(ranks[counted])
    ideal = np.bincount(rows[counted], weights=terms, minlength=hits.sizes.size)
    gained = hits.total(gains[hits.entries] * _discount(hits.positions), hits.positions < k)
    return np.divide(gained, ideal, out=np.zeros_like(gained), where=ideal > 0)


_FORMULAS: dict[tuple[str, str | None], Callable[[_Hits, int], FloatArray]] = {
    ("recall", None): _recall,
    ("recall", "capped"): _recall_capped,
    ("precision", None): _precision,
    ("hit_rate", None): _hit_rate,
    ("map", None): _average_precision,
    ("map", "relevant"): _average_precision_relevant,
    ("mrr", None): _reciprocal_rank,
    ("ndcg", None): _ndcg,
    ("ndcg", "graded"): _ndcg_graded,
}


def rating_metrics(
    predicted: npt.ArrayLike,
    actual: npt.ArrayLike,
    users: npt.ArrayLike,
    metrics: Sequence[str | Metric],
) -> dict[str, FloatArray]:
    """Compute rating metrics for every user; :func:`summarize` makes the overall value of them.

    Parameters
    ----------
    predicted, actual : float arrays of shape (pairs,)
        Predicted and true ratings of the same pairs, finite.
    users : integer array of shape (pairs,)
        The user of each pair, numbered from 0 without gaps.
    metrics : sequence of str or Metric
        ``"rmse"``, ``"mae"``, ``"rmse:user"``, ``"mae:user"``.

    Returns
    -------
    dict of str to float64 array of shape (number of users,)
        Every user's root mean squared or mean absolute error, in the unit of the ratings.

    Raises
    ------
    ValueError
        If the lengths disagree, a rating is not finite, there is no pair or a user without one, or
        a metric is not of ratings.
    """
    parsed = parse_metrics(metrics)
    for metric in parsed:
        if metric.cutoff is not None:
            raise ValueError(f"metrics: {metric.name!r}; expected rating metrics only")
    errors = _rating_errors(predicted, actual)
    rows = np.asarray(users)
    if rows.shape != errors.shape:
        raise ValueError(f"users: shape {rows.shape}; expected {errors.shape}, one for every pair")
    pairs = np.bincount(rows)
    if not pairs.all():
        raise ValueError(f"users: no pair of user {np.argmin(pairs)}; expected no gap")
    absolute = np.bincount(rows, weights=np.abs(errors)) / pairs
    root_mean_square = np.sqrt(np.bincount(rows, weights=errors * errors) / pairs)
    return {m.name: root_mean_square if m.base == "rmse" else absolute for m in parsed}


def _rating_errors(predicted: npt.ArrayLike, actual: npt.ArrayLike) -> FloatArray:
    ratings = np.asarray(actual, dtype=np.float64)
    scores = np.asarray(predicted, dtype=np.float64)
    if ratings.ndim != 1 or not ratings.size:
        raise ValueError(f"actual: shape {ratings.shape}; expected (pairs,) with at least one pair")
    if scores.shape != ratings.shape:
        raise ValueError(f"predicted: shape {scores.shape}; expected {ratings.shape}, as actual")
    for argument, numbers in (("predicted", scores), ("actual", ratings)):
        if not np.isfinite(numbers).all():
            wrong = np.flatnonzero(~np.isfinite(numbers))[0]
            raise ValueError(f"{argument}: {numbers[wrong]} at pair {wrong}; expected finite values")
    return scores - ratings


def summarize(metric: Metric, per_user: FloatArray, pairs: IntArray | None = None) -> tuple[float, float, int]:
    """Summarize the values of all users: overall value, its standard error, what it counts.

    Parameters
    ----------
    metric : Metric
        Whose values they are.
    per_user : float64 array of shape (n,)
        As :func:`ranking_metrics` and :func:`rating_metrics` return them.
    pairs : int64 array of shape (n,), optional
        Rated pairs of each user; needed by ``rmse`` and ``mae`` only.

    Returns
    -------
    value : float
        The mean over users, or for ``rmse`` and ``mae`` the value over all pairs.
    standard_error : float
        With users as the unit of sampling: s / sqrt(n) of a mean over users; for ``rmse`` and
        ``mae`` that of a ratio of two sums over users (Cochran, Sampling Techniques, 1977, chapter
        6), as pairs of one user are not independent. NaN for a single user.
    count : int
        Number of users, or of pairs for ``rmse`` and ``mae``.
    """
    users = per_user.size
    if not metric.pooled:
        spread = float(np.std(per_user, ddof=1)) / math.sqrt(users) if users > 1 else math.nan
        return float(np.mean(per_user)), spread, users

    if pairs is None or pairs.shape != per_user.shape:
        raise ValueError(f"pairs: missing or misshapen; expected {users}, one for every user")
    total = int(pairs.sum())
    moments = per_user**2 if metric.base == "rmse" else per_user
    mean = float(pairs @ moments) / total
    residuals = pairs * (moments - mean)
    error = math.nan
    if users > 1:
        error = math.sqrt(users / (users - 1) * float(residuals @ residuals)) / total
    if metric.base == "mae":
        return mean, error, total
    root = math.sqrt(mean)
    # The derivative of the root: d sqrt(m) = dm / (2 sqrt(m)); a perfect prediction has no error.
    return root, (error / (2.0 * root) if root else 0.0 * error), total
