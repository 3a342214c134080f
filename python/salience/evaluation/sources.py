"""Where rankings come from: factors, a function that scores blocks of users, or a model that recommends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from salience import _arrays, _core
from salience._arrays import describe
from salience.evaluation import _checks, ranks
from salience.evaluation.lists import without_gaps
from salience.evaluation.metrics import IntArray
from salience.evaluation.ranks import BoolArray, Ranks
from salience.interactions import Interactions
from salience.models import BlockModel, RankingModel, VectorModel


@dataclass(frozen=True, eq=False)
class Factors:
    """User and item factors of any origin, to be evaluated: a score is their inner product.

    Parameters
    ----------
    user_factors : array of float32, shape (users, d)
        Rows as those of the test part.
    item_factors : array of float32, shape (items, d)
    """

    user_factors: Any
    item_factors: Any


@dataclass(frozen=True, eq=False)
class BlockScores:
    """Any recommender that scores all items for some users, to be evaluated.

    Parameters
    ----------
    score : callable
        ``score(rows)``, with an int64 array of user rows of the test part, returns an array of float32 or
        float64 of shape (len(rows), items): larger is better, NaN is an error; -inf is last, and a candidate
        all the same. It is called for a few hundred users at a time, and what it returns is not kept.
    """

    score: Callable[[IntArray], Any]


class Source(Protocol):
    """What an evaluation asks for rankings."""

    @property
    def knows_all_ranks(self) -> bool:
        """Whether it can say where any item stands, however far down."""

    @property
    def users_a_call(self) -> int:
        """How many users to ask for at once."""

    def known(self, rows: IntArray) -> BoolArray:
        """Tell which users there can be a ranking for."""

    def rank(self, rows: IntArray, held_out: Any, depth: int | None, k: int) -> tuple[Ranks, IntArray | None]:
        """Rank the held-out items of users that are known.

        Parameters
        ----------
        rows : int64 array of shape (n,)
            Of the test part.
        held_out : CSR matrix of shape (n, items)
        depth : int or None
            Ranks beyond it do not matter; None: all do.
        k : int
            Length of the lists to return; 0 for none.
        """


@dataclass(frozen=True, eq=False)
class FactorSource:
    """Inner products, by the compiled kernels; ``queries(rows)`` gives user vectors."""

    queries: Callable[[IntArray], npt.NDArray[np.float32]]
    items: npt.NDArray[np.float32]
    seen: Callable[[IntArray], Any]
    threads: int | None
    users_a_call: int
    is_known: Callable[[IntArray], BoolArray] = field(default=lambda rows: np.ones(rows.size, dtype=np.bool_))
    knows_all_ranks: bool = True

    def known(self, rows: IntArray) -> BoolArray:
        """See :class:`Source`."""
        return self.is_known(rows)

    def rank(self, rows: IntArray, held_out: Any, depth: int | None, k: int) -> tuple[Ranks, IntArray | None]:
        """See :class:`Source`."""
        users, seen = self.queries(rows), self.seen(rows)
        options = {"exclude": seen, "threads": self.threads}
        found = lists = None
        wanted = min(max(k, depth or 0), len(self.items))
        if wanted:
            found, lists = ranks.factor_lists(users, self.items, held_out, wanted, **options)
        if depth is None:
            found = ranks.factor_ranks(users, self.items, held_out, **options)
        assert found is not None
        return found, lists


@dataclass(frozen=True, eq=False)
class ScoreSource:
    """A function that scores all items for some users."""

    score: Callable[[IntArray], Any]
    seen: Callable[[IntArray], Any]
    threads: int | None
    users_a_call: int
    is_known: Callable[[IntArray], BoolArray] = field(default=lambda rows: np.ones(rows.size, dtype=np.bool_))
    knows_all_ranks: bool = True

    def known(self, rows: IntArray) -> BoolArray:
        """See :class:`Source`."""
        return self.is_known(rows)

    def rank(self, rows: IntArray, held_out: Any, depth: int | None, k: int) -> tuple[Ranks, IntArray | None]:
        """See :class:`Source`."""
        del depth  # the scores are there: all ranks cost a comparison each
        scores = np.asarray(self.score(rows))
        if scores.shape != held_out.shape or scores.dtype.kind != "f":
            raise ValueError(f"model: scores were {describe(scores)}; expected floats of shape {held_out.shape}")
        seen = self.seen(rows)
        found = ranks.score_ranks(scores, held_out, exclude=seen, threads=self.threads)
        return found, self._lists(scores, seen, k) if k else None

    def _lists(self, scores: npt.NDArray[Any], seen: Any, k: int) -> IntArray:
        # NaN stands for what is no candidate: score_ranks has made sure that nothing else is.
        candidates = np.array(scores)
        if seen is not None:
            users = np.repeat(np.arange(len(candidates)), np.diff(seen.indptr))
            candidates[users, seen.indices] = np.nan
        lists, best = _core.select(candidates, min(k, candidates.shape[1]), _arrays.thread_count(self.threads))
        lists[np.isnan(best)] = -1
        return lists


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A model with ``recommend(users, k, *, exclude_seen)``."""

    model: Any
    test: Interactions
    exclude_seen: bool
    users_a_call: int
    knows_all_ranks: bool = False

    def known(self, rows: IntArray) -> BoolArray:
        """See :class:`Source`."""
        return known_ids(self.model, "user_map", self.test.user_map.ids_of(rows))

    def options(self, rows: IntArray) -> dict[str, Any]:
        """Return what else to give ``recommend``."""
        del rows
        return {}

    def rank(self, rows: IntArray, held_out: Any, depth: int | None, k: int) -> tuple[Ranks, IntArray | None]:
        """See :class:`Source`."""
        # More than all items cannot be had.
        wanted = min(max(depth or 0, k), max(self.test.shape[1], len(getattr(self.model, "item_map", ()))))
        ids = self.test.user_map.ids_of(rows)
        answer = self.model.recommend(ids, wanted, exclude_seen=self.exclude_seen, **self.options(rows))
        found, ids = np.asarray(answer.rows), np.asarray(answer.ids)
        for name, array in (("rows", found), ("ids", ids)):
            if array.shape != (rows.size, wanted):
                raise ValueError(
                    f"model: recommend() gave {name} of shape {array.shape}; expected "
                    f"{(rows.size, wanted)}, short lists padded with -1"
                )
        if found.dtype.kind not in "iu":
            raise TypeError(f"model: recommend() gave rows of {found.dtype}; expected integers")
        lists = self._rows_in_test(found, ids)
        wide = widen(held_out, int(lists.max(initial=-1)) + 1)
        return ranks.list_ranks(lists, wide), lists

    def _rows_in_test(self, rows: IntArray, ids: npt.NDArray[Any]) -> IntArray:
        """Turn the model's item rows into those of test; rows beyond them are items that it does not know."""
        filled = rows >= 0
        found, names = rows[filled], ids[filled]
        # A model fitted on the same axes, the usual case, needs no look-up: its rows have these ids.
        items = self.test.shape[1]
        if not (found.size and found.max() < items and np.array_equal(self.test.items[found], names)):
            places = self.test.item_map.find(names, argument="model: item ids")
            found = np.where(places >= 0, places, items + found)
        lists = np.full(rows.shape, -1, dtype=np.int64)
        lists[filled] = found
        return without_gaps(lists)


def widen(matrix: Any, columns: int) -> Any:
    """Return a CSR matrix with at least so many columns, the same entries."""
    if matrix.shape[1] >= columns:
        return matrix
    wide = matrix.copy()
    wide.resize((matrix.shape[0], columns))
    return wide


def known_ids(model: Any, axis: str, ids: npt.NDArray[Any]) -> BoolArray:
    """Tell which ids a model knows; all where it does not say."""
    id_map = getattr(model, axis, None)
    if id_map is None:
        return np.ones(ids.size, dtype=np.bool_)
    return np.asarray(id_map.find(ids, argument=f"test: ids for the model's {axis}") >= 0)


def choose(
    model: Any,
    train: Interactions,
    test: Interactions,
    *,
    fold_in: Interactions | None,
    exclude_seen: bool,
    batch: int,
    threads: int | None,
) -> Source | None:
    """Return how ``model`` can be asked for rankings; None where it cannot."""
    seen_by = train if fold_in is None else fold_in

    def seen(rows: IntArray) -> Any:
        return seen_by.matrix[rows] if exclude_seen else None

    many = 16 * batch  # nothing but lists is kept of them
    if isinstance(model, Factors):
        users = _factors(model.user_factors, test.shape[0], "user_factors")
        items = _factors(model.item_factors, test.shape[1], "item_factors")
        return FactorSource(lambda rows: users[rows], items, seen, threads, many)
    if isinstance(model, BlockScores):
        if not callable(model.score):
            raise TypeError(f"model: BlockScores of {describe(model.score)}; expected a callable")
        few = max(1, min(batch, (1 << 24) // max(test.shape[1], 1)))
        return ScoreSource(model.score, seen, threads, few)
    # A model that ranks by inner products or blocks of scores, and by nothing else, needs no lists in between.
    if hasattr(model, "_seen") and _checks.same_ids(model.item_map, test.item_map):
        if _ranks_as(model, VectorModel):
            return _vector_source(model, test, exclude_seen=exclude_seen, threads=threads, batch=many)
        if _ranks_as(model, BlockModel):
            return _block_source(model, test, exclude_seen=exclude_seen, threads=threads)
    return ModelSource(model, test, exclude_seen, batch) if callable(getattr(model, "recommend", None)) else None


def _ranks_as(model: Any, kind: type[RankingModel]) -> bool:
    if not isinstance(model, kind):
        return False
    return type(model).recommend is RankingModel.recommend and type(model)._search is kind._search


def _vector_source(
    model: VectorModel, test: Interactions, *, exclude_seen: bool, threads: int | None, batch: int
) -> FactorSource:
    own = _own_rows(model, test)
    return FactorSource(
        lambda rows: model._query_vectors(own(rows)),
        model._item_vectors(),
        lambda rows: model._seen.matrix[own(rows)] if exclude_seen else None,
        model.threads if threads is None else threads,
        batch,
        lambda rows: own(rows) >= 0,
    )


def _block_source(model: BlockModel, test: Interactions, *, exclude_seen: bool, threads: int | None) -> ScoreSource:
    own = _own_rows(model, test)
    return ScoreSource(
        lambda rows: model._score_block(own(rows)),
        lambda rows: model._seen.matrix[own(rows)] if exclude_seen else None,
        model.threads if threads is None else threads,
        model._users_a_block(),
        lambda rows: own(rows) >= 0,
    )


def _own_rows(model: RankingModel, test: Interactions) -> Callable[[IntArray], IntArray]:
    return lambda rows: model.user_map.find(test.user_map.ids_of(rows), argument="test: user ids")


def _factors(value: Any, rows: int, argument: str) -> npt.NDArray[np.float32]:
    array = _arrays.dense(value, argument=argument)
    if len(array) != rows:
        raise ValueError(f"{argument}: {len(array)} rows; expected {rows}, as the test part has")
    return array
