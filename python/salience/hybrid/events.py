"""Events after the fit, and an append-only log of them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience._arrays import describe, whole
from salience.interactions import Ids, as_times, as_values, clean_ids, read_columns

Float32 = npt.NDArray[np.float32]
_FIELDS = ("user", "item", "value", "time", "position", "propensity")


@dataclass(frozen=True, eq=False)
class Events:
    """What users did with items that they were shown or found.

    Attributes
    ----------
    users, items : arrays of ids, shape (n,)
    values : array of float32, shape (n,)
        Above 0: chosen, and how much that counts; below 0: disliked; 0: shown and not chosen. Where a scorer predicts
        ratings, the rating.
    times : array of int64 or float64, shape (n,), or None
        In the unit of the interactions that the scorer was fitted on.
    positions : array of int64, shape (n,)
        Place in the list that the item was shown at, from 1; 0 where it is not known.
    propensities : array of float64, shape (n,)
        Probability with which the item was shown at that place; 1 where nothing was left to chance.
    """

    users: Ids
    items: Ids
    values: Float32
    times: npt.NDArray[Any] | None
    positions: npt.NDArray[np.int64]
    propensities: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, users: Any, items: Any, values: Any = None, *, times: Any = None, positions: Any = None,
        propensities: Any = None,
    ) -> Events:  # fmt: skip
        """Check columns, one entry an event.

        Raises
        ------
        TypeError, ValueError
            Naming the argument: missing ids, values that are not finite, columns of other lengths, positions below 0,
            propensities outside (0, 1].
        """
        who, what = clean_ids(users, argument="users"), clean_ids(items, argument="items")
        count = len(who)

        def column(given: Any, argument: str, default: float) -> npt.NDArray[Any]:
            found = np.full(count, default) if given is None else np.atleast_1d(np.asarray(given))
            if found.shape != (count,):
                raise ValueError(f"{argument}: shape {found.shape}; expected {(count,)}, one for each of the users")
            return found

        column(what, "items", 0)
        where = as_times(column(positions, "positions", 0), "positions")
        if where.dtype.kind == "f" or (count and where.min() < 0):
            bad = where[(where < 0) | (where != np.floor(where))][0]
            raise ValueError(f"positions: {bad}; expected whole numbers from 1, or 0 for unknown")
        chances = as_values(column(propensities, "propensities", 1.0), "propensities").astype(np.float64)
        if count and not (chances.min() > 0 and chances.max() <= 1):
            bad = chances[(chances <= 0) | (chances > 1)][0]
            raise ValueError(f"propensities: {bad}; expected probabilities above 0 and up to 1")
        when = None if times is None else as_times(column(times, "times", 0), "times")
        return cls(who, what, as_values(column(values, "values", 1.0), "values"), when, where, chances)

    @classmethod
    def from_frame(
        cls, frame: Any, *, user: str, item: str, value: str | None = None, time: str | None = None,
        position: str | None = None, propensity: str | None = None,
    ) -> Events:  # fmt: skip
        """Read the columns of a pandas, Polars or PyArrow frame; see the attributes."""
        given = dict(zip(_FIELDS, (user, item, value, time, position, propensity), strict=True))
        columns = read_columns(frame, given)
        return cls.of(
            columns["user"], columns["item"], columns.get("value"), times=columns.get("time"),
            positions=columns.get("position"), propensities=columns.get("propensity"),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Events({len(self)}, {'with' if self.times is not None else 'without'} times)"

    def select(self, where: Any) -> Events:
        """Keep the events that a mask, slice or array of places names, in that order."""
        times = None if self.times is None else self.times[where]
        columns = (self.users, self.items, self.values, self.positions, self.propensities)
        users, items, values, positions, propensities = (column[where] for column in columns)
        return Events(users, items, values, times, positions, propensities)

    def in_order(self) -> Events:
        """Order by time, those of the same time as they are."""
        return self if self.times is None else self.select(np.argsort(self.times, kind="stable"))

    def lines(self) -> Iterator[bytes]:
        """Yield the events as lines of JSON."""
        times = [None] * len(self) if self.times is None else self.times.tolist()
        columns = (self.values, self.positions, self.propensities)
        rows = zip(self.users.tolist(), self.items.tolist(), *(c.tolist() for c in columns), times, strict=True)
        for row in rows:
            yield json.dumps(row, ensure_ascii=True).encode() + b"\n"

    def digest(self, before: int = 0) -> int:
        """Return a number below 2^63 that tells these events, in any order and whatever their times, from others.

        ``before``, that of other events, makes it the number of all of them.
        """
        rows = zip(self.users.tolist(), self.items.tolist(), self.values.tolist(), strict=True)
        return (before + sum(zlib.crc32(json.dumps(row).encode()) for row in rows)) % 2**63


def as_events(given: Any) -> Events:
    """Take Events, or a frame with columns user, item and, as far as they are there, the others."""
    if isinstance(given, Events):
        return given
    columns = getattr(given, "columns", getattr(given, "column_names", None))
    if columns is None or isinstance(given, (str, bytes, dict)):
        raise TypeError(f"events: {describe(given)}; expected Events or a frame with columns user and item")
    names = set(map(str, columns if not callable(columns) else given.column_names))
    missing = {"user", "item"} - names
    if missing:
        raise ValueError(f"events: no column {sorted(missing)[0]!r}; expected user and item, or Events.from_frame")
    return Events.from_frame(given, **{name: name for name in _FIELDS if name in names})


class EventLog:
    """An append-only file of events, from which a scorer's state can be made again.

    Parameters
    ----------
    path : str or Path
        Made with the first events.

    Notes
    -----
    One line of JSON an event. Events count as written once their last line is whole and on the disk: a line that a
    crash cut off is not read, and goes with the next :meth:`append`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, events: Events) -> None:
        """Write events, all or none of them."""
        with self.path.open("ab") as file:
            whole_size = _whole_lines(self.path)
            file.truncate(whole_size)
            try:
                file.write(b"".join(events.lines()))
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(whole_size)
                raise

    def read(self, start: int = 0) -> Events:
        """Return the events from number ``start`` on.

        Raises
        ------
        ValueError
            A line is damaged.
        """
        first = whole(start, argument="start")
        rows: list[tuple[Any, ...]] = []
        if not self.path.exists():
            return Events.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if number < first or not line.endswith(b"\n"):
                    continue
                try:
                    user, item, *rest = json.loads(line)
                    value, position, propensity, time = rest
                except (ValueError, TypeError) as error:
                    raise ValueError(f"path: {self.path.name} is damaged in line {number + 1} ({error})") from None
                rows.append((user, item, value, position, propensity, time))
        if not rows:
            return Events.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
        users, items, values, positions, propensities, times = zip(*rows, strict=True)
        try:
            return Events.of(
                _ids(users), _ids(items), np.array(values, np.float32), positions=np.array(positions),
                times=None if times[0] is None else np.array(times), propensities=np.array(propensities),
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise ValueError(f"path: {self.path.name} is damaged ({error})") from None

    def __len__(self) -> int:
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)

    def __repr__(self) -> str:
        return f"EventLog({str(self.path)!r})"


def _ids(given: tuple[Any, ...]) -> Ids:
    return clean_ids(np.array(given, dtype=object), argument="ids")


def _whole_lines(path: Path) -> int:
    """Return the size of a file up to the end of its last whole line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            file.seek(begin)
            place = file.read(end - begin).rfind(b"\n")
            if place >= 0:
                return begin + place + 1
            end = begin
    return 0


__all__ = ["EventLog", "Events", "as_events"]
