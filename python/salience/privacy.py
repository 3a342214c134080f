"""Differentially private ALS, and the accounting behind it.

What is private, against whom, and what is not: see :class:`PrivateALS`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse as sp

from salience import _arrays, _core, _storage
from salience._als import Float32, Float64, HalfStep, Objective, Observations, copy_padded, eigenbasis, padded
from salience._als_backends import Host
from salience.interactions import Interactions, as_interactions
from salience.models import VectorModel

if TYPE_CHECKING:
    from typing_extensions import Self

_COUNT_SHARE = 0.1  # of the budget, for counting items, where only some get factors
_GRAMIAN_SHARE = 0.02  # of what the steps have: one matrix, summed over all users, stands far above its noise
_MOMENT_SHARE = 0.3  # of what the steps have, for second moments of each item's users
_BLOCK = 512  # items whose matrices are in memory together
_INITIAL_SCALE = 1.0


def gaussian_epsilon(budget: float, delta: float, *, orders: Any = None) -> float:
    """Return the epsilon of Gaussian mechanisms run one after another, by Rényi differential privacy.

    Parameters
    ----------
    budget : float
        Sum of 1 / noise_multiplier ** 2 over the mechanisms; the multiplier is the noise's standard deviation
        over the L2 sensitivity. 0: nothing is released.
    delta : float
        Between 0 and 1.
    orders : array, optional
        Rényi orders above 1 to choose the best of; default: the best of all.

    Notes
    -----
    A Gaussian mechanism has Rényi divergence order / (2 multiplier^2) (Mironov 2017), which adds up, for mechanisms
    chosen in view of earlier answers too. From there to (epsilon, delta): Canonne, Kamath and Steinke, "The discrete
    Gaussian for differential privacy" (2020), proposition 12, as in the library dp-accounting.
    """
    total = _arrays.real(budget, argument="budget")
    _check_delta(delta)
    if total == 0:
        return 0.0

    def bound(order: Any) -> Any:
        return 0.5 * total * order + np.log1p(-1 / order) - np.log(delta * order) / (order - 1)

    if orders is not None:
        return max(0.0, float(np.min(bound(np.asarray(orders, np.float64)))))
    # Within this range lies every order that is best for a budget and delta that anybody would use.
    found = scipy.optimize.minimize_scalar(
        lambda logarithm: bound(1 + math.exp(logarithm)), bounds=(-9.0, 14.0), method="bounded", options={"xatol": 1e-9}
    )
    return max(0.0, float(found.fun))


def gaussian_budget(epsilon: float, delta: float) -> float:
    """Return the largest budget whose :func:`gaussian_epsilon` is ``epsilon``; infinite where that is."""
    wanted = _check_epsilon(epsilon)
    _check_delta(delta)
    if math.isinf(wanted):
        return math.inf
    low, high = 1e-12, 1.0
    while gaussian_epsilon(high, delta) <= wanted:
        high *= 2
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gaussian_epsilon(middle, delta) <= wanted else (low, middle)
    return low


def _check_epsilon(epsilon: Any) -> float:
    if isinstance(epsilon, float) and math.isinf(epsilon) and epsilon > 0:
        return math.inf
    return _arrays.real(epsilon, argument="epsilon", positive=True)


def _check_delta(delta: Any) -> float:
    value = _arrays.real(delta, argument="delta", positive=True)
    if value >= 1:
        raise ValueError(f"delta: {value}; expected less than 1")
    return value


@dataclass(frozen=True)
class Noise:
    """Noise multipliers (standard deviation over sensitivity) of what is released; 0 without noise.

    Attributes
    ----------
    counts : float or None
        Of the users of each item, once; None where they are not released.
    gramian : float
        Of the users' Gramian, in each step.
    moments : float or None
        Of the second moments of each item's users, in each step; None where they are not released.
    sums : float
        Of the sum of each item's users, in each step.
    steps : int
    """

    counts: float | None
    gramian: float
    moments: float | None
    sums: float
    steps: int

    @classmethod
    def of(cls, budget: float, steps: int, *, counts: bool, moments: bool) -> Noise:
        """Divide a budget."""
        rest = budget * (1 - _COUNT_SHARE if counts else 1) / steps
        second = _MOMENT_SHARE if moments else 0.0

        def multiplier(part: float) -> float:
            return 0.0 if math.isinf(part) else 1 / math.sqrt(part)

        return cls(
            multiplier(budget * _COUNT_SHARE) if counts else None,
            multiplier(rest * _GRAMIAN_SHARE),
            multiplier(rest * second) if moments else None,
            multiplier(rest * (1 - _GRAMIAN_SHARE - second)),
            steps,
        )

    @property
    def budget(self) -> float:
        """Sum of 1 / multiplier ** 2 over everything that is released."""
        each = [self.gramian, self.sums, *([] if self.moments is None else [self.moments])]
        every = [*each * self.steps, *([] if self.counts is None else [self.counts])]
        return math.inf if min(every) == 0 else sum(1 / multiplier**2 for multiplier in every)


@dataclass(frozen=True)
class Statistics:
    """What a step takes from the users: all that it takes.

    Attributes
    ----------
    gramian : array of float64, shape (f, f)
        Sum of x x^T over all users.
    moments : array of float64, shape (items, f, f), or None
        Sum of x x^T over each item's users, each user counted for at most ``max_items_per_user`` items.
    sums : array of float64, shape (items, f)
        Sum of x, likewise.
    """

    gramian: Float64
    moments: Float64 | None
    sums: Float64

    @classmethod
    def of(cls, users: Float64, sample: Any, *, moments: bool) -> Statistics:
        """Sum over users of bounded length; ``sample`` is a pattern of users by items, bounded by user."""
        by_item = sample.T.tocsr()
        second = None
        if moments:
            second = np.empty((sample.shape[1], users.shape[1], users.shape[1]))
            for item in range(sample.shape[1]):
                of_item = users[by_item.indices[by_item.indptr[item] : by_item.indptr[item + 1]]]
                second[item] = of_item.T @ of_item
        return cls(users.T @ users, second, np.asarray(by_item @ users))

    def noisy(self, noise: Noise, clip_norm: float, max_items_per_user: int, random: np.random.Generator) -> Statistics:
        """Add Gaussian noise in proportion to what one user can change."""
        f, most = len(self.gramian), math.sqrt(max_items_per_user)
        gramian = self.gramian + noise.gramian * clip_norm**2 * _symmetric(random, 1, f)[0]
        sums = self.sums + noise.sums * clip_norm * most * random.standard_normal(self.sums.shape)
        moments = None
        if self.moments is not None and noise.moments is not None:
            moments = self.moments.copy()
            for start in range(0, len(moments), _BLOCK):
                part = moments[start : start + _BLOCK]
                part += noise.moments * clip_norm**2 * most * _symmetric(random, len(part), f)
                part[:] = positive_part(part)
        return Statistics(positive_part(gramian[None])[0], moments, sums)


def shrunk_sums(sums: Float64, counts: Float64, deviation: float) -> Float64:
    """Draw noisy sums towards what popularity alone says, as far as their noise demands.

    An item's sum is taken to be count * (mean + own), own normal with a covariance S that all items share, plus noise
    of a known standard deviation; mean and S are estimated from all sums, and own is replaced by its expectation.
    This looks at nothing but what was released. Without noise the sums stay as they are.

    Parameters
    ----------
    sums : array of shape (items, f)
    counts : array of shape (items,)
        Positive.
    deviation : float
        Of the noise in each number.
    """
    if deviation == 0:
        return sums
    weights = counts[:, None]
    expected = weights * ((weights * sums).sum(axis=0) / np.square(counts).sum())
    rest = sums - expected
    covariance = (rest.T @ rest - len(sums) * deviation**2 * np.eye(sums.shape[1])) / np.square(counts).sum()
    values, vectors = np.linalg.eigh(covariance)
    signal = np.square(weights) * np.maximum(values, 0)
    return np.asarray(expected + (rest @ vectors * (signal / (signal + deviation**2))) @ vectors.T)


def _symmetric(random: np.random.Generator, count: int, f: int) -> Float64:
    """Draw standard normal entries on and above the diagonals, mirrored below."""
    upper = np.triu(random.standard_normal((count, f, f)))
    return np.asarray(upper + np.triu(upper, 1).transpose(0, 2, 1))


def positive_part(matrices: Float64) -> Float64:
    """Return the nearest positive semi-definite matrices; shape (n, f, f)."""
    values, vectors = np.linalg.eigh(matrices)
    return np.asarray((vectors * np.maximum(values, 0)[:, None, :]) @ vectors.transpose(0, 2, 1))


def _positive(data: Interactions) -> Any:
    """Return ones where values are positive: how much a user likes an item must not widen what the user changes."""
    matrix = data.select(data.matrix.data > 0).matrix
    matrix.data = np.ones_like(matrix.data)
    return matrix


def bounded_sample(matrix: Any, most: int, random: np.random.Generator, *, rank: npt.NDArray[Any] | None = None) -> Any:
    """Keep at most ``most`` entries of each row: drawn at random, or those of the lowest ``rank``.

    What is kept of a row depends on nothing but that row (and ``rank``): the bound on what a user can change.
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keys = (
        (random.random(matrix.nnz), rows) if rank is None else (random.random(matrix.nnz), rank[matrix.indices], rows)
    )
    order = np.lexsort(keys)
    kept = np.sort(order[np.arange(matrix.nnz) - matrix.indptr[rows] < most])
    return sp.csr_matrix((np.ones(len(kept)), (rows[kept], matrix.indices[kept])), shape=matrix.shape)


class PrivateALS(VectorModel):
    """ALS whose item factors are differentially private with respect to whole users (experimental).

    Users and items are solved for in turn, as in :class:`salience.ALS` with implicit feedback; but the items' half
    of a step sees users only through sums to which each user's contribution is bounded (factors no longer than
    ``clip_norm``, ``max_items_per_user`` items), and to which Gaussian noise is added.

    **What the guarantee covers.** Joint differential privacy: with probability laws within (epsilon, delta) of each
    other whether or not any one user's whole history was in the data (add or remove one user), for everything but
    that user's own recommendations. Item factors, ``item_counts_`` and ``save(path, users=False)`` may be published,
    and a user's recommendations reveal no more about the others than that, however many users pool what they see.

    **What it does not cover.** A user's own factors and list, which are computed from the own history and are for that
    user alone; so not ``user_factors_`` or a full model file. What else you take from the data: settings tuned on
    it, popularity and other features, the weights of a hybrid around this model, ItemKNN or EASE beside it, the
    results of an evaluation. The catalogue: that an item is among the ids must be known from elsewhere. Several fits
    on the same users, whose epsilons add up. A user with several accounts. Attacks through time or through the last
    bits of floating-point noise. Whether the random state stays secret.

    Parameters
    ----------
    factors : int
    epsilon : float
        ``math.inf``: without noise, but sampled and clipped as with it.
    delta : float
        At most 1 over the number of users.
    max_items_per_user : int
        Items of a user that count. Fewer: less noise, and less of active users.
    clip_norm : float
        Largest length of a user's factors in the sums. Items' factors are longer the smaller it is, so that with the
        same ``regularization`` users are held back less and items more.
    steps : int
        Each spends budget.
    head_items : int, optional
        So many items get factors: the most popular by a noisy count, which takes a tenth of the budget. Under noise
        rare items cannot be learned. Others have factors of zero. With counts the noisy sums are also shrunk
        towards what popularity alone says, as far as their noise demands. None: all items, and no count.
    moments : {"shared", "own"}
        "own": noisy second moments of each item's users, as published. "shared": those of all users, in proportion
        to the item's noisy count (``head_items`` is needed): without noise about as good, and without f^2
        noisy numbers an item.
    sampling : {"uniform", "tail"}
        Which of a user's items count: any, or the rarest by noisy count (``head_items`` is needed).
    unobserved_weight, regularization, regularization_exponent : float
        As in :class:`salience.ALS`; an item's ridge goes by its noisy count. Values of interactions do not count,
        only which are positive.
    seed : int, optional
        For tests alone: noise that can be drawn again is no protection. Default: from the system's source of
        cryptographic randomness.
    threads : int, optional

    Attributes
    ----------
    item_factors_, user_factors_ : array of float32, shape (items or users, factors)
    item_counts_ : array of float64, shape (items,), or None
        Noisy.
    head_ : array of bool, shape (items,)
        Which items have factors.
    noise_ : Noise
    epsilon_ : float
        What was spent.

    Notes
    -----
    Chien, Jain, Krichene, Rendle, Song, Thakurta and Zhang, "Private alternating least squares" (ICML 2021), but for
    shared moments and shrinking, which only process what was released. The
    sensitivities: one user changes the Gramian by clip_norm^2 at most, the moments by sqrt(max_items_per_user)
    clip_norm^2 (in the entries on and above the diagonal, to which independent noise is added), the sums by
    sqrt(max_items_per_user) clip_norm and the counts by sqrt(max_items_per_user), all in L2. All are Gaussian
    mechanisms; see :func:`gaussian_epsilon`, and :meth:`dp_event` for a second opinion by dp-accounting.

    Cost of a step: an exact half-step of the users, and for "own" moments entries f^2 + head f^3 operations and
    8 head f^2 bytes.
    """

    def __init__(
        self,
        factors: int = 32,
        *,
        epsilon: float,
        delta: float,
        max_items_per_user: int = 10,
        clip_norm: float = 0.1,
        steps: int = 4,
        head_items: int | None = 1000,
        moments: Literal["shared", "own"] = "shared",
        sampling: Literal["uniform", "tail"] = "uniform",
        unobserved_weight: float = 0.1,
        regularization: float = 0.3,
        regularization_exponent: float = 0.0,
        seed: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.factors = _arrays.whole(factors, argument="factors", least=1, most=4096)
        self.epsilon = _check_epsilon(epsilon)
        self.delta = _check_delta(delta)
        self.max_items_per_user = _arrays.whole(max_items_per_user, argument="max_items_per_user", least=1)
        self.clip_norm = _arrays.real(clip_norm, argument="clip_norm", positive=True)
        self.steps = _arrays.whole(steps, argument="steps", least=1)
        self.head_items = None if head_items is None else _arrays.whole(head_items, argument="head_items", least=1)
        for argument, value, known in (
            ("moments", moments, ("shared", "own")),
            ("sampling", sampling, ("uniform", "tail")),
        ):
            if value not in known:
                raise ValueError(f"{argument}: {value!r}; expected {' or '.join(map(repr, known))}")
            if value in ("shared", "tail") and head_items is None:
                raise ValueError(f"head_items: None; expected a number, as {argument}={value!r} goes by noisy counts")
        self.moments = moments
        self.sampling = sampling
        self.unobserved_weight = _arrays.real(unobserved_weight, argument="unobserved_weight", positive=True)
        self.regularization = _arrays.real(regularization, argument="regularization", positive=True)
        self.regularization_exponent = _arrays.real(regularization_exponent, argument="regularization_exponent")
        self.seed = None if seed is None else _arrays.whole(seed, argument="seed", most=2**64 - 1)
        _arrays.thread_count(threads)
        self.threads = threads

    @property
    def _objective(self) -> Objective:
        return Objective(
            factors=self.factors, explicit=False, alpha=1.0, unobserved_weight=self.unobserved_weight,
            regularization=self.regularization, exponent=self.regularization_exponent, feature_regularization=1.0,
            nonnegative=False, solver="cholesky", steps=1, tolerance=0.0, block=64, relaxation=1.0,
            threads=_arrays.thread_count(self.threads),
        )  # fmt: skip

    def fit(self, interactions: Any, *, progress: Callable[[int, int], None] | None = None) -> Self:
        """Learn item factors privately, and every user's own factors from them.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
            A user is a row. Only which values are positive counts.
        progress : callable, optional
            Called as ``progress(done, total)`` after each step.

        Raises
        ------
        TypeError, ValueError
            Naming the argument; also where ``delta`` exceeds 1 over the number of users.
        """
        data = as_interactions(interactions)
        if len(data) == 0:
            raise ValueError(f"interactions: {data!r}; expected at least one entry")
        if not math.isinf(self.epsilon) and self.delta * data.shape[0] > 1:
            raise ValueError(f"delta: {self.delta}; expected at most 1 over the {data.shape[0]} users")
        key = secrets.randbits(256) if self.seed is None else self.seed
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        budget = gaussian_budget(self.epsilon, self.delta)
        noise = Noise.of(budget, self.steps, counts=self.head_items is not None, moments=self.moments == "own")
        positive = _positive(data)
        counts, head = self._count(positive, noise, random)
        known = np.ones(len(head)) if counts is None else np.maximum(counts[head], 1.0)
        items = self._train(sp.csr_matrix(positive[:, head]), known, noise, random, progress)
        self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
        self.noise_, self.epsilon_ = noise, self._spent(noise)
        self.item_counts_ = counts
        self._adopt(items, head)
        self.user_factors_ = self.fold_in(data.matrix)
        self.user_factors_.flags.writeable = False
        return self

    def _spent(self, noise: Noise) -> float:
        return math.inf if math.isinf(noise.budget) else gaussian_epsilon(noise.budget, self.delta)

    def _count(
        self, positive: Any, noise: Noise, random: np.random.Generator
    ) -> tuple[Float64 | None, npt.NDArray[np.int64]]:
        """Count each item's users, with noise, and choose the items that get factors."""
        items = positive.shape[1]
        if self.head_items is None or noise.counts is None:
            return None, np.arange(items)
        sample = bounded_sample(positive, self.max_items_per_user, random)
        scale = noise.counts * math.sqrt(self.max_items_per_user)
        counts = np.bincount(sample.indices, minlength=items) + scale * random.standard_normal(items)
        return counts, np.sort(np.argsort(-counts, kind="stable")[: self.head_items])

    def _train(
        self,
        positive: Any,
        popularity: Float64,
        noise: Noise,
        random: np.random.Generator,
        progress: Callable[[int, int], None] | None,
    ) -> Float64:
        """Run the steps; ``positive`` holds the head alone. Returns its factors."""
        head = positive.shape[1]
        rank = popularity if self.sampling == "tail" else None
        sample = bounded_sample(positive, self.max_items_per_user, random, rank=rank)
        items = (
            _INITIAL_SCALE / (self.clip_norm * math.sqrt(self.factors)) * random.standard_normal((head, self.factors))
        )
        observations = Observations.of(positive)
        for step in range(self.steps):
            users = self._clipped(self._solve_users(observations, items.astype(np.float32)))
            exact = Statistics.of(users, sample, moments=self.moments == "own")
            seen = exact.noisy(noise, self.clip_norm, self.max_items_per_user, random)
            if self.head_items is not None:
                deviation = noise.sums * self.clip_norm * math.sqrt(self.max_items_per_user)
                seen = replace(seen, sums=shrunk_sums(seen.sums, popularity, deviation))
            items = self._solve_items(seen, popularity)
            if progress is not None:
                progress(step + 1, self.steps)
        return items

    def _solve_users(self, rows: Observations, items: Float32) -> Float32:
        """Solve users exactly for items in any basis."""
        objective, design = self._objective, copy_padded(items)
        spectrum, rotation = eigenbasis(_core.gramian(design, objective.threads))
        _core.rotate(design, rotation, objective.threads)
        solution = padded(len(rows.counts), self.factors)
        how = HalfStep(objective.ridge(rows.counts, len(items)), spectrum=spectrum, exact=True)
        Host(objective.threads).solve(objective, rows, design, solution, None, how)
        _core.rotate(solution, np.ascontiguousarray(rotation.T), objective.threads)
        return np.ascontiguousarray(solution)

    def _clipped(self, users: Float32) -> Float64:
        wide = users.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        return np.asarray(wide * np.minimum(1.0, self.clip_norm / np.maximum(lengths, 1e-300)))

    def _solve_items(self, seen: Statistics, popularity: Float64) -> Float64:
        """Solve items from what was released alone."""
        f = self.factors
        mass = np.trace(seen.gramian) / self.clip_norm**2  # about the number of users, which is not released
        ridge = self.regularization * (popularity + self.unobserved_weight * mass) ** self.regularization_exponent
        dense = self.unobserved_weight * seen.gramian
        solved = np.empty_like(seen.sums)
        for start in range(0, len(solved), _BLOCK):
            part = slice(start, start + _BLOCK)
            if seen.moments is None:
                own = popularity[part, None, None] * (seen.gramian / max(mass, 1.0))
            else:
                own = seen.moments[part]
            systems = own + dense + ridge[part, None, None] * np.eye(f)
            solved[part] = np.linalg.solve(systems, seen.sums[part, :, None])[..., 0]
        return solved

    def _adopt(self, head_factors: Float64, head: npt.NDArray[np.int64]) -> None:
        self.head_ = np.zeros(len(self.item_map), np.bool_)
        self.head_[head] = True
        self.item_factors_ = np.zeros((len(self.item_map), self.factors), np.float32)
        self.item_factors_[head] = head_factors
        self.item_factors_.flags.writeable = False
        self._forget_indexes()

    def fold_in(self, interactions: Any) -> Float32:
        """Compute users' own factors from their interactions with the known items.

        Parameters
        ----------
        interactions : scipy.sparse matrix or Interactions, shape (n, items)
            Columns are the model's item rows.

        Returns
        -------
        array of float32, shape (n, factors)
            Each from its own row alone, and meant for that user alone.
        """
        self._require_fitted()
        data = as_interactions(interactions)
        if data.shape[1] != len(self.item_map):
            raise ValueError(f"interactions: shape {data.shape}; expected {len(self.item_map)} columns")
        positive = _positive(data)
        head = np.flatnonzero(self.head_)
        return self._solve_users(Observations.of(sp.csr_matrix(positive[:, head])), self.item_factors_[head])

    def dp_event(self) -> Any:
        """Describe what was released as an event of the library dp-accounting, for an accountant of your choice.

        Raises
        ------
        ImportError
            Where it is not installed: pip install 'salience[dp]'.
        """
        self._require_fitted()
        try:
            import dp_accounting
        except ImportError:
            raise ImportError("dp_event: needs dp-accounting; pip install 'salience[dp]'") from None
        noise = self.noise_
        each = [noise.gramian, noise.sums, *([] if noise.moments is None else [noise.moments])]
        events = [
            dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), noise.steps)
            for multiplier in each
        ]
        if noise.counts is not None:
            events.append(dp_accounting.GaussianDpEvent(noise.counts))
        return dp_accounting.ComposedDpEvent(events)

    def _query_vectors(self, rows: npt.NDArray[np.int64]) -> Float32:
        return self.user_factors_[rows]

    def _item_vectors(self) -> Float32:
        return self.item_factors_

    def save(self, path: str | Path, *, users: bool = True) -> None:
        """Write the model; see :meth:`load`.

        Parameters
        ----------
        path : path
        users : bool
            False leaves out users' factors, ids and histories: what is left is what the guarantee covers. Such a
            model recommends through :meth:`fold_in`.
        """
        self._require_fitted()
        seen = self._seen
        if not users:
            nobody = sp.csr_matrix((0, len(self.item_map)), dtype=np.float32)
            seen = Interactions.from_csr(nobody, items=None if self.item_map.identity else self.item_map.ids)
        tensors: _storage.Tensors = {
            "items": self.item_factors_, "head": self.head_.astype(np.uint8),
            "user_factors": self.user_factors_[: seen.shape[0]], **_storage.pack_interactions("seen", seen),
        }  # fmt: skip
        if self.item_counts_ is not None:
            tensors["counts"] = self.item_counts_
        infinite = math.isinf(self.epsilon)
        settings = {name: getattr(self, name) for name in _SETTINGS} | {"epsilon": None if infinite else self.epsilon}
        _storage.save_tensors(path, tensors, kind="PrivateALS", metadata={"settings": settings})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; ValueError where the file is damaged or another model's."""
        tensors, metadata = _storage.load_tensors(path, kind="PrivateALS")
        settings = metadata["settings"]
        model = cls(**settings | {"epsilon": math.inf if settings["epsilon"] is None else settings["epsilon"]})
        model._seen = _storage.unpack_interactions("seen", tensors)
        model.user_map, model.item_map = model._seen.user_map, model._seen.item_map
        model.item_counts_ = tensors.get("counts")
        budget = gaussian_budget(model.epsilon, model.delta)
        model.noise_ = Noise.of(
            budget, model.steps, counts=model.head_items is not None, moments=model.moments == "own"
        )
        model.epsilon_ = model._spent(model.noise_)
        head = np.flatnonzero(tensors["head"])
        model._adopt(tensors["items"][head].astype(np.float64), head)
        model.user_factors_ = tensors["user_factors"]
        model.user_factors_.flags.writeable = False
        return model


_SETTINGS = (
    "factors", "delta", "max_items_per_user", "clip_norm", "steps", "head_items", "moments", "sampling",
    "unobserved_weight", "regularization", "regularization_exponent",
)  # fmt: skip

__all__ = ["Noise", "PrivateALS", "gaussian_budget", "gaussian_epsilon"]
