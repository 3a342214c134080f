"""Item features made dense: truncated SVD of wide ones, and the perceptron from histories to features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience.models import Float32

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FeatureMap:
    """How features became vectors: rows scaled to 1, times ``basis`` (None: as they are), scaled to 1 again."""

    basis: Float32 | None

    def shares(self, user: Float64, features: Any, row: int) -> tuple[npt.NDArray[np.int64], Float64]:
        """Return what each feature that row ``row`` has adds to the inner product of its vector with ``user``."""
        one = features[[row]]
        one = sp.csr_array(one) if sp.issparse(one) else sp.csr_array(np.asarray(one))
        one.eliminate_zeros()
        columns, values = one.indices.astype(np.int64), one.data.astype(np.float64)
        values /= max(np.linalg.norm(values), 1e-12)
        if self.basis is None:
            return columns, values * user[columns]
        image = values @ self.basis[columns].astype(np.float64)
        return columns, values * (self.basis[columns] @ user) / max(np.linalg.norm(image), 1e-12)


def unit(matrix: npt.NDArray[Any]) -> Float32:
    """Scale rows to length 1; rows of zeros stay."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.ascontiguousarray(matrix / np.maximum(norms, 1e-12), np.float32)


def reduced(features: Any, rank: int, seed: int) -> tuple[Float32, FeatureMap]:
    """Return dense vectors of at most ``rank`` columns, of length 1 or 0."""
    wide = sp.csr_array(features, dtype=np.float64) if sp.issparse(features) else np.asarray(features, np.float64)
    norms = np.sqrt(np.asarray((wide * wide).sum(axis=1)).ravel())
    scale = 1.0 / np.maximum(norms, 1e-12)
    wide = sp.csr_array(sp.diags_array(scale) @ wide) if sp.issparse(wide) else wide * scale[:, None]
    if wide.shape[1] <= rank:
        return unit(wide.toarray() if sp.issparse(wide) else wide), FeatureMap(None)
    basis = np.ascontiguousarray(truncated_svd(wide, rank, dtype=np.float64, seed=seed)[1], np.float32)
    return unit(np.asarray(wide @ basis, np.float64)), FeatureMap(np.asarray(basis, np.float32))


def truncated_svd(
    matrix: Any, rank: int, *, dtype: type, seed: int, oversampling: int = 16, passes: int = 4
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return L and R with L R^T near ``matrix``, dense or sparse, R orthonormal of at most ``rank`` columns.

    The randomized SVD of Halko, Martinsson and Tropp (2011).
    """
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], min(rank + oversampling, *matrix.shape)))
    basis = basis.astype(dtype)
    for _ in range(passes):
        basis = np.linalg.qr(np.asarray(matrix @ basis))[0]
        basis = np.linalg.qr(np.asarray(matrix.T @ basis))[0]
    left, values, right = np.linalg.svd(np.asarray(matrix @ basis), full_matrices=False)
    return left[:, :rank] * values[:rank], basis @ right[:rank].T


@dataclass(frozen=True)
class Regressor:
    """A two-layer perceptron with ReLU from profiles to features, as scikit-learn trained it."""

    weights: tuple[Float64, Float64]
    biases: tuple[Float64, Float64]

    @classmethod
    def trained(cls, matrix: Any, vectors: Float32, hidden: int, seed: int) -> Regressor:
        """Learn to tell an item's features from the profile of the rest of the history."""
        try:
            from sklearn.neural_network import MLPRegressor  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError("user_map='mlp' needs scikit-learn: pip install 'salience[mlp]'") from None
        inputs, targets = left_out(matrix, vectors)
        if len(inputs) < 10:
            raise ValueError("user_map: 'mlp' with fewer than 10 interactions of users with two; expected more data")
        model = MLPRegressor(
            hidden_layer_sizes=(hidden,), activation="relu", solver="adam", alpha=1e-4, early_stopping=True,
            max_iter=60, n_iter_no_change=4, random_state=seed,
        )  # fmt: skip
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may stop before it has converged: that is early stopping's business
            model.fit(inputs, targets)
        return cls(tuple(model.coefs_), tuple(model.intercepts_))

    def predict(self, profiles: Float64) -> Float64:
        """Return the features to look for."""
        hidden = np.maximum(profiles @ self.weights[0] + self.biases[0], 0.0)
        return np.asarray(hidden @ self.weights[1] + self.biases[1])


def left_out(matrix: Any, vectors: Float32, most: int = 200_000) -> tuple[Float64, Float64]:
    """Return pairs of (direction of the history without an item, that item's features), at most ``most`` of them."""
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    usable = np.flatnonzero((lengths[rows] >= 2) & (matrix.data > 0) & (vectors[matrix.indices] != 0).any(axis=1))
    if len(usable) > most:
        usable = np.sort(np.random.default_rng(0).choice(usable, most, replace=False))
    binary = sp.csr_matrix((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape)
    sums = np.asarray(binary @ vectors.astype(np.float64))
    users, targets = rows[usable], vectors[matrix.indices[usable]].astype(np.float64)
    return unit(sums[users] - targets).astype(np.float64), targets
