"""The machinery behind ALS: observations, half-steps, feature priors, epochs."""

from __future__ import annotations

import copy
import functools
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
from threadpoolctl import ThreadpoolController

from salience import _arrays, _core

if TYPE_CHECKING:
    from salience._als_backends import Backend

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Features = Any  # a dense float32 matrix or a CSR matrix
Matrix = Any  # factors, as a backend holds them: see _als_backends

_PADDING = 16
_PLAIN_EPOCHS = 1  # before over-relaxation: the first step comes from noise, and goes far enough
_DIRECT_FEATURES = 2048  # up to so many, the feature weights are solved by Cholesky, beyond by conjugate gradients
_FEATURE_STEPS = 8  # an epoch; the next goes on from there
_FEATURE_TOLERANCE = 1e-5


def padded_width(columns: int) -> int:
    """Return how far apart rows lie."""
    return -(-columns // _PADDING) * _PADDING


def padded(rows: int, columns: int) -> Float32:
    """Return zeros whose rows have the padding that the kernels rely on, and begin where cache lines do."""
    width = padded_width(columns)
    memory = np.zeros(rows * width + _PADDING, np.float32)
    begin = -memory.ctypes.data % (4 * _PADDING) // 4
    return memory[begin : begin + rows * width].reshape(rows, width)[:, :columns]


def copy_padded(matrix: Float32, rows: int | None = None) -> Float32:
    """Copy a matrix into padded rows, with rows of zeros to follow where ``rows`` is more than it has."""
    copy = padded(len(matrix) if rows is None else rows, matrix.shape[1])
    copy[: len(matrix)] = matrix
    return copy


class Observations(NamedTuple):
    """A CSR matrix as the kernels read it: one row a user (or an item)."""

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    values: Float32

    @classmethod
    def of(cls, csr: Any) -> Observations:
        indptr, indices = _arrays.csr_pattern(csr, argument="interactions")
        return cls(indptr, indices, np.ascontiguousarray(csr.data, np.float32))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many observations each row has."""
        return np.diff(self.indptr)

    def take(self, rows: npt.NDArray[np.int64]) -> Observations:
        """Return some rows."""
        indptr, where = _arrays.entries_of_rows(self.indptr, rows)
        return Observations(indptr, self.indices[where], self.values[where])


@dataclass(frozen=True)
class Objective:
    """What is minimized, and by which solver."""

    factors: int
    explicit: bool
    alpha: float
    unobserved_weight: float
    regularization: float
    exponent: float
    feature_regularization: float
    nonnegative: bool
    solver: str
    steps: int
    tolerance: float
    block: int
    relaxation: float
    threads: int

    @property
    def columns(self) -> int:
        """Width of a factor matrix: explicit feedback carries the bias as the last column."""
        return self.factors + self.explicit

    def ridge(self, counts: npt.NDArray[Any], others: int) -> Float32:
        """Return the ridge of rows with ``counts`` observations, of ``others`` possible ones."""
        wide = counts.astype(np.float64)
        size = np.maximum(wide, 1.0) if self.explicit else wide + self.unobserved_weight * others
        return np.asarray((self.regularization * size**self.exponent).astype(np.float32))


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def eigenbasis(gramian: Float64) -> tuple[Float64, Float32]:
    """Return eigenvalues, largest first, and the rotation into their basis."""
    # On one thread: the others would go on spinning for a while, on the cores that the next kernel needs.
    with _blas().limit(limits=1, user_api="blas"):
        values, vectors = np.linalg.eigh(gramian)
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1], np.float32)


class FeaturePrior:
    """Where the features of a side's rows say that its factors should be: ``features @ weights``.

    The weights minimize sum_i ridge_i |y_i - weights^T f_i|^2 + feature_regularization |weights|^2 over the rows
    with observations: ridge regression of the factors, in closed form. They stay in host memory; what has as many
    rows as the side is the backend's.
    """

    def __init__(
        self,
        features: Features,
        observed: npt.NDArray[np.bool_],
        ridge: Float32,
        objective: Objective,
        backend: Backend,
    ) -> None:
        self.features = features
        self.observed = observed
        self.regularization = objective.feature_regularization
        self.weights = padded(features.shape[1], objective.columns)
        self._held = backend.features(features)
        self._strength = np.where(observed, ridge, 0).astype(np.float64)
        self._factor: Any = None

    def copy(self) -> FeaturePrior:
        """Copy what an epoch changes."""
        twin = copy.copy(self)
        twin.weights = copy_padded(self.weights)
        return twin

    def rows(self) -> Matrix:
        """Return the prior of every row."""
        return self._held.multiply(self.weights)

    def training_rows(self) -> Matrix:
        """Return the prior, 0 for rows without observations: those take no part in the objective."""
        return self._held.multiply(self.weights, self.observed)

    def update(self, factors: Matrix) -> None:
        """Fit the weights to the factors."""
        right = self._held.multiply_transposed(self._strength, factors)
        if self.features.shape[1] <= _DIRECT_FEATURES:
            self.weights[:] = self._solve_directly(right)
        else:
            self.weights[:] = self._iterate(right)

    def penalty(self) -> float:
        """Return feature_regularization |weights|^2."""
        return self.regularization * float(np.square(self.weights, dtype=np.float64).sum())

    def _solve_directly(self, right: Float64) -> Float64:
        if self._factor is None:
            scaled = self.features.T * self._strength if not sp.issparse(self.features) else (
                self.features.T @ sp.diags_array(self._strength)
            )  # fmt: skip
            system = scaled @ self.features
            system = np.asarray(system.todense() if sp.issparse(system) else system, np.float64)
            system[np.diag_indices_from(system)] += self.regularization
            self._factor = scipy.linalg.cho_factor(system, lower=True)
        return np.asarray(scipy.linalg.cho_solve(self._factor, right))

    def _iterate(self, right: Float64) -> Float64:
        """Solve for all factors together by conjugate gradients from the weights as they are."""
        features = self.features
        squares = features.multiply(features) if sp.issparse(features) else np.square(features)
        scale = 1.0 / (np.asarray(squares.T @ self._strength).reshape(-1, 1) + self.regularization)
        weights = self.weights.astype(np.float64)

        def apply(matrix: Float64) -> Float64:
            return np.asarray(self._held.normal(self._strength, matrix) + self.regularization * matrix)

        residual = right - apply(weights)
        direction = scale * residual
        rho = (residual * direction).sum(axis=0)
        limit = _FEATURE_TOLERANCE**2 * np.square(right).sum(axis=0)
        for _ in range(_FEATURE_STEPS):
            if np.all(np.square(residual).sum(axis=0) <= limit):
                break
            image = apply(direction)
            step = rho / np.maximum((direction * image).sum(axis=0), 1e-300)
            weights += step * direction
            residual -= step * image
            turned = scale * residual
            following = (residual * turned).sum(axis=0)
            direction = turned + following / np.maximum(rho, 1e-300) * direction
            rho = following
        return weights


@dataclass
class Side:
    """Users or items: what was observed of them, their factors, and where features expect these."""

    name: str
    rows: Observations
    ridge: Float32
    factors: Matrix
    prior: FeaturePrior | None = None
    held: Any = None  # the rows, as the backend holds them


@dataclass(frozen=True)
class HalfStep:
    """What a half-step is told beside its matrices."""

    ridge: Float32
    spectrum: Float64 | None
    dense: Float64 | None = None
    mean: float = 0.0
    exact: bool = False
    relaxation: float = 1.0
    with_data_loss: bool = False
    name: str = "interactions"

    def diagonal(self, objective: Objective, stride: int) -> Float32:
        """Return the dense part of the systems: diagonal, as everything is in the eigenbasis."""
        diagonal = np.zeros(stride, np.float32)
        if self.spectrum is not None:
            diagonal[: objective.factors] = objective.unobserved_weight * self.spectrum
        return diagonal

    def settings(self, objective: Objective) -> dict[str, Any]:
        """Return the arguments that both devices' half-steps have."""
        return {
            "is_explicit": objective.explicit, "alpha": objective.alpha,
            "solver": "nonnegative" if objective.nonnegative else "cholesky" if self.exact else objective.solver,
            "steps": objective.steps, "tolerance": objective.tolerance,
            "relaxation": 1.0 if objective.nonnegative or self.exact else self.relaxation,
            "with_data_loss": self.with_data_loss,
        }  # fmt: skip


class Epoch(NamedTuple):
    """What an epoch came to."""

    loss: float
    residual: float


class Factorization:
    """Both sides, and the steps between them."""

    def __init__(self, objective: Objective, users: Side, items: Side, mean: float, backend: Backend) -> None:
        self.objective = objective
        self.users = users
        self.items = items
        self.mean = mean
        self.backend = backend

    @classmethod
    def start(cls, objective: Objective, users: Side, items: Side, mean: float, backend: Backend) -> Factorization:
        """Hand factors and observations, in host memory, to the backend."""
        for side, other in ((users, items), (items, users)):
            side.factors[side.rows.counts == 0] = 0  # they take no part until the end
            side.held = backend.rows(side.rows, len(other.ridge))
        for side in (users, items):
            side.factors = backend.matrix(side.factors)
        return cls(objective, users, items, mean, backend)

    def _gramian(self, side: Side) -> Float64:
        return self.backend.gramian(side.factors, self.objective.factors)

    def _turn(self, side: Side, replaced: Side | None = None) -> Float64 | None:
        """Turn everything into the eigenbasis of a side's Gramian; returns its eigenvalues.

        Without a weight on unobserved pairs there is no dense part to make diagonal. Factors of a side that are going
        to be ``replaced``, all of them, stay as they are.
        """
        if self.objective.nonnegative or self.objective.unobserved_weight == 0:
            return None
        spectrum, rotation = eigenbasis(self._gramian(side))
        for side in (self.users, self.items):
            if side is not replaced:
                self.backend.rotate(side.factors, rotation)
            if side.prior is not None:
                _core.rotate(side.prior.weights[:, : self.objective.factors], rotation, self.objective.threads)
        return spectrum

    def _dense(self, side: Side) -> Float64 | None:
        if not self.objective.nonnegative or self.objective.explicit:
            return None
        return self._gramian(side)

    def _solve(self, side: Side, other: Side, **how: Any) -> dict[str, float]:
        self.spectrum = self._turn(other, replaced=side if how.get("exact") else None)
        prior = None if side.prior is None else side.prior.training_rows()
        step = HalfStep(
            side.ridge, spectrum=self.spectrum, dense=self._dense(other), mean=self.mean, name=side.name, **how
        )
        return self.backend.solve(self.objective, side.held, other.factors, side.factors, prior, step)

    def epoch(self, number: int) -> Epoch:
        """Update all users, then all items; ``number`` counts from 1."""
        relaxation = self.objective.relaxation if number > _PLAIN_EPOCHS else 1.0
        reports = []
        for side, other in ((self.users, self.items), (self.items, self.users)):
            reports.append(self._solve(side, other, relaxation=relaxation, with_data_loss=side is self.items))
            if side.prior is not None:
                side.prior.update(side.factors)
        ridge = sum(
            self._ridge_loss(side, report) for side, report in zip((self.users, self.items), reports, strict=True)
        )
        return Epoch(reports[1]["data_loss"] + ridge, max(report["worst_residual"] for report in reports))

    def _ridge_loss(self, side: Side, report: dict[str, float]) -> float:
        if side.prior is None:
            return report["ridge_loss"]
        return self.backend.ridge_loss(side.ridge, side.factors, side.prior.training_rows()) + side.prior.penalty()

    def finish(self) -> None:
        """Solve the users exactly for the items as they are, and put rows without observations where features say."""
        self._solve(self.users, self.items, exact=True)
        self._fill_empty()

    def refine(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> None:
        """Solve some users, then some items, then these users again, exactly; all others stay. Only on the CPU."""
        for side, other, rows in (
            (self.users, self.items, users),
            (self.items, self.users, items),
            (self.users, self.items, users),
        ):
            self.spectrum = self._turn(other)
            solution = copy_padded(side.factors[rows])
            prior = None if side.prior is None else copy_padded(side.prior.training_rows()[rows])
            step = HalfStep(
                side.ridge[rows], spectrum=self.spectrum, dense=self._dense(other), mean=self.mean, exact=True,
                name=side.name,
            )  # fmt: skip
            self.backend.solve(self.objective, side.rows.take(rows), other.factors, solution, prior, step)
            side.factors[rows] = solution
        self._fill_empty()

    def _fill_empty(self) -> None:
        for side in (self.users, self.items):
            if side.prior is not None:
                self.backend.fill_empty(side.held, side.factors, side.prior.rows())

    def copy(self) -> Factorization:
        """Copy what an epoch changes."""
        sides = [
            replace(side, factors=self.backend.copy(side.factors), prior=side.prior and side.prior.copy())
            for side in (self.users, self.items)
        ]
        return Factorization(self.objective, sides[0], sides[1], self.mean, self.backend)

    def host(self, matrix: Matrix) -> Float32:
        """Return a matrix of the backend in host memory, padded."""
        return self.backend.host(matrix)

    def state(self) -> dict[str, Any]:
        """Return the arrays that a later run needs to go on to the same bits."""
        state = {}
        for side in (self.users, self.items):
            state[f"{side.name}.factors"] = np.ascontiguousarray(self.host(side.factors))
            if side.prior is not None:
                state[f"{side.name}.weights"] = np.ascontiguousarray(side.prior.weights)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state`."""
        for side in (self.users, self.items):
            self.backend.assign(side.factors, state[f"{side.name}.factors"])
            if side.prior is not None:
                side.prior.weights[:] = state[f"{side.name}.weights"]


def fingerprint(*rows: Observations) -> str:
    """Tell one set of observations from another."""
    digest = hashlib.sha256()
    for part in rows:
        for array in part:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def as_features(features: Any, rows: int, argument: str) -> Features:
    """Check features of a side's rows: finite numbers, dense or sparse, one row for each."""
    if features is None:
        return None
    if sp.issparse(features):
        matrix = sp.csr_array(features, dtype=np.float32)
        values = matrix.data
    else:
        matrix = np.asarray(features)
        if matrix.dtype.kind not in "fiub":
            raise TypeError(f"{argument}: {_arrays.describe(matrix)}; expected real numbers")
        matrix = values = matrix.astype(np.float32)
    if matrix.ndim != 2 or matrix.shape[0] != rows or matrix.shape[1] == 0:
        raise ValueError(f"{argument}: shape {matrix.shape}; expected {rows} rows, one for each of the {argument[:4]}s")
    if not np.isfinite(values).all():
        raise ValueError(f"{argument}: values that are not finite; expected finite numbers")
    return matrix
