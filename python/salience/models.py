"""What every recommender offers, and the one place where vectors become recommendations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self

from salience import _arrays, _core, _storage
from salience.interactions import IdMap, Interactions, as_interactions, make_frame
from salience.similarity import Index, Metric

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recommendations:
    """The ``k`` best items for each of n queries.

    Attributes
    ----------
    ids : array, shape (n, k)
        The caller's item ids: int64 padded with -1, or str padded with None.
    rows : array of int64, shape (n, k)
        The same as item rows, padded with -1.
    scores : array of float32, shape (n, k)
        Padded with -inf.
    queries : array, shape (n,)
        The ids that were asked for.
    """

    ids: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]
    scores: Float32
    queries: npt.NDArray[Any]
    query_name: str = "user"

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many items each query got, shape (n,)."""
        return np.asarray((self.rows >= 0).sum(axis=1))

    def __len__(self) -> int:
        return len(self.rows)

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with columns user (or item), item, rank from 1, and score."""
        filled = self.rows >= 0
        ranks = np.broadcast_to(np.arange(1, self.rows.shape[1] + 1), self.rows.shape)
        second = "item" if self.query_name == "user" else f"similar_{self.query_name}"
        columns = {
            self.query_name: np.repeat(self.queries, self.counts),
            second: self.ids[filled],
            "rank": ranks[filled],
            "score": self.scores[filled],
        }
        return make_frame(columns, backend)


@runtime_checkable
class Recommender(Protocol):
    """What evaluation, reranking and the command line need of a model."""

    user_map: IdMap
    item_map: IdMap

    def fit(self, interactions: Any) -> Self:
        """Learn from interactions."""

    def recommend(self, users: Any, k: int = 10, *, exclude_seen: bool = True) -> Recommendations:
        """Rank items for users."""

    def score(self, users: Any, items: Any) -> Float32:
        """Score pairs."""


class RankingModel:
    """What models have in common: ids, filters, and the checks of their arguments.

    Subclasses set ``user_map``, ``item_map`` and ``_seen`` (training interactions), and provide ``_search`` and
    ``_score_pairs``, which work on rows.
    """

    user_map: IdMap
    item_map: IdMap
    _seen: Interactions
    threads: int | None = None

    def _search(
        self, rows: npt.NDArray[np.int64], k: int, exclude: _arrays.Pattern | None, allow: Any, deny: Any
    ) -> tuple[npt.NDArray[np.int64], Float32]:
        """Return the item rows of the ``k`` best, padded with -1, and their scores, padded with -inf."""
        raise NotImplementedError

    def _score_pairs(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Float32:
        raise NotImplementedError

    def _require_fitted(self) -> None:
        if not hasattr(self, "_seen"):
            raise ValueError(f"{type(self).__name__}: not fitted; expected fit(...) to be called first")

    def recommend(
        self,
        users: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Any = None,
        deny: Any = None,
    ) -> Recommendations:
        """Rank items for users, exactly.

        Parameters
        ----------
        users : array, shape (n,)
            The caller's ids (row numbers where the model was fitted on a bare matrix).
        k : int
            May exceed the number of items; the rest of a row is padding.
        exclude_seen : bool
            Leave out what the user had in training.
        allow, deny : array, optional
            Item ids, or a mask over item rows.

        Returns
        -------
        Recommendations

        Raises
        ------
        TypeError, ValueError
            Naming the argument; unknown users are named.
        """
        self._require_fitted()
        rows = self.user_map.rows(users, argument="users")
        exclude = _arrays.pattern_of_rows(self._seen.matrix, rows) if exclude_seen else None
        found, scores = self._search(
            rows, k, exclude, self._item_filter(allow, "allow"), self._item_filter(deny, "deny")
        )
        return Recommendations(self.item_map.ids_of(found), found, scores, self.user_map.ids_of(rows))

    def score(self, users: Any, items: Any) -> Float32:
        """Score pairs: ``users[n]`` with ``items[n]``; float32, shape (n,)."""
        self._require_fitted()
        u = self.user_map.rows(users, argument="users")
        i = self.item_map.rows(items, argument="items")
        if len(u) != len(i):
            raise ValueError(f"items: {len(i)} of them; expected one for each of the {len(u)} users")
        return self._score_pairs(u, i)

    def _item_filter(self, ids: Any, argument: str) -> Any:
        if ids is None:
            return None
        array = np.asarray(ids)
        return array if array.dtype == np.bool_ else self.item_map.rows(array, argument=argument)


class BlockModel(RankingModel):
    """A recommender that scores all items for a block of users at a time.

    Subclasses provide ``_score_block(rows)``, finite float32 of shape (len(rows), items).
    """

    def _score_block(self, rows: npt.NDArray[np.int64]) -> Float32:
        raise NotImplementedError

    def _search(
        self, rows: npt.NDArray[np.int64], k: int, exclude: _arrays.Pattern | None, allow: Any, deny: Any
    ) -> tuple[npt.NDArray[np.int64], Float32]:
        items, k = len(self.item_map), _arrays.whole(k, argument="k", least=1)
        mask = _arrays.item_mask(allow, deny, items)
        found = np.full((len(rows), k), -1)
        best = np.full((len(rows), k), -np.inf, np.float32)
        for start in range(0, len(rows), self._users_a_block()):
            part = slice(start, start + self._users_a_block())
            scores = self._score_block(rows[part])
            if mask is not None:
                scores[:, ~mask] = -np.inf
            if exclude is not None:
                ends = exclude[0][start : start + len(scores) + 1]
                where = np.repeat(np.arange(len(scores)), np.diff(ends))
                scores[where, exclude[1][ends[0] : ends[-1]]] = -np.inf
            found[part], best[part] = select_padded(scores, k, self.threads)
        return found, best

    def _users_a_block(self) -> int:
        return max(1, min(1024, (1 << 24) // max(len(self.item_map), 1)))

    def _score_pairs(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Float32:
        out = np.empty(len(users), np.float32)
        for chosen, pairs, where in by_user(users, self._users_a_block()):
            out[pairs] = self._score_block(users[chosen])[where, items[pairs]]
        return out


def by_user(
    users: npt.NDArray[np.int64], step: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Group pairs by their users, ``step`` users at a time.

    Yields the place of one pair of each user; the places of all pairs of these users; and which of the users each of
    those pairs belongs to.
    """
    _, first, where = np.unique(users, return_index=True, return_inverse=True)
    order = np.argsort(where, kind="stable")
    ends = np.searchsorted(where[order], np.arange(len(first) + 1))
    for start in range(0, len(first), step):
        pairs = order[ends[start] : ends[min(start + step, len(first))]]
        yield first[start : start + step], pairs, where[pairs] - start


def select_padded(scores: Float32, k: int, threads: int | None) -> tuple[npt.NDArray[np.int64], Float32]:
    """Return the ``k`` best columns of each row and their scores; -1 where there are no more, or all are -inf."""
    width = min(k, scores.shape[1])
    found, best = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf, np.float32)
    if width:
        found[:, :width], best[:, :width] = _core.select(scores, width, _arrays.thread_count(threads))
    found[np.isneginf(best)] = -1
    return found, best


class VectorModel(RankingModel):
    """A recommender whose score is an inner product of a user's and an item's vector.

    Subclasses provide ``_query_vectors(rows)`` and ``_item_vectors()``, and call ``_forget_indexes()`` when those
    change.
    """

    def _query_vectors(self, rows: npt.NDArray[np.int64]) -> Float32:
        raise NotImplementedError

    def _item_vectors(self) -> Float32:
        raise NotImplementedError

    def _vectors_of(self, histories: Any) -> Float32:
        """Return query vectors of users who were not trained on, where the model has ``fold_in``."""
        found: Float32 = self.fold_in(histories)  # type: ignore[attr-defined]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_indexes": {}}  # packed copies are made again where they are needed

    def _forget_indexes(self) -> None:
        self._indexes: dict[tuple[str, Metric], Index] = {}

    def _index(self, name: str, metric: Metric, vectors: Callable[[], Float32]) -> Index:
        """Pack vectors for search when they are first searched."""
        found = self._indexes.get((name, metric))
        if found is None:
            found = self._indexes[name, metric] = Index.borrow(vectors(), metric=metric, threads=self.threads)
        return found

    def _search(
        self, rows: npt.NDArray[np.int64], k: int, exclude: _arrays.Pattern | None, allow: Any, deny: Any
    ) -> tuple[npt.NDArray[np.int64], Float32]:
        index = self._index("item", "dot", self._item_vectors)
        return index.search_padded(self._query_vectors(rows), k, exclude, allow, deny)

    def _score_pairs(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Float32:
        vectors, out = self._item_vectors(), np.empty(len(users), np.float32)
        distinct, where = np.unique(users, return_inverse=True)
        queries = self._query_vectors(distinct)
        for start in range(0, len(users), 65536):
            part = slice(start, start + 65536)
            pairs = queries[where[part]].astype(np.float64) * vectors[items[part]]
            out[part] = pairs.sum(axis=1)
        return out

    def similar_items(self, items: Any, k: int = 10, *, metric: Metric = "cosine") -> Recommendations:
        """Find the items whose vectors are nearest to those of ``items``; each leaves itself out."""
        self._require_fitted()
        rows = self.item_map.rows(items, argument="items")
        vectors = self._similarity_vectors(self._item_vectors())
        return self._neighbours(vectors, rows, k, metric, self.item_map, "item")

    def similar_users(self, users: Any, k: int = 10, *, metric: Metric = "cosine") -> Recommendations:
        """Find the users whose vectors are nearest to those of ``users``; each leaves itself out."""
        self._require_fitted()
        rows = self.user_map.rows(users, argument="users")
        vectors = self._similarity_vectors(self._query_vectors(np.arange(len(self.user_map))))
        return self._neighbours(vectors, rows, k, metric, self.user_map, "user")

    def _similarity_vectors(self, vectors: Float32) -> Float32:
        return vectors

    def _neighbours(
        self,
        vectors: Float32,
        rows: npt.NDArray[np.int64],
        k: int,
        metric: Metric,
        ids: IdMap,
        name: str,
    ) -> Recommendations:
        itself = np.arange(len(rows) + 1), rows.astype(np.int32)
        index = self._index(f"similar {name}", metric, lambda: vectors)
        found, scores = index.search_padded(vectors[rows], k, itself, None, None)
        return Recommendations(ids.ids_of(found), found, scores, ids.ids[rows], name)


class Popularity(VectorModel):
    """Recommends what most users chose: the baseline that every model has to beat.

    The score of an item is the number of users who interacted with it.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        self.threads = threads

    def fit(self, interactions: Any, *, progress: Callable[[int, int], None] | None = None) -> Self:
        """Count; ``interactions`` are Interactions or a sparse matrix of users by items."""
        data = as_interactions(interactions)
        self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
        counts = np.bincount(data.matrix.indices, minlength=data.shape[1])
        self.counts_ = counts.astype(np.float32)
        self._forget_indexes()
        if progress is not None:
            progress(1, 1)
        return self

    def fold_in(self, interactions: Any) -> Float32:
        """Return the factors of new users, shape (n, 1): all alike, whatever their history."""
        return self._query_vectors(np.arange(as_interactions(interactions).shape[0]))

    def _query_vectors(self, rows: npt.NDArray[np.int64]) -> Float32:
        return np.ones((len(rows), 1), np.float32)

    def _item_vectors(self) -> Float32:
        return self.counts_[:, None]

    def save(self, path: str | Path) -> None:
        """Write the model; see :meth:`load`."""
        self._require_fitted()
        _storage.save_tensors(path, _storage.pack_interactions("seen", self._seen), kind="Popularity", metadata={})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; ValueError where the file is damaged or another model's."""
        tensors, _ = _storage.load_tensors(path, kind="Popularity")
        return cls().fit(_storage.unpack_interactions("seen", tensors))


__all__ = ["BlockModel", "Popularity", "RankingModel", "Recommendations", "Recommender", "VectorModel"]
