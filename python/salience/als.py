"""Alternating least squares for implicit and explicit feedback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from salience import _arrays, _core, _storage
from salience.interactions import as_interactions, make_frame
from salience.models import Float32, VectorModel

if TYPE_CHECKING:
    from typing_extensions import Self

Float64 = npt.NDArray[np.float64]

_PADDING = 16
_INITIAL_SCALE = 0.1
# The last user half-step and fold_in solve to this relative residual: fp32 carries no more.
_TIGHT = {"steps": 200, "tolerance": 1e-5}


def _copy_padded(matrix: Float32) -> Float32:
    """Copy a matrix with the padding of its rows, which the kernels rely on."""
    copy = np.zeros((len(matrix), matrix.strides[0] // matrix.itemsize), np.float32)[:, : matrix.shape[1]]
    copy[:] = matrix
    return copy


class _Rows(NamedTuple):
    """Observations as the kernels read them: one row a user (or an item)."""

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    values: Float32

    @classmethod
    def of(cls, csr: Any) -> _Rows:
        indptr, indices = _arrays.csr_pattern(csr, argument="interactions")
        return cls(indptr, indices, np.ascontiguousarray(csr.data, np.float32))


@dataclass(frozen=True)
class Explanation:
    """Why a user got an item: the score as a sum over the user's own past items.

    Attributes
    ----------
    score : float
        ``base`` plus the sum of ``contributions``; what ``score`` returns, up to rounding.
    base : float
        What does not depend on the user's items (explicit: mean and item bias; implicit: 0).
    items : array, shape (n,)
        Ids of the user's past items, the largest contribution first.
    contributions : array of float64, shape (n,)
    """

    user: Any
    item: Any
    score: float
    base: float
    items: npt.NDArray[Any]
    contributions: Float64

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with columns item and contribution."""
        return make_frame({"item": self.items, "contribution": self.contributions}, backend)


class ALS(VectorModel):
    """Matrix factorization by alternating least squares in the Gramian's eigenbasis.

    With S the observed pairs, minimizes
    sum_S c (p - x.y)^2 + unobserved_weight * sum_all (x.y)^2 + sum_u l_u |x_u|^2 + sum_i l_i |y_i|^2.
    Implicit: c = alpha * value, p = 1. Explicit: c = 1, p = value - mean - biases (solved jointly
    with the factors) and unobserved_weight = 0. The ridge is
    l_u = regularization * (|S_u| + unobserved_weight * items) ** regularization_exponent, explicit
    regularization * max(|S_u|, 1) ** regularization_exponent, and the same for items.

    Parameters
    ----------
    factors : int
    feedback : {"implicit", "explicit"}
    alpha : float
        Weight of an observation of value 1 (implicit).
    unobserved_weight : float
        Weight of the pull of every pair towards 0 (implicit).
    regularization, regularization_exponent : float, optional
        Default 3 and 0 (implicit), 1 and 0.5 (explicit).
    epochs : int
        One epoch updates all users, then all items.
    solver : {"auto", "cg"}
        Conjugate gradients, preconditioned, started from the last epoch's solution.
    steps : int
        Conjugate gradient steps a row takes in a half-step.
    seed : int
        Same seed, same result, for any number of threads.
    threads : int, optional
        Default: the cores this process may run on.
    device : {"auto", "cpu"}

    Attributes
    ----------
    user_factors_, item_factors_ : array of float32, shape (users or items, factors)
        In the eigenbasis of the items' Gramian, the largest eigenvalue first.
    user_biases_, item_biases_, mean_ : arrays of float32 and float (explicit)
    loss_history_ : list of float
        The objective after each epoch.
    residual_history_ : list of float
        The worst relative residual of any row in each epoch.

    Notes
    -----
    Cost of an epoch: 8 * steps * entries * factors operations, plus (users + items) * factors ** 2
    for the Gramians and rotations. Objective and ridge after Rendle et al., "Revisiting the
    performance of iALS on item recommendation benchmarks" (RecSys 2022).
    """

    def __init__(
        self,
        factors: int = 64,
        *,
        feedback: Literal["implicit", "explicit"] = "implicit",
        alpha: float = 1.0,
        unobserved_weight: float = 0.1,
        regularization: float | None = None,
        regularization_exponent: float | None = None,
        epochs: int = 10,
        solver: Literal["auto", "cg"] = "auto",
        steps: int = 3,
        seed: int = 0,
        threads: int | None = None,
        device: Literal["auto", "cpu"] = "auto",
    ) -> None:
        for argument, value, known in (
            ("feedback", feedback, ("implicit", "explicit")),
            ("solver", solver, ("auto", "cg")),
            ("device", device, ("auto", "cpu")),
        ):
            if value not in known:
                raise ValueError(f"{argument}: {value!r}; expected {' or '.join(map(repr, known))}")
        explicit = feedback == "explicit"
        self.factors = _arrays.whole(factors, argument="factors", least=1, most=4096)
        self.feedback = feedback
        self.alpha = _arrays.real(alpha, argument="alpha", positive=True)
        self.unobserved_weight = 0.0 if explicit else _arrays.real(unobserved_weight, argument="unobserved_weight")
        self.regularization = _arrays.real(
            (1.0 if explicit else 3.0) if regularization is None else regularization,
            argument="regularization",
        )
        self.regularization_exponent = _arrays.real(
            (0.5 if explicit else 0.0) if regularization_exponent is None else regularization_exponent,
            argument="regularization_exponent",
        )
        self.epochs = _arrays.whole(epochs, argument="epochs", least=1)
        self.solver = solver
        self.steps = _arrays.whole(steps, argument="steps", least=1)
        self.seed = _arrays.whole(seed, argument="seed", most=2**64 - 1)
        _arrays.thread_count(threads)
        self.threads = threads
        self.device = device

    @property
    def _explicit(self) -> bool:
        return self.feedback == "explicit"

    def fit(
        self,
        interactions: Any,
        *,
        callback: Callable[[int, ALS], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn factors from interactions.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
        callback : callable, optional
            Called as ``callback(epoch, model)`` after each epoch, from 1; by then the model can
            recommend.
        progress : callable, optional
            Called as ``progress(done, total)`` after each epoch.

        Raises
        ------
        TypeError, ValueError
            Naming the argument: no interactions, or negative values (implicit).
        FloatingPointError
            Naming the first row whose system could not be solved.
        """
        data = as_interactions(interactions)
        if len(data) == 0:
            raise ValueError(f"interactions: {data!r}; expected at least one entry")
        if not self._explicit and data.matrix.data.min() < 0:
            raise ValueError(f"interactions: value {data.matrix.data.min()}; expected values that are not negative")
        self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
        by_user, by_item = _Rows.of(data.matrix), _Rows.of(data.matrix.T.tocsr())
        self.mean_ = float(data.matrix.data.mean(dtype=np.float64)) if self._explicit else 0.0
        users, items = self._start(*data.shape)
        ridges = self._ridge(by_user, len(items)), self._ridge(by_item, len(users))
        self.loss_history_: list[float] = []
        self.residual_history_: list[float] = []
        gramian = self._gramian(items)
        for epoch in range(1, self.epochs + 1):
            first, _ = self._half_step(by_user, items, users, ridges[0], gramian, "users")
            second, spectrum = self._half_step(by_item, users, items, ridges[1], self._gramian(users), "items")
            gramian = self._gramian(items)
            self.residual_history_.append(max(first, second))
            self.loss_history_.append(self._loss(by_user, users, items, ridges, spectrum, gramian))
            if callback is not None:
                self._finish(by_user, _copy_padded(users), _copy_padded(items), ridges[0])
                callback(epoch, self)
            if progress is not None:
                progress(epoch, self.epochs)
        self._finish(by_user, users, items, ridges[0])
        return self

    def _padded(self, rows: int) -> Float32:
        columns = self.factors + self._explicit
        return np.zeros((rows, -(-columns // _PADDING) * _PADDING), np.float32)[:, :columns]

    def _start(self, user_count: int, item_count: int) -> tuple[Float32, Float32]:
        users, items = self._padded(user_count), self._padded(item_count)
        scale = np.float32(_INITIAL_SCALE / np.sqrt(self.factors))
        items[:, : self.factors] = scale * _core.random_normal(self.seed, 0, item_count, self.factors)
        return users, items

    def _ridge(self, rows: _Rows, others: int) -> Float32:
        counts = np.diff(rows.indptr).astype(np.float64)
        size = np.maximum(counts, 1.0) if self._explicit else counts + self.unobserved_weight * others
        return (self.regularization * size**self.regularization_exponent).astype(np.float32)

    def _gramian(self, matrix: Float32) -> Float64:
        return _core.gramian(matrix[:, : self.factors], _arrays.thread_count(self.threads))

    def _half_step(
        self,
        rows: _Rows,
        design: Float32,
        solution: Float32,
        ridge: Float32,
        gramian: Float64,
        side: str,
    ) -> tuple[float, Float64]:
        """Solve one side; returns the worst residual and the spectrum both sides now live in."""
        threads = _arrays.thread_count(self.threads)
        values, vectors = np.linalg.eigh(gramian)
        values, rotation = (
            np.maximum(values[::-1], 0.0),
            np.ascontiguousarray(vectors[:, ::-1], np.float32),
        )
        for matrix in (design, solution):
            _core.rotate(matrix[:, : self.factors], rotation, threads)
        return self._solve(rows, design, solution, ridge, values, side, self.steps, 0.0), values

    def _solve(
        self, rows: _Rows, design: Float32, solution: Float32, ridge: Float32, spectrum: Float64,
        side: str, steps: int, tolerance: float,
    ) -> float:  # fmt: skip
        diagonal = np.zeros(design.strides[0] // design.itemsize, np.float32)
        diagonal[: self.factors] = self.unobserved_weight * spectrum
        try:
            worst, _, _ = _core.half_step(
                *rows, design, self._explicit, self.alpha, self.mean_, diagonal, ridge, solution, steps, tolerance,
                _arrays.thread_count(self.threads),
            )  # fmt: skip
        except FloatingPointError as error:
            raise FloatingPointError(f"{side} {error}") from None
        return float(worst)

    def _loss(
        self, rows: _Rows, users: Float32, items: Float32, ridges: tuple[Float32, Float32], spectrum: Float64,
        gramian: Float64,
    ) -> float:  # fmt: skip
        observed = _core.row_loss(
            *rows,
            items,
            self._explicit,
            self.alpha,
            self.mean_,
            users,
            _arrays.thread_count(self.threads),
        ).sum()
        # In this basis the users' Gramian is diagonal, so the sum over all pairs is a trace.
        everything = self.unobserved_weight * (spectrum * np.diag(gramian)).sum()
        ridge = sum(
            (penalty * np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)).sum()
            for penalty, matrix in zip(ridges, (users, items), strict=True)
        )
        return float(observed + everything + ridge)

    def _finish(self, by_user: _Rows, users: Float32, items: Float32, ridge: Float32) -> None:
        """Solve the users tightly for the final items, so that fold_in of a history agrees."""
        gramian = self._gramian(items)
        values, vectors = np.linalg.eigh(gramian)
        rotation = np.ascontiguousarray(vectors[:, ::-1], np.float32)
        for matrix in (users, items):
            _core.rotate(matrix[:, : self.factors], rotation, _arrays.thread_count(self.threads))
        self._spectrum = np.maximum(values[::-1], 0.0)
        self._solve(by_user, items, users, ridge, self._spectrum, "users", **_TIGHT)  # type: ignore[arg-type]
        self._adopt(users, items)

    def _adopt(self, users: Float32, items: Float32) -> None:
        f = self.factors
        self._items = items
        self.user_factors_ = np.ascontiguousarray(users[:, :f])
        self.item_factors_ = np.ascontiguousarray(items[:, :f])
        if self._explicit:
            self.user_biases_, self.item_biases_ = users[:, f].copy(), items[:, f].copy()
            ones = np.ones((len(items), 1), np.float32)
            self._serving = np.hstack([self.item_factors_, ones, self.item_biases_[:, None]])
        else:
            self._serving = self.item_factors_
        # A change in place would go unnoticed by the packed copies that serve recommendations.
        for factors in (self.user_factors_, self.item_factors_, self._serving):
            factors.flags.writeable = False
        self._forget_indexes()

    def fold_in(self, interactions: Any) -> Float32:
        """Compute factors of new users from their interactions with the known items.

        Parameters
        ----------
        interactions : scipy.sparse matrix or Interactions, shape (n, items)
            Columns are the model's item rows.

        Returns
        -------
        array of float32, shape (n, factors), or (n, factors + 1) with the bias last if explicit
        """
        self._require_fitted()
        csr = as_interactions(interactions).matrix
        if csr.shape[1] != len(self.item_map):
            raise ValueError(f"interactions: shape {csr.shape}; expected {len(self.item_map)} columns")
        rows, solution = _Rows.of(csr), self._padded(csr.shape[0])
        ridge = self._ridge(rows, len(self.item_map))
        self._solve(rows, self._items, solution, ridge, self._spectrum, "interactions", **_TIGHT)  # type: ignore[arg-type]
        return np.ascontiguousarray(solution)

    def explain(self, user: Any, item: Any) -> Explanation:
        """Split a score into what each of the user's past items adds to it.

        The user's factors are linear in the targets of the past items, so the split is exact
        (Hu, Koren and Volinsky 2008, section 5). Cost: factors ** 3 in float64.
        """
        self._require_fitted()
        u = int(self.user_map.rows([user], argument="user")[0])
        i = int(self.item_map.rows([item], argument="item")[0])
        start, stop = self._seen.matrix.indptr[u : u + 2]
        past, values = (
            self._seen.matrix.indices[start:stop],
            self._seen.matrix.data[start:stop].astype(np.float64),
        )
        design = self.item_factors_.astype(np.float64)
        weights, targets, base = self.alpha * values, np.ones(len(past)), 0.0
        dense = self.unobserved_weight * np.diag(self._spectrum)
        if self._explicit:
            biases = self.item_biases_.astype(np.float64)
            design = np.hstack([design, np.ones((len(design), 1))])
            weights, targets, base = (
                np.ones(len(past)),
                values - self.mean_ - biases[past],
                self.mean_ + biases[i],
            )
            dense = np.zeros((design.shape[1],) * 2)
        observed = design[past]
        ridge = float(self._ridge(_Rows(np.array([0, len(past)]), past, values.astype(np.float32)), len(design))[0])
        system = dense + ridge * np.eye(len(dense)) + observed.T @ (weights[:, None] * observed)
        contributions = (observed @ np.linalg.solve(system, design[i])) * weights * targets
        order = np.argsort(-contributions, kind="stable")
        ids = self.item_map.ids
        return Explanation(
            user,
            item,
            float(base + contributions.sum()),
            float(base),
            ids[past[order]],
            contributions[order],
        )

    def _query_vectors(self, rows: npt.NDArray[np.int64]) -> Float32:
        if not self._explicit:
            return self.user_factors_[rows]
        offset = self.user_biases_[rows, None] + np.float32(self.mean_)
        return np.hstack([self.user_factors_[rows], offset, np.ones((len(rows), 1), np.float32)])

    def _item_vectors(self) -> Float32:
        return self._serving

    def _similarity_vectors(self, vectors: Float32) -> Float32:
        return np.ascontiguousarray(vectors[:, : self.factors])

    def save(self, path: str | Path) -> None:
        """Write the model, its ids and what users have seen; see :meth:`load`."""
        self._require_fitted()
        tensors = {
            "users": self.user_factors_, "items": self._items, "spectrum": self._spectrum,
            "loss": np.array(self.loss_history_), "residual": np.array(self.residual_history_),
            **_storage.pack_interactions("seen", self._seen),
        }  # fmt: skip
        if self._explicit:
            tensors["user_biases"] = self.user_biases_
        names = ("factors", "feedback", "alpha", "unobserved_weight", "regularization", "regularization_exponent",
                 "epochs", "solver", "steps", "seed")  # fmt: skip
        settings = {name: getattr(self, name) for name in names}
        metadata = {"settings": settings, "mean": self.mean_}
        _storage.save_tensors(path, tensors, kind="ALS", metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; ValueError where the file is damaged or another model's."""
        tensors, metadata = _storage.load_tensors(path, kind="ALS")
        model = cls(**metadata["settings"])
        model._seen = _storage.unpack_interactions("seen", tensors)
        model.user_map, model.item_map = model._seen.user_map, model._seen.item_map
        model.mean_, model._spectrum = metadata["mean"], tensors["spectrum"]
        model.loss_history_, model.residual_history_ = (
            tensors["loss"].tolist(),
            tensors["residual"].tolist(),
        )
        users, items = model._padded(len(model.user_map)), model._padded(len(model.item_map))
        users[:, : model.factors] = tensors["users"]
        if model._explicit:
            users[:, model.factors] = tensors["user_biases"]
        items[:] = tensors["items"]
        model._adopt(users, items)
        return model
