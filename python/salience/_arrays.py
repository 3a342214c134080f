"""Checks and conversions at the door: what the caller holds becomes what the kernels read."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

_EXACT_IN_FLOAT32 = (np.float16, np.bool_, np.int8, np.uint8, np.int16, np.uint16)


def describe(value: Any) -> str:
    """Say what an argument held, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    if sp.issparse(value):
        return f"a sparse matrix of {value.dtype} of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


def dense(value: Any, *, argument: str) -> npt.NDArray[np.float32]:
    """Return a float32 matrix whose rows are contiguous; a copy only where the layout demands one.

    Only element types that float32 holds exactly are taken, so that nothing is lost silently.
    """
    if sp.issparse(value):
        raise TypeError(f"{argument}: {describe(value)}; expected a dense array")
    array = np.asarray(value)
    if array.dtype != np.float32:
        if array.dtype.type not in _EXACT_IN_FLOAT32 and array.dtype.name != "bfloat16":
            raise TypeError(
                f"{argument}: {describe(array)}; expected float32 (or a type that float32 holds "
                f"exactly): convert with {argument}.astype(numpy.float32)"
            )
        array = array.astype(np.float32)
    return rows_together(array, argument=argument)


def finite(value: Any, *, argument: str) -> npt.NDArray[np.float32]:
    """Return a float32 matrix as :func:`dense` does; ValueError names the first row that holds what is not finite."""
    array = dense(value, argument=argument)
    # The sum of squares is finite only where all are; it needs no array of flags, but may overflow.
    if not np.isfinite(np.einsum("ij,ij->", array, array, dtype=np.float64)) and not np.isfinite(array).all():
        row = np.flatnonzero(~np.isfinite(array).all(axis=1))[0]
        raise ValueError(f"{argument}: a value that is not finite in row {row}; expected finite numbers")
    return array


def shares(matrix: Any, *, argument: str) -> Any:
    """Scale the rows of a matrix of weights to add up to 1, as a CSR array of float64; empty rows stay empty."""
    weights = sp.csr_array(matrix, dtype=np.float64, copy=True)
    weights.eliminate_zeros()
    if weights.nnz and not weights.data.min() > 0:
        raise ValueError(f"{argument}: {weights.data.min()}; expected weights of at least 0")
    totals = np.asarray(weights.sum(axis=1)).ravel()
    scale = np.divide(1.0, totals, out=np.zeros(len(totals)), where=totals > 0)
    return sp.csr_array(sp.diags_array(scale) @ weights)


def elements(value: Any, *, argument: str) -> tuple[npt.NDArray[Any], str]:
    """Return a matrix in a type that the top-k kernels read as it is, and the name of that type.

    bfloat16, which NumPy knows only from other packages (ml_dtypes), comes as its 16-bit patterns.
    """
    array = None if sp.issparse(value) else np.asarray(value)
    if array is None or array.dtype.name not in ("float16", "bfloat16"):
        return dense(value, argument=argument), "float32"
    return rows_together(array.view(np.uint16), argument=argument), array.dtype.name


def rows_together(array: npt.NDArray[Any], *, argument: str) -> npt.NDArray[Any]:
    """Return a matrix whose rows are contiguous; a copy only where the layout demands one."""
    if array.ndim != 2:
        raise ValueError(f"{argument}: shape {array.shape}; expected a matrix of two dimensions")
    item = array.itemsize
    aligned = array.flags.aligned and array.strides[0] % item == 0 and array.strides[0] >= 0
    if aligned and (array.shape[1] <= 1 or array.strides[1] == item):
        return array
    return np.ascontiguousarray(array)


def whole(value: Any, *, argument: str, least: int = 0, most: int | None = None) -> int:
    """Return a whole number within bounds."""
    bounds = f"a whole number of at least {least}" if most is None else f"{least} to {most}"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument}: {value!r}; expected {bounds}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: {describe(value)}; expected {bounds}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{argument}: {number}; expected {bounds}")
    return number


def real(value: Any, *, argument: str, positive: bool = False) -> float:
    """Return a finite number that is not negative (or is positive)."""
    wanted = "a positive finite number" if positive else "a finite number that is not negative"
    if isinstance(value, (bool, str)) or not np.isscalar(value) or np.iscomplexobj(value):
        raise TypeError(f"{argument}: {describe(value)}; expected {wanted}")
    number = float(value)  # type: ignore[arg-type]
    if not np.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(f"{argument}: {number}; expected {wanted}")
    return number


def share(value: Any, *, argument: str) -> float:
    """Return a number from 0 to 1."""
    number = real(value, argument=argument)
    if number > 1:
        raise ValueError(f"{argument}: {number}; expected 0 to 1")
    return number


def thread_count(threads: int | None) -> int:
    """Return the number of threads to ask the kernels for; 0 lets them decide."""
    return 0 if threads is None else whole(threads, argument="threads", least=1, most=4096)


def item_mask(allow: Any, deny: Any, items: int) -> npt.NDArray[np.bool_] | None:
    """Combine ``allow`` and ``deny`` (item rows, or masks over the items) into one mask."""
    if allow is None and deny is None:
        return None
    mask = np.ones(items, bool) if allow is None else _mask(allow, items, "allow")
    if deny is not None:
        mask = mask & ~_mask(deny, items, "deny")
    return np.ascontiguousarray(mask)


def _mask(value: Any, items: int, argument: str) -> npt.NDArray[np.bool_]:
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{argument}: shape {array.shape}; expected one dimension")
    if array.dtype == np.bool_:
        if len(array) != items:
            raise ValueError(f"{argument}: a mask of {len(array)}; expected one flag for each of the {items} items")
        return array
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{argument}: {describe(array)}; expected item rows or a boolean mask")
    rows = array.astype(np.int64)
    outside = rows[(rows < 0) | (rows >= items)]
    if outside.size:
        raise ValueError(f"{argument}: item row {outside[0]}; expected 0 to {items - 1}")
    mask = np.zeros(items, bool)
    mask[rows] = True
    return mask


def exclusion_pattern(
    exclude: Any, rows: int, items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]] | None:
    """Return the pointers and column indices of ``exclude``, which may be unsorted."""
    if exclude is None:
        return None
    if not sp.issparse(exclude):
        raise TypeError(f"exclude: {describe(exclude)}; expected a scipy.sparse CSR matrix")
    csr = exclude if exclude.format == "csr" else exclude.tocsr()
    if csr.shape != (rows, items):
        raise ValueError(f"exclude: shape {csr.shape}; expected {(rows, items)}: one row per query")
    return csr_pattern(csr, argument="exclude")


Pattern = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]


def pattern_of_rows(csr: Any, rows: npt.NDArray[np.int64]) -> Pattern:
    """Return pointers and column indices of some rows: scipy's ``csr[rows]`` without what it costs for a few."""
    indptr, where = entries_of_rows(csr.indptr, rows)
    return indptr, np.ascontiguousarray(csr.indices[where], np.int32)


def entries_of_rows(
    indptr: npt.NDArray[Any], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | slice]:
    """Return pointers of some rows of a CSR matrix, and where their entries are; a slice for one row."""
    first = indptr[rows].astype(np.int64)
    lengths = indptr[rows + 1] - first
    taken = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=taken[1:])
    if len(rows) == 1:
        return taken, slice(int(first[0]), int(first[0] + taken[1]))
    return taken, np.arange(taken[-1]) + np.repeat(first - taken[:-1], lengths)


def csr_pattern(csr: Any, *, argument: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return ``indptr`` as int64 and ``indices`` as int32, copied only where the type differs."""
    if csr.shape[1] > np.iinfo(np.int32).max:
        raise ValueError(f"{argument}: {csr.shape[1]} columns; expected fewer than 2**31")
    indptr = np.ascontiguousarray(csr.indptr, np.int64)
    indices = np.asarray(csr.indices)[: indptr[-1]]
    if indices.size and indices.dtype.itemsize > 4 and not 0 <= indices.min() <= indices.max() < csr.shape[1]:
        raise ValueError(
            f"{argument}: column indices {indices.min()} to {indices.max()}; expected 0 to {csr.shape[1] - 1}"
        )
    return indptr, np.ascontiguousarray(indices, np.int32)
