"""Files that are whole or not there: safetensors with described metadata, written by renaming."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from safetensors import SafetensorError
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from salience.interactions import IdMap, Interactions

Tensors = dict[str, npt.NDArray[Any]]
_VERSION = 1


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` if the block succeeds.

    Where the block fails, the old file stays as it was and the temporary one is removed.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(path: str | Path, tensors: Tensors, *, kind: str, metadata: dict[str, Any]) -> None:
    """Write named arrays and JSON-able metadata of one ``kind`` of model."""
    note = {
        "format": "salience",
        "version": str(_VERSION),
        "kind": kind,
        "metadata": json.dumps(metadata),
    }
    data = _save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata=note)
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def load_tensors(path: str | Path, *, kind: str) -> tuple[Tensors, dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is damaged, foreign, of another kind or of a newer version.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        tensors = _load(data)
    except SafetensorError as error:
        raise _damaged(path, error) from None
    length = int.from_bytes(data[:8], "little")
    return _Held(path, tensors), _Held(path, _metadata(path, data[8 : 8 + length], kind))


class _Held(dict[str, Any]):
    """What a file holds; to look up what it does not hold is an error that names the file."""

    def __init__(self, path: Path, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"path: {self._path} holds no {name!r}; expected a model of this version of salience")


def kind_of(path: str | Path) -> str:
    """Return the kind of model that a file holds; ValueError where it is none of ours."""
    path = Path(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, path.stat().st_size))
    try:
        note = json.loads(header)["__metadata__"]
        if note["format"] != "salience":
            raise ValueError(f"format {note['format']!r}")
        return str(note["kind"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _metadata(path: Path, header: bytes, kind: str) -> dict[str, Any]:
    try:
        note = json.loads(header)["__metadata__"]
        found = (note["format"], note["kind"], int(note["version"]))
        metadata: dict[str, Any] = json.loads(note["metadata"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None
    if found[0] != "salience" or found[1] != kind:
        raise ValueError(f"path: {path} holds {found[0]} {found[1]}; expected salience {kind}")
    if found[2] > _VERSION:
        raise ValueError(f"path: {path} has format version {found[2]}; expected at most {_VERSION}")
    return metadata


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"path: {path} is damaged or no model of salience ({error})")


_TYPES: dict[str, type] = {
    "F64": np.float64, "I64": np.int64, "F32": np.float32, "F16": np.uint16, "BF16": np.uint16,
    "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A tensor that is written piece by piece: its type in the file, its shape and its bytes."""

    type: str
    shape: tuple[int, ...]
    pieces: Iterable[npt.NDArray[Any]]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(_TYPES[self.type]).itemsize


def stream_tensors(path: str | Path, tensors: dict[str, Streamed], *, kind: str, metadata: dict[str, Any]) -> None:
    """Write a safetensors file without holding it in memory; order tensors by falling element size."""
    note = {"format": "salience", "version": str(_VERSION), "kind": kind, "metadata": json.dumps(metadata)}
    header: dict[str, Any] = {"__metadata__": note}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": tensor.type, "shape": tensor.shape, "data_offsets": [end, end + tensor.size]}
        end += tensor.size
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with replace_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for piece in tensor.pieces:
                file.write(piece.tobytes())


def map_tensors(path: str | Path, *, kind: str, mapped: bool) -> tuple[Tensors, dict[str, Any]]:
    """Read what :func:`stream_tensors` wrote; where ``mapped``, pages are read when they are touched.

    Raises
    ------
    FileNotFoundError
    ValueError
        The file is damaged, foreign, of another kind or of a newer version.
    """
    path = Path(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < 1 << 27 else b""
    metadata = _metadata(path, text, kind)
    whole = np.memmap(path, np.uint8, "r") if mapped else np.fromfile(path, np.uint8)
    data, end, tensors = whole[8 + length :], 0, {}
    try:
        for name, entry in json.loads(text).items():
            if name == "__metadata__":
                continue
            begin, stop = entry["data_offsets"]
            if begin != end or stop > len(data):
                raise ValueError(f"{name}: bytes {begin} to {stop} of {len(data)}")
            tensor = data[begin:stop].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = tensor if tensor.flags.aligned else tensor.copy()
            end = stop
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    return tensors, metadata


def pack_ids(prefix: str, ids: IdMap) -> Tensors:
    """Turn an id map into arrays: its size, numbers, or UTF-8 text with offsets."""
    if ids.identity:
        return {f"{prefix}.size": np.array([len(ids)], np.int64)}
    if ids.ids.dtype != object:
        return {f"{prefix}.numbers": ids.ids}
    texts = [name.encode("utf-8", "surrogatepass") for name in ids.ids]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    return {
        f"{prefix}.text": np.frombuffer(b"".join(texts), np.uint8),
        f"{prefix}.offsets": offsets,
    }


def unpack_ids(prefix: str, tensors: Tensors) -> IdMap:
    """Undo :func:`pack_ids`."""
    if f"{prefix}.size" in tensors:
        return IdMap(size=int(tensors[f"{prefix}.size"][0]))
    if f"{prefix}.numbers" in tensors:
        return IdMap(tensors[f"{prefix}.numbers"])
    text = tensors[f"{prefix}.text"].tobytes()
    offsets = tensors[f"{prefix}.offsets"].tolist()
    names = [text[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(offsets)]
    return IdMap(np.array(names, dtype=object))


def pack_matrix(prefix: str, matrix: Any) -> Tensors:
    """Turn a dense array or CSR matrix into arrays."""
    if not sp.issparse(matrix):
        return {prefix: np.asarray(matrix)}
    rows = sp.csr_matrix(matrix)
    parts = {name: getattr(rows, name) for name in ("data", "indices", "indptr")}
    return {f"{prefix}.{name}": part for name, part in {**parts, "shape": np.array(matrix.shape)}.items()}


def unpack_matrix(prefix: str, tensors: Tensors) -> Any:
    """Undo :func:`pack_matrix`; None where there is none."""
    if prefix in tensors or f"{prefix}.data" not in tensors:
        return tensors.get(prefix)
    parts = tuple(tensors[f"{prefix}.{name}"] for name in ("data", "indices", "indptr"))
    return sp.csr_matrix(parts, shape=tuple(tensors[f"{prefix}.shape"].tolist()))


def pack_interactions(prefix: str, data: Interactions) -> Tensors:
    """Turn interactions into arrays."""
    tensors = {
        f"{prefix}.indptr": data.matrix.indptr,
        f"{prefix}.indices": data.matrix.indices,
        f"{prefix}.values": data.matrix.data,
        **pack_ids(f"{prefix}.users", data.user_map),
        **pack_ids(f"{prefix}.items", data.item_map),
    }
    if data.times is not None:
        tensors[f"{prefix}.times"] = data.times
    return tensors


def unpack_interactions(prefix: str, tensors: Tensors) -> Interactions:
    """Undo :func:`pack_interactions`; ValueError where the arrays do not fit together."""
    users, items = unpack_ids(f"{prefix}.users", tensors), unpack_ids(f"{prefix}.items", tensors)
    parts = [tensors[f"{prefix}.{name}"] for name in ("values", "indices", "indptr")]
    matrix = sp.csr_matrix((parts[0], parts[1], parts[2]), shape=(len(users), len(items)))
    return Interactions(matrix, users, items, tensors.get(f"{prefix}.times"))
