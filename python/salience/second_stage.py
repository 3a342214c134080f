"""A second stage: candidates of a first model, looked at again in the light of what the user had."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from salience import _arrays, _backends, _core, _device, _storage
from salience._als import copy_padded
from salience.interactions import Interactions, as_interactions
from salience.models import Recommendations, VectorModel

if TYPE_CHECKING:
    from typing_extensions import Self

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Vectors = Float32 | Callable[[Interactions], Float32] | VectorModel

_USERS = 1024  # whose candidates are in memory together
_MIXINGS = tuple(np.round(np.arange(0, 1.01, 0.05), 2))
_POPULARITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
_SMOOTHINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST_TEMPERATURE = 0.005  # below it the nearest item alone counts, and exponentials leave the range of float64
_ROUNDS = 2  # of the search over all parameters


def cooccurrence_vectors(interactions: Any, dimensions: int = 256) -> Float32:
    """Embed items by who had them: the right singular vectors of the interactions, evened out by activity.

    Every interaction counts 1 / sqrt(interactions of its user * interactions of its item), so that neither active users
    nor popular items rule. Items that the same users had point the same way.

    Parameters
    ----------
    interactions : Interactions or scipy.sparse matrix, shape (users, items)
        Only which values are positive counts.
    dimensions : int
        Fewer than users and items.

    Returns
    -------
    array of float32, shape (items, dimensions)
        Singular vectors, the largest singular value first; not scaled by these.

    Notes
    -----
    Cost: about 4 dimensions passes over the interactions and 8 items dimensions ** 2 operations (ARPACK).
    """
    data = as_interactions(interactions)
    most = min(data.shape) - 1
    width = _arrays.whole(dimensions, argument="dimensions", least=1, most=max(most, 1))
    positive = data.select(data.matrix.data > 0).matrix
    ones = sp.csr_array((np.ones(positive.nnz), positive.indices, positive.indptr), shape=positive.shape)

    def damping(sums: Any) -> Any:
        return sp.diags_array(1 / np.sqrt(np.maximum(np.asarray(sums).ravel(), 1.0)))

    evened = damping(ones.sum(axis=1)) @ ones @ damping(ones.sum(axis=0))
    start = np.random.default_rng(0).standard_normal(min(data.shape))
    _, values, vectors = svds(evened, k=width, v0=start)
    return np.ascontiguousarray(vectors[np.argsort(-values, kind="stable")].T, np.float32)


class HistoryAttention:
    """Attention of a candidate over the user's history, mixed with the score of a first stage.

    A candidate resembles each item that the user had by the cosine c of their vectors. The history is pooled as

        sum_j w_j c_j / (sum_j w_j) ** smoothing,    w_j = exp((c_j - 1) / temperature) * 2 ** (-age_j / half_life):

    at a high temperature all of the history speaks, at a low one what is nearest to the candidate; a smoothing below
    1 lets several near items say more than one. That depends on candidate and history together, so it is no inner
    product of a user's and an item's vector, and is computed for the candidates of a first stage. Over each user's
    candidates, the scores of both and the logarithm of how many users had the candidate are brought to mean 0 and
    variance 1, and mixed:

        (1 - mixing) * first stage + mixing * attention + popularity * log(1 + users).

    Parameters
    ----------
    first : VectorModel, or any Recommender
        The first stage, fitted by :meth:`fit`.
    vectors : array of float32, shape (items, d), function of Interactions, or VectorModel, optional
        What items resemble each other by: content embeddings; what is learned from the training data, such as
        :func:`cooccurrence_vectors`; a model, which is fitted too. Default: the first stage's item vectors.
    depth : int, optional
        Candidates of a user. None: all items (for catalogues up to some ten thousand).
    temperature : float
        At least 0.005.
    smoothing : float
        0 to 1.
    half_life : float, optional
        In the unit of the interactions' times; age counts back from the user's latest. None: no decay.
    mixing : float
        0: the first stage alone. 1: attention alone, over the first stage's candidates.
    popularity : float
        An item's bias: of use where what many had will be wanted even more than the first stage tells, as often where
        the future is predicted.
    threads : int, optional
    device : {"auto", "cpu", "cuda"}
        Where attention is computed, to the same bits; "auto" uses a GPU where there is one and it pays. The first stage
        has its own.

    Attributes
    ----------
    validation_history_ : list of (dict, float)
        What :meth:`fit` tried on validation data, and what it gave.

    Notes
    -----
    Pooling by the similarity of candidate and history: DIN (Zhou et al., KDD 2018); the smoothing exponent: NAIS (He et
    al., TKDE 2018). Cost of a user: the first stage's, and depth * history * (2 d + 40) operations. The kernel is
    exact and gives the same bits on every instruction set and GPU (csrc/core/operations.h).
    """

    def __init__(
        self,
        first: Any,
        *,
        vectors: Vectors | None = None,
        depth: int | None = 500,
        temperature: float = 0.1,
        smoothing: float = 0.5,
        half_life: float | None = None,
        mixing: float = 0.3,
        popularity: float = 0.0,
        threads: int | None = None,
        device: _backends.Device = "auto",
    ) -> None:
        if not callable(getattr(first, "recommend", None)) or not callable(getattr(first, "fit", None)):
            raise TypeError(f"first: {_arrays.describe(first)}; expected a model with fit() and recommend()")
        if vectors is None and not isinstance(first, VectorModel):
            raise ValueError("vectors: None; expected vectors, as the first stage is no VectorModel with its own")
        self.first = first
        self.vectors = vectors
        self.depth = None if depth is None else _arrays.whole(depth, argument="depth", least=1)
        self.temperature = _arrays.real(temperature, argument="temperature", positive=True)
        if self.temperature < _LEAST_TEMPERATURE:
            raise ValueError(f"temperature: {temperature}; expected at least {_LEAST_TEMPERATURE}")
        self.smoothing = _arrays.share(smoothing, argument="smoothing")
        self.half_life = None if half_life is None else _arrays.real(half_life, argument="half_life", positive=True)
        self.mixing = _arrays.share(mixing, argument="mixing")
        self.popularity = _arrays.real(popularity, argument="popularity")
        _arrays.thread_count(threads)
        self.threads = threads
        self.device = _backends.check_device(device)
        self.validation_history_: list[tuple[dict[str, Any], float]] = []

    def fit(
        self,
        interactions: Any,
        *,
        validation: Any = None,
        cutoff: int = 20,
        users: int = 4000,
        refit: bool = True,
        seed: int = 0,
    ) -> Self:
        """Fit the first stage and the vectors; with validation data, train the parameters as well.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
        validation : Interactions or scipy.sparse matrix, optional
            Held out, with the same axes: temperature, smoothing, half_life (where there are times), popularity and
            mixing become those of the best NDCG on it, found one after another. A first stage flatters itself on what
            it was fitted on; trained there, the mixing would lean on it too much.
        cutoff : int
            Of the NDCG.
        users : int
            At most so many users of ``validation`` are looked at, drawn at random.
        refit : bool
            Fit first stage and vectors once more, on both parts, after the training of the parameters.
        seed : int

        Raises
        ------
        TypeError, ValueError
            Naming the argument; also where a pair of ``validation`` is in ``interactions``.
        """
        data = as_interactions(interactions)
        self._learn(data)
        if validation is None:
            return self
        held_out = as_interactions(validation, argument="validation")
        self._check_held_out(data, held_out)
        drawn = np.flatnonzero(np.diff(held_out.matrix.indptr))
        random = np.random.default_rng(_arrays.whole(seed, argument="seed"))
        most = _arrays.whole(users, argument="users", least=1)
        self._tune(
            held_out, np.sort(random.permutation(drawn)[:most]), _arrays.whole(cutoff, argument="cutoff", least=1)
        )
        if refit:
            self._learn(data.joined(held_out))
        return self

    def _learn(self, data: Interactions) -> None:
        self.first.fit(data)
        if isinstance(self.vectors, VectorModel):
            vectors = self.vectors.fit(data)._item_vectors()  # type: ignore[attr-defined]
        elif callable(self.vectors):
            vectors = self.vectors(data)
        else:
            vectors = self.first._item_vectors() if self.vectors is None else self.vectors
        matrix = _arrays.dense(vectors, argument="vectors")
        if len(matrix) != data.shape[1]:
            raise ValueError(f"vectors: {len(matrix)} rows; expected one for each of the {data.shape[1]} items")
        self._adopt(data, _core.unit_rows(matrix, _arrays.thread_count(self.threads)))

    def _adopt(self, data: Interactions, units: Float32) -> None:
        self._seen, self.user_map, self.item_map, self._units = data, data.user_map, data.item_map, units
        self._ages = None if data.times is None else _ages(data)
        self._crowd = np.log1p(np.bincount(data.matrix.indices[data.matrix.data > 0], minlength=data.shape[1]))
        self._there: _device.DeviceUnits | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_there": None}  # what is on a GPU is sent there again where it is needed

    def _check_held_out(self, data: Interactions, held_out: Interactions) -> None:
        if held_out.shape != data.shape or not (
            np.array_equal(held_out.users, data.users) and np.array_equal(held_out.items, data.items)
        ):
            raise ValueError(f"validation: {held_out!r}; expected the users and items of interactions, {data!r}")
        if len(held_out) == 0:
            raise ValueError("validation: empty; expected at least one interaction")
        shared = (held_out.matrix != 0).multiply(data.matrix != 0).nnz
        if shared:
            raise ValueError(f"validation: {shared} pairs are in interactions too; expected none: they are no test")

    def _require_fitted(self) -> None:
        if not hasattr(self, "_seen"):
            raise ValueError("HistoryAttention: not fitted; expected fit(...) to be called first")

    def _candidates(self, users: Rows, *, exclude_seen: bool, **filters: Any) -> Recommendations:
        depth = len(self.item_map) if self.depth is None else self.depth
        found: Recommendations = self.first.recommend(
            self.user_map.ids_of(users), depth, exclude_seen=exclude_seen, **filters
        )
        return found

    def _attend(self, users: Rows, items: Rows, **changed: Any) -> Float32:
        """Pool the histories of users for items, (n, m) rows padded with -1."""
        half_life = changed.get("half_life", self.half_life)
        indptr, where = _arrays.entries_of_rows(self._seen.matrix.indptr, users)
        log_weights = None
        if half_life is not None:
            if self._ages is None:
                raise ValueError("half_life: interactions without times; expected times, or None")
            log_weights = -math.log(2.0) * self._ages[where] / half_life
        arguments = (
            (indptr, np.ascontiguousarray(self._seen.matrix.indices[where], np.int32)),
            log_weights,
            _arrays.rows_together(items, argument="items"),
            changed.get("temperature", self.temperature),
            changed.get("smoothing", self.smoothing),
        )
        products = float(indptr[-1]) * items.shape[1] * self._units.shape[1]
        if (module := _device.choose(self.device, {}, products=products)) is None:
            return _core.attend(self._units, *arguments, _arrays.thread_count(self.threads))
        if self._there is None:
            self._there = _device.DeviceUnits(module, self._units)
        return self._there.attend(*arguments)

    def _popular(self, items: Rows) -> Float64:
        """Return the standardized popularity of candidates, rows padded with -1, which get 0."""
        return np.where(items >= 0, standardized(self._crowds(items)), 0.0)

    def _crowds(self, items: Rows) -> Float64:
        return np.where(items >= 0, self._crowd[items], -np.inf)

    def _tune(self, held_out: Interactions, users: Rows, cutoff: int) -> None:
        """Search the parameters one after another; for each attention, all mixings are tried."""
        lists = self._candidates(users, exclude_seen=True)
        judge = _Judge(lists.rows, held_out.matrix[users], cutoff, _arrays.thread_count(self.threads))
        first, popular = standardized(lists.scores), self._popular(lists.rows)
        settings: dict[str, Any] = {
            name: getattr(self, name) for name in ("temperature", "smoothing", "half_life", "popularity")
        }
        self.validation_history_ = []
        known: dict[tuple[Any, ...], tuple[float, float]] = {}

        @functools.lru_cache(maxsize=1)  # all popularities are tried on one attention
        def attended(temperature: float, smoothing: float, half_life: float | None) -> Float64:
            how = {"temperature": temperature, "smoothing": smoothing, "half_life": half_life}
            return standardized(self._attend(users, lists.rows, **how))

        def value(**changed: Any) -> tuple[float, float]:
            trial = settings | changed
            key = tuple(trial.values())
            if key not in known:
                attention, bias = attended(*key[:3]), trial["popularity"] * popular
                known[key] = max((judge(mixed(first, attention, part, bias)), -part) for part in _MIXINGS)
                self.validation_history_.append((trial | {"mixing": -known[key][1]}, known[key][0]))
            return known[key]

        for _ in range(_ROUNDS):
            for factor in (0.5, 2.0):
                while (moved := settings["temperature"] * factor) >= _LEAST_TEMPERATURE and moved < 100:
                    if value(temperature=moved) <= value():
                        break
                    settings["temperature"] = moved
            settings["smoothing"] = max((settings["smoothing"], *_SMOOTHINGS), key=lambda s: value(smoothing=s))
            if self._ages is not None:
                spans = [None, *np.unique(np.quantile(self._ages[self._ages > 0], (0.1, 0.25, 0.5, 0.75, 0.9)))]
                options = [settings["half_life"], *(span if span is None else float(span) for span in spans)]
                settings["half_life"] = max(options, key=lambda span: value(half_life=span))
            settings["popularity"] = max((settings["popularity"], *_POPULARITIES), key=lambda w: value(popularity=w))
        self.temperature, self.smoothing, self.half_life, self.popularity = settings.values()
        self.mixing = float(-value()[1])

    def recommend(
        self, users: Any, k: int = 10, *, exclude_seen: bool = True, allow: Any = None, deny: Any = None
    ) -> Recommendations:
        """Rank items for users: the first stage's candidates in the order of the mixed score.

        Parameters
        ----------
        users : array, shape (n,)
        k : int
            Beyond ``depth`` there is padding.
        exclude_seen, allow, deny
            As for the first stage, which applies them.

        Returns
        -------
        Recommendations
            Equal scores in the first stage's order.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        """
        self._require_fitted()
        rows = self.user_map.rows(users, argument="users")
        length = _arrays.whole(k, argument="k", least=1)
        filters = {name: value for name, value in (("allow", allow), ("deny", deny)) if value is not None}
        items, scores = np.full((len(rows), length), -1, np.int64), np.full((len(rows), length), -np.inf, np.float32)
        for start in range(0, len(rows), _USERS):
            part = slice(start, start + _USERS)
            lists = self._candidates(rows[part], exclude_seen=exclude_seen, **filters)
            attention = standardized(self._attend(rows[part], lists.rows))
            bias = self.popularity * self._popular(lists.rows) if self.popularity else 0.0
            scored = mixed(standardized(lists.scores), attention, self.mixing, bias)
            width = min(length, scored.shape[1])
            order, best = _core.select(scored, width, _arrays.thread_count(self.threads))
            items[part, :width] = np.take_along_axis(lists.rows, order, axis=1)
            scores[part, :width] = best
        return Recommendations(self.item_map.ids_of(items), items, scores, self.user_map.ids_of(rows))

    def score(self, users: Any, items: Any) -> Float32:
        """Score pairs: ``users[n]`` with ``items[n]``, on the scale of the user's candidates; float32, shape (n,)."""
        self._require_fitted()
        u, i = self.user_map.rows(users, argument="users"), self.item_map.rows(items, argument="items")
        if len(u) != len(i):
            raise ValueError(f"items: {len(i)} of them; expected one for each of the {len(u)} users")
        first = np.asarray(self.first.score(users, items), np.float64)
        attention, out = np.empty(len(u)), np.zeros(len(u))
        for start in range(0, len(u), _USERS):
            part = slice(start, start + _USERS)
            attention[part] = self._attend(u[part], i[part, None])[:, 0]
            distinct, where = np.unique(u[part], return_inverse=True)
            lists = self._candidates(distinct, exclude_seen=True)
            for weight, scores, own in (
                (1 - self.mixing, lists.scores, first[part]),
                (self.mixing, self._attend(distinct, lists.rows), attention[part]),
                (self.popularity, self._crowds(lists.rows), self._crowd[i[part]]),
            ):
                mean, spread = _moments(scores)
                out[part] += weight * (own - mean[where, 0]) / spread[where, 0]
        return out.astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Write the model, with its first stage's vectors; see :meth:`load`.

        Raises
        ------
        TypeError
            Where the first stage is no VectorModel.
        """
        self._require_fitted()
        if not isinstance(self.first, VectorModel):
            raise TypeError(f"first: {_arrays.describe(self.first)}; expected a VectorModel, to be written")
        tensors = {
            "first.users": self.first._query_vectors(np.arange(len(self.user_map))),
            "first.items": self.first._item_vectors(), "units": self._units,
            **_storage.pack_interactions("seen", self._seen),
        }  # fmt: skip
        names = ("depth", "temperature", "smoothing", "half_life", "mixing", "popularity")
        settings = {name: getattr(self, name) for name in names}
        _storage.save_tensors(path, tensors, kind="HistoryAttention", metadata={"settings": settings})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; the first stage comes back as its vectors, which cannot be fitted again."""
        tensors, metadata = _storage.load_tensors(path, kind="HistoryAttention")
        seen = _storage.unpack_interactions("seen", tensors)
        model = cls(_Frozen(tensors["first.users"], tensors["first.items"], seen), **metadata["settings"])
        # The padding that the kernel relies on is not in the file; length 1 stays, to the bit.
        model._adopt(seen, copy_padded(tensors["units"]))
        return model


class _Frozen(VectorModel):
    """The vectors of a first stage that was saved."""

    def __init__(self, users: Float32, items: Float32, seen: Interactions) -> None:
        self._users, self._items, self._seen = users, items, seen
        self.user_map, self.item_map = seen.user_map, seen.item_map
        self._forget_indexes()

    def fit(self, interactions: Any) -> Self:
        del interactions
        raise ValueError("first: the vectors of a saved model; expected a new HistoryAttention, to be fitted")

    def _query_vectors(self, rows: Rows) -> Float32:
        return self._users[rows]

    def _item_vectors(self) -> Float32:
        return self._items


class _Judge:
    """Mean NDCG of candidates by some scores; what no list holds counts as missed."""

    def __init__(self, rows: Rows, relevant: Any, cutoff: int, threads: int) -> None:
        users = np.repeat(np.arange(len(rows)), rows.shape[1])
        filled = rows.ravel() >= 0
        found = np.zeros(rows.size, np.bool_)
        table = sp.csr_array((np.ones(relevant.nnz), relevant.indices, relevant.indptr), shape=relevant.shape)
        found[filled] = np.asarray(table[users[filled], rows.ravel()[filled]]).ravel() > 0
        self.hits = found.reshape(rows.shape)
        self.cutoff = min(cutoff, rows.shape[1])
        self.threads = threads
        discounts = 1 / np.log2(np.arange(2, cutoff + 2))
        self.discounts = discounts[: self.cutoff]
        self.ideal = np.cumsum(discounts)[np.minimum(np.diff(relevant.indptr), cutoff) - 1]

    def __call__(self, scores: Float32) -> float:
        order, _ = _core.select(scores, self.cutoff, self.threads)
        gains = np.take_along_axis(self.hits, order, axis=1) @ self.discounts
        return float((gains / self.ideal).mean())


def _ages(data: Interactions) -> Float64:
    """Return how long before the user's latest interaction each one was."""
    assert data.times is not None
    times = data.times.astype(np.float64)
    latest = np.full(data.shape[0], -np.inf)
    np.maximum.at(latest, data.rows, times)
    return np.asarray(latest[data.rows] - times)


def _moments(scores: Any) -> tuple[Float64, Float64]:
    """Return mean and standard deviation of the filled slots of every list, shape (n, 1); 1 where all are equal."""
    filled = np.isfinite(scores)
    counts = np.maximum(filled.sum(axis=1, keepdims=True), 1)
    wide = np.where(filled, scores, 0).astype(np.float64)
    mean = wide.sum(axis=1, keepdims=True) / counts
    spread = np.sqrt(np.square(np.where(filled, wide - mean, 0)).sum(axis=1, keepdims=True) / counts)
    return mean, np.where(spread > 1e-12 * np.abs(mean), spread, 1.0)


def standardized(scores: Any) -> Float64:
    """Bring the filled slots of every list to mean 0 and variance 1; others are -inf."""
    mean, spread = _moments(scores)
    return np.asarray(np.where(np.isfinite(scores), (scores - mean) / spread, -np.inf))


def mixed(first: Float64, attention: Float64, part: float, bias: Any = 0.0) -> Float32:
    """Mix standardized scores and add a bias; empty slots keep -inf."""
    with np.errstate(invalid="ignore"):
        scored = (1 - part) * first + part * attention + bias
    return np.where(np.isneginf(first), -np.inf, scored).astype(np.float32)


__all__ = ["HistoryAttention", "cooccurrence_vectors"]
