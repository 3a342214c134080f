"""Arrays on the GPU: from the caller's library to the CUDA module and back.

Everything that knows CuPy, torch or ``__cuda_array_interface__`` is here. Arrays of CuPy and torch are used
on the library's current stream and results come as arrays of the same library; any other object that offers
the interface is used on the stream that it names, and results come as objects that offer it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from salience import _arrays, _backends, _core

Pair = tuple[Any, Any]

# Host arrays go to the GPU by themselves from this many products on: by then computing on a CPU (some 1e11 to
# 1e12 products a second) takes longer than bringing the items over. Projected, not measured.
_PAYS_FROM = 2.0**36
# An index of this many elements is searched faster on a GPU even one query at a time. Projected likewise.
_INDEX_PAYS_FROM = 2**24

_TYPES = {"<f4": "float32", "<f2": "float16", "<f8": "float64", "|b1": "bool"}
_EXACT = ("|b1", "|i1", "|u1", "<i2", "<u2", "<f2")


def is_on_device(value: Any) -> bool:
    """Whether an argument is an array in the memory of a GPU."""
    return not isinstance(value, np.ndarray) and hasattr(value, "__cuda_array_interface__")


def rows_of(value: Any) -> int:
    """Count the rows of an array of any library."""
    return int(value.__cuda_array_interface__["shape"][0]) if is_on_device(value) else len(value)


def choose(device: object, arrays: dict[str, Any], *, products: float = 0.0) -> Any | None:
    """Return the CUDA module where it should do the work, None where the CPU should.

    Data decide first: arrays on the GPU are worked on there.
    """
    wanted = _backends.check_device(device)
    there = [name for name, value in arrays.items() if is_on_device(value)]
    if there and wanted == "cpu":
        raise ValueError(f"{there[0]}: an array on the GPU, while device is 'cpu'; expected arrays in host memory")
    if there or wanted == "cuda":
        return _backends.cuda()
    if wanted == "cpu" or products < _PAYS_FROM or _backends.cuda_why_not():
        return None
    return _backends.cuda()


class Library:
    """A library whose arrays live on the GPU; this one is for what offers only the interface."""

    def __init__(self, module: Any, like: Any) -> None:
        self.module, self.like = module, like

    def stream(self) -> int:
        """Return the stream that orders work on the array."""
        return int(self.like.__cuda_array_interface__.get("stream") or 0)

    def together(self, value: Any, argument: str, *, as_float32: bool) -> Any:
        """Return the array with contiguous rows, as float32 where asked."""
        raise TypeError(
            f"{argument}: {_describe(value)}; expected rows of float32 or float16 whose elements lie side by side"
        )

    def empty(self, rows: int, columns: int, typestr: str) -> Any:
        """Make an array of the same library, on the same device."""
        return self.module.DeviceArray(rows, columns, typestr, self.stream())

    def to_host(self, value: Any, argument: str) -> npt.NDArray[Any]:
        """Copy to NumPy."""
        raise TypeError(f"{argument}: {_describe(value)}; expected a NumPy array")


class CuPy(Library):
    """CuPy's arrays."""

    def stream(self) -> int:
        with self.like.device:
            return int(_library("cupy").cuda.get_current_stream().ptr)

    def together(self, value: Any, argument: str, *, as_float32: bool) -> Any:
        with value.device:
            found = value.astype("float32", copy=False) if as_float32 else value
            return _library("cupy").ascontiguousarray(found)

    def empty(self, rows: int, columns: int, typestr: str) -> Any:
        with self.like.device:
            return _library("cupy").empty((rows, columns), typestr)

    def to_host(self, value: Any, argument: str) -> npt.NDArray[Any]:
        return np.asarray(value.get())


class Torch(Library):
    """Tensors of torch on a GPU."""

    def stream(self) -> int:
        return int(_library("torch").cuda.current_stream(self.like.device).cuda_stream)

    def together(self, value: Any, argument: str, *, as_float32: bool) -> Any:
        return (value.float() if as_float32 else value).contiguous()

    def empty(self, rows: int, columns: int, typestr: str) -> Any:
        torch = _library("torch")
        types = {"<i8": torch.int64, "<f4": torch.float32, "<f8": torch.float64}
        return torch.empty((rows, columns), dtype=types[typestr], device=self.like.device)

    def to_host(self, value: Any, argument: str) -> npt.NDArray[Any]:
        return np.asarray(value.cpu().numpy())


class NumPy(Library):
    """Arrays in host memory, which the module copies; the stream is one of the thread's own."""

    def stream(self) -> Any:
        return None

    def empty(self, rows: int, columns: int, typestr: str) -> Any:
        return np.empty((rows, columns), typestr)


def _library(name: str) -> Any:
    return sys.modules[name]


def library_of(module: Any, *values: Any) -> Library:
    """Return the library of the first array on the GPU; NumPy's where there is none."""
    for value in values:
        if is_on_device(value):
            name = type(value).__module__.split(".")[0]
            return {"cupy": CuPy, "torch": Torch}.get(name, Library)(module, value)
    return NumPy(module, None)


def _describe(value: Any) -> str:
    interface = value.__cuda_array_interface__
    return f"an array of {interface['typestr']} of shape {tuple(interface['shape'])} on the GPU"


class Held:
    """A view for the module, with what keeps its memory alive."""

    def __init__(self, module: Any, value: Any, argument: str, *, types: tuple[str, ...] = ("float32",)) -> None:
        if is_on_device(value):
            self._hold_device(module, value, argument, types)
        elif "float64" in types and isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == 2:
            self._hold_host(module, np.ascontiguousarray(value), "float64")
        elif "float16" in types:
            self._hold_host(module, *_arrays.elements(value, argument=argument))
        else:
            self._hold_host(module, _arrays.dense(value, argument=argument), "float32")

    @classmethod
    def stored(cls, module: Any, rows: npt.NDArray[Any], kind: str) -> Held:
        """Hold rows as ``_core.Index`` stores them: 16-bit types as their patterns."""
        held = cls.__new__(cls)
        held._hold_host(module, np.ascontiguousarray(rows), kind)
        return held

    def _hold_host(self, module: Any, array: npt.NDArray[Any], kind: str) -> None:
        self.owner, self.type, self.shape = array, kind, array.shape
        stride = array.strides[0] // array.itemsize if array.size else array.shape[1]
        self.view = module.View(array.ctypes.data, *array.shape, stride, kind, False)

    def _hold_device(self, module: Any, value: Any, argument: str, types: tuple[str, ...]) -> None:
        typestr, kind = value.__cuda_array_interface__["typestr"], _type_of(value)
        if len(value.__cuda_array_interface__["shape"]) != 2:
            shape = tuple(value.__cuda_array_interface__["shape"])
            raise ValueError(f"{argument}: shape {shape}; expected a matrix of two dimensions")
        as_float32 = kind not in types and not (kind == "bfloat16" and "float16" in types)
        if as_float32 and typestr not in _EXACT and kind != "bfloat16":
            raise TypeError(
                f"{argument}: {_describe(value)}; expected float32 (or a type that float32 holds exactly): "
                f'convert with {argument}.astype("float32")'
            )
        if as_float32 or _row_stride(value) is None:
            value = library_of(module, value).together(value, argument, as_float32=as_float32)
        interface = value.__cuda_array_interface__
        rows, columns = interface["shape"]
        self.owner, self.type, self.shape = value, str(_type_of(value)), (rows, columns)
        self.view = module.View(interface["data"][0], rows, columns, _row_stride(value), self.type, True)


def _type_of(value: Any) -> str | None:
    """Name the type of the elements, None where it is none of ours."""
    # The interface has no name for bfloat16: torch has said "<f2", which is float16, and "<V2".
    if str(getattr(value, "dtype", "")).removeprefix("torch.") == "bfloat16":
        return "bfloat16"
    return _TYPES.get(value.__cuda_array_interface__["typestr"])


def _row_stride(value: Any) -> int | None:
    """Return the distance of rows in elements, None where the layout is none that the kernels read."""
    interface = value.__cuda_array_interface__
    rows, columns = interface["shape"]
    strides, size = interface.get("strides"), int(interface["typestr"][2:])
    if strides is None or rows * columns == 0:
        return int(columns)
    if (columns > 1 and strides[1] != size) or strides[0] < 0 or strides[0] % size:
        return None
    return int(strides[0] // size) if rows > 1 else int(columns)


def _out(module: Any, library: Library, rows: int, columns: int, typestr: str) -> tuple[Any, Any]:
    """Make an output and its view."""
    made = library.empty(rows, columns, typestr)
    kind = {"<i8": "int64", "<f4": "float32", "<f8": "float64"}[typestr]
    if isinstance(made, np.ndarray):
        return made, module.View(made.ctypes.data, rows, columns, columns, kind, False)
    return made, module.View(made.__cuda_array_interface__["data"][0], rows, columns, columns, kind, True)


def mask_view(module: Any, mask: npt.NDArray[np.bool_] | None) -> Any:
    """Return a view of a mask in host memory."""
    return None if mask is None else module.View(mask.ctypes.data, 1, len(mask), len(mask), "bool", False)


def filters(allow: Any, deny: Any) -> tuple[Any, Any]:
    """Bring ``allow`` and ``deny`` to host memory."""
    found = [
        library_of(None, value).to_host(value, name) if is_on_device(value) else value
        for name, value in (("allow", allow), ("deny", deny))
    ]
    return found[0], found[1]


def exclusions(exclude: Any) -> Any:
    """Bring a sparse matrix of CuPy to host memory."""
    return exclude.get() if type(exclude).__module__.startswith("cupyx") else exclude


def similarity(module: Any, a: Any, b: Any, metric: str) -> Any:
    """Run :func:`salience.similarity` on the GPU."""
    library = library_of(module, a, b)
    left, right = Held(module, a, "a"), Held(module, b, "b")
    out, view = _out(module, library, left.shape[0], right.shape[0], "<f4")
    module.similarity(left.view, right.view, metric, view, library.stream())
    return out


def select(module: Any, scores: Any, k: int) -> Pair:
    """Run :func:`salience.select` on the GPU."""
    library = library_of(module, scores)
    held = Held(module, scores, "scores", types=("float32", "float64"))
    rows, columns = held.shape
    if k > columns:
        raise ValueError(f"k: {k}; expected a whole number from 1 to the {columns} columns of scores")
    ids, ids_view = _out(module, library, rows, k, "<i8")
    values, values_view = _out(module, library, rows, k, "<f8" if held.type == "float64" else "<f4")
    module.select(held.view, k, ids_view, values_view, library.stream())
    return ids, values


def _search(module: Any, library: Library, queries: Held, items: int, k: int, call: Any) -> Pair:
    """Make outputs and have call(ids, scores, stream) fill them."""
    if not 1 <= k <= items:
        raise ValueError(f"k: {k}; expected a whole number from 1 to the {items} items")
    ids, ids_view = _out(module, library, queries.shape[0], k, "<i8")
    scores, scores_view = _out(module, library, queries.shape[0], k, "<f4")
    call(ids_view, scores_view, library.stream())
    return ids, scores


def topk(module: Any, queries: Any, items: Any, k: int, metric: str, exclude: Any, allow: Any, deny: Any,
         path: str = "auto", tuning: dict[str, int] | None = None) -> Pair:  # fmt: skip
    """Run :func:`salience.topk` on the GPU; ``path`` and ``tuning`` are for tests."""
    library = library_of(module, queries, items)
    q = Held(module, queries, "queries")
    x = Held(module, items, "items", types=("float32", "float16"))
    pattern = _arrays.exclusion_pattern(exclusions(exclude), q.shape[0], x.shape[0])
    mask = _arrays.item_mask(*filters(allow, deny), x.shape[0])

    def call(ids: Any, scores: Any, stream: Any) -> None:
        module.topk(q.view, x.view, k, metric, pattern, mask_view(module, mask), ids, scores, stream, path,
                    tuning=tuning or {})  # fmt: skip

    return _search(module, library, q, x.shape[0], k, call)


class DeviceIndex:
    """The state of an Index on the GPU: an immutable value, as ``_core.Index``."""

    def __init__(self, module: Any, packed: Any, metric: str) -> None:
        self.module, self.packed, self.metric = module, packed, metric

    @classmethod
    def build(cls, module: Any, held: Held, metric: str, present: npt.NDArray[np.bool_] | None) -> DeviceIndex:
        """Copy items to the GPU and pack them there."""
        stream = library_of(module, held.owner).stream()
        return cls(module, module.Index.build(held.view, present, metric, stream), metric)

    rows = property(lambda self: int(self.packed.rows))
    present = property(lambda self: int(self.packed.present))
    columns = property(lambda self: int(self.packed.columns))
    type = property(lambda self: str(self.packed.type))
    bytes = property(lambda self: int(self.packed.bytes))

    def search(self, queries: Any, k: int, exclude: _arrays.Pattern | None, allowed: npt.NDArray[np.bool_] | None,
               threads: int = 0, path: str = "auto", additions: Any = None, gates: Any = None, labels: Any = None,
               tuning: dict[str, int] | None = None) -> Pair:  # fmt: skip
        """Search as ``_core.Index`` does, for queries of any library."""
        held = Held(self.module, queries, "queries")

        def call(ids: Any, scores: Any, stream: Any) -> None:
            mask = mask_view(self.module, allowed)
            self.packed.search(held.view, k, exclude, mask, ids, scores, stream, path, additions, gates, labels,
                               tuning or {})  # fmt: skip

        return _search(self.module, library_of(self.module, queries), held, self.present, k, call)

    def add(self, vectors: Held, threads: int = 0) -> DeviceIndex:
        """Append rows."""
        stream = library_of(self.module, vectors.owner).stream()
        return DeviceIndex(self.module, self.packed.add(vectors.view, stream), self.metric)

    def update(self, rows: npt.NDArray[np.int64], vectors: Held, threads: int = 0) -> DeviceIndex:
        """Replace rows."""
        stream = library_of(self.module, vectors.owner).stream()
        return DeviceIndex(self.module, self.packed.update(rows, vectors.view, stream), self.metric)

    def remove(self, rows: npt.NDArray[np.int64]) -> DeviceIndex:
        """Take rows out."""
        return DeviceIndex(self.module, self.packed.remove(rows), self.metric)

    def vectors(self, vectors: Any) -> Held:
        """Check vectors that are to join."""
        types = ("float32",) if self.type == "float32" else ("float32", "float16")
        held = Held(self.module, vectors, "vectors", types=types)
        if held.type != self.type:
            raise TypeError(f"vectors: {held.type}; expected {self.type}, which the index holds")
        return held

    def items(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        """Copy the rows, and the flags of those present, to host memory."""
        return self.packed.download(), self.packed.present_flags()

    def to_host(self, threads: int) -> _core.Index:
        """Make the same index on the CPU."""
        return host_index(*self.items(), self.type, self.metric, threads)


class DeviceUnits:
    """Unit rows on the GPU, for attention over histories."""

    def __init__(self, module: Any, units: npt.NDArray[np.float32]) -> None:
        self.module, self.units = module, module.Factors(*units.shape)
        self.units.upload(units)

    def attend(self, *arguments: Any) -> npt.NDArray[np.float32]:
        """Run ``_core.attend`` on the GPU; arguments as there, without units and threads."""
        found: npt.NDArray[np.float32] = self.module.attend(self.units, *arguments)
        return found


class StreamedIndex:
    """The state of an Index whose items do not fit the GPU: they wait in host memory and pass through it."""

    def __init__(self, module: Any, rows: npt.NDArray[Any], kind: str, metric: str,
                 flags: npt.NDArray[np.bool_]) -> None:  # fmt: skip
        self.module, self._rows, self.type, self.metric, self._flags = module, rows, kind, metric, flags

    rows = property(lambda self: len(self._rows))
    present = property(lambda self: int(self._flags.sum()))
    columns = property(lambda self: int(self._rows.shape[1]))
    bytes = property(lambda self: int(self._rows.nbytes + self._flags.nbytes))

    def search(self, queries: Any, k: int, exclude: _arrays.Pattern | None, allowed: npt.NDArray[np.bool_] | None,
               threads: int = 0, path: str = "auto", additions: Any = None, gates: Any = None, labels: Any = None,
               tuning: dict[str, int] | None = None) -> Pair:  # fmt: skip
        """Search as ``_core.Index`` does, for queries of any library."""
        held = Held(self.module, queries, "queries")
        mask = self._flags if allowed is None else self._flags & allowed
        items = self.module.View(self._rows.ctypes.data, *self._rows.shape, self.columns, self.type, False)

        def call(ids: Any, scores: Any, stream: Any) -> None:
            view = None if mask.all() else mask_view(self.module, mask)
            self.module.topk(held.view, items, k, self.metric, exclude, view, ids, scores, stream, path, additions,
                             gates, labels, tuning or {})  # fmt: skip

        return _search(self.module, library_of(self.module, queries), held, self.present, k, call)

    def _with(self, rows: npt.NDArray[Any], flags: npt.NDArray[np.bool_]) -> StreamedIndex:
        return StreamedIndex(self.module, rows, self.type, self.metric, flags)

    def add(self, vectors: Held, threads: int = 0) -> StreamedIndex:
        """Append rows."""
        flags = np.concatenate([self._flags, np.ones(vectors.shape[0], bool)])
        return self._with(np.concatenate([self._rows, vectors.owner]), flags)

    def update(self, rows: npt.NDArray[np.int64], vectors: Held, threads: int = 0) -> StreamedIndex:
        """Replace rows."""
        changed, flags = self._rows.copy(), self._flags.copy()
        changed[rows], flags[rows] = vectors.owner, True
        return self._with(changed, flags)

    def remove(self, rows: npt.NDArray[np.int64]) -> StreamedIndex:
        """Take rows out."""
        flags = self._flags.copy()
        for row in rows:
            if not flags[row]:
                raise ValueError(f"rows: {row} was removed before")
            flags[row] = False
        return self._with(self._rows, flags)

    def vectors(self, vectors: Any) -> Held:
        """Check vectors that are to join."""
        if is_on_device(vectors):
            raise TypeError("vectors: an array on the GPU; expected a NumPy array, as the index keeps its items there")
        types = ("float32",) if self.type == "float32" else ("float32", "float16")
        held = Held(self.module, vectors, "vectors", types=types)
        if held.type != self.type:
            raise TypeError(f"vectors: {held.type}; expected {self.type}, which the index holds")
        return held

    def items(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
        """Return the rows, and the flags of those present."""
        return self._rows, None if self._flags.all() else self._flags.astype(np.uint8)

    def to_host(self, threads: int) -> _core.Index:
        """Make the same index on the CPU."""
        return host_index(*self.items(), self.type, self.metric, threads)


def host_index(rows: npt.NDArray[Any], present: npt.NDArray[np.uint8] | None, kind: str, metric: str,
               threads: int) -> _core.Index:  # fmt: skip
    """Pack rows on the CPU."""
    return _core.Index.restore(rows, kind, metric, {} if present is None else {"present": present}, threads)


def build_index(device: object, items: Any, metric: str) -> DeviceIndex | StreamedIndex | None:
    """Build the state of an index on the GPU where that is wanted or pays; None where the CPU should."""
    module = choose(device, {"items": items})
    if module is None:
        shape = np.shape(items)
        if device != "auto" or len(shape) != 2 or shape[0] * shape[1] < _INDEX_PAYS_FROM or _backends.cuda_why_not():
            return None
        module = _backends.cuda()
    held = Held(module, items, "items", types=("float32", "float16"))
    needed, free = _index_bytes(held), module.device()["free_bytes"]
    if needed > free and device == "auto" and not is_on_device(items):
        return None
    return _index_of(module, held, metric, None)


def restore_index(rows: npt.NDArray[Any], kind: str, metric: str, present: Any) -> DeviceIndex | StreamedIndex:
    """Build the state of an index on the GPU from rows as ``_core.Index`` stores them."""
    module = _backends.cuda()
    return _index_of(module, Held.stored(module, rows, kind), metric, present)


def _index_bytes(held: Held) -> int:
    """Count the rows, their halves, norms and what packing needs, and a tenth more for searches."""
    rows, columns = held.shape
    return int(rows * (columns * (4 if held.type == "float32" else 2) + 2 * (columns + 32) + 24) * 1.1)


def _index_of(module: Any, held: Held, metric: str, present: Any) -> DeviceIndex | StreamedIndex:
    flags = None if present is None else np.asarray(present, bool)
    if _index_bytes(held) <= module.device()["free_bytes"] or not isinstance(held.owner, np.ndarray):
        return DeviceIndex.build(module, held, metric, flags)
    flags = np.ones(held.shape[0], bool) if flags is None else flags
    return StreamedIndex(module, np.array(held.owner, order="C"), held.type, metric, flags)
