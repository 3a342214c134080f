"""From one domain to another: a linear map between two embedding spaces, learned on what both know.

Users who are known in one domain (films, say) and new in another (books) have factors in the first alone. Two roads
lead to the second: the first domain's factors as ``user_features`` of the second's :class:`salience.ALS`, which
learns the map along with its own factors; or :class:`DomainMap`, afterwards, between any two models or embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from salience import _arrays

if TYPE_CHECKING:
    from typing_extensions import Self

Float64 = npt.NDArray[np.float64]

_STRENGTHS = tuple(10.0 ** np.arange(-4, 5))  # of ridges tried, in units of the mean eigenvalue


class DomainMap:
    """A linear map from one space of vectors to another.

    Parameters
    ----------
    kind : {"ridge", "orthogonal"}
        "ridge": minimizes |Y - X W|^2 + regularization |W|^2: best where there are many shared rows. "orthogonal":
        a rotation (orthogonal Procrustes; a projection where the widths differ) and one scale: few numbers to learn,
        for few shared rows and spaces of like geometry, such as two fits of one model.
    regularization : float, optional
        Of "ridge". Default: the best of a grid by exact leave-one-out error.

    Attributes
    ----------
    weights_ : array of float64, shape (source width, target width)
    source_mean_, target_mean_ : arrays of float64
        Means are taken off before, and added after: what is not known maps to the target's mean.
    regularization_ : float
        As used.
    leave_one_out_ : float or None
        Mean squared error of a row by a map learned without it, over the variance of the target ("ridge").

    Notes
    -----
    Schönemann, "A generalized solution of the orthogonal Procrustes problem" (1966). Cost: n a^2 + n a b operations
    for n rows of widths a and b, and a^3.
    """

    def __init__(self, kind: Literal["ridge", "orthogonal"] = "ridge", *, regularization: float | None = None) -> None:
        if kind not in ("ridge", "orthogonal"):
            raise ValueError(f"kind: {kind!r}; expected 'ridge' or 'orthogonal'")
        if kind == "orthogonal" and regularization is not None:
            raise ValueError(f"regularization: {regularization!r}; expected None, as a rotation has none")
        self.kind = kind
        self.regularization = (
            None if regularization is None else _arrays.real(regularization, argument="regularization", positive=True)
        )

    def fit(self, source: Any, target: Any) -> Self:
        """Learn from rows that both spaces have.

        Parameters
        ----------
        source : array of float32, shape (n, a)
        target : array of float32, shape (n, b)
            Row by row of the same users (or items).

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        """
        x, y = (
            _arrays.finite(value, argument=argument).astype(np.float64)
            for value, argument in ((source, "source"), (target, "target"))
        )
        if len(x) != len(y):
            raise ValueError(f"target: {len(y)} rows; expected one for each of the {len(x)} of source")
        if len(x) < 2:
            raise ValueError(f"source: {len(x)} rows; expected at least 2")
        self.source_mean_, self.target_mean_ = x.mean(axis=0), y.mean(axis=0)
        x, y = x - self.source_mean_, y - self.target_mean_
        self.regularization_ = 0.0
        self.leave_one_out_: float | None = None
        if self.kind == "ridge":
            self._ridge(x, y)
        else:
            left, values, right = np.linalg.svd(x.T @ y, full_matrices=False)
            rotation = left @ right
            moved = np.square(x @ rotation).sum()
            self.weights_ = rotation * (values.sum() / moved if moved > 0 else 0.0)
        return self

    def _ridge(self, x: Float64, y: Float64) -> None:
        left, values, right = np.linalg.svd(x, full_matrices=False)
        squares, images = values**2, left.T @ y
        scale = squares.sum() / max(x.shape[1], 1) or 1.0
        variance = np.square(y).sum() or 1.0

        def error(ridge: float) -> float:
            shrink = squares / (squares + ridge)
            # The mean is part of what is learned: it too is left out.
            leverage = 1 / len(x) + np.square(left) @ shrink
            rest = (y - left @ (shrink[:, None] * images)) / np.maximum(1 - leverage, 1e-12)[:, None]
            return float(np.square(rest).sum() / variance)

        ridges = [scale * s for s in _STRENGTHS] if self.regularization is None else [self.regularization]
        errors = [error(ridge) for ridge in ridges]
        best = int(np.argmin(errors))
        self.regularization_, self.leave_one_out_ = float(ridges[best]), errors[best]
        self.weights_ = right.T @ ((values / (squares + ridges[best]))[:, None] * images)

    def transform(self, source: Any) -> npt.NDArray[np.float32]:
        """Map rows: array of float32, shape (n, a), to one of shape (n, b)."""
        if not hasattr(self, "weights_"):
            raise ValueError("DomainMap: not fitted; expected fit(...) to be called first")
        x = _arrays.finite(source, argument="source")
        if x.shape[1] != len(self.weights_):
            raise ValueError(f"source: {x.shape[1]} columns; expected {len(self.weights_)}")
        return np.asarray((x - self.source_mean_) @ self.weights_ + self.target_mean_, np.float32)


__all__ = ["DomainMap"]
