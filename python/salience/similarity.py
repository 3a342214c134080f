"""Similarity, exact top-k and selection.

The canonical score of a query and an item is computed from their float32 values with products and
sums in float64 in a fixed order and rounded once to float32, so it is the same to the bit on every
instruction set, thread count and batch size. Better scores come first, equal scores by lower item
row, NaN last.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from salience import _arrays, _core

Metric = Literal["dot", "cosine", "euclidean"]


def similarity(a: Any, b: Any, *, metric: Metric = "dot", threads: int | None = None) -> npt.NDArray[np.float32]:
    """Score every row of ``a`` against every row of ``b``.

    Parameters
    ----------
    a : array of float32, shape (m, d)
    b : array of float32, shape (n, d)
        Types that float32 holds exactly (float16, bool, 8- and 16-bit integers) are taken too.
    metric : {"dot", "cosine", "euclidean"}
        The cosine of a zero vector is 0.
    threads : int, optional
        Default: the cores this process may run on.

    Returns
    -------
    array of float32, shape (m, n)
        Canonical scores.

    Raises
    ------
    TypeError, ValueError
        Naming the argument. Cost: 2 m n d float64 operations.
    """
    return _core.similarity(
        _arrays.dense(a, argument="a"),
        _arrays.dense(b, argument="b"),
        _metric(metric),
        _arrays.thread_count(threads),
    )


def topk(
    queries: Any,
    items: Any,
    k: int,
    *,
    metric: Metric = "dot",
    exclude: Any = None,
    allow: Any = None,
    deny: Any = None,
    threads: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find the ``k`` best items for every query, exactly.

    Parameters
    ----------
    queries : array of float32, shape (m, d)
    items : array of float32, shape (n, d)
    k : int
        1 to n.
    metric : {"dot", "cosine", "euclidean"}
    exclude : scipy.sparse CSR, shape (m, n), optional
        Items to leave out, per query; values are ignored, rows may be unsorted.
    allow, deny : array of int or bool, optional
        Item rows, or a mask of n flags, for all queries.
    threads : int, optional

    Returns
    -------
    ids : array of int64, shape (m, k)
        Item rows, -1 where too few items remain.
    scores : array of float32, shape (m, k)
        Canonical scores, best first; -inf (euclidean: +inf) beside -1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    An fp32 scan drops items that a proved error bound rules out; the rest are scored canonically.
    Cost: about 2 m n d float32 operations and O(m k) memory; no score matrix is written.
    """
    q = _arrays.dense(queries, argument="queries")
    x = _arrays.dense(items, argument="items")
    k = _arrays.whole(k, argument="k", least=1)
    return _core.topk(
        q,
        x,
        k,
        _metric(metric),
        _arrays.exclusion_pattern(exclude, len(q), len(x)),
        _arrays.item_mask(allow, deny, len(x)),
        _arrays.thread_count(threads),
    )


def select(scores: Any, k: int, *, threads: int | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Find the ``k`` largest entries of each row of a score matrix.

    Parameters
    ----------
    scores : array of float32 or float64, shape (m, n)
    k : int
        1 to n.
    threads : int, optional

    Returns
    -------
    ids : array of int64, shape (m, k)
    scores : array of the input's type, shape (m, k)
        Largest first, ties by lower column, NaN last; -0 is returned as +0.

    Raises
    ------
    TypeError, ValueError
        Naming the argument. Cost: one pass over the scores.
    """
    array = np.asarray(scores)
    if array.dtype == np.float64 and array.ndim == 2:
        array = np.ascontiguousarray(array)
    else:
        array = _arrays.dense(scores, argument="scores")
    return _core.select(array, _arrays.whole(k, argument="k", least=1), _arrays.thread_count(threads))


class Index:
    """Items that are searched many times.

    Parameters
    ----------
    items : array of float32, shape (n, d)
        Copied, so later changes to the caller's array do not show.
    metric : {"dot", "cosine", "euclidean"}
    """

    def __init__(self, items: Any, *, metric: Metric = "dot") -> None:
        self._items = np.array(_arrays.dense(items, argument="items"), order="C")
        self._metric = _metric(metric)

    def __len__(self) -> int:
        return len(self._items)

    def search(
        self,
        queries: Any,
        k: int,
        *,
        exclude: Any = None,
        allow: Any = None,
        deny: Any = None,
        threads: int | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Find the ``k`` best items for every query; see :func:`topk`."""
        return topk(
            queries,
            self._items,
            k,
            metric=self._metric,
            exclude=exclude,
            allow=allow,
            deny=deny,
            threads=threads,
        )

    def add(self, vectors: Any) -> npt.NDArray[np.int64]:
        """Append items of shape (m, d) and return their rows."""
        new = self._same_width(vectors)
        first = len(self._items)
        self._items = np.concatenate([self._items, new])
        return np.arange(first, len(self._items))

    def update(self, rows: Any, vectors: Any) -> None:
        """Replace the items at ``rows`` by ``vectors`` of shape (len(rows), d)."""
        new = self._same_width(vectors)
        where = np.asarray(rows)
        if where.ndim != 1 or (where.size and where.dtype.kind not in "iu"):
            raise TypeError(f"rows: {_arrays.describe(where)}; expected a list of item rows")
        if len(where) != len(new):
            raise ValueError(f"rows: {len(where)} of them; expected one for each of the {len(new)} vectors")
        if where.size and not 0 <= where.min() <= where.max() < len(self):
            raise ValueError(f"rows: {where.min()} to {where.max()}; expected 0 to {len(self) - 1}")
        # A new array, so that a search under way in another thread sees one state or the other.
        items = self._items.copy()
        items[where.astype(np.int64)] = new
        self._items = items

    def _same_width(self, vectors: Any) -> npt.NDArray[np.float32]:
        new = _arrays.dense(vectors, argument="vectors")
        if new.shape[1] != self._items.shape[1]:
            raise ValueError(f"vectors: shape {new.shape}; expected {self._items.shape[1]} columns")
        return new


def _metric(metric: object) -> Metric:
    if metric not in ("dot", "cosine", "euclidean"):
        raise ValueError(f"metric: {metric!r}; expected 'dot', 'cosine' or 'euclidean'")
    return metric
