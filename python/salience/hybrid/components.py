"""The parts of a hybrid score: each an inner product of a user's and an item's vector, or a sparse list of scores.

A component scores from a user's history alone, so that known users, new ones and those whose history has grown since
are all served alike. Where it has nothing to say about a user or an item, it is not available there, and takes no part.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp

from salience import _arrays
from salience._als import as_features
from salience.als import ALS
from salience.hybrid._features import FeatureMap, Regressor, reduced, truncated_svd, unit
from salience.interactions import Interactions, clean_ids
from salience.models import Float32, Popularity, VectorModel
from salience.neighbors import EASE, ItemKNN, ItemModel

if TYPE_CHECKING:
    from typing_extensions import Self

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

_EPOCHS_OF_REFRESH = 2
_HISTORY_NEIGHBORS = 200  # kept of a dense item-to-item matrix


class Component:
    """One part of a hybrid score.

    Subclasses set ``item_vectors``, shape (items, width), and ``item_available``, shape (items,), in ``fit``.

    Attributes
    ----------
    name : str
        Names the component's column in explanations and attention.
    """

    name: str
    item_vectors: Float32
    item_available: BoolArray

    def fresh(self) -> Self:
        """Return a copy with the same settings, to be fitted on other data."""
        return copy.copy(self)

    def item_ids(self) -> npt.NDArray[Any] | None:
        """Return the ids of items that the component knows beside those of the interactions."""
        return None

    def fit(self, data: Interactions) -> Self:
        """Learn from interactions whose axes hold all users and items."""
        raise NotImplementedError

    def refreshed(self, data: Interactions) -> Self:
        """Return the component fitted on data that has grown, from where it is; this one stays as it is."""
        twin = self.fresh()
        return twin.fit(data)

    def for_users(self, count: int) -> Self:
        """Return the component for ``count`` users, of whom the last came after its features of users."""
        del count
        return self

    def expect_newcomers(self) -> None:
        """Raise TypeError where histories other than those of training cannot be scored."""

    def user_vectors(self, histories: Any, rows: Rows | None) -> Float32:
        """Return user vectors, shape (n, width).

        Parameters
        ----------
        histories : CSR matrix, shape (n, items)
        rows : int64 array of shape (n,), optional
            Where the histories are those of training: the users' rows.
        """
        raise NotImplementedError

    def user_available(self, histories: Any, rows: Rows | None) -> BoolArray:
        """Tell about which users the component has something to say."""
        del rows
        return np.asarray(np.diff(histories.indptr) > 0)

    def additions(self, histories: Any) -> Any:
        """Return scores beside the inner products as a CSR matrix of shape (n, items), or None."""
        del histories

    def parts(self, history: Any, items: Rows, row: int | None) -> Float64 | None:
        """Return what each item of one history adds to the scores of ``items``, shape (len(items), history.nnz).

        None where the score is no sum over the history; what the parts do not add up to is the base.
        """
        del history, items, row
        return None

    def feature_parts(self, history: Any, item: int, row: int | None) -> dict[Any, float]:
        """Return what features add to the score of ``item``, by name."""
        del history, item, row
        return {}


class Collaborative(Component):
    """A factor model: what people who are alike chose.

    Parameters
    ----------
    model : VectorModel
        Unfitted, :class:`salience.ALS` as a rule; a copy is fitted.
    item_features, user_features : dense array or scipy.sparse matrix, optional
        Passed to the model's ``fit``; one row for each item (user) of the interactions, in row order.
    name : str
    """

    def __init__(
        self, model: VectorModel, *, item_features: Any = None, user_features: Any = None, name: str = "collaborative"
    ) -> None:
        if not isinstance(model, VectorModel):
            raise TypeError(f"model: {_arrays.describe(model)}; expected a VectorModel such as ALS")
        self.model, self.name = model, name
        self.item_features, self.user_features = item_features, user_features
        self._outdated = False  # the users that the model holds are not those of the scorer any more

    def fresh(self) -> Self:
        """Return an unfitted copy."""
        twin = copy.copy(self)
        twin.model, twin._outdated = copy.deepcopy(self.model), False
        return twin

    def fit(self, data: Interactions) -> Self:
        """Fit the model."""
        return self._fit(data)

    def _fit(self, data: Interactions, **how: Any) -> Self:
        features = {"item_features": self.item_features, "user_features": self.user_features}
        self.model.fit(data, **{name: given for name, given in features.items() if given is not None}, **how)  # type: ignore[attr-defined]
        self.item_vectors = self.model._item_vectors()
        seen = np.bincount(data.matrix.indices, minlength=data.shape[1]) > 0
        everywhere = self.item_features is not None or self.predicts_ratings
        self.item_available = np.ones(data.shape[1], bool) if everywhere else seen
        return self

    @property
    def predicts_ratings(self) -> bool:
        """Whether scores are ratings: then mean and biases speak for users and items without history as well."""
        return getattr(self.model, "feedback", None) == "explicit"

    def user_vectors(self, histories: Any, rows: Rows | None) -> Float32:
        """Return the model's own vectors for users of training, folded in ones for others."""
        if rows is not None and not self._outdated:
            return self.model._query_vectors(rows)
        self.expect_newcomers()
        if not isinstance(self.model, ALS):
            return np.asarray(self.model.fold_in(histories), np.float32)  # type: ignore[attr-defined]
        prior = {}
        if self.user_features is not None:
            width = as_features(self.user_features, len(self.model.user_map), "user_features").shape[1]
            prior["user_features"] = sp.csr_array((histories.shape[0], width), dtype=np.float32)
        return self.model._queries_of(self.model.fold_in(histories, **prior))

    def expect_newcomers(self) -> None:
        """Raise TypeError where the model has no fold_in."""
        if not hasattr(self.model, "fold_in"):
            raise TypeError(f"model: {type(self.model).__name__} cannot score users that it was not fitted on")

    def for_users(self, count: int) -> Self:
        """Return a copy whose features are zeros for users who came since."""
        twin = copy.copy(self)
        if self.user_features is not None:
            held = sp.csr_array(as_features(self.user_features, self.user_features.shape[0], "user_features"))
            unknown = sp.csr_array((count - held.shape[0], held.shape[1]), dtype=np.float32)
            twin.user_features = sp.vstack([held, unknown], format="csr")
        return twin

    def refreshed(self, data: Interactions) -> Self:
        """Go on with the epochs of ALS; another model stays as it is, and users are folded in."""
        if not isinstance(self.model, ALS):
            twin = copy.copy(self)
            twin._outdated = True
            return twin
        twin = self.for_users(data.shape[0])
        twin.model = copy.copy(self.model)
        twin.model.epochs = _EPOCHS_OF_REFRESH
        twin._fit(data, warm_start=True)
        twin.model.epochs = self.model.epochs
        return twin

    def user_available(self, histories: Any, rows: Rows | None) -> BoolArray:
        """Tell which users have a history, or features."""
        known = np.asarray(np.diff(histories.indptr) > 0)
        if self.predicts_ratings:
            return np.ones(len(known), bool)
        return known if self.user_features is None or rows is None else np.ones(len(known), bool)

    def parts(self, history: Any, items: Rows, row: int | None) -> Float64 | None:
        """Return what each past item adds (Hu, Koren and Volinsky 2008, section 5)."""
        if not isinstance(self.model, ALS) or (self.user_features is not None and row is None):
            return None
        users, ids = self.model.user_map.ids_of(np.full(len(items), row or 0)), self.model.item_map.ids[items]
        past = None if row is not None else sp.vstack([history] * len(items), format="csr")
        found = np.empty((len(items), history.nnz))
        for n, why in enumerate(self.model.explain(users, ids, interactions=past)):
            found[n, np.searchsorted(history.indices, self.model.item_map.find(why.items))] = why.contributions
        return found


class Content(Component):
    """Items that are like what the user chose, by their features or embeddings.

    Parameters
    ----------
    item_features : dense array or scipy.sparse matrix, shape (n, features)
        Of any modality: words, tags, genres, embeddings of text, images or sound.
    items : array of ids, shape (n,), optional
        Which item each row belongs to. Items that have features and no interactions join the catalogue; items
        without features are not scored by this component. Without ids, rows are the items of the interactions in
        row order, and a row of zeros counts as no features.
    user_map : {"profile", "ridge", "mlp"}
        How a history becomes a vector of features. "profile": the mean of the history's, weighted by value and
        attention. "ridge": the least-squares vector whose inner products tell the history from the other items, the
        profile multiplied by (F^T F + ridge I)^-1. "mlp": a two-layer perceptron from the profile of a history to the
        features of an item that was left out of it (extra ``mlp``).
    temperature : float, optional
        Attention among the items of a history: weights are softmax(cosine with the history's mean / temperature).
        The default weighs all alike.
    ridge : float
        Of "ridge", relative to the mean eigenvalue of F^T F.
    hidden : int
        Width of the perceptron's hidden layer.
    rank : int
        Features of more columns are reduced to so many dimensions by truncated SVD.
    feature_names : sequence of str, optional
        For explanations; one for each column of ``item_features``.
    seed : int
        Of the SVD and the perceptron.
    name : str

    Notes
    -----
    Rows are scaled to length 1, before the SVD and after. The perceptron is trained with Adam on squared error, with L2
    and early stopping on a part of its own. Cost: with F columns after reduction, one pass over the histories times F;
    "ridge" solves one F x F system.
    """

    def __init__(
        self,
        item_features: Any,
        *,
        items: Any = None,
        user_map: Literal["profile", "ridge", "mlp"] = "profile",
        temperature: float | None = None,
        ridge: float = 1.0,
        hidden: int = 128,
        rank: int = 256,
        feature_names: Any = None,
        seed: int = 0,
        name: str = "content",
    ) -> None:
        if user_map not in ("profile", "ridge", "mlp"):
            raise ValueError(f"user_map: {user_map!r}; expected 'profile', 'ridge' or 'mlp'")
        rows = item_features.shape[0] if hasattr(item_features, "shape") else len(item_features)
        self.features = as_features(item_features, rows, "item_features")
        self.ids = None if items is None else clean_ids(items, argument="items")
        if self.ids is not None and len(self.ids) != rows:
            raise ValueError(f"items: {len(self.ids)} ids; expected one for each of the {rows} rows of item_features")
        if self.ids is not None and len(np.unique(self.ids)) != rows:
            raise ValueError(f"items: {rows - len(np.unique(self.ids))} repeated ids; expected unique ids")
        self.user_map, self.name = user_map, name
        self.temperature = None if temperature is None else _arrays.real(
            temperature, argument="temperature", positive=True
        )  # fmt: skip
        self.ridge = _arrays.real(ridge, argument="ridge", positive=True)
        self.hidden = _arrays.whole(hidden, argument="hidden", least=1)
        self.rank = _arrays.whole(rank, argument="rank", least=1)
        self.seed = _arrays.whole(seed, argument="seed", most=2**32 - 1)
        self.feature_names = None if feature_names is None else list(feature_names)
        if self.feature_names is not None and len(self.feature_names) != self.features.shape[1]:
            raise ValueError(
                f"feature_names: {len(self.feature_names)} of them; expected one for each of the "
                f"{self.features.shape[1]} columns"
            )

    def item_ids(self) -> npt.NDArray[Any] | None:
        """Return the ids that the features came with."""
        return self.ids

    def refreshed(self, data: Interactions) -> Self:
        """Return the component as it is: features stay what they are."""
        del data
        return self

    def fit(self, data: Interactions) -> Self:
        """Reduce the features, and learn the map from histories to them."""
        if self.ids is None and self.features.shape[0] != data.shape[1]:
            raise ValueError(
                f"item_features: {self.features.shape[0]} rows; expected one for each of the {data.shape[1]} items, or "
                "items=ids"
            )
        if not hasattr(self, "_reduced"):  # the same for every part of the data
            self._reduced = reduced(self.features, self.rank, self.seed)
        vectors, self._map = self._reduced
        self._place_rows(data)
        if self.ids is None:
            self.item_vectors = vectors
        else:
            self.item_vectors = np.zeros((data.shape[1], vectors.shape[1]), np.float32)
            self.item_vectors[self._rows_of_features >= 0] = vectors[
                self._rows_of_features[self._rows_of_features >= 0]
            ]
        self.item_available = np.asarray((self.item_vectors != 0).any(axis=1))
        if not self.item_available.any():
            raise ValueError("item_features: zeros alone; expected features of at least one item")
        self._solve: Float64 | None = None
        self._regressor: Regressor | None = None
        if self.user_map == "ridge":
            wide = self.item_vectors.astype(np.float64)
            gramian = wide.T @ wide
            gramian.flat[:: len(gramian) + 1] += self.ridge * max(np.trace(gramian) / len(gramian), 1e-12)
            self._solve = np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(gramian), np.eye(len(gramian))))
        elif self.user_map == "mlp":
            self._regressor = Regressor.trained(data.matrix, self.item_vectors, self.hidden, self.seed)
        return self

    def _place_rows(self, data: Interactions) -> None:
        """Find the features of every item; -1 for items without."""
        self._rows_of_features = np.arange(data.shape[1])
        if self.ids is not None:
            self._rows_of_features = np.full(data.shape[1], -1)
            self._rows_of_features[data.item_map.rows(self.ids, argument="items")] = np.arange(len(self.ids))

    def _weights(self, histories: Any) -> Any:
        """Return the weight of every past item, a CSR matrix like ``histories``: value times share of attention."""
        weights = sp.csr_matrix(histories, dtype=np.float64, copy=True)
        lengths = np.diff(weights.indptr)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        attention = np.ones(weights.nnz)
        if self.temperature is not None:
            mean = np.asarray(weights @ self.item_vectors)
            mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
            cosine = np.einsum("nd,nd->n", mean[rows], self.item_vectors[weights.indices])
            attention = np.exp((cosine - 1.0) / self.temperature)
        weights.data *= attention / np.maximum(np.bincount(rows, attention, len(lengths)), 1e-300)[rows]
        return weights

    def user_vectors(self, histories: Any, rows: Rows | None) -> Float32:
        """Return the histories in terms of features."""
        del rows
        profile = np.asarray(self._weights(histories) @ self.item_vectors)
        if self._solve is not None:
            profile = profile @ self._solve
        elif self._regressor is not None:
            profile = self._regressor.predict(unit(profile).astype(np.float64))
        return np.asarray(profile, np.float32)

    def user_available(self, histories: Any, rows: Rows | None) -> BoolArray:
        """Tell which histories hold an item with features."""
        del rows
        with_features = sp.csr_matrix(
            (self.item_available[histories.indices], histories.indices, histories.indptr), histories.shape
        )
        return np.asarray(with_features.sum(axis=1)).ravel() > 0

    def parts(self, history: Any, items: Rows, row: int | None) -> Float64 | None:
        """Return weight times similarity of each past item; None for the perceptron, which is not linear."""
        del row
        if self._regressor is not None:
            return None
        targets = self.item_vectors[items].astype(np.float64)
        if self._solve is not None:
            targets = targets @ self._solve
        return np.asarray((targets @ self.item_vectors[history.indices].T) * self._weights(history).data)

    def feature_parts(self, history: Any, item: int, row: int | None) -> dict[Any, float]:
        """Return what each feature of the item adds, exactly: the SVD is undone."""
        del row
        feature_row = int(self._rows_of_features[item])
        if feature_row < 0:
            return {}
        user = self.user_vectors(history, None)[0].astype(np.float64)
        columns, values = self._map.shares(user, self.features, feature_row)
        names = columns if self.feature_names is None else [self.feature_names[column] for column in columns]
        return {name: float(value) for name, value in zip(names, values, strict=True)}


class History(Component):
    """Items that go with what the user chose, by item-to-item weights.

    Parameters
    ----------
    model : ItemKNN or EASE
        Unfitted; a copy is fitted. Of a dense model the 200 largest weights of each item are kept.
    item_features : dense array or scipy.sparse matrix, optional
        Passed to the model's ``fit``.
    rank : int, optional
        Replace the item-to-item matrix by its best approximation of this rank, which folds into the inner product:
        cheaper where histories and neighbourhoods are large. By default the sparse scores are added exactly.
    power : float
        Sparse scores count by so much of a power: a few of them are far above all others, which below 1 come closer.
    name : str
    """

    def __init__(
        self, model: ItemModel | None = None, *, item_features: Any = None, rank: int | None = None,
        power: float = 0.5, name: str = "history",
    ) -> None:  # fmt: skip
        model = ItemKNN(weighting="degree") if model is None else model
        if not isinstance(model, ItemModel):
            raise TypeError(f"model: {_arrays.describe(model)}; expected ItemKNN or EASE")
        self.model, self.name, self.item_features = model, name, item_features
        self.rank = None if rank is None else _arrays.whole(rank, argument="rank", least=1)
        self.power = _arrays.real(power, argument="power", positive=True)

    def fresh(self) -> Self:
        """Return an unfitted copy."""
        twin = copy.copy(self)
        twin.model = copy.copy(self.model)
        if isinstance(twin.model, EASE) and twin.model.neighbors is None and self.rank is None:
            twin.model.neighbors = _HISTORY_NEIGHBORS
        return twin

    def fit(self, data: Interactions) -> Self:
        """Fit the model."""
        features = {} if self.item_features is None else {"item_features": self.item_features}
        self.model.fit(data, **features)
        weights = self.model.similarity_  # (item, past item)
        self.item_vectors, self._past = np.zeros((data.shape[1], 0), np.float32), None
        if self.rank is not None:
            left, right = truncated_svd(weights, min(self.rank, data.shape[1]), dtype=np.float32, seed=0)
            self.item_vectors, self._past = (np.ascontiguousarray(side, np.float32) for side in (left, right))
            self.item_available = np.asarray((self.item_vectors != 0).any(axis=1))
        else:
            self.item_available = np.asarray(np.diff(weights.indptr) > 0)
        return self

    def refreshed(self, data: Interactions) -> Self:
        """Count neighbours anew; EASE, whose cost grows with the cube of the catalogue, stays as it is."""
        return self if isinstance(self.model, EASE) else super().refreshed(data)

    def user_vectors(self, histories: Any, rows: Rows | None) -> Float32:
        """Return what the history weighs in the low-rank basis; nothing where scores are sparse."""
        del rows
        if self._past is None:
            return np.zeros((histories.shape[0], 0), np.float32)
        return np.asarray(self.model._valued(sp.csr_matrix(histories, dtype=np.float32)) @ self._past, np.float32)

    def additions(self, histories: Any) -> Any:
        """Return the sparse scores."""
        if self._past is not None:
            return None
        scores = sp.csr_matrix(self.model.score_histories(histories), dtype=np.float32)
        if self.power != 1.0:
            scores.data = np.sign(scores.data) * np.abs(scores.data) ** np.float32(self.power)
        return scores

    def parts(self, history: Any, items: Rows, row: int | None) -> Float64 | None:
        """Return value times weight of each past item, its share of the powered sum."""
        del row
        if self._past is not None:
            weights = self.item_vectors[items].astype(np.float64) @ self._past[history.indices].T
        else:
            weights = self.model.similarity_[items][:, history.indices].toarray().astype(np.float64)
        parts = np.asarray(weights * self.model._valued(history).data)
        if self._past is not None or self.power == 1.0:
            return parts
        total, size = np.abs(parts.sum(axis=1, keepdims=True)), np.abs(parts).sum(axis=1, keepdims=True)
        sound = total > 1e-6 * size  # where parts cancel out, none of them stands for what is left
        return np.asarray(parts * np.where(sound, np.where(sound, total, 1.0) ** (self.power - 1.0), 0.0))


class Prior(Component):
    """What everybody chooses: log(1 + interactions), which is there for every user and item.

    Values below 0, dislikes, do not count.

    Parameters
    ----------
    half_life : float, optional
        In the unit of the interactions' times: each counts half as much for every half-life of age.
    name : str
    """

    def __init__(self, *, half_life: float | None = None, name: str = "popularity") -> None:
        self.half_life = None if half_life is None else _arrays.real(half_life, argument="half_life", positive=True)
        self.name = name

    def fit(self, data: Interactions) -> Self:
        """Count."""
        weights = (data.matrix.data >= 0).astype(np.float64)
        if self.half_life is not None:
            weights *= data._recency(self.half_life)
        counts = np.bincount(data.matrix.indices, weights, data.shape[1])
        self.item_vectors = np.log1p(counts)[:, None].astype(np.float32)
        self.item_available = np.ones(data.shape[1], bool)
        return self

    def user_vectors(self, histories: Any, rows: Rows | None) -> Float32:
        """Return ones: the same for everybody."""
        del rows
        return np.ones((histories.shape[0], 1), np.float32)

    def user_available(self, histories: Any, rows: Rows | None) -> BoolArray:
        """Tell that it is there for everybody."""
        del rows
        return np.ones(histories.shape[0], bool)


def as_component(given: Any) -> Component:
    """Take a component, or a model that stands for one."""
    if isinstance(given, Component):
        return given
    if isinstance(given, Popularity):
        return Prior()
    if isinstance(given, ItemModel):
        return History(given)
    if isinstance(given, VectorModel):
        return Collaborative(given)
    raise TypeError(f"components: {_arrays.describe(given)}; expected components or models such as ALS")


__all__ = ["Collaborative", "Component", "Content", "FeatureMap", "History", "Prior", "as_component"]
