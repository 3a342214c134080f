"""Similarity, exact top-k and selection.

The canonical score of a query and an item is computed from their float32 values with products and
sums in float64 in a fixed order and rounded once to float32, so it is the same to the bit on every
instruction set, thread count and batch size. Better scores come first, equal scores by lower item
row, NaN last.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from salience import _arrays, _backends, _core, _device, _storage

if TYPE_CHECKING:
    from typing_extensions import Self

    from salience._backends import Device

Metric = Literal["dot", "cosine", "euclidean"]
_State = _core.Index | _device.DeviceIndex | _device.StreamedIndex


def similarity(
    a: Any, b: Any, *, metric: Metric = "dot", threads: int | None = None, device: Device = "auto"
) -> npt.NDArray[np.float32]:
    """Score every row of ``a`` against every row of ``b``.

    Parameters
    ----------
    a : array of float32, shape (m, d)
    b : array of float32, shape (n, d)
        Types that float32 holds exactly (float16, bool, 8- and 16-bit integers) are taken too.
    metric : {"dot", "cosine", "euclidean"}
        The cosine of a zero vector is 0.
    threads : int, optional
        Default: the cores this process may run on.
    device : {"auto", "cpu", "cuda"}
        As in :func:`topk`; "auto" follows the data.

    Returns
    -------
    array of float32, shape (m, n)
        Canonical scores, in the library of the first argument on a GPU.

    Raises
    ------
    TypeError, ValueError
        Naming the argument. Cost: 2 m n d float64 operations.
    RuntimeError, MemoryError
        As in :func:`topk`.
    """
    if (module := _device.choose(device, {"a": a, "b": b})) is not None:
        return _device.similarity(module, a, b, _metric(metric))  # type: ignore[no-any-return]
    return _core.similarity(
        _arrays.dense(a, argument="a"),
        _arrays.dense(b, argument="b"),
        _metric(metric),
        _arrays.thread_count(threads),
    )


def topk(
    queries: Any,
    items: Any,
    k: int,
    *,
    metric: Metric = "dot",
    exclude: Any = None,
    allow: Any = None,
    deny: Any = None,
    threads: int | None = None,
    device: Device = "auto",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find the ``k`` best items for every query, exactly.

    Parameters
    ----------
    queries : array of float32, shape (m, d)
    items : array of float32, float16 or bfloat16, shape (n, d)
        16-bit items are read as they are: no float32 copy is made.
    k : int
        1 to n.
    metric : {"dot", "cosine", "euclidean"}
    exclude : scipy.sparse CSR, shape (m, n), optional
        Items to leave out, per query; values are ignored, rows may be unsorted.
    allow, deny : array of int or bool, optional
        Item rows, or a mask of n flags, for all queries.
    threads : int, optional
        On the CPU.
    device : {"auto", "cpu", "cuda"}
        Arrays on a GPU (CuPy, torch, anything with ``__cuda_array_interface__``) are searched there, on the
        library's current stream. Arrays in host memory are where this says; "auto" takes them to a GPU
        where there is one and the search is large enough to pay for the way. The answer is the same.

    Returns
    -------
    ids : array of int64, shape (m, k)
        Item rows, -1 where too few items remain.
    scores : array of float32, shape (m, k)
        Canonical scores, best first; -inf (euclidean: +inf) beside -1. Both in the library of the first
        argument that is on a GPU.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    RuntimeError
        A GPU is asked for and there is none that can be used, with the reason.
    MemoryError
        The GPU has too little memory, with the number of bytes.

    Notes
    -----
    A scan in 16 bits drops items that a proved error bound rules out; the rest are scored canonically.
    Cost: 2 m n d 16-bit operations and O(m k) memory; no score matrix is written. Beyond 256 queries the
    items are packed once, in 2 bytes per element; an :class:`Index` keeps that copy between calls.
    On a GPU, items in host memory that do not fit it pass through in blocks.
    """
    k = _arrays.whole(k, argument="k", least=1)
    products = float(np.prod(np.shape(queries)[:1])) * float(np.prod(np.shape(items)))
    arrays = {"queries": queries, "items": items}
    if (module := _device.choose(device, arrays, products=products)) is not None:
        try:
            return _device.topk(module, queries, items, k, _metric(metric), exclude, allow, deny)
        except MemoryError:
            # Nobody asked for the GPU, and what is in host memory the CPU can serve.
            if device != "auto" or any(map(_device.is_on_device, arrays.values())):
                raise
    q = _arrays.dense(queries, argument="queries")
    x, kind = _arrays.elements(items, argument="items")
    return _core.topk(
        q,
        x,
        kind,
        k,
        _metric(metric),
        _arrays.exclusion_pattern(exclude, len(q), len(x)),
        _arrays.item_mask(allow, deny, len(x)),
        _arrays.thread_count(threads),
    )


def select(
    scores: Any, k: int, *, threads: int | None = None, device: Device = "auto"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Find the ``k`` largest entries of each row of a score matrix.

    Parameters
    ----------
    scores : array of float32 or float64, shape (m, n)
    k : int
        1 to n.
    threads : int, optional
    device : {"auto", "cpu", "cuda"}
        As in :func:`topk`; "auto" follows the data.

    Returns
    -------
    ids : array of int64, shape (m, k)
    scores : array of the input's type, shape (m, k)
        Largest first, ties by lower column, NaN last; -0 is returned as +0.

    Raises
    ------
    TypeError, ValueError
        Naming the argument. Cost: one pass over the scores.
    RuntimeError, MemoryError
        As in :func:`topk`.
    """
    if (module := _device.choose(device, {"scores": scores})) is not None:
        return _device.select(module, scores, _arrays.whole(k, argument="k", least=1))
    array = np.asarray(scores)
    if array.dtype == np.float64 and array.ndim == 2:
        array = np.ascontiguousarray(array)
    else:
        array = _arrays.dense(scores, argument="scores")
    return _core.select(array, _arrays.whole(k, argument="k", least=1), _arrays.thread_count(threads))


_Blend = tuple[Any, Any, Any]


class Index:
    """Items that are searched many times: copied and packed once.

    Parameters
    ----------
    items : array of float32, float16 or bfloat16, shape (n, d)
        Copied in its type, so later changes to the caller's array do not show.
    metric : {"dot", "cosine", "euclidean"}
    threads : int, optional
        For packing and, where a call does not say, for searches and changes.
    device : {"auto", "cpu", "cuda"}
        Where the items live and are searched, whatever library the queries come from. "auto" follows the
        data; items in host memory go to a GPU where there is one that holds them and they are many. With
        "cuda", items that do not fit the GPU stay in host memory and pass through it in every search.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    RuntimeError, MemoryError
        As in :func:`topk`.

    Notes
    -----
    Memory: the items, plus 2 bytes for each element of a row padded to a multiple of 32. On the CPU the first
    search of a few queries (up to 4) among many items adds 1 more: a copy in 8 bits, which such searches read
    instead. A change drops what it touches of that copy and the next such search makes it again; files do not
    hold it. ``nbytes`` tells what is held.

    Calls are safe from several threads: a search sees the items as they were when it began, and changes
    follow one another. A change costs the packing of the blocks of 192 rows that it touches; on a GPU it costs
    the packing of all items, at the speed of the GPU's memory.
    """

    def __init__(
        self, items: Any, *, metric: Metric = "dot", threads: int | None = None, device: Device = "auto"
    ) -> None:
        self._metric, self._threads, self._asked = _metric(metric), _arrays.thread_count(threads), device
        state: _State | None = _device.build_index(device, items, self._metric)
        if state is None:
            array, kind = _arrays.elements(items, argument="items")
            state = _core.Index.build(array, kind, self._metric, self._threads)
        self._start(state)

    @classmethod
    def borrow(cls, items: Any, *, metric: Metric = "dot", threads: int | None = None, device: Device = "cpu") -> Self:
        """Make an index that keeps a reference to ``items`` instead of a copy: they must not change.

        Where ``device``, as in the constructor, chooses a GPU, that gets its copy.
        """
        index = cls.__new__(cls)
        index._metric, index._threads, index._asked = _metric(metric), _arrays.thread_count(threads), device
        state = _device.build_index(device, items, index._metric)
        if state is not None:
            index._start(state)
            return index
        array, kind = _arrays.elements(items, argument="items")
        index._start(_core.Index.restore(array, kind, index._metric, {}, index._threads))
        return index

    _asked: Device = "cpu"  # where the caller wanted it, for the process that unpickles it

    def _start(self, state: _State) -> None:
        self._state = state  # immutable: changes put another in its place
        self._changes = threading.Lock()
        _indexes.add(self)

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(state := self._state, _core.Index):
            rows_held, flags = state.items()
            gone = {} if flags is None else {"present": flags}
            return {"items": rows_held, "type": state.type, "metric": self._metric, "threads": self._threads,
                    "device": self._asked, **gone}  # fmt: skip
        parts = state.description()
        rows = [np.zeros(0, np.uint8), *(state.block(b)[0] for b in range(state.blocks))]
        items = np.concatenate(rows).view(_STORED_AS[state.type]).reshape(state.rows, state.columns)
        present = {"present": parts["present"]} if "present" in parts else {}
        return {"items": items, "type": state.type, "metric": self._metric, "threads": self._threads, **present}

    def __setstate__(self, held: dict[str, Any]) -> None:
        self._metric, self._threads = held["metric"], held["threads"]
        rows, kind, present = held["items"], held["type"], held.get("present")
        self._asked = held.get("device", "cpu")
        if self._asked == "cuda" or (self._asked == "auto" and not _backends.cuda_why_not()):
            self._start(_device.restore_index(rows, kind, self._metric, present))
        else:
            self._start(_device.host_index(rows, present, kind, self._metric, self._threads))

    def __len__(self) -> int:
        return self._state.present

    def __repr__(self) -> str:
        state = self._state
        where = "" if self.device == "cpu" else ", on the GPU"
        return f"<Index of {state.present} items, {state.columns} dimensions, {state.type}, {self._metric}{where}>"

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where searches run."""
        return "cpu" if isinstance(self._state, _core.Index) else "cuda"

    @property
    def rows(self) -> int:
        """Rows numbered so far: ``len(index)`` and those removed. Masks and ``exclude`` have as many columns."""
        return self._state.rows

    @property
    def metric(self) -> Metric:
        """What searches rank by."""
        return self._metric

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; on the GPU where the items are there."""
        return self._state.bytes

    def search(
        self,
        queries: Any,
        k: int,
        *,
        exclude: Any = None,
        allow: Any = None,
        deny: Any = None,
        threads: int | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Find the ``k`` best items for every query; parameters and returns as in :func:`topk`."""
        state = self._state
        if isinstance(state, _core.Index):
            _device.choose("cpu", {"queries": queries})
            queries = _arrays.dense(queries, argument="queries")
        else:
            exclude, (allow, deny) = _device.exclusions(exclude), _device.filters(allow, deny)
        return state.search(
            queries,
            _arrays.whole(k, argument="k", least=1),
            _arrays.exclusion_pattern(exclude, _device.rows_of(queries), state.rows),
            _arrays.item_mask(allow, deny, state.rows),
            self._thread_count(threads),
        )

    def search_padded(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        exclude: _arrays.Pattern | None,
        allow: Any,
        deny: Any,
        *,
        blend: _Blend | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Search where ``k`` may exceed the number of items and ``exclude`` is a pattern already; for models.

        ``blend`` holds additions, gates and labels of Blend in csrc/core/operations.h, each may be None.
        """
        state, k = self._state, _arrays.whole(k, argument="k", least=1)
        reachable, mask = min(k, state.present), _arrays.item_mask(allow, deny, state.rows)
        blended = () if blend is None else ("auto", *blend)
        if reachable == k:
            return state.search(queries, k, exclude, mask, self._threads, *blended)
        ids = np.full((len(queries), k), -1)
        scores = np.full((len(queries), k), np.inf if self._metric == "euclidean" else -np.inf, np.float32)
        if reachable:
            found = state.search(queries, reachable, exclude, mask, self._threads, *blended)
            ids[:, :reachable], scores[:, :reachable] = found
        return ids, scores

    def add(self, vectors: Any, *, threads: int | None = None) -> npt.NDArray[np.int64]:
        """Append items of shape (m, d) and return their rows."""
        with self._changes:
            state = self._state
            new = self._vectors(vectors, state)
            self._state = state.add(new, self._thread_count(threads))
            return np.arange(state.rows, self._state.rows)

    def update(self, rows: Any, vectors: Any, *, threads: int | None = None) -> None:
        """Replace the items at ``rows`` by ``vectors`` of shape (len(rows), d); removed rows come back."""
        with self._changes:
            state = self._state
            new = self._vectors(vectors, state)
            where = _item_rows(rows, state)
            if len(where) != new.shape[0]:
                raise ValueError(f"rows: {len(where)} of them; expected one for each of the {new.shape[0]} vectors")
            self._state = state.update(where, new, self._thread_count(threads))

    def remove(self, rows: Any) -> None:
        """Take items out. Their row numbers stay theirs: they are not found, and not given to others."""
        with self._changes:
            self._state = self._state.remove(_item_rows(rows, self._state))

    def save(self, path: str | Path) -> None:
        """Write the index as a safetensors file, through a temporary name."""
        state = self._state
        if not isinstance(state, _core.Index):
            state = state.to_host(self._threads)
        parts = state.description()
        tensors: dict[str, _storage.Streamed] = {
            name: _storage.Streamed(_FILE_TYPES[parts[name].dtype.name], parts[name].shape, [parts[name]])
            for name in ("encoded", "centre", "irregular", "terms")
            if name in parts
        }
        blocks = range(state.blocks)
        packed_shape = (state.blocks * _core.packed_block_rows, state.depth)
        tensors["items"] = _storage.Streamed(
            _FILE_TYPES[state.type], (state.rows, state.columns), (state.block(b)[0] for b in blocks)
        )
        tensors["packed"] = _storage.Streamed("U16", packed_shape, (state.block(b)[1] for b in blocks))
        if "present" in parts:
            tensors["present"] = _storage.Streamed("U8", parts["present"].shape, [parts["present"]])
        metadata = {"metric": self._metric, "type": state.type, "encoding": _core.encoding()}
        _storage.stream_tensors(path, tensors, kind="Index", metadata=metadata)

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = True, threads: int | None = None, device: Device = "cpu") -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        mapped : bool
            Map the file into memory instead of reading it: pages come in when a search touches them and
            are shared between processes. The file must then stay as it is.
        threads : int, optional
        device : {"cpu", "cuda"}
            Files are the same for both; for a GPU the items are packed anew.

        Raises
        ------
        FileNotFoundError
        ValueError
            The file is damaged, foreign or of a newer version.

        Notes
        -----
        A file written on a machine with another 16-bit encoding is packed anew; its items stay mapped.
        """
        tensors, metadata = _storage.map_tensors(path, kind="Index", mapped=mapped)
        index = cls.__new__(cls)
        index._threads = _arrays.thread_count(threads)
        try:
            index._metric = _metric(metadata["metric"])
            items = tensors.pop("items")
            if metadata["encoding"] != _core.encoding():
                tensors.pop("packed")
            index._start(_core.Index.restore(items, metadata["type"], index._metric, tensors, index._threads))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: {path} is damaged ({error})") from None
        if _backends.check_device(device) == "cuda":
            present = tensors.get("present")
            index._asked = "cuda"
            index._start(_device.restore_index(items, metadata["type"], index._metric, present))
        return index

    def _thread_count(self, threads: int | None) -> int:
        return self._threads if threads is None else _arrays.thread_count(threads)

    @staticmethod
    def _vectors(vectors: Any, state: _State) -> Any:
        if not isinstance(state, _core.Index):
            held = state.vectors(vectors)
            if held.shape[1] != state.columns:
                raise ValueError(f"vectors: shape {held.shape}; expected {state.columns} columns")
            return held
        new: npt.NDArray[Any]
        if state.type == "float32":
            new = _arrays.dense(vectors, argument="vectors")
        else:
            new, kind = _arrays.elements(vectors, argument="vectors")
            if kind != state.type:
                raise TypeError(f"vectors: {kind}; expected {state.type}, which the index holds")
        if new.shape[1] != state.columns:
            raise ValueError(f"vectors: shape {new.shape}; expected {state.columns} columns")
        return new


# A fork may catch another thread inside a change: the child gets the state before it, and a free lock.
_indexes: weakref.WeakSet[Index] = weakref.WeakSet()


def _free_locks() -> None:
    for index in _indexes:
        index._changes = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)

_FILE_TYPES = {
    "float64": "F64", "int64": "I64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
}  # fmt: skip


_STORED_AS = {"float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16}


def _item_rows(rows: Any, state: _State) -> npt.NDArray[np.int64]:
    where = np.asarray(rows)
    if where.ndim != 1 or (where.size and where.dtype.kind not in "iu"):
        raise TypeError(f"rows: {_arrays.describe(where)}; expected a list of item rows")
    if where.size and not 0 <= where.min() <= where.max() < state.rows:
        raise ValueError(f"rows: {where.min()} to {where.max()}; expected 0 to {state.rows - 1}")
    return where.astype(np.int64)


def _metric(metric: object) -> Metric:
    if metric not in ("dot", "cosine", "euclidean"):
        raise ValueError(f"metric: {metric!r}; expected 'dot', 'cosine' or 'euclidean'")
    return metric
