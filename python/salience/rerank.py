"""Another order for lists that are already relevant: more diverse, or in tune with the user's taste.

All three take the candidates of a first stage, of which there should be several times as many as wanted (100 for 10,
say), and choose greedily. ``trade_off`` runs from 0, the order of relevance, to 1, where relevance no longer
counts; :func:`salience.evaluation.tradeoff_curve` measures what it costs and brings, and chooses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _arrays, _core
from salience.interactions import Interactions
from salience.models import Recommendations

_Lists = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def mmr(candidates: Any, vectors: Any, k: int = 10, *, trade_off: float = 0.3, threads: int | None = None) -> Any:
    """Choose items that are relevant and unlike those chosen before: maximal marginal relevance.

    Each next item has the largest (1 - trade_off) * relevance - trade_off * (largest cosine with a chosen item). A
    list's relevance is its scores brought to 0 to 1, so that one trade-off means the same for every user.

    Parameters
    ----------
    candidates : Recommendations, or (rows, scores)
        Item rows, int64 of shape (n, m), padded with -1, and scores, float32 of shape (n, m), larger is better,
        finite where there is an item. An item that a list holds twice is two candidates.
    vectors : array of float32, or sparse matrix, shape (items, d)
        What makes items alike, by their cosine: factors, embeddings, genres. A zero vector is like nothing. Of a
        sparse matrix the rows that occur are made dense.
    k : int
        Length of the new lists. What the candidates cannot fill is padding.
    trade_off : float
        0 to 1.
    threads : int, optional
        Default: the cores this process may run on.

    Returns
    -------
    Recommendations, or (rows, scores)
        As ``candidates``, shape (n, k), in the order of choice; scores are those that the items came with.
        Of equal gains the one that came earlier in its list wins: the same order on every machine.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    Carbonell and Goldstein, "The use of MMR, diversity-based reranking" (SIGIR 1998). Cosines are taken only
    where a bound (a gain never grows) leaves a doubt: at most n m k d operations, usually nearer to n m d; and
    items d to check the vectors.
    """
    return _diversify(candidates, vectors, k, "mmr", trade_off, threads)


def dpp(candidates: Any, vectors: Any, k: int = 10, *, trade_off: float = 0.3, threads: int | None = None) -> Any:
    """Choose items that are relevant and span much: the greedy mode of a determinantal point process.

    Each next item has the largest (1 - trade_off) * relevance + trade_off * log(v), v the squared length of what the
    items chosen before leave of its unit vector: where :func:`mmr` looks at the nearest of them, this looks at
    all that they have in common. All cosines but an item's with itself count 0.1 % short, so that copies of an
    item can be chosen when nothing else is left.

    Parameters
    ----------
    candidates, vectors, k, trade_off, threads
        As for :func:`mmr`.

    Returns
    -------
    Recommendations, or (rows, scores)
        As :func:`mmr`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal point process" (NeurIPS 2018), and lazily:
    at most n m k (d + k) operations. Memory: 8 m k bytes a thread.
    """
    return _diversify(candidates, vectors, k, "dpp", trade_off, threads)


def calibrated(
    candidates: Any,
    categories: Any,
    k: int = 10,
    *,
    history: Any = None,
    targets: Any = None,
    trade_off: float = 0.5,
    threads: int | None = None,
) -> Any:
    """Choose items that are relevant and divide among categories as the user's history does.

    Each next item has the largest (1 - trade_off) * relevance - trade_off * KL(p, q): p are the shares of categories
    in the history, q those in the list with the item, mixed with 1 % of p so that it is never infinite.

    Parameters
    ----------
    candidates, k, threads
        As for :func:`mmr`.
    categories : array or sparse matrix, shape (items, g)
        Weights of at least 0: an item's are brought to a sum of 1. Items without any do not count for q.
    history : Interactions or scipy.sparse matrix, shape (n, items)
        What the users had, a row for each list; every item counts once.
    targets : array, shape (n, g)
        In place of ``history``: the shares to aim at, brought to a sum of 1. A row of zeros is left to relevance.
    trade_off : float
        0 to 1.

    Returns
    -------
    Recommendations, or (rows, scores)
        As :func:`mmr`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    Steck, "Calibrated recommendations" (RecSys 2018); the divergence is that of the metric "calibration". Cost: g
    and the categories of m items, logarithms, for each of n k choices.
    """
    rows, scores = _lists(candidates)
    table = _arrays.shares(_weights(categories, "categories"), argument="categories")
    if (history is None) == (targets is None):
        raise ValueError("history: expected it or targets, one of the two")
    if targets is None:
        wanted = _profiles(history, table, len(rows))
    else:
        wanted = _weights(targets, "targets")
        if wanted.shape != (len(rows), table.shape[1]):
            raise ValueError(f"targets: shape {wanted.shape}; expected {(len(rows), table.shape[1])}")
        wanted = _arrays.shares(wanted, argument="targets")
    length = _arrays.whole(k, argument="k", least=1)
    positions = _core.calibrate(
        rows,
        scores,
        _arrays.csr_pattern(table, argument="categories"),
        np.ascontiguousarray(table.data, np.float32),
        np.ascontiguousarray(wanted.todense(), np.float64),
        max(min(length, rows.shape[1]), 1),
        _arrays.share(trade_off, argument="trade_off"),
        _arrays.thread_count(threads),
    )
    return _reordered(candidates, rows, scores, positions, length)


def _diversify(candidates: Any, vectors: Any, k: int, diversity: str, trade_off: float, threads: int | None) -> Any:
    rows, scores = _lists(candidates)
    asked = rows
    if sp.issparse(vectors):
        used, places = np.unique(rows, return_inverse=True)
        if used.size and (used[0] < -1 or used[-1] >= vectors.shape[0]):
            wrong = used[0] if used[0] < -1 else used[-1]
            raise ValueError(f"candidates: item row {wrong}; expected 0 to {vectors.shape[0] - 1}, or -1")
        padding = int(used.size > 0 and used[0] == -1)
        vectors = sp.csr_array(vectors)[used[padding:]].astype(np.float32).toarray()
        asked = places.reshape(rows.shape) - padding
    length = _arrays.whole(k, argument="k", least=1)
    positions = _core.diversify(
        asked,
        scores,
        _arrays.dense(vectors, argument="vectors"),
        max(min(length, rows.shape[1]), 1),
        diversity,
        _arrays.share(trade_off, argument="trade_off"),
        _arrays.thread_count(threads),
    )
    return _reordered(candidates, rows, scores, positions, length)


def _lists(candidates: Any) -> _Lists:
    if isinstance(candidates, Recommendations):
        rows, scores = candidates.rows, candidates.scores
    elif isinstance(candidates, tuple) and len(candidates) == 2:
        rows, scores = np.asarray(candidates[0]), candidates[1]
    else:
        raise TypeError(
            f"candidates: {_arrays.describe(candidates)}; expected Recommendations, or a tuple of item rows and scores"
        )
    if rows.dtype.kind not in "iu":
        raise TypeError(f"candidates: {_arrays.describe(rows)}; expected integer item rows")
    rows = _arrays.rows_together(rows.astype(np.int64, copy=False), argument="candidates")
    values = _arrays.dense(scores, argument="scores")
    if values.shape != rows.shape:
        raise ValueError(f"scores: shape {values.shape}; expected {rows.shape}, as the item rows")
    return rows, values


def _weights(value: Any, argument: str) -> Any:
    matrix = sp.csr_array(value) if sp.issparse(value) else np.asarray(value)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise ValueError(f"{argument}: {_arrays.describe(matrix)}; expected a matrix of numbers")
    if not np.isfinite(matrix.data if sp.issparse(matrix) else matrix).all():
        raise ValueError(f"{argument}: a value that is not finite; expected finite numbers")
    return sp.csr_array(matrix)


def _profiles(history: Any, table: Any, lists: int) -> Any:
    """Return the shares of the categories in what users had."""
    matrix = history.matrix if isinstance(history, Interactions) else history
    if not sp.issparse(matrix):
        raise TypeError(f"history: {_arrays.describe(history)}; expected Interactions or a scipy.sparse matrix")
    if matrix.shape != (lists, table.shape[0]):
        raise ValueError(
            f"history: shape {matrix.shape}; expected {(lists, table.shape[0])}, a row for each list and a column for "
            "each row of categories"
        )
    csr = matrix.tocsr()
    had = sp.csr_array((np.ones(csr.nnz), csr.indices, csr.indptr), shape=csr.shape)
    return _arrays.shares(had @ table, argument="history")


def _reordered(
    candidates: Any,
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    positions: npt.NDArray[np.int64],
    k: int,
) -> Any:
    """Take the chosen slots of every list, and pad to k."""
    chosen = np.full((len(rows), k), -1, np.int64)
    chosen[:, : positions.shape[1]] = positions
    if not rows.shape[1]:
        rows, scores = np.full((len(rows), 1), -1), np.full((len(rows), 1), -np.inf, np.float32)

    def take(values: npt.NDArray[Any], padding: Any) -> npt.NDArray[Any]:
        taken = np.take_along_axis(values, np.maximum(chosen, 0), axis=1)
        taken[chosen < 0] = padding
        return taken

    new_rows, new_scores = take(rows, -1), take(scores, np.float32(-np.inf))
    if not isinstance(candidates, Recommendations):
        return new_rows, new_scores
    ids = candidates.ids
    if not ids.shape[1]:
        ids = np.full((len(rows), 1), None if ids.dtype == object else -1, ids.dtype)
    missing = None if ids.dtype == object else -1
    return Recommendations(take(ids, missing), new_rows, new_scores, candidates.queries, candidates.query_name)


__all__ = ["calibrated", "dpp", "mmr"]
