"""Exact additive explanations of ALS scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._als import Float64, Objective
from salience.interactions import make_frame


@dataclass(frozen=True)
class Explanation:
    """Why a user got an item: the score as a sum over the user's own past items.

    Attributes
    ----------
    score : float
        ``base`` plus the sum of ``contributions``; what ``score`` returns, up to rounding.
    base : float
        What does not depend on the user's items: what the user's features are worth, and for explicit feedback the
        mean and the item's bias; else 0.
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


def contributions(
    objective: Objective,
    observed: Float64,
    values: Float64,
    shift: Float64,
    dense: Float64,
    ridge: float,
    prior: Float64,
    targets: Float64,
) -> tuple[Float64, Float64]:
    """Split the scores of ``targets`` into what every past item adds, and the rest.

    A user's factors are x = A^-1 (sum_j w_j t_j y_j + ridge prior), so y . x is a sum over the past items j (Hu,
    Koren and Volinsky 2008, section 5). Where factors are held at 0 or above, that holds for those above 0.

    Parameters
    ----------
    observed : shape (n, columns)
        Factors of the past items.
    values, shift : shape (n,)
        Their values, and what explicit targets are relative to.
    dense : shape (columns, columns)
        The dense part of A.
    prior : shape (columns,)
    targets : shape (m, columns)
        Factors of the items to explain.

    Returns
    -------
    parts, rest : shapes (m, n) and (m,)
    """
    if objective.explicit:
        weights, wanted = np.ones(len(values)), values - shift
    else:
        weights, wanted = objective.alpha * np.abs(values), (values > 0).astype(np.float64)
    system = dense + ridge * np.eye(len(dense)) + observed.T @ (weights[:, None] * observed)
    free = np.ones(len(system), bool)
    if objective.nonnegative:
        free = _active(system, observed.T @ (weights * wanted) + ridge * prior, objective.explicit)
    solved = np.linalg.solve(system[np.ix_(free, free)], targets[:, free].T).T
    return (solved @ observed[:, free].T) * (weights * wanted), ridge * (solved @ prior[free])


def _active(system: Float64, right: Float64, explicit: bool) -> npt.NDArray[np.bool_]:
    """Return which factors are above 0 (the bias of explicit feedback is always free)."""
    from scipy.optimize import nnls

    if not explicit:
        root = np.linalg.cholesky(system)
        return np.asarray(nnls(root.T, np.linalg.solve(root, right))[0] > 0)
    # Eliminate the free bias, the last column.
    pivot, column = system[-1, -1], system[:-1, -1]
    reduced = system[:-1, :-1] - np.outer(column, column) / pivot
    root = np.linalg.cholesky(reduced)
    inner = nnls(root.T, np.linalg.solve(root, right[:-1] - column * right[-1] / pivot))[0] > 0
    return np.append(inner, True)
