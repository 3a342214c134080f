r"""Metrics, each under a name that states its convention.

Libraries disagree about what "recall" or "MAP" divides by, and the difference can exceed that
between two models. Here the name says which is meant: ``base@cut-off:convention``. Where a convention
is named after nothing else, it is named after its denominator.

**Ranking.** For one user with the relevant items R (the user's test interactions) and a list of n
items without those seen in training, of which the first k slots count: ``hits`` members of R are among
them, and ``rel_j`` = 1 where slot j (from 1) holds one, else 0. Users without relevant items enter no mean.

========================== ======================================================================
name                       value for one user
========================== ======================================================================
precision@k                hits / k, also where the list is shorter than k
precision@k:returned       hits / min(k, n); 0 for an empty list
precision@k:expected       the expectation of precision@k where tied items stand in random order
recall@k                   hits / \|R\|
recall@k:capped            hits / min(k, \|R\|)
recall@k:expected          as precision@k:expected
hit_rate@k                 1 where hits > 0, else 0
f1@k                       2 hits / (k + \|R\|), the harmonic mean of precision@k and recall@k
f1@k:means                 no value of users: the harmonic mean of the mean precision@k and recall@k
map@k                      S / min(k, \|R\|), S the sum over j <= k of rel_j (hits in the first j) / j
map@k:relevant             S / \|R\|
map@k:cutoff               S / k
map@k:returned             S / min(k, n, \|R\|); 0 for an empty list
mrr@k                      1 / (slot of the first hit), 0 without a hit in the first k
arhr@k                     sum over j <= k of rel_j / j: the reciprocal ranks of all hits
ndcg@k                     D / ideal of min(k, \|R\|) leading hits; D the sum over j <= k of
                           rel_j / log2(j + 1)
ndcg@k:relevant            D / ideal of \|R\| leading hits, not cut off at k
ndcg@k:cutoff              D / ideal of k leading hits, however few are relevant
ndcg@k:returned            D / ideal of min(k, n, \|R\|) leading hits; 0 for an empty list
ndcg@k:linear              gains v in place of rel_j, v the test value of the item; ideal: R sorted by v,
                           cut off at k; 0 where every v is 0
ndcg@k:exponential         the same with gains 2^v - 1
ndcg@k:expected            the expectation of ndcg@k where tied items stand in random order
rbp@k, rbp@k:p             (1 - p) times the sum over j <= k of rel_j p^(j - 1); p is 0.8 where not given
r_precision                hits in the first \|R\| slots / \|R\|
auc                        share of the pairs (member of R, other candidate) in the right order, ties half
auc:ordered                the same, where ties stand in the order of items
========================== ======================================================================

Without a cut-off, map, mrr, arhr, ndcg and rbp look at the whole ranking: of all candidates, or all of a
given list. These, r_precision, auc and what is "expected" need the ranks of all held-out items: a model of
factors or scores, not lists alone.

**Beyond accuracy.** For the first k of all lists; c_i counts the users of item i in training.

=========================== =====================================================================
name                        value
=========================== =====================================================================
coverage@k                  items in any list / all items (no value of users)
user_coverage@k             1 for a user with at least one recommended item, else 0
gini@k                      Gini index of how often each item is recommended, over all items, also
                            those that never are; 0: all alike (no value of users)
entropy@k                   Shannon entropy of the recommended items, in nats (no value of users)
novelty@k                   mean over the list of -log2(max(c_i, 1) / users)
popularity@k                mean over the list of c_i
popularity@k:lift           mean c_i over the list / mean c_i over the user's training items - 1
tail_share@k                share of the list in the long tail: the least popular items that hold no more
                            than 20 % of the training interactions together; the equally popular are in
                            it together
diversity@k                 mean over the pairs of the list of 1 - cosine of their features
serendipity@k               sum over the hits of max(P(slot) - P(popularity rank), 0) / k, where
                            P(r) = (items + 1 - r) / items; equally popular items share a rank and the
                            next has the one after, as in RecTools; P is 0 for items nobody had
serendipity@k:unexpected    hits that are not among the k most popular items the user has not seen / k
calibration@k               KL divergence (nats) of the list's categories from the user's in training,
                            smoothed with 1 % of the latter
calibration@k:jensen_shannon  the Jensen-Shannon divergence of the two, in bits: at most 1
=========================== =====================================================================

NaN where a user has no value, such as the diversity of a list of one; the mean is over the others.

**Ratings.** With the error e = predicted - actual of every rated pair:

========= ======================================================================================
name      value
========= ======================================================================================
rmse      square root of the mean of e^2 over all pairs
mae       mean of \|e\| over all pairs
rmse:user mean over users of the square root of the mean of e^2 over the user's pairs
mae:user  mean over users of the mean of \|e\| over the user's pairs
========= ======================================================================================

Sources: Järvelin and Kekäläinen, ACM TOIS 20(4), 2002 (NDCG); Burges et al., ICML 2005 (2^v - 1);
Moffat and Zobel, ACM TOIS 27(1), 2008 (RBP); McSherry and Najork, ECIR 2008 (ties); Mann and Whitney,
1947 (AUC by ranks); Zhou et al., PNAS 107(10), 2010 (novelty); Abdollahpouri et al., RMSE workshop, 2019
(popularity lift, long tail); Ge et al., RecSys 2010 (unexpectedness); Steck, RecSys 2018 (calibration).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Kind = Literal["ranking", "lists", "rating"]
_PERSISTENCE = 0.8


class _Definition(NamedTuple):
    text: str
    kind: Kind = "ranking"
    cutoff: Literal["required", "optional", "none"] = "required"
    formula: str | None = None  # of the compiled module, where it computes the metric
    ties: bool = False  # needs to know how many items tie with each
    graded: bool = False
    users: bool = True  # whether users have values of their own
    lower: bool = False  # lower is better


def _ranking(text: str, formula: str | None, **options: Any) -> _Definition:
    return _Definition(text, formula=formula, **options)


def _lists(text: str, **options: Any) -> _Definition:
    return _Definition(text, "lists", **options)


def _rating(text: str) -> _Definition:
    return _Definition(text, "rating", "none", lower=True)


_DEFINITIONS: dict[tuple[str, str | None], _Definition] = {
    ("precision", None): _ranking("hits / k", "precision"),
    ("precision", "returned"): _ranking("hits / min(k, items in the list)", "precision_returned"),
    ("precision", "expected"): _ranking("hits / k, expected over the orders of ties", "expected_precision", ties=True),
    ("recall", None): _ranking("hits / relevant items", "recall"),
    ("recall", "capped"): _ranking("hits / min(k, relevant items)", "recall_capped"),
    ("recall", "expected"): _ranking(
        "hits / relevant items, expected over the orders of ties", "expected_recall", ties=True
    ),
    ("hit_rate", None): _ranking("1 where there is a hit in the first k", "hit_rate"),
    ("f1", None): _ranking("mean over users of the harmonic mean of precision and recall", "f1"),
    ("f1", "means"): _ranking("harmonic mean of the mean precision and the mean recall", None, users=False),
    ("map", None): _ranking(
        "sum of the precisions at the hits / min(k, relevant items)", "average_precision", cutoff="optional"
    ),
    ("map", "relevant"): _ranking("sum of the precisions at the hits / relevant items", "average_precision_relevant"),
    ("map", "cutoff"): _ranking("sum of the precisions at the hits / k", "average_precision_cutoff"),
    ("map", "returned"): _ranking(
        "sum of the precisions at the hits / min(k, relevant items, items in the list)", "average_precision_returned"
    ),
    ("mrr", None): _ranking("1 / slot of the first hit", "reciprocal_rank", cutoff="optional"),
    ("arhr", None): _ranking("sum of 1 / slot over all hits", "all_reciprocal_ranks", cutoff="optional"),
    ("ndcg", None): _ranking(
        "binary gains, log2 discount, ideal over min(k, relevant items)", "ndcg", cutoff="optional"
    ),
    ("ndcg", "relevant"): _ranking("binary gains, log2 discount, ideal over all relevant items", "ndcg_relevant"),
    ("ndcg", "cutoff"): _ranking("binary gains, log2 discount, ideal of k hits", "ndcg_cutoff"),
    ("ndcg", "returned"): _ranking(
        "binary gains, log2 discount, ideal over min(k, relevant items, items in the list)", "ndcg_returned"
    ),
    ("ndcg", "linear"): _ranking(
        "gains as valued, log2 discount, ideal over the k largest", "ndcg_linear", cutoff="optional", graded=True
    ),
    ("ndcg", "exponential"): _ranking(
        "gains 2^value - 1, log2 discount, ideal over the k largest", "ndcg_exponential", cutoff="optional", graded=True
    ),
    ("ndcg", "expected"): _ranking(
        "binary gains, log2 discount, expected over the orders of ties", "expected_ndcg", cutoff="optional", ties=True
    ),
    ("rbp", None): _ranking(
        f"rank-biased precision, persistence {_PERSISTENCE}", "rank_biased_precision", cutoff="optional"
    ),
    ("r_precision", None): _ranking(
        "hits in as many slots as items are relevant / relevant items", "r_precision", cutoff="none"
    ),
    ("auc", None): _ranking("share of pairs in the right order, ties half", "auc", cutoff="none", ties=True),
    ("auc", "ordered"): _ranking(
        "share of pairs in the right order, ties by item", "auc_ordered", cutoff="none", ties=True
    ),
    ("coverage", None): _lists("recommended items / all items", users=False),
    ("user_coverage", None): _lists("share of users with a recommendation"),
    ("gini", None): _lists("Gini index of recommendations over all items", users=False, lower=True),
    ("entropy", None): _lists("Shannon entropy of the recommended items, nats", users=False),
    ("novelty", None): _lists("mean of -log2(share of users who had the item)"),
    ("popularity", None): _lists("mean number of users who had the item", lower=True),
    ("popularity", "lift"): _lists("mean popularity of the list / that of the user's history - 1", lower=True),
    ("tail_share", None): _lists("share of the list in the long tail"),
    ("diversity", None): _lists("mean of 1 - cosine over the pairs of the list"),
    ("serendipity", None): _lists("hits weighted by how much higher they stand than popularity has them, / k"),
    ("serendipity", "unexpected"): _lists("hits that popularity would not have recommended / k"),
    ("calibration", None): _lists("KL divergence of the list's categories from the user's, nats", lower=True),
    ("calibration", "jensen_shannon"): _lists(
        "Jensen-Shannon divergence of the list's and the user's categories, bits", lower=True
    ),
    ("rmse", None): _rating("square root of the mean squared error over all rated pairs"),
    ("mae", None): _rating("mean absolute error over all rated pairs"),
    ("rmse", "user"): _rating("mean over users of the user's root mean squared error"),
    ("mae", "user"): _rating("mean over users of the user's mean absolute error"),
}

# Seventeen digits keep every cut-off within int64.
_NAME = re.compile(r"(?P<base>\w+)(?:@(?P<cutoff>[1-9][0-9]{0,16}))?(?::(?P<convention>[\w.]+))?")
_PERSISTENCE_TEXT = re.compile(r"0?\.[0-9]{1,12}")


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
        k, the number of slots looked at; None for rating metrics and whole rankings.
    convention : str or None
        What follows the colon; None for the default convention.
    """

    name: str
    base: str
    cutoff: int | None
    convention: str | None

    @property
    def _defined(self) -> _Definition:
        return _DEFINITIONS[self.base, None if self.base == "rbp" else self.convention]

    @property
    def definition(self) -> str:
        """The formula in one line."""
        if self.base == "rbp" and self.convention:
            return f"rank-biased precision, persistence {self.parameter}"
        return self._defined.text

    @property
    def kind(self) -> Kind:
        """What it measures: ``"ranking"`` (hits), ``"lists"`` (beyond accuracy) or ``"rating"``."""
        return self._defined.kind

    @property
    def pooled(self) -> bool:
        """Whether the value is taken over all rated pairs at once, not as a mean over users."""
        return self.kind == "rating" and self.convention is None

    @property
    def of_users(self) -> str:
        """The name of what the values of users are: ``"rmse:user"`` of ``"rmse"``, others of their own name."""
        return f"{self.name}:user" if self.pooled else self.name

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which numbers all values are; infinite where nothing is known."""
        if self.kind == "ranking":
            return 0.0, math.inf if self.base == "arhr" else 1.0
        return (0.0, math.inf) if self.kind == "rating" else (-math.inf, math.inf)

    @property
    def has_users(self) -> bool:
        """Whether every user has a value; otherwise there is only one of all lists together."""
        return self._defined.users

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better."""
        return self._defined.lower

    @property
    def parameter(self) -> float:
        """The persistence of ``rbp``; 0 for others."""
        if self.base != "rbp":
            return 0.0
        return float(self.convention) if self.convention else _PERSISTENCE

    @property
    def formula(self) -> str | None:
        """Name of the compiled formula, where it is one of ranks."""
        return self._defined.formula

    @property
    def graded(self) -> bool:
        """Whether the values of test interactions matter."""
        return self._defined.graded

    @property
    def needs_ties(self) -> bool:
        """Whether it must know the scores that tie, which a list does not tell."""
        return self._defined.ties

    @property
    def needs_all_ranks(self) -> bool:
        """Whether the ranks of all held-out items matter, not only those in a list."""
        return self.kind == "ranking" and (self.cutoff is None or self.needs_ties)


def metric_names(cutoff: int | str = "k") -> list[str]:
    """Names of all metrics, those with a cut-off at ``cutoff``."""
    return [
        _spell(base, None if definition.cutoff == "none" else cutoff, convention)
        for (base, convention), definition in _DEFINITIONS.items()
    ]


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
        persistent = base == "rbp" and convention is not None and bool(_PERSISTENCE_TEXT.fullmatch(convention))
        definition = _DEFINITIONS.get((base, None if persistent else convention))
        persistent = persistent and float(convention) > 0
        if definition and (convention is None or base != "rbp" or persistent):
            allowed = {"required": cutoff is not None, "none": cutoff is None, "optional": True}
            if allowed[definition.cutoff]:
                return Metric(name, base, cutoff, convention)
    digits = re.search(r"@([1-9][0-9]{0,16})(?![0-9])", name)
    near = difflib.get_close_matches(name, metric_names(digits[1] if digits else "20"), n=1)
    suggestion = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"{argument}: {name!r}; expected one of {', '.join(metric_names())}, k a whole number of at least 1{suggestion}"
    )


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
        if metric.kind != "rating":
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


def _mean(per_user: FloatArray) -> tuple[float, float, int]:
    """Return the mean of the values that are not NaN, its standard error, and how many they are."""
    users = per_user.size
    mean = float(per_user.mean()) if users else math.nan
    if math.isnan(mean):
        values = per_user[~np.isnan(per_user)]
        return (math.nan, math.nan, 0) if not values.size else _mean(values)
    residuals = per_user - mean
    # Not a product of vectors, which would wake the threads of BLAS: that costs more than the sum.
    squares = float(np.einsum("i,i", residuals, residuals))
    return mean, math.sqrt(squares / (users - 1) / users) if users > 1 else math.nan, users


def summarize(metric: Metric, per_user: FloatArray, pairs: IntArray | None = None) -> tuple[float, float, int]:
    """Summarize the values of all users: overall value, its standard error, what it counts.

    Parameters
    ----------
    metric : Metric
        Whose values they are.
    per_user : float64 array of shape (n,)
        NaN for users who have no value; they are left out.
    pairs : int64 array of shape (n,), optional
        Rated pairs of each user; needed by ``rmse`` and ``mae`` only.

    Returns
    -------
    value : float
        The mean over users, or for ``rmse`` and ``mae`` the value over all pairs. NaN where no user has one.
    standard_error : float
        With users as the unit of sampling: s / sqrt(n) of a mean over users; for ``rmse`` and
        ``mae`` that of a ratio of two sums over users (Cochran, Sampling Techniques, 1977, chapter
        6), as pairs of one user are not independent. NaN for a single user.
    count : int
        Number of users, or of pairs for ``rmse`` and ``mae``.
    """
    if not metric.pooled:
        return _mean(per_user)

    users = per_user.size
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
