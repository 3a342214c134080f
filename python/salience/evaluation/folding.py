"""Users whom training never saw: how a fitted model ranks and scores items for their histories.

A model can be asked in one of three ways, tried in this order:

- ``score_histories(csr)``: scores of all items, as :class:`salience.ItemKNN` and :class:`salience.EASE` give them;
- ``fold_in(csr)``: user vectors, whose inner products with ``item_factors_`` (or the item vectors of a VectorModel) are
  the scores, as of :class:`salience.ALS` of either feedback and :class:`salience.Popularity`;
- ``recommend(users, k, *, exclude_seen, interactions=csr)``, as of :class:`salience.HybridScorer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience._arrays import dense, describe
from salience.evaluation import _checks
from salience.evaluation.metrics import FloatArray, IntArray
from salience.evaluation.sources import FactorSource, ModelSource, ScoreSource, Source, known_ids
from salience.interactions import Interactions
from salience.models import VectorModel, by_user

_SCORES_A_CALL = 1 << 24  # of a block of users that are held at once


class Folded(Source, Protocol):
    """A source of rankings that also scores pairs."""

    def score_pairs(self, rows: IntArray, items: IntArray) -> FloatArray:
        """Score ``rows[n]`` of the test part with ``items[n]`` of it; NaN where there is no score."""


@dataclass(frozen=True, eq=False)
class FoldedVectors(FactorSource):
    """Histories become user vectors."""

    def score_pairs(self, rows: IntArray, items: IntArray) -> FloatArray:
        """See :class:`Folded`."""
        distinct, where = np.unique(rows, return_inverse=True)
        users = self.queries(distinct).astype(np.float64)
        return np.asarray(np.einsum("nd,nd->n", users[where], self.items[items].astype(np.float64)))


@dataclass(frozen=True, eq=False)
class FoldedScores(ScoreSource):
    """Histories become scores of all items."""

    def score_pairs(self, rows: IntArray, items: IntArray) -> FloatArray:
        """See :class:`Folded`."""
        out = np.empty(rows.size)
        for chosen, pairs, where in by_user(rows, self.users_a_call):
            out[pairs] = np.asarray(self.score(rows[chosen]))[where, items[pairs]]
        return out


@dataclass(frozen=True, eq=False, kw_only=True)
class FoldedModel(ModelSource):
    """The model takes histories as an argument of ``recommend`` and ``score``."""

    histories: Callable[[IntArray], Any]

    def known(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Rank for everybody: all that is to be known of a user is the history."""
        return np.ones(rows.size, dtype=np.bool_)

    def options(self, rows: IntArray) -> dict[str, Any]:
        """Give the histories beside what :class:`ModelSource` asks with."""
        return {"interactions": self.histories(rows)}

    def score_pairs(self, rows: IntArray, items: IntArray) -> FloatArray:
        """See :class:`Folded`."""
        if not _takes_histories(getattr(self.model, "score", None)):
            raise TypeError(
                f"model: {describe(self.model)} without score() for histories; expected score(users, items, *, "
                "interactions) for ratings of users in fold_in"
            )
        names, users = self.test.item_map.ids_of(items), self.test.user_map.ids_of(rows)
        known = known_ids(self.model, "item_map", names)
        out = np.full(rows.size, np.nan)
        if known.any():
            given = self.histories(rows[known])
            out[known] = self.model.score(users[known], names[known], interactions=given)
        return out


def choose(
    model: Any, test: Interactions, fold_in: Interactions, *, exclude_seen: bool, threads: int | None, batch: int
) -> Folded:
    """Return how ``model`` can be asked about users of whom it is given the histories; TypeError where it cannot."""

    def seen(rows: IntArray) -> Any:
        return fold_in.matrix[rows] if exclude_seen else None

    if callable(getattr(model, "score_histories", None)):
        _require_items(model, test)
        few = max(1, min(batch, _SCORES_A_CALL // max(test.shape[1], 1)))
        return FoldedScores(lambda rows: _scores(model, fold_in.matrix[rows]), seen, threads, few)
    if callable(getattr(model, "fold_in", None)):
        _require_items(model, test)
        vectors = _item_vectors(model, test.shape[1])
        return FoldedVectors(lambda rows: _user_vectors(model, fold_in.matrix[rows], vectors), vectors, seen, threads,
                             16 * batch)  # fmt: skip
    if _takes_histories(getattr(model, "recommend", None)):
        return FoldedModel(model, test, exclude_seen, batch, histories=_mapped(model, test, fold_in))
    raise TypeError(
        f"model: {describe(model)}, which ranks only for users that it was fitted on; expected score_histories(csr), "
        "fold_in(csr) with item_factors_, or recommend(users, k, *, exclude_seen, interactions) to rank for the "
        "histories in fold_in"
    )


def _takes_histories(method: Any) -> bool:
    return callable(method) and "interactions" in inspect.signature(method).parameters


def _require_items(model: Any, test: Interactions) -> None:
    ours = getattr(model, "item_map", None)
    if ours is not None and not _checks.same_ids(ours, test.item_map):
        raise ValueError("model: other items than those of test; expected the same ones in the same order, to fold in")


def _scores(model: Any, histories: Any) -> Any:
    scores = model.score_histories(histories)
    return scores.toarray() if sp.issparse(scores) else scores


def _item_vectors(model: Any, items: int) -> npt.NDArray[np.float32]:
    if isinstance(model, VectorModel):
        return model._item_vectors()
    if not hasattr(model, "item_factors_"):
        raise TypeError(f"model: {describe(model)} with fold_in() and without item_factors_; expected both")
    vectors = dense(model.item_factors_, argument="item_factors_")
    if len(vectors) != items:
        raise ValueError(f"item_factors_: {len(vectors)} rows; expected {items}, as the test part has")
    return vectors


def _user_vectors(model: Any, histories: Any, items: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    fold = model._vectors_of if isinstance(model, VectorModel) else model.fold_in
    users = np.asarray(fold(histories))
    if users.shape != (histories.shape[0], items.shape[1]):
        raise ValueError(
            f"model: fold_in() gave shape {users.shape}; expected {(histories.shape[0], items.shape[1])}, as wide as "
            "the item vectors"
        )
    return users


def _mapped(model: Any, test: Interactions, fold_in: Interactions) -> Callable[[IntArray], Any]:
    """Return histories with the columns of the model's items; what it does not know is left out."""
    ours = getattr(model, "item_map", None)
    if ours is None or _checks.same_ids(ours, test.item_map):
        return lambda rows: fold_in.matrix[rows]
    places = ours.find(test.item_map.ids_of(np.arange(test.shape[1])), argument="test: item ids")
    kept = fold_in.select(places[fold_in.matrix.indices] >= 0).matrix
    parts = kept.data, places[kept.indices], kept.indptr
    matrix = sp.csr_matrix(parts, shape=(test.shape[0], len(ours)))
    matrix.sort_indices()
    return lambda rows: matrix[rows]
