"""Interactions: who did what, when; and the way between the caller's ids and matrix rows."""

from __future__ import annotations

import csv
import gzip
import warnings
from pathlib import Path
from typing import Any, Literal

import narwhals.stable.v1 as nw
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience._arrays import describe, real

Ids = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Duplicates = Literal["sum", "last", "first", "max", "mean", "error"]
_DUPLICATES = ("sum", "last", "first", "max", "mean", "error")


class IdMap:
    """The caller's ids of one axis, in row order.

    Parameters
    ----------
    ids : array of int64 or of str (object), shape (n,), optional
        Unique. Without ids the rows are their own ids.
    size : int, optional
        Length of the axis where there are no ids.
    """

    def __init__(self, ids: Any = None, *, size: int = 0, argument: str = "ids") -> None:
        self.identity = ids is None
        self._ids = None if ids is None else clean_ids(ids, argument=argument)
        self._size = size if self._ids is None else len(self._ids)
        self._order: Rows | None = None
        self._table: dict[str, int] | None = None
        if self._ids is None:
            return
        if self._ids.dtype == object:
            self._table = {name: row for row, name in enumerate(self._ids)}
            unique = len(self._table)
        else:
            self._order = np.argsort(self._ids, kind="stable")
            unique = len(np.unique(self._ids))
        if unique != self._size:
            raise ValueError(f"{argument}: {self._size - unique} repeated ids; expected unique ids")

    @property
    def ids(self) -> Ids:
        """The ids in row order, int64 or str in an object array."""
        return np.arange(self._size) if self._ids is None else self._ids

    def __len__(self) -> int:
        return self._size

    def find(self, ids: Any, *, argument: str = "ids") -> Rows:
        """Return the row of every id, -1 for ids that are not known; shape (n,)."""
        wanted = clean_ids(ids, argument=argument)
        if self._table is not None:
            if wanted.dtype != object and wanted.size:
                raise TypeError(f"{argument}: ids of {wanted.dtype}; expected ids of str")
            table = self._table
            return np.fromiter((table.get(name, -1) for name in wanted), np.int64, len(wanted))
        if wanted.dtype == object and wanted.size:
            raise TypeError(f"{argument}: ids of str; expected whole numbers")
        wanted = wanted.astype(np.int64)
        if self._ids is None or self._order is None:
            return np.where((wanted >= 0) & (wanted < self._size), wanted, -1)
        if self._size == 0:
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(self._ids, wanted, sorter=self._order), self._size - 1)
        rows = self._order[at]
        return np.where(self._ids[rows] == wanted, rows, -1)

    def rows(self, ids: Any, *, argument: str = "ids") -> Rows:
        """Return the row of every id; ValueError names ids that are not known."""
        rows = self.find(ids, argument=argument)
        unknown = np.flatnonzero(rows < 0)
        if unknown.size:
            wanted = clean_ids(ids, argument=argument)[unknown[:5]]
            names = ", ".join(map(repr, wanted.tolist()))
            known = f"rows 0 to {self._size - 1}" if self.identity else f"one of the {self._size} known ids"
            raise ValueError(f"{argument}: {unknown.size} unknown ({names}); expected {known}")
        return rows

    def ids_of(self, rows: Rows) -> Ids:
        """Return the id of every row, -1 (or None among str) where the row is -1; any shape."""
        if self._ids is None:
            return np.where(rows < 0, -1, rows)
        ids = self._ids
        missing = None if ids.dtype == object else -1
        out = np.full(rows.shape, missing, dtype=ids.dtype)
        out[rows >= 0] = ids[rows[rows >= 0]]
        return out

    def joined(self, other: IdMap, *, argument: str = "ids") -> IdMap:
        """Return these ids followed by those of ``other`` that are not among them."""
        if self.identity != other.identity:
            have = "row numbers" if other.identity else "ids"
            raise ValueError(f"{argument}: {have}; expected {'ids' if other.identity else 'row numbers'} as before")
        if self._ids is None:
            return IdMap(size=max(len(self), len(other)))
        return IdMap(np.concatenate([self._ids, other.ids[self.find(other.ids, argument=argument) < 0]]))


def clean_ids(ids: Any, *, argument: str) -> Ids:
    """Return ids as a one-dimensional array of int64 or of str (object)."""
    array = np.atleast_1d(np.asarray(ids))
    if array.ndim != 1:
        raise ValueError(f"{argument}: shape {array.shape}; expected one dimension")
    if array.size == 0:
        return array if array.dtype == object else array.astype(np.int64)
    if array.dtype.kind == "f":
        if not np.all(np.isfinite(array)) or np.any(array != np.floor(array)) or np.any(np.abs(array) >= 2.0**53):
            raise ValueError(f"{argument}: missing or fractional numbers; expected ids that are whole numbers or str")
        return array.astype(np.int64)
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{argument}: {array.max()}; expected ids below 2**63")
        return array.astype(np.int64, copy=False)
    if array.dtype.kind in "UT":
        return array.astype(object)
    if array.dtype == object:
        kinds = {type(x) for x in array}
        if kinds <= {str}:
            return array
        if kinds <= {int, np.int64, np.int32}:
            return array.astype(np.int64)
        if any(x is None or x != x for x in array):
            raise ValueError(f"{argument}: a missing id; expected every row to have one")
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{argument}: objects of {names}; expected ids that are all whole numbers or all str")
    raise TypeError(f"{argument}: {describe(array)}; expected ids that are whole numbers or str")


class Interactions:
    """Observed (user, item) pairs with values and, optionally, times.

    Build it with :meth:`from_frame`, :meth:`from_csr` or :meth:`read`.

    Attributes
    ----------
    matrix : scipy.sparse.csr_matrix of float32, shape (users, items)
        Sorted, one entry a pair. Explicit zeros are kept: a rating may be 0.
    user_map, item_map : IdMap
    times : array, shape (entries,), or None
        Aligned with ``matrix.data``: int64 (dates as microseconds since 1970, UTC) or float64.
    merged : int
        Input rows that were merged into others as duplicates.
    """

    def __init__(
        self,
        matrix: Any,
        user_map: IdMap,
        item_map: IdMap,
        times: npt.NDArray[Any] | None,
        merged: int = 0,
    ) -> None:
        self.matrix = matrix
        self.user_map = user_map
        self.item_map = item_map
        self.times = times
        self.merged = merged

    @property
    def users(self) -> Ids:
        """User ids in row order."""
        return self.user_map.ids

    @property
    def items(self) -> Ids:
        """Item ids in column order."""
        return self.item_map.ids

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of users and items."""
        return len(self.user_map), len(self.item_map)

    @property
    def rows(self) -> Rows:
        """The user row of every entry, aligned with ``matrix.data``."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.matrix.indptr))

    def __len__(self) -> int:
        return int(self.matrix.nnz)

    def __repr__(self) -> str:
        timed = "with times" if self.times is not None else "without times"
        return f"Interactions({self.shape[0]} users, {self.shape[1]} items, {len(self)} entries, {timed})"

    def select(self, mask: npt.NDArray[np.bool_]) -> Interactions:
        """Keep the entries where ``mask`` (aligned with ``matrix.data``) holds; axes stay."""
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise ValueError(f"mask: {describe(mask)}; expected {len(self)} booleans")
        counts = np.bincount(self.rows[mask], minlength=self.shape[0])
        indptr = np.concatenate([[0], np.cumsum(counts)])
        matrix = sp.csr_matrix((self.matrix.data[mask], self.matrix.indices[mask], indptr), shape=self.shape)
        times = None if self.times is None else self.times[mask]
        return Interactions(matrix, self.user_map, self.item_map, times)

    def joined(self, other: Interactions, *, duplicates: Literal["sum", "last", "max"] = "sum") -> Interactions:
        """Add other interactions, whose new users and items come after those that are here.

        Parameters
        ----------
        other : Interactions
            With ids where these have ids.
        duplicates : {"sum", "last", "max"}
            How the values of a pair that both have become one; "last" takes that of ``other``. The later time stays.
        """
        if duplicates not in ("sum", "last", "max"):
            raise ValueError(f"duplicates: {duplicates!r}; expected 'sum', 'last' or 'max'")
        users = self.user_map.joined(other.user_map, argument="interactions")
        items = self.item_map.joined(other.item_map, argument="interactions")
        rows, columns = (
            np.concatenate([ours, theirs])
            for ours, theirs in (
                (self.rows, users.find(other.users)[other.rows]),
                (self.matrix.indices, items.find(other.items)[other.matrix.indices]),
            )
        )
        order = np.lexsort((columns, rows))
        u, i = rows[order], columns[order]
        starts = np.flatnonzero(np.concatenate([[len(u) > 0], (u[1:] != u[:-1]) | (i[1:] != i[:-1])])[: len(u)])
        ends = np.append(starts[1:], len(u)) - 1 if len(u) else starts
        values = _merge(np.concatenate([self.matrix.data, other.matrix.data])[order], starts, ends, duplicates)
        times = None
        if self.times is not None and other.times is not None:
            times = np.maximum.reduceat(np.concatenate([self.times, other.times])[order], starts)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(u[starts], minlength=len(users)))])
        matrix = sp.csr_matrix((values, i[starts], indptr), shape=(len(users), len(items)))
        return Interactions(matrix, users, items, times, len(u) - len(starts))

    def decayed(self, half_life: float, *, now: float | None = None) -> Interactions:
        """Halve values for every ``half_life`` of age: what is recent counts more in an implicit model.

        Parameters
        ----------
        half_life : float
            In the unit of ``times`` (of dates: microseconds).
        now : float, optional
            The time at which values keep their weight; default the latest there is. Later entries do not grow.
        """
        return self.weighted(self._recency(half_life, now=now))

    def _recency(self, half_life: float, *, now: float | None = None) -> npt.NDArray[np.float64]:
        """Return the weights of :meth:`decayed`."""
        if self.times is None:
            raise ValueError("half_life: interactions without times; expected times")
        half = real(half_life, argument="half_life", positive=True)
        times = self.times.astype(np.float64)
        latest = times.max(initial=-np.inf) if now is None else float(now)
        return np.asarray(np.exp2(-np.maximum(latest - times, 0.0) / half))

    def weighted(self, weights: Any) -> Interactions:
        """Multiply values by weights, one for each entry, aligned with ``matrix.data``: how far each is trusted.

        Parameters
        ----------
        weights : array of real numbers, shape (entries,)
            Finite; negative ones make dislikes of likes. The product is rounded to float32.
        """
        factors = np.asarray(weights)
        if factors.dtype.kind not in "fiub":
            raise TypeError(f"weights: {describe(factors)}; expected real numbers")
        if factors.shape != (len(self),):
            raise ValueError(f"weights: shape {factors.shape}; expected {(len(self),)}, one for each entry")
        if not np.isfinite(factors).all():
            raise ValueError(f"weights: {factors[~np.isfinite(factors)][0]}; expected finite numbers")
        values = (self.matrix.data * factors.astype(np.float64)).astype(np.float32)
        matrix = sp.csr_matrix((values, self.matrix.indices, self.matrix.indptr), shape=self.shape)
        return Interactions(matrix, self.user_map, self.item_map, self.times)

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame of user, item, value (and time); pandas unless ``backend`` names another."""
        columns = {
            "user": self.users[self.rows],
            "item": self.items[self.matrix.indices],
            "value": self.matrix.data,
        }
        if self.times is not None:
            columns["time"] = self.times
        return make_frame(columns, backend)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str,
        item: str,
        value: str | None = None,
        time: str | None = None,
        duplicates: Duplicates = "sum",
    ) -> Interactions:
        """Read the columns of a pandas, Polars or PyArrow frame.

        Parameters
        ----------
        frame : DataFrame or Table
        user, item : str
            Columns of ids: whole numbers or strings. Rows are numbered in sorted order of ids.
        value : str, optional
            Column of finite numbers; 1 where not given. Rounded to float32.
        time : str, optional
            Column of numbers or dates; in text files dates of ISO 8601, of UTC where they name no offset.
        duplicates : {"sum", "last", "first", "max", "mean", "error"}
            How values of rows with the same user and item become one. "last" and "first" go by
            time where there is one, then by position. The pair keeps its latest time ("first":
            its earliest).

        Raises
        ------
        TypeError, ValueError
            Naming the argument: not a frame, a missing column, missing ids, values that are not
            finite numbers.
        """
        columns = read_columns(frame, {"user": user, "item": item, "value": value, "time": time})
        return cls._from_columns(columns, duplicates)

    @classmethod
    def _from_columns(cls, columns: dict[str, npt.NDArray[Any]], duplicates: Duplicates) -> Interactions:
        if duplicates not in _DUPLICATES:
            raise ValueError(f"duplicates: {duplicates!r}; expected one of {', '.join(_DUPLICATES)}")
        users, user_rows = np.unique(clean_ids(columns["user"], argument="user"), return_inverse=True)
        items, item_rows = np.unique(clean_ids(columns["item"], argument="item"), return_inverse=True)
        count = len(user_rows)
        values = as_values(columns["value"], "value") if "value" in columns else np.ones(count, np.float32)
        times = as_times(columns["time"], "time") if "time" in columns else None
        keys = (item_rows, user_rows) if times is None else (times, item_rows, user_rows)
        order = np.lexsort(keys)
        u, i, v = user_rows[order], item_rows[order], values[order]
        t = None if times is None else times[order]
        starts = (
            np.flatnonzero(np.concatenate([[True], (u[1:] != u[:-1]) | (i[1:] != i[:-1])]))
            if count
            else np.zeros(0, np.int64)
        )
        ends = np.append(starts[1:], count) - 1 if count else starts
        if duplicates == "error" and len(starts) != count:
            raise ValueError(
                f"frame: {count - len(starts)} rows repeat a user and item; expected none (duplicates='error')"
            )
        merged = _merge(v, starts, ends, duplicates)
        kept_times = None if t is None else t[starts if duplicates == "first" else ends]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(u[starts], minlength=len(users)))])
        matrix = sp.csr_matrix((merged, i[starts], indptr), shape=(len(users), len(items)))
        return cls(matrix, IdMap(users), IdMap(items), kept_times, count - len(starts))

    @classmethod
    def from_csr(cls, csr: Any, *, users: Any = None, items: Any = None) -> Interactions:
        """Take a scipy sparse matrix of users by items.

        Parameters
        ----------
        csr : scipy.sparse matrix or array of real numbers, shape (users, items)
            Any format and index type; duplicates are summed. Rounded to float32.
        users, items : array, optional
            Ids of the rows and columns; the numbers themselves where not given.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        """
        if not sp.issparse(csr):
            raise TypeError(f"csr: {describe(csr)}; expected a scipy.sparse matrix: wrap it in scipy.sparse.csr_array")
        if csr.dtype.kind not in "fiub":
            raise TypeError(f"csr: {describe(csr)}; expected real numbers")
        rows = csr if csr.format == "csr" else csr.tocsr()
        _check_csr(rows)
        values = as_values(rows.data[: rows.indptr[-1]], "csr")
        matrix = sp.csr_matrix((values, rows.indices[: rows.indptr[-1]], rows.indptr), shape=rows.shape)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        maps = []
        for argument, ids, size in (
            ("users", users, rows.shape[0]),
            ("items", items, rows.shape[1]),
        ):
            maps.append(IdMap(ids, size=size, argument=argument))
            if len(maps[-1]) != size:
                raise ValueError(f"{argument}: {len(maps[-1])} ids; expected one for each of the {size} rows")
        return cls(matrix, maps[0], maps[1], None, len(values) - matrix.nnz)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        user: str = "user",
        item: str = "item",
        value: str | None = None,
        time: str | None = None,
        duplicates: Duplicates = "sum",
    ) -> Interactions:
        """Read a ``.csv``, ``.tsv`` (also ``.gz``) or ``.parquet`` file; see :meth:`from_frame`.

        Raises
        ------
        FileNotFoundError, ImportError, TypeError, ValueError
            Parquet needs pyarrow. A file that is not UTF-8, or ragged, is a ValueError that says where.
        """
        path = Path(path)
        kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
        if kind not in ("csv", "tsv", "parquet"):
            raise ValueError(f"path: {path.name}; expected a file that ends in .csv, .tsv, .csv.gz or .parquet")
        if not path.is_file():
            raise FileNotFoundError(f"path: {path} is not a file")
        wanted = {"user": user, "item": item, "value": value, "time": time}
        if kind == "parquet":
            frame = _read_parquet(path)
            return cls.from_frame(frame, user=user, item=item, value=value, time=time, duplicates=duplicates)
        return cls._from_columns(_read_text(path, "," if kind == "csv" else "\t", wanted), duplicates)


def as_interactions(data: Any, *, argument: str = "interactions") -> Interactions:
    """Take Interactions or a scipy sparse matrix."""
    if isinstance(data, Interactions):
        return data
    if sp.issparse(data):
        return Interactions.from_csr(data)
    raise TypeError(f"{argument}: {describe(data)}; expected Interactions or a scipy.sparse matrix of users by items")


def make_frame(columns: dict[str, Any], backend: str | None) -> Any:
    """Build a frame of ``backend``: "pandas" (where installed, the default), "polars", "pyarrow"."""
    if backend in (None, "pandas"):
        import pandas

        return pandas.DataFrame(columns)
    if backend == "polars":
        import polars

        return polars.DataFrame(columns)
    if backend == "pyarrow":
        import pyarrow

        return pyarrow.table(columns)
    raise ValueError(f"backend: {backend!r}; expected 'pandas', 'polars' or 'pyarrow'")


def read_columns(frame: Any, wanted: dict[str, str | None]) -> dict[str, npt.NDArray[Any]]:
    """Take columns of a pandas, Polars or PyArrow frame by argument; those whose name is None are left out."""
    try:
        native = nw.from_native(frame)
    except TypeError:
        raise TypeError(f"frame: {describe(frame)}; expected a pandas, Polars or PyArrow frame") from None
    table = native.collect() if isinstance(native, nw.LazyFrame) else native
    columns: dict[str, npt.NDArray[Any]] = {}
    for argument, name in wanted.items():
        if name is None:
            continue
        if name not in table.columns:
            raise ValueError(f"{argument}: no column {name!r}; expected one of {', '.join(map(str, table.columns))}")
        columns[argument] = _column(table[name], argument)
    return columns


def _column(series: Any, argument: str) -> npt.NDArray[Any]:
    if series.null_count():
        raise ValueError(f"{argument}: {series.null_count()} missing entries in column {series.name!r}; expected none")
    dtype = series.dtype
    if dtype in (nw.Datetime, nw.Date):
        return np.asarray(series.cast(nw.Datetime("us")).dt.timestamp("us").to_numpy())
    if dtype in (nw.Categorical, nw.Enum, nw.String):
        return np.array(series.cast(nw.String).to_list(), dtype=object)
    return np.asarray(series.to_numpy())


def as_values(array: npt.NDArray[Any], argument: str) -> npt.NDArray[np.float32]:
    """Return finite numbers as float32."""
    if array.size and array.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: {describe(array)}; expected real numbers")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    if not np.all(np.isfinite(values)):
        bad = array[~np.isfinite(values)][0]
        raise ValueError(f"{argument}: {bad}; expected finite numbers in the range of float32")
    return values


def as_times(array: npt.NDArray[Any], argument: str) -> npt.NDArray[Any]:
    """Return finite numbers as int64 where they are whole, else as float64."""
    if array.size and array.dtype.kind not in "fiu":
        raise TypeError(f"{argument}: {describe(array)}; expected numbers or dates")
    if array.dtype.kind != "f":
        return array.astype(np.int64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{argument}: {array[~np.isfinite(array)][0]}; expected finite numbers")
    whole = np.all(array == np.floor(array)) and np.all(np.abs(array) < 2.0**63)
    return array.astype(np.int64) if whole else array.astype(np.float64)


def _merge(values: npt.NDArray[np.float32], starts: Rows, ends: Rows, rule: str) -> npt.NDArray[np.float32]:
    if len(starts) == len(values):
        return values
    if rule in ("first", "last"):
        return values[starts if rule == "first" else ends]
    if rule == "max":
        return np.asarray(np.maximum.reduceat(values, starts))
    total = np.add.reduceat(values.astype(np.float64), starts)
    if rule == "mean":
        total /= ends - starts + 1
    return as_values(total, "value")


def _check_csr(csr: Any) -> None:
    pointers = csr.indptr
    if len(pointers) != csr.shape[0] + 1 or pointers[0] != 0 or np.any(np.diff(pointers) < 0):
        raise ValueError("csr: indptr falls or has the wrong length; expected a valid CSR matrix")
    used = csr.indices[: pointers[-1]]
    if pointers[-1] > min(len(csr.indices), len(csr.data)):
        raise ValueError("csr: indptr points past the entries; expected a valid CSR matrix")
    if used.size and not 0 <= used.min() <= used.max() < csr.shape[1]:
        raise ValueError(f"csr: column indices {used.min()} to {used.max()}; expected 0 to {csr.shape[1] - 1}")


def _read_parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise ImportError("Parquet files need pyarrow: pip install 'salience[cli]'") from None
    try:
        return read_table(path)
    except ArrowException as error:
        raise ValueError(f"path: {path.name} is damaged or not Parquet: {error}") from None


def _read_text(path: Path, delimiter: str, wanted: dict[str, str | None]) -> dict[str, npt.NDArray[Any]]:
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter)
        try:
            header = next(lines, None)
            if header is None:
                raise ValueError(f"path: {path.name} is empty; expected a line of column names")
            places = _places(header, wanted)
            columns: dict[str, list[str]] = {argument: [] for argument in places}
            sinks = [(columns[argument].append, place) for argument, place in places.items()]
            for line in lines:
                if len(line) != len(header):
                    if not line:
                        continue
                    raise ValueError(
                        f"path: {path.name} has {len(line)} fields in line {lines.line_num}; expected {len(header)}"
                    )
                for append, place in sinks:
                    append(line[place])
        except UnicodeDecodeError as error:
            raise ValueError(
                f"path: {path.name} is not UTF-8 near line {lines.line_num + 1} ({error.reason})"
            ) from None
    return {argument: _parse(texts, argument) for argument, texts in columns.items()}


def _places(header: list[str], wanted: dict[str, str | None]) -> dict[str, int]:
    places = {}
    for argument, name in wanted.items():
        if name is None:
            continue
        if name not in header:
            raise ValueError(f"{argument}: no column {name!r}; expected one of {', '.join(header)}")
        places[argument] = header.index(name)
    return places


def _parse(texts: list[str], argument: str) -> npt.NDArray[Any]:
    if argument in ("user", "item"):
        if "" in texts:
            raise ValueError(f"{argument}: a missing id in row {texts.index('') + 1}; expected every row to have one")
        try:
            numbers = np.array(texts, dtype=np.int64)
        except (ValueError, OverflowError):
            return np.array(texts, dtype=object)
        # "007" and "7" are different ids: only canonical numbers are read as numbers.
        canonical = all(str(number) == text for number, text in zip(numbers.tolist(), texts, strict=True))
        return numbers if canonical else np.array(texts, dtype=object)
    try:
        return np.array(texts, dtype=np.int64 if argument == "time" else np.float64)
    except ValueError:
        pass
    try:
        return np.array(texts, dtype=np.float64)
    except ValueError:
        bad = [text for text in texts if not _is_number(text)]
    if argument != "time":
        raise ValueError(f"{argument}: {bad[0]!r}; expected a number in every row")
    dates = _dates(texts)
    if dates is None:
        worst = next((text for text in bad if _dates([text]) is None), bad[0])
        raise ValueError(f"time: {worst!r}; expected a number in every row, or an ISO 8601 date in every row")
    return dates


def _dates(texts: list[str]) -> npt.NDArray[np.int64] | None:
    """Read ISO 8601 dates as microseconds since 1970, as date columns of frames are; None where some are not."""
    if not all(text[:1].isdigit() for text in texts):
        return None  # to NumPy "now" is a date, and nothing a missing one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, that it converts offsets to UTC
            return np.array(texts, dtype="datetime64[us]").astype(np.int64)
    except ValueError:
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
