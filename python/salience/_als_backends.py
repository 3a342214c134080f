"""Where ALS computes: on the CPU, or on a GPU where factors and observations then stay between steps.

Both offer the same operations on matrices of their own kind: padded arrays on the CPU, ``Factors`` of the CUDA module
on a GPU. Nothing above this module asks which it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _backends, _core
from salience._als import (
    Features,
    Float32,
    Float64,
    HalfStep,
    Matrix,
    Objective,
    Observations,
    copy_padded,
    padded,
    padded_width,
)
from salience._explain import contributions

# From so many entries times factors on training goes to a GPU by itself; exact solutions from so many operations.
# By then a CPU takes seconds, and a GPU pays for being started. Projected, not measured.
_TRAINING_PAYS_FROM = 2.0**28
_SOLVING_PAYS_FROM = 2.0**36
_SOLVERS = ("auto", "cg", "cholesky")  # that run on a GPU
_HALF_GATHERS = True  # conjugate gradients read the design in 16 bits; tests compare

_WORKSPACE = 256 << 20  # bytes for partial sums and systems
_USED_SHARE = 0.95  # of the free memory: allocations are rounded up
_SEGMENT = 512  # entries of a piece of a loss
_ROW_BYTES, _ENTRY_BYTES, _PIECE_BYTES = 12, 8, 16  # of observations on the device


@dataclass(frozen=True)
class Histories:
    """What scores are explained from: rows of observations, and each one's ridge and prior."""

    rows: Observations
    ridge: Float32
    prior: Float32 | None
    spectrum: Float64 | None
    dense: Float64
    mean: float


class Host:
    """The CPU: matrices are padded arrays."""

    plan: str | None = None

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def rows(self, observations: Observations, columns: int) -> Any:
        """Hold observations for half-steps."""
        return observations

    def matrix(self, array: Float32) -> Matrix:
        """Take over a padded array."""
        return array

    def host(self, matrix: Matrix) -> Float32:
        """Return a matrix as a padded array."""
        return np.asarray(matrix)

    def assign(self, matrix: Matrix, array: Float32) -> None:
        """Give a matrix other values."""
        matrix[:] = array

    def copy(self, matrix: Matrix) -> Matrix:
        """Copy a matrix."""
        return copy_padded(matrix)

    def gramian(self, matrix: Matrix, columns: int) -> Float64:
        """Return the Gramian of the first columns."""
        return _core.gramian(matrix[:, :columns], self.threads)

    def rotate(self, matrix: Matrix, rotation: Float32) -> None:
        """Turn the first columns, as many as the rotation has."""
        _core.rotate(matrix[:, : len(rotation)], rotation, self.threads)

    def solve(
        self, objective: Objective, rows: Any, design: Matrix, solution: Matrix, prior: Matrix | None, how: HalfStep
    ) -> dict[str, float]:
        """Solve rows given the other side's factors, ``design``; see csrc/core/operations.h."""
        shift = None
        if objective.explicit:
            shift = np.ascontiguousarray(design[:, objective.factors]) + np.float32(how.mean)
            design = copy_padded(design)
            design[:, objective.factors] = 1.0
        dense = None if how.dense is None else objective.unobserved_weight * how.dense
        diagonal = how.diagonal(objective, solution.strides[0] // solution.itemsize)
        found: dict[str, float] = named(
            how.name, _core.half_step, *rows, design, solution, diagonal, how.ridge, shift=shift, prior=prior,
            dense=dense, block=objective.block, threads=self.threads, **how.settings(objective),
        )  # fmt: skip
        return found

    def ridge_loss(self, ridge: Float32, factors: Matrix, prior: Matrix) -> float:
        """Return sum_i ridge_i |x_i - prior_i|^2."""
        return float(ridge @ np.square(factors.astype(np.float64) - prior).sum(axis=1))

    def fill_empty(self, rows: Any, factors: Matrix, prior: Matrix) -> None:
        """Put rows without observations where their prior is."""
        empty = rows.counts == 0
        factors[empty] = prior[empty]

    def features(self, features: Features) -> Any:
        """Hold features for priors."""
        return HostFeatures(features)

    def explain(
        self, objective: Objective, items: Float32, histories: Histories, targets: npt.NDArray[np.int64],
        history: npt.NDArray[np.int64],
    ) -> tuple[list[Float64], Float64]:  # fmt: skip
        """Split the scores of target items into what each observation of their histories adds, and the rest."""
        parts: list[Any] = [None] * len(targets)
        rest = np.zeros(len(targets))
        for row in np.unique(history):
            places = np.flatnonzero(history == row)
            begin, end = histories.rows.indptr[row : row + 2]
            past = histories.rows.indices[begin:end]
            observed, wanted = items[past].astype(np.float64), items[targets[places]].astype(np.float64)
            shift = np.zeros(len(past))
            if objective.explicit:
                shift = histories.mean + observed[:, -1]
                observed[:, -1] = wanted[:, -1] = 1.0
            prior = np.zeros(items.shape[1]) if histories.prior is None else histories.prior[row].astype(np.float64)
            found, rest[places] = contributions(
                objective, observed, histories.rows.values[begin:end].astype(np.float64), shift, histories.dense,
                float(histories.ridge[row]), prior, wanted,
            )  # fmt: skip
            for place, part in zip(places, found, strict=True):
                parts[place] = part
        return parts, rest


class HostFeatures:
    """Features of rows on the CPU, dense or sparse."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def multiply(self, weights: Float32, keep: npt.NDArray[np.bool_] | None = None) -> Matrix:
        """Return features times weights, padded; rows that are not kept are zero."""
        rows = copy_padded(np.asarray(self._features @ weights, np.float32))
        if keep is not None:
            rows[~keep] = 0
        return rows

    def multiply_transposed(self, strength: Float64, factors: Matrix) -> Float64:
        """Return features^T diag(strength) factors."""
        return np.asarray(self._features.T @ (strength[:, None] * factors))

    def normal(self, strength: Float64, matrix: Float64) -> Float64:
        """Return features^T diag(strength) features matrix."""
        return np.asarray(self._features.T @ (strength[:, None] * (self._features @ matrix)))


class Device:
    """A GPU: matrices stay in its memory, observations too where they fit, else they pass through it in blocks."""

    def __init__(self, block_bytes: int = 0, plan: str | None = None) -> None:
        self.module = _backends.cuda()
        self.block_bytes = block_bytes
        self.plan = plan
        self.workspace = min(_WORKSPACE, int(self.module.device()["total_bytes"]) // 8)

    def rows(self, observations: Observations, columns: int) -> Any:
        """Hold observations for half-steps."""
        return guarded(self.module.Rows, *observations, columns, self.block_bytes)

    def matrix(self, array: Float32) -> Matrix:
        """Copy an array to the GPU."""
        made = guarded(self.module.Factors, *array.shape)
        guarded(made.upload, array)
        return made

    def host(self, matrix: Matrix) -> Float32:
        """Copy a matrix to a padded array."""
        array = padded(matrix.rows, matrix.columns)
        guarded(matrix.download, array)
        return array

    def assign(self, matrix: Matrix, array: Float32) -> None:
        """Give a matrix other values."""
        guarded(matrix.upload, array)

    def copy(self, matrix: Matrix) -> Matrix:
        """Copy a matrix."""
        return guarded(matrix.copy)

    def gramian(self, matrix: Matrix, columns: int) -> Float64:
        """Return the Gramian of the first columns."""
        return np.asarray(guarded(self.module.gramian, matrix, columns, self.workspace))

    def rotate(self, matrix: Matrix, rotation: Float32) -> None:
        """Turn the first columns, as many as the rotation has."""
        guarded(self.module.rotate, matrix, rotation, self.workspace)

    def solve(
        self, objective: Objective, rows: Any, design: Matrix, solution: Matrix, prior: Matrix | None, how: HalfStep
    ) -> dict[str, float]:
        """Solve rows given the other side's factors, ``design``; see csrc/cuda/als.h."""
        diagonal = how.diagonal(objective, padded_width(objective.columns))
        # Where nothing pulls unobserved pairs to 0 a fit may come close to its data, and 16 bits show in its loss.
        halves = _HALF_GATHERS and objective.unobserved_weight > 0
        found: dict[str, float] = named(
            how.name, guarded, self.module.half_step, rows, design, solution, diagonal, how.ridge, prior=prior,
            mean=how.mean, half_gathers=halves, workspace=self.workspace, **how.settings(objective),
        )  # fmt: skip
        return found

    def ridge_loss(self, ridge: Float32, factors: Matrix, prior: Matrix) -> float:
        """Return sum_i ridge_i |x_i - prior_i|^2."""
        return float(guarded(self.module.ridge_loss, factors, prior, ridge))

    def fill_empty(self, rows: Any, factors: Matrix, prior: Matrix) -> None:
        """Put rows without observations where their prior is."""
        guarded(self.module.fill_empty, rows, factors, prior)

    def features(self, features: Features) -> Any:
        """Hold features for priors."""
        return DeviceFeatures(self, features)

    def explain(
        self, objective: Objective, items: Float32, histories: Histories, targets: npt.NDArray[np.int64],
        history: npt.NDArray[np.int64],
    ) -> tuple[list[Float64], Float64]:  # fmt: skip
        """Split the scores of target items into what each observation of their histories adds, and the rest."""
        used, where = np.unique(histories.rows.indices, return_inverse=True)  # only these items are looked at
        rows = histories.rows._replace(indices=where.astype(np.int32))
        counts = rows.counts[history]
        bounds = np.concatenate([[0], np.cumsum(counts)])
        wanted = copy_padded(items[targets])
        if objective.explicit:
            wanted[:, -1] = 1.0
        how = HalfStep(histories.ridge, histories.spectrum)
        parts, rest = guarded(
            self.module.explain, *rows, self.matrix(copy_padded(items[used])),
            how.diagonal(objective, padded_width(items.shape[1])), histories.ridge,
            prior=None if histories.prior is None else copy_padded(histories.prior), is_explicit=objective.explicit,
            alpha=objective.alpha, mean=histories.mean, targets=wanted, history=history.astype(np.int32),
            first_part=bounds[:-1], part_count=int(bounds[-1]), workspace=self.workspace,
        )  # fmt: skip
        return [parts[begin:end] for begin, end in itertools.pairwise(bounds)], rest


class DeviceFeatures:
    """Features of rows on a GPU, sparse; dense ones are kept so as well."""

    def __init__(self, device: Device, features: Features) -> None:
        csr = sp.csr_array(features, dtype=np.float32)
        self._device, self._shape = device, csr.shape
        self._held = guarded(device.module.Features, *Observations.of(csr), *Observations.of(csr.T.tocsr()))

    def multiply(self, weights: Any, keep: npt.NDArray[np.bool_] | None = None) -> Matrix:
        """Return features times weights; rows that are not kept are zero."""
        device = self._device
        out = guarded(device.module.Factors, self._shape[0], weights.shape[1])
        kept = None if keep is None else keep.astype(np.float32)
        narrow = copy_padded(weights.astype(np.float32, copy=False))
        guarded(self._held.multiply, device.matrix(narrow), kept, out, device.workspace)
        return out

    def multiply_transposed(self, strength: Float64, factors: Matrix) -> Float64:
        """Return features^T diag(strength) factors."""
        strengths = strength.astype(np.float32)  # exact: a ridge, or 0
        device = self._device
        return np.asarray(guarded(self._held.multiply_transposed, strengths, factors, self._shape[1], device.workspace))

    def normal(self, strength: Float64, matrix: Float64) -> Float64:
        """Return features^T diag(strength) features matrix, the inner product rounded to float32."""
        return self.multiply_transposed(strength, self.multiply(matrix))


Backend = Host | Device


def named(name: str, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call a half-step; says whose row diverged."""
    try:
        return function(*arguments, **more)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name} {error}") from None


class DeviceFailureError(Exception):
    """The GPU failed, or has no memory: what the call wanted is not done, and what was on the GPU may be lost."""


class DeviceLostError(DeviceFailureError, RuntimeError):
    """The GPU failed."""


class DeviceMemoryError(DeviceFailureError, MemoryError):
    """The GPU has too little memory."""


def guarded(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call the CUDA module; its failures are told from others."""
    try:
        return function(*arguments, **more)
    except MemoryError as error:
        raise DeviceMemoryError(str(error)) from error
    except RuntimeError as error:
        raise DeviceLostError(str(error)) from error


def check_device(device: object, *, solver: str, nonnegative: bool) -> _backends.Device:
    """Check what a model asks for."""
    wanted = _backends.check_device(device)
    if wanted == "cuda" and (nonnegative or solver not in _SOLVERS):
        held = "nonnegative: True" if nonnegative else f"solver: {solver!r}"
        raise ValueError(f"{held} with device 'cuda'; expected {', '.join(map(repr, _SOLVERS))} there, or device 'cpu'")
    return wanted


def for_solving(device: str, objective: Objective, operations: float) -> Backend:
    """Choose where exact solutions of ``operations`` operations are computed."""
    if _is_wanted(device, objective, operations >= _SOLVING_PAYS_FROM):
        return Device()
    return Host(objective.threads)


def _is_wanted(device: str, objective: Objective, pays: bool) -> bool:
    if device == "cuda":
        _backends.cuda()  # or says why not
        return True
    if device == "cpu" or not pays or objective.nonnegative or objective.solver not in _SOLVERS:
        return False
    return not _backends.cuda_why_not()


@dataclass(frozen=True)
class Sizes:
    """What decides how much memory training takes."""

    users: int
    items: int
    entries: int
    longest: int  # entries of the longest row
    features: int = 0  # entries of all features
    priors: int = 0  # sides with features
    copies: int = 1  # of all factors: those in training, and those that are finished or kept beside

    @classmethod
    def of(cls, observed: list[Observations], features: list[Features], copies: int) -> Sizes:
        """Measure users' and items' observations, and features where there are any."""
        given = [part for part in features if part is not None]
        return cls(
            users=len(observed[0].indptr) - 1, items=len(observed[1].indptr) - 1, entries=len(observed[0].indices),
            longest=max(int(part.counts.max(initial=0)) for part in observed),
            features=sum(part.nnz if sp.issparse(part) else part.size for part in given), priors=len(given),
            copies=copies,
        )  # fmt: skip


def for_training(device: str, objective: Objective, sizes: Sizes) -> Backend:
    """Choose where training is done, and plan its memory.

    Raises
    ------
    RuntimeError
        A GPU is asked for and there is none that can be used.
    MemoryError
        It has too little memory, with the bytes that are needed.
    """
    if not _is_wanted(device, objective, float(sizes.entries) * objective.factors >= _TRAINING_PAYS_FROM):
        return Host(objective.threads)
    about = _backends.cuda().device()
    try:
        return plan_training(objective, sizes, about)
    except MemoryError:
        if device == "cuda":
            raise
        return Host(objective.threads)


def plan_training(objective: Objective, sizes: Sizes, about: dict[str, Any]) -> Device:
    """Divide a GPU's memory: everything stays there, or observations pass through in blocks."""
    columns, sides = objective.columns, (sizes.users, sizes.items)
    stride, largest, f = padded_width(columns), max(sides), objective.factors
    workspace = min(_WORKSPACE, about["total_bytes"] // 8)
    # What one row's exact system takes where it does not fit the shared memory; the Gramian, the rotation.
    least = 8 * (columns + 16) * (columns + 48) + 2 * 8 * f * f
    parts = {
        "factors": 4 * stride * sum(sides) * sizes.copies,
        "designs": largest * (stride * (2 + 4 * objective.explicit) + 4 * objective.explicit),
        "features": 16 * sizes.features + sizes.priors * largest * (4 * stride + 8),
        "rows": largest * 16 + 2 * 8 * (largest + sizes.entries // _SEGMENT),
        "workspace": workspace + least,
    }
    pieces = sizes.entries // _SEGMENT
    observations = sum(
        (_ROW_BYTES + _PIECE_BYTES) * rows + _ENTRY_BYTES * sizes.entries + _PIECE_BYTES * pieces for rows in sides
    )
    fixed, free = sum(parts.values()), int(about["free_bytes"])
    room = int(_USED_SHARE * free) - fixed
    block, through = 0, ""
    if room < observations:
        shortest = 2 * ((_ROW_BYTES + 2 * _PIECE_BYTES + _ENTRY_BYTES) * sizes.longest + 4096)
        if room < shortest:
            raise DeviceMemoryError(
                f"device: too little memory to train {f} factors of {sizes.users:,} users and {sizes.items:,} items: "
                f"{int((fixed + shortest) / _USED_SHARE):,} bytes needed at least, {free:,} of "
                f"{about['total_bytes']:,} bytes free"
            )
        block = room // 2 - 1024
        through = f", {observations:,} of observations through two blocks of {block:,}"
        parts["observations"] = 2 * block
    else:
        parts["observations"] = observations
    words = ", ".join(f"{name} {size:,}" for name, size in parts.items() if size)
    total = sum(parts.values())
    return Device(block, f"ALS on {about['name']}: {total:,} of {free:,} bytes free ({words}){through}")


def operations_of_exact(counts: npt.NDArray[np.int64], factors: int) -> float:
    """Count the operations of exact solutions of rows."""
    wide = counts.astype(np.float64)
    short = np.minimum(wide, factors)
    return float((wide * short * factors + short**3 / 3).sum())
