"""Confidence of events from the attention that they took: dwell time, completion, weights.

The values of interactions are what an implicit model trusts them by. Recency is :meth:`Interactions.decayed`, weights
of what is merged already :meth:`Interactions.weighted`; here is what single events say, before they are merged::

    events["confidence"] = confidence(dwell=events["seconds"], completion=events["watched"])
    data = Interactions.from_frame(events, user="user", item="item", value="confidence", time="time")
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from salience import _arrays


def confidence(
    *, dwell: Any = None, typical_dwell: float | None = None, completion: Any = None, weights: Any = None
) -> npt.NDArray[np.float32]:
    """Combine what is known of each event into one value: the product of what is given.

    Parameters
    ----------
    dwell : array of shape (n,), optional
        Time spent, in any unit; at least 0. Counts as log2(1 + dwell / typical_dwell): 1 for a typical event, growing
        ever slower, so that a page left open does not rule.
    typical_dwell : float, optional
        In the unit of ``dwell``; default: the median of what is above 0.
    completion : array of shape (n,), optional
        Share seen or read, 0 to 1.
    weights : array of shape (n,), optional
        Of the kind of event, say (a purchase 5, a view 1); negative for a dislike.

    Returns
    -------
    array of float32, shape (n,)

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    given = {"dwell": dwell, "completion": completion, "weights": weights}
    columns = {name: _numbers(value, name) for name, value in given.items() if value is not None}
    if not columns:
        raise ValueError("dwell: None; expected dwell, completion or weights")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{list(lengths)[-1]}: {lengths}; expected one for each event")
    if "dwell" in columns:
        columns["dwell"] = _saturated(columns["dwell"], typical_dwell)
    if "completion" in columns and ((columns["completion"] < 0) | (columns["completion"] > 1)).any():
        wrong = columns["completion"][(columns["completion"] < 0) | (columns["completion"] > 1)][0]
        raise ValueError(f"completion: {wrong}; expected shares of 0 to 1")
    product = np.ones(next(iter(lengths.values())))
    for column in columns.values():
        product = product * column
    return product.astype(np.float32)


def _numbers(value: Any, argument: str) -> npt.NDArray[np.float64]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: {_arrays.describe(array)}; expected numbers")
    if array.ndim != 1:
        raise ValueError(f"{argument}: shape {array.shape}; expected one dimension")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{argument}: {numbers[~np.isfinite(numbers)][0]}; expected finite numbers")
    return numbers


def _saturated(dwell: npt.NDArray[np.float64], typical: float | None) -> npt.NDArray[np.float64]:
    if (dwell < 0).any():
        raise ValueError(f"dwell: {dwell[dwell < 0][0]}; expected times of at least 0")
    if typical is None:
        spent = dwell[dwell > 0]
        unit = float(np.median(spent)) if spent.size else 1.0
    else:
        unit = _arrays.real(typical, argument="typical_dwell", positive=True)
    return np.asarray(np.log2(1 + dwell / unit))


__all__ = ["confidence"]
