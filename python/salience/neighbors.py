"""Item-to-item models: nearest neighbours, and EASE.

A user's score of an item is the sum over the user's history of value times item-to-item weight, r_u B. B is held
transposed, one row for each item that is scored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _arrays, _core, _storage
from salience._als import as_features
from salience.interactions import Interactions, as_interactions
from salience.models import BlockModel, Float32, Recommendations, select_padded

if TYPE_CHECKING:
    from typing_extensions import Self

Similarity = Literal["cosine", "euclidean", "pearson", "jaccard"]
Weighting = Literal["none", "degree", "tfidf", "bm25"]
_SIMILARITIES = ("cosine", "euclidean", "pearson", "jaccard")
_WEIGHTINGS = ("none", "degree", "tfidf", "bm25")
_BLOCK_ENTRIES = 1 << 24  # of a block of the item-to-item product
_PIVOT_ROWS = 1024


class ItemModel(BlockModel):
    """What item-to-item models share; subclasses set ``similarity_`` by ``_learn``.

    Attributes
    ----------
    similarity_ : CSR matrix or array of float32, shape (items, items)
        Row i holds the weights with which past items speak for item i; its diagonal is 0. An array is in Fortran's
        order: a history gathers columns, and all of them were copied for every block of users if they did not lie
        together.
    """

    similarity_: Any
    binary = False

    def _learn(self, data: Interactions, item_features: Any) -> Any:
        raise NotImplementedError

    def fit(
        self,
        interactions: Any,
        *,
        item_features: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn item-to-item weights.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
        item_features : dense array or scipy.sparse matrix, shape (items, features), optional
            In row order; for models that use them.
        progress : callable, optional
            Called as ``progress(1, 1)`` at the end.
        """
        data = as_interactions(interactions)
        if len(data) == 0:
            raise ValueError(f"interactions: {data!r}; expected at least one entry")
        shown = Interactions(self._valued(data.matrix), data.user_map, data.item_map, data.times)
        self.similarity_ = self._learn(shown, as_features(item_features, data.shape[1], "item_features"))
        self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
        if progress is not None:
            progress(1, 1)
        return self

    def _valued(self, histories: Any) -> Any:
        """Return histories with the values that count."""
        values = np.sign(histories.data) if self.binary else histories.data
        return sp.csr_matrix((values, histories.indices, histories.indptr), histories.shape)

    def score_histories(self, histories: Any) -> Any:
        """Score all items for histories.

        Parameters
        ----------
        histories : scipy.sparse matrix, shape (n, items)

        Returns
        -------
        CSR matrix or array of float32, shape (n, items)
            Sparse where ``similarity_`` is.
        """
        self._require_fitted()
        if histories.shape[1] != len(self.item_map):
            raise ValueError(f"histories: shape {histories.shape}; expected {len(self.item_map)} columns")
        scores = self._valued(sp.csr_matrix(histories, dtype=np.float32)) @ self._transposed()
        return scores if sp.issparse(scores) else np.asarray(scores, np.float32)

    def _transposed(self) -> Any:
        if not sp.issparse(self.similarity_):
            return self.similarity_.T
        held: tuple[Any, Any] | None = self.__dict__.get("_by_past_item")
        if held is None or held[0] is not self.similarity_:
            held = self._by_past_item = (self.similarity_, self.similarity_.T.tocsr())
        return held[1]

    def _score_block(self, rows: npt.NDArray[np.int64]) -> Float32:
        scores = self.score_histories(self._seen.matrix[rows])
        return np.asarray(scores.toarray() if sp.issparse(scores) else scores, np.float32)

    def similar_items(self, items: Any, k: int = 10) -> Recommendations:
        """Find the items with the largest weights for ``items``; those without any weight are not listed."""
        self._require_fitted()
        rows, k = self.item_map.rows(items, argument="items"), _arrays.whole(k, argument="k", least=1)
        weights = self.similarity_[rows]
        block = np.array(weights.toarray() if sp.issparse(weights) else weights, np.float32)
        block[block == 0] = -np.inf
        found, best = select_padded(block, k, self.threads)
        return Recommendations(self.item_map.ids_of(found), found, best, self.item_map.ids[rows], "item")

    def explain(self, user: Any, item: Any) -> tuple[npt.NDArray[Any], Float32]:
        """Return the user's past items and what each adds to the score of ``item``, the largest first."""
        self._require_fitted()
        u = int(self.user_map.rows(np.asarray([user]), argument="user")[0])
        i = int(self.item_map.rows(np.asarray([item]), argument="item")[0])
        history = self._seen.matrix[[u]]
        weights = self.similarity_[[i]]
        weights = weights.toarray()[0] if sp.issparse(weights) else weights[0]
        parts = self._valued(history).data * weights[history.indices]
        order = np.argsort(-parts, kind="stable")
        return self.item_map.ids[history.indices[order]], parts[order].astype(np.float32)

    def _settings(self) -> dict[str, Any]:
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the model, its ids and what users have seen; see :meth:`load`."""
        self._require_fitted()
        tensors, metadata = self._packed()
        tensors.update(_storage.pack_interactions("seen", self._seen))
        _storage.save_tensors(path, tensors, kind=type(self).__name__, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; ValueError where the file is damaged or another model's."""
        tensors, metadata = _storage.load_tensors(path, kind=cls.__name__)
        return cls._unpacked(tensors, metadata, _storage.unpack_interactions("seen", tensors))

    def _packed(self) -> tuple[_storage.Tensors, dict[str, Any]]:
        """Return what was learned, without the interactions."""
        return _storage.pack_matrix("similarity", self.similarity_), {"settings": self._settings()}

    @classmethod
    def _unpacked(cls, tensors: _storage.Tensors, metadata: dict[str, Any], seen: Interactions) -> Self:
        """Undo :meth:`_packed`."""
        model = cls(**metadata["settings"])
        model._seen, model.user_map, model.item_map = seen, seen.user_map, seen.item_map
        weights = _storage.unpack_matrix("similarity", tensors)
        model.similarity_ = weights if sp.issparse(weights) else np.asfortranarray(weights)
        return model


class ItemKNN(ItemModel):
    """Item neighbourhoods: each item is scored by the most similar items of a user's history.

    Parameters
    ----------
    neighbors : int
        Most similar items kept for each item.
    similarity : {"cosine", "euclidean", "pearson", "jaccard"}
        Of item columns. "euclidean" is 1 / (1 + distance), over pairs with a user in common; "pearson" the cosine of
        columns whose observed values were centred; "jaccard" shared users over all users of the two.
    weighting : {"none", "degree", "tfidf", "bm25"}
        Of interactions before: "degree" divides by the square roots of the user's and the item's number of
        interactions, and the score of an item by its own in the end (a linear graph filter); "tfidf" and "bm25"
        give users with many interactions less say.
    shrinkage : float
        Added to the denominator (of "euclidean" and "degree": scaled by support / (support + shrinkage)).
    feature_weight : float
        Item features of unit length, where ``fit`` is given some, count as so many times the interactions, which
        are brought to unit length too (cosine).
    binary : bool
        Count every interaction as 1, whatever its value, and those below 0 (dislikes) as -1.
    threads : int, optional

    Notes
    -----
    Cost: sum over users of n_u^2 products, and memory of ``items * neighbors`` pairs.

    References: Deshpande and Karypis, "Item-based top-N recommendation algorithms" (2004); the linear filter: Shen et
    al., "How powerful is graph convolution for recommendation?" (CIKM 2021).
    """

    def __init__(
        self,
        neighbors: int = 100,
        *,
        similarity: Similarity = "cosine",
        weighting: Weighting = "none",
        shrinkage: float = 0.0,
        feature_weight: float = 1.0,
        binary: bool = False,
        threads: int | None = None,
    ) -> None:
        for argument, value, known in (
            ("similarity", similarity, _SIMILARITIES), ("weighting", weighting, _WEIGHTINGS)
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{argument}: {value!r}; expected {' or '.join(map(repr, known))}")
        if weighting == "degree" and similarity != "cosine":
            raise ValueError(f"weighting: 'degree' with similarity {similarity!r}; expected 'cosine'")
        self.neighbors = _arrays.whole(neighbors, argument="neighbors", least=1)
        self.similarity, self.weighting = similarity, weighting
        self.shrinkage = _arrays.real(shrinkage, argument="shrinkage")
        self.feature_weight = _arrays.real(feature_weight, argument="feature_weight")
        self.binary = bool(binary)
        _arrays.thread_count(threads)
        self.threads = threads

    def _settings(self) -> dict[str, Any]:
        names = ("neighbors", "similarity", "weighting", "shrinkage", "feature_weight", "binary")
        return {name: getattr(self, name) for name in names}

    def _learn(self, data: Interactions, item_features: Any) -> Any:
        if item_features is not None and self.similarity != "cosine":
            raise ValueError(f"item_features: given with similarity {self.similarity!r}; expected 'cosine'")
        columns = self._columns(data.matrix)
        if item_features is not None:
            words = unit_rows(sp.csr_matrix(item_features, dtype=np.float64)) * self.feature_weight
            columns = sp.hstack([unit_rows(columns), words], format="csr")
        return self._nearest(columns, np.diff(data.matrix.tocsc().indptr))

    def _columns(self, matrix: Any) -> Any:
        """Return items by users, weighted; float64, for the sums."""
        counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
        lengths = np.diff(matrix.indptr)
        weighted = sp.csr_matrix(matrix, dtype=np.float64, copy=True)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        if self.weighting == "degree":
            weighted.data /= np.sqrt(lengths[rows] * counts[matrix.indices])
        elif self.weighting == "tfidf":
            weighted.data *= np.log1p(matrix.shape[1] / lengths[rows])
        elif self.weighting == "bm25":
            span = 0.25 + 0.75 * counts[matrix.indices] / max(counts.mean(), 1e-12)
            weighted.data *= np.log1p(matrix.shape[1] / lengths[rows]) * 2.2 / (weighted.data + 1.2 * span)
        if self.similarity == "pearson":
            weighted.data -= (np.bincount(weighted.indices, weighted.data, len(counts)) / np.maximum(counts, 1))[
                weighted.indices
            ]
        return weighted.T.tocsr()

    def _nearest(self, columns: Any, counts: npt.NDArray[Any]) -> Any:
        """Keep the best of every row of the item-to-item matrix, a block of rows at a time."""
        items, squares = columns.shape[0], np.asarray(columns.multiply(columns).sum(axis=1)).ravel()
        binary = sp.csr_matrix((np.ones(columns.nnz), columns.indices, columns.indptr), columns.shape)
        others, binary_others = columns.T.tocsr(), binary.T.tocsr()
        step, parts, threads = max(1, _BLOCK_ENTRIES // max(items, 1)), [], _arrays.thread_count(self.threads)
        for start in range(0, items, step):
            rows = np.arange(start, min(start + step, items))
            product = (columns[rows] @ others).tocsr()
            support = (binary[rows] @ binary_others).tocsr() if self._needs_support else None
            if support is not None:
                product, support = _aligned(product, support)
            values = self._similarities(product, support, squares, counts, rows)
            parts.append(_best_of_rows(values, product, rows, self.neighbors, threads))
        found = sp.vstack(parts, format="csr")
        if self.weighting == "degree":  # of the history's items out, of the scored item in
            rows = np.repeat(np.arange(items), np.diff(found.indptr))
            found.data *= np.sqrt(counts[rows] / np.maximum(counts[found.indices], 1))
        return found.astype(np.float32)

    @property
    def _needs_support(self) -> bool:
        scaled = self.shrinkage > 0 and (self.similarity == "euclidean" or self.weighting == "degree")
        return self.similarity == "jaccard" or scaled

    def _similarities(
        self, product: Any, support: Any, squares: npt.NDArray[Any], counts: npt.NDArray[Any], rows: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        mine, theirs = np.repeat(rows, np.diff(product.indptr)), product.indices
        dots, shrink = product.data, self.shrinkage
        if self.similarity == "jaccard":
            shared = support.data
            return np.asarray(shared / (counts[mine] + counts[theirs] - shared + shrink))
        if self.similarity == "euclidean":
            distance = np.sqrt(np.maximum(squares[mine] + squares[theirs] - 2 * dots, 0.0))
            found = 1.0 / (1.0 + distance)
        elif self.weighting == "degree":
            found = dots  # columns are normalized already
        else:
            return np.asarray(dots / (np.sqrt(squares[mine] * squares[theirs]) + shrink + 1e-12))
        return np.asarray(found if shrink == 0 else found * support.data / (support.data + shrink))


def unit_rows(matrix: Any) -> Any:
    """Scale the rows of a sparse matrix to unit length; rows of zeros stay."""
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags_array(1.0 / np.maximum(norms, 1e-12)) @ matrix)


def _aligned(product: Any, support: Any) -> tuple[Any, Any]:
    """Give both matrices the pattern of ``support``, of which that of ``product`` is a part."""
    product.sort_indices()
    support.sort_indices()
    width = support.shape[1]
    keys, wanted = (
        np.repeat(np.arange(m.shape[0], dtype=np.int64), np.diff(m.indptr)) * width + m.indices
        for m in (product, support)
    )
    data = np.zeros(len(wanted))
    data[np.searchsorted(wanted, keys)] = product.data
    return sp.csr_matrix((data, support.indices, support.indptr), support.shape), support


def _best_of_rows(values: npt.NDArray[np.float64], product: Any, rows: npt.NDArray[Any], k: int, threads: int) -> Any:
    """Keep the ``k`` largest positive entries of each row, ties by column; the diagonal is left out."""
    block = sp.csr_matrix((values, product.indices, product.indptr), product.shape).toarray()
    block[np.arange(len(rows)), rows] = 0.0
    columns, best = _core.select(block, min(k, product.shape[1]), threads)
    kept = best > 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    found = sp.csr_matrix((best[kept], columns[kept].astype(np.int32), indptr), shape=product.shape)
    found.sort_indices()
    return found


class EASE(ItemModel):
    """The linear autoencoder in closed form: B = I - P / diag(P), P = (X^T X + regularization I)^-1.

    Parameters
    ----------
    regularization : float
    neighbors : int, optional
        Keep only so many weights for each item, those of the largest magnitude. The default keeps all.
    binary : bool
        Count every interaction as 1, whatever its value, and those below 0 (dislikes) as -1.
    threads : int, optional

    Notes
    -----
    Cost: 2 m^3 operations (NumPy's matrix products), m the number of items, or that of users where there are fewer than
    3 for 4 items (Woodbury's identity); and 4 * items^2 bytes for an inverse in float32 beyond 8,192 items,
    8 * items^2 up to there: 41,000 items need 6.7 GB, and beside it as much as users * items do by way of the users.
    Fitting raises MemoryError where that cannot be had.

    Reference: Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019).
    """

    def __init__(
        self,
        regularization: float = 100.0,
        *,
        neighbors: int | None = None,
        binary: bool = False,
        threads: int | None = None,
    ) -> None:
        self.regularization = _arrays.real(regularization, argument="regularization", positive=True)
        self.neighbors = None if neighbors is None else _arrays.whole(neighbors, argument="neighbors", least=1)
        self.binary = bool(binary)
        _arrays.thread_count(threads)
        self.threads = threads

    def _settings(self) -> dict[str, Any]:
        return {"regularization": self.regularization, "neighbors": self.neighbors, "binary": self.binary}

    def _learn(self, data: Interactions, item_features: Any) -> Any:
        if item_features is not None:
            raise ValueError("item_features: given; expected none: EASE learns from interactions alone")
        weights = self._inverse(data.matrix)
        scale = -np.diag(weights).copy()
        if self.neighbors is None:
            weights /= scale
            np.fill_diagonal(weights, 0.0)
            return np.ascontiguousarray(weights, np.float32).T
        weights /= scale[:, None]  # row i of B^T: column i of B, as P is symmetric
        np.fill_diagonal(weights, 0.0)
        return _truncated(weights, self.neighbors)

    def _inverse(self, matrix: Any) -> npt.NDArray[Any]:
        """Return P, by the smaller of two inverses."""
        users, items = matrix.shape
        if 4 * users > 3 * items:  # about where what the other way holds beside P no longer pays
            return self._inverse_of_gramian(matrix)
        # Woodbury's identity: P = (I - X^T (X X^T + regularization I)^-1 X) / regularization.
        columns = matrix.T.tocsr()
        among_users = self._inverse_of_gramian(columns)
        columns = columns.astype(among_users.dtype)
        half = columns @ among_users
        del among_users
        inverse = self._empty(items, _dtype(items))
        for start in range(0, items, _PIVOT_ROWS):
            block = (columns @ half[start : start + _PIVOT_ROWS].T).T
            np.divide(block, -self.regularization, out=block)
            inverse[start : start + len(block)] = block
        inverse.flat[:: items + 1] += 1 / self.regularization
        return inverse

    def _inverse_of_gramian(self, matrix: Any) -> npt.NDArray[Any]:
        """Return the inverse of X^T X + regularization I."""
        size, dtype = matrix.shape[1], _dtype(matrix.shape[1])
        gramian = self._empty(size, dtype)
        columns = matrix.T.tocsr().astype(dtype)
        rows = matrix.astype(dtype)
        step = max(1, _BLOCK_ENTRIES // max(size, 1))
        for start in range(0, size, step):
            gramian[start : start + step] = (columns[start : start + step] @ rows).toarray()
        gramian.flat[:: size + 1] += self.regularization
        _invert(gramian)
        return gramian

    def _empty(self, size: int, dtype: Any) -> npt.NDArray[Any]:
        try:
            return np.empty((size, size), dtype)
        except MemoryError:
            held = size * size * np.dtype(dtype).itemsize
            raise MemoryError(f"EASE: {size} items need a dense matrix of {held:,} bytes") from None


def _dtype(size: int) -> Any:
    return np.float64 if size <= 8192 else np.float32


def _invert(matrix: npt.NDArray[Any]) -> None:
    """Invert a positive definite matrix in its own memory: Gauss and Jordan's elimination, a block of rows at a time.

    LAPACK would need less than half the operations, and fails where a matrix has more than 2^31 bytes.
    """
    for start in range(0, len(matrix), _PIVOT_ROWS):
        here = slice(start, start + _PIVOT_ROWS)
        pivot = np.linalg.inv(matrix[here, here])
        row = pivot @ matrix[here]
        row[:, here] = pivot
        for first in range(0, len(matrix), _PIVOT_ROWS):
            if first == start:
                continue
            other = matrix[first : first + _PIVOT_ROWS]
            factor = other[:, here].copy()
            other[:, here] = 0.0
            other -= factor @ row
        matrix[here] = row


def _truncated(weights: npt.NDArray[Any], neighbors: int) -> Any:
    """Keep the entries of the largest magnitude of each row."""
    items, width = len(weights), min(neighbors, len(weights))
    columns = np.empty((items, width), np.int32)
    for start in range(0, items, 512):
        block = np.abs(weights[start : start + 512])
        columns[start : start + 512] = np.sort(np.argpartition(-block, width - 1, axis=1)[:, :width], axis=1)
    data = np.take_along_axis(weights, columns, axis=1).astype(np.float32).ravel()
    kept = sp.csr_matrix((data, columns.ravel(), np.arange(items + 1) * width), shape=(items, items))
    kept.eliminate_zeros()
    return kept


__all__ = ["EASE", "ItemKNN", "ItemModel"]
