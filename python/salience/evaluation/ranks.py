"""Where held-out items stand, and the ranking metrics that follow from it.

Every metric of accuracy is a function of the ranks of a user's held-out items: so these are found once, in
one pass over the scores, which are never stored, and all metrics at all cut-offs are read off them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _arrays, _core
from salience._arrays import Pattern, describe, whole
from salience.evaluation.metrics import FloatArray, IntArray, Metric, parse_metrics

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of held-out items, one for every entry of the held-out matrix, in its order.

    Attributes
    ----------
    held_out : scipy CSR matrix of shape (n, items)
        Every stored entry is a relevant item. Values matter to graded metrics only.
    ranks : int64 array of shape (entries,)
        From 1: one more than the candidates that come before the item. 0 for an item that is no candidate
        (excluded, or not allowed), or that a list does not hold.
    lengths : int64 array of shape (n,)
        Candidates of each user, or filled slots of each list.
    better, equal : int64 array of shape (entries,), or None
        Candidates with a better score, and others with the same; None where only lists are known.
    """

    held_out: Any
    ranks: IntArray
    lengths: IntArray
    better: IntArray | None = None
    equal: IntArray | None = None

    def metrics(self, metrics: Sequence[str | Metric], *, threads: int | None = None) -> dict[str, FloatArray]:
        """Compute ranking metrics for every user.

        Parameters
        ----------
        metrics : sequence of str or Metric
            Ranking metrics; names as in :mod:`salience.evaluation.metrics`.
        threads : int, optional
            Do not change the result.

        Returns
        -------
        dict of str to float64 array of shape (n,)
            By metric name in the order asked for; NaN for users without held-out items.

        Raises
        ------
        TypeError, ValueError
            If a metric is unknown, of another kind, or needs ties where only lists are known; or gains of
            graded metrics are negative or not finite.

        Notes
        -----
        O(r log r) for r held-out items of a user, then O(hits) a metric.
        """
        parsed = parse_metrics(metrics)
        for metric in parsed:
            if metric.formula is None:
                raise ValueError(f"metrics: {metric.name!r}; expected metrics of the ranks of each user")
            if metric.needs_ties and self.better is None:
                raise ValueError(
                    f"metrics: {metric.name!r}, which needs scores; expected metrics of lists, which do not tell ties"
                )
        indptr, indices = _arrays.csr_pattern(self.held_out, argument="held_out")
        graded = any(metric.graded for metric in parsed)
        none = np.zeros(0, np.int64)
        everything = self.held_out.shape[1]
        values = _core.rank_metrics(
            (indptr, indices),
            _gains(self.held_out) if graded else None,
            self.ranks,
            self.lengths,
            none if self.better is None else self.better,
            none if self.equal is None else self.equal,
            everything,
            [
                (_core.rank_formulas[m.formula], m.cutoff or max(everything, 1), m.parameter)
                for m in parsed
                if m.formula
            ],
            _arrays.thread_count(threads),
        )
        return {metric.name: row for metric, row in zip(parsed, values, strict=True)}

    def sampled(self, negatives: int, *, seed: int = 0) -> Ranks:
        """Rank every held-out item alone among some candidates drawn at random, as much published work has done.

        Figures so sampled are not those of the full ranking, and may order models the other way round (Krichene
        and Rendle, On sampled metrics for item recommendation, KDD 2020): a warning says so. They are drawn from
        the exact ranks: how many of the drawn candidates come first is hypergeometric.

        Parameters
        ----------
        negatives : int
            Candidates drawn for each held-out item, without replacement, from those that are not held out.
        seed : int

        Returns
        -------
        Ranks
            With one row for every entry of ``held_out``, in its order, holding that entry alone.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or the ranks are only those of lists.
        """
        count = whole(negatives, argument="negatives", least=1)
        random = np.random.Generator(np.random.PCG64(whole(seed, argument="seed")))
        if self.better is None:
            raise ValueError("negatives: given for lists; expected ranks of all held-out items to draw from")
        warnings.warn(
            f"metrics among {count} sampled candidates are not those of the full ranking and may order models the "
            "other way round (Krichene and Rendle, KDD 2020)",
            UserWarning,
            stacklevel=2,
        )
        users = np.repeat(np.arange(self.held_out.shape[0]), np.diff(self.held_out.indptr))
        placed = self.ranks > 0
        # Of the candidates before an item, those that are held out themselves cannot be drawn.
        order = np.lexsort((self.ranks, ~placed, users))
        before = np.empty(users.size, dtype=np.int64)
        before[order] = np.arange(users.size) - self.held_out.indptr[users[order]]
        others = self.lengths[users] - np.bincount(users[placed], minlength=self.held_out.shape[0])[users]
        ahead = np.where(placed, self.ranks - 1 - before, 0)
        drawn = np.minimum(count, others)
        ranks = np.where(placed, 1 + random.hypergeometric(ahead, others - ahead, drawn), 0)
        alone = sp.csr_matrix(
            (self.held_out.data, self.held_out.indices, np.arange(users.size + 1)),
            shape=(users.size, self.held_out.shape[1]),
        )
        return Ranks(alone, ranks.astype(np.int64), drawn + placed)


def _gains(held_out: Any) -> npt.NDArray[np.float32]:
    gains = np.ascontiguousarray(held_out.data[: held_out.nnz], dtype=np.float32)
    wrong = gains[~((gains >= 0) & np.isfinite(gains))]
    if wrong.size:
        raise ValueError(f"relevant: value {wrong[0]}; expected finite values of at least 0 for graded metrics")
    return gains


def list_ranks(recommended: Any, relevant: Any, *, threads: int | None = None) -> Ranks:
    """Find the ranks of relevant items in given lists.

    Parameters
    ----------
    recommended : integer array of shape (n, k)
        Item rows, best first; -1 fills slots that hold nothing, which take no rank from the others.
    relevant : scipy sparse matrix of shape (n, items)
        Every stored entry is a relevant item, whatever its value.
    threads : int, optional

    Returns
    -------
    Ranks

    Raises
    ------
    TypeError
        If ``recommended`` does not hold integers or ``relevant`` is not sparse.
    ValueError
        If the shapes disagree, an item row is out of range, or a list holds an item twice: such a list is no
        ranking, and counting the item twice would push recall beyond 1.

    Notes
    -----
    O(n k + entries), and 16 bytes an item and thread.
    """
    matrix = _relevant(relevant)
    lists = np.asarray(recommended)
    if lists.ndim != 2:
        raise ValueError(f"recommended: shape {lists.shape}; expected (users, k)")
    if not np.issubdtype(lists.dtype, np.integer):
        raise TypeError(f"recommended: {lists.dtype} values; expected integer item rows")
    if lists.shape[0] != matrix.shape[0]:
        raise ValueError(
            f"recommended: shape {lists.shape}; expected {matrix.shape[0]} rows, one for every row of "
            f"relevant, which has shape {matrix.shape}"
        )
    pattern = _arrays.csr_pattern(matrix, argument="relevant")
    lists = _arrays.rows_together(lists.astype(np.int64, copy=False), argument="recommended")
    found = _core.list_ranks(lists, pattern, matrix.shape[1], _arrays.thread_count(threads))
    return Ranks(matrix, found[0], found[1])


def factor_ranks(
    users: Any, items: Any, held_out: Any, *, exclude: Any = None, allow: Any = None, threads: int | None = None
) -> Ranks:
    """Find the exact rank of every held-out item among all items, by inner products of factors.

    Scores are canonical (see :mod:`salience.similarity`), ties stand in the order of items: the same ranks to
    the last, on every machine and for any number of threads.

    Parameters
    ----------
    users : array of float32, shape (n, d)
    items : array of float32, shape (items, d)
    held_out : scipy sparse matrix of shape (n, items)
    exclude : scipy sparse matrix of shape (n, items), optional
        What is no candidate for a user, such as what was seen in training.
    allow : array of int or bool, optional
        Item rows, or a mask, that are candidates for all users.
    threads : int, optional

    Returns
    -------
    Ranks
        With ``better`` and ``equal``.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree or factors are not finite.

    Notes
    -----
    2 n d items operations in float64; O(entries) memory, no score is kept.
    """
    queries, vectors = _arrays.finite(users, argument="users"), _arrays.finite(items, argument="items")
    matrix = _relevant(held_out)
    expected = (len(queries), len(vectors))
    if matrix.shape != expected:
        raise ValueError(f"held_out: shape {matrix.shape}; expected {expected}, of users and items")
    found, _ = _core.factor_ranks(
        queries,
        vectors,
        _arrays.csr_pattern(matrix, argument="held_out"),
        exclusion(exclude, expected),
        _arrays.item_mask(allow, None, expected[1]),
        0,
        _arrays.thread_count(threads),
    )
    return Ranks(matrix, *found)


def factor_lists(
    users: Any, items: Any, held_out: Any, k: int, *, exclude: Any = None, allow: Any = None, threads: int | None = None
) -> tuple[Ranks, IntArray]:
    """Find the ``k`` best items of every user and the ranks of held-out items among them.

    As :func:`factor_ranks`, where ranks beyond ``k`` do not matter: at the cost of an exact top-k search.

    Returns
    -------
    Ranks
        Without ``better`` and ``equal``.
    lists : int64 array of shape (n, k)
        Item rows, -1 where too few candidates remain.
    """
    queries, vectors = _arrays.finite(users, argument="users"), _arrays.finite(items, argument="items")
    matrix = _relevant(held_out)
    expected = (len(queries), len(vectors))
    if matrix.shape != expected:
        raise ValueError(f"held_out: shape {matrix.shape}; expected {expected}, of users and items")
    found, lists = _core.factor_ranks(
        queries,
        vectors,
        _arrays.csr_pattern(matrix, argument="held_out"),
        exclusion(exclude, expected),
        _arrays.item_mask(allow, None, expected[1]),
        _arrays.whole(k, argument="k", least=1),
        _arrays.thread_count(threads),
    )
    return Ranks(matrix, found[0], found[1]), lists


def score_ranks(
    scores: Any, held_out: Any, *, exclude: Any = None, allow: Any = None, threads: int | None = None
) -> Ranks:
    """Find the exact rank of every held-out item by a block of scores.

    Parameters
    ----------
    scores : array of float32 or float64, shape (n, items)
        Larger is better, ties stand in the order of items. Of candidates, not NaN.
    held_out, exclude, allow, threads
        As in :func:`factor_ranks`.

    Returns
    -------
    Ranks

    Raises
    ------
    TypeError, ValueError
        If shapes disagree or a candidate's score is NaN.

    Notes
    -----
    O(n items) comparisons for each held-out item of a user, in SIMD.
    """
    array = np.asarray(scores)
    if array.dtype == np.float64:
        array = _arrays.rows_together(array, argument="scores")
    else:
        array = _arrays.dense(scores, argument="scores")
    matrix = _relevant(held_out)
    if matrix.shape != array.shape:
        raise ValueError(f"held_out: shape {matrix.shape}; expected {array.shape}, as scores")
    found = _core.score_ranks(
        array,
        _arrays.csr_pattern(matrix, argument="held_out"),
        exclusion(exclude, array.shape),
        _arrays.item_mask(allow, None, array.shape[1]),
        _arrays.thread_count(threads),
    )
    return Ranks(matrix, *found)


def exclusion(exclude: Any, shape: tuple[int, ...]) -> Pattern | None:
    """Return the pattern of ``exclude`` with ascending rows."""
    if exclude is None:
        return None
    if not sp.issparse(exclude):
        raise TypeError(f"exclude: {describe(exclude)}; expected a scipy sparse matrix")
    if exclude.shape != shape:
        raise ValueError(f"exclude: shape {exclude.shape}; expected {shape}, one row for every user")
    return _arrays.csr_pattern(canonical(exclude), argument="exclude")


def _relevant(relevant: Any) -> Any:
    if not sp.issparse(relevant):
        raise TypeError(f"relevant: {describe(relevant)}; expected a scipy sparse matrix")
    return canonical(relevant)


def canonical(matrix: Any) -> Any:
    """Return a CSR matrix whose rows ascend without duplicates; a copy where it had others."""
    csr = matrix if matrix.format == "csr" else matrix.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr
