"""Splits of interactions into a part to learn from and a part to test on, checked for leaks.

Both parts keep the axes of the whole, so that row u is the same user everywhere. Every split is
verified when it is made: no pair is in both parts and, where the split goes by time, nothing in
train is later than what it is tested on.

A split by global time (:func:`temporal`) is the one that resembles use: whatever splits at random
lets the model learn from interactions that happened after those it has to predict.

All randomness is ``numpy.random.Generator(numpy.random.PCG64(seed)).random(n)``, one number for
every stored entry in the order (user, item); entries with the smallest numbers are drawn first.
The result therefore depends on the seed and on the set of interactions, not on the order in which
they were read.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from salience._arrays import describe, whole
from salience.evaluation import _checks
from salience.interactions import Interactions, as_interactions

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Split:
    """A train and a test part with the same axes; :meth:`check` runs whenever one is made.

    Attributes
    ----------
    train, test : Interactions
        With the same users and items in the same order.
    time_order : {"global", "user"} or None
        What the split promises about time: nothing in train is later than anything in test
        ("global"), or the same within every user ("user").
    """

    train: Interactions
    test: Interactions
    time_order: Literal["global", "user"] | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Verify the split.

        Raises
        ------
        TypeError
            If a part is not Interactions.
        ValueError
            If the axes differ, a pair is in both parts, or train holds interactions later than
            ``time_order`` allows; the message says how many.

        Notes
        -----
        O(interactions).
        """
        for argument, part in (("train", self.train), ("test", self.test)):
            if not isinstance(part, Interactions):
                raise TypeError(f"{argument}: {describe(part)}; expected Interactions")
        if self.time_order not in (None, "global", "user"):
            raise ValueError(f"time_order: {self.time_order!r}; expected 'global', 'user' or None")
        _checks.same_axes(self.train, self.test)
        shared = _checks.overlap(self.train, self.test)
        if shared:
            raise ValueError(f"test: {shared} of {len(self.test)} pairs in train too; expected none")
        late = self._late()
        if late:
            raise ValueError(
                f"train: {late} of {len(self.train)} interactions later than one in test; expected "
                f"none ({self.time_order} time order)"
            )

    def _late(self) -> int:
        """Count the train interactions that are later than the first one in test."""
        if self.time_order is None or not len(self.test):
            return 0
        learned, tested = _times(self.train, "train"), _times(self.test, "test")
        if self.time_order == "global":
            return int(np.count_nonzero(learned > tested.min()))
        first = np.full(self.test.shape[0], tested.max(), dtype=tested.dtype)
        np.minimum.at(first, self.test.rows, tested)
        rows = self.train.rows
        constrained = np.diff(self.test.matrix.indptr)[rows] > 0
        return int(np.count_nonzero(constrained & (learned > first[rows])))


def random(interactions: Any, *, test_fraction: float = 0.2, seed: int = 0, per_user: bool = False) -> Split:
    """Draw the test part at random.

    Parameters
    ----------
    interactions : Interactions or scipy sparse matrix
        What to split.
    test_fraction : float
        Share of interactions to test on, between 0 and 1; rounded to whole interactions, halves
        up.
    seed : int
        Not negative; see :mod:`salience.evaluation.splits`.
    per_user : bool
        Take the share of every user's interactions, leaving each user at least one in train.

    Returns
    -------
    Split

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a part would be empty.

    Notes
    -----
    O(n log n) for n interactions.
    """
    data = as_interactions(interactions)
    share = _checks.fraction(test_fraction, argument="test_fraction")
    draws = _draws(data, seed)
    if per_user:
        sizes = np.diff(data.matrix.indptr)
        wanted = np.minimum(np.floor(share * sizes + 0.5).astype(np.int64), sizes - 1)
        return _cut(data, _first_of_each_user(data, draws, wanted))
    tested = np.zeros(len(data), dtype=np.bool_)
    tested[np.argsort(draws, kind="stable")[: math.floor(share * len(data) + 0.5)]] = True
    return _cut(data, tested)


def temporal(interactions: Any, *, test_fraction: float | None = None, at: Any = None) -> Split:
    """Learn from what came before a moment, test on what came after.

    Interactions at the moment itself all go to test, so that train is strictly earlier.

    Parameters
    ----------
    interactions : Interactions
        With times.
    test_fraction : float, optional
        Share of interactions to test on, the latest ones: the moment is the time of the first of
        them. Interactions that share this time join the test part, which may grow beyond the
        share. 0.2 where neither this nor ``at`` is given.
    at : int, float, datetime or numpy.datetime64, optional
        The moment, in the unit of ``interactions.times``; dates are taken as microseconds since
        1970 (UTC where they name no time zone), as times read from date columns are.

    Returns
    -------
    Split
        With ``time_order="global"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, both are given, there are no times, or a part would be
        empty.

    Notes
    -----
    O(n) for n interactions.
    """
    data = as_interactions(interactions)
    if test_fraction is not None and at is not None:
        raise ValueError(f"at: {at!r} along with test_fraction={test_fraction}; expected one only")
    if at is not None:
        moment = _moment(at)
        return _cut(data, _times(data, "interactions") >= moment, "global")
    share = _checks.fraction(0.2 if test_fraction is None else test_fraction, argument="test_fraction")
    times = _times(data, "interactions")
    latest = math.floor(share * len(data) + 0.5)
    if not 0 < latest < len(data):
        raise _empty_part(data, latest)
    first = len(data) - latest
    return _cut(data, times >= np.partition(times, first)[first], "global")


def leave_last(interactions: Any, *, n: int = 1) -> Split:
    """Test on the last ``n`` interactions of every user.

    Users with ``n`` interactions or fewer keep them all in train. Among equal times the item that
    comes later in ``interactions.items`` counts as later.

    The last interaction of one user may precede what others have in train: the time order holds
    within users only. :func:`temporal` has no such leak.

    Parameters
    ----------
    interactions : Interactions
        With times.
    n : int
        At least 1.

    Returns
    -------
    Split
        With ``time_order="user"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, there are no times, or no user has more than ``n``
        interactions.

    Notes
    -----
    O(n log n) for n interactions.
    """
    data = as_interactions(interactions)
    count = whole(n, argument="n", least=1)
    times = _times(data, "interactions")
    sizes = np.diff(data.matrix.indptr)
    if not (sizes > count).any():
        most = sizes.max(initial=0)
        raise ValueError(
            f"n: {count}, where no user has more than {most} interactions; expected a user with more than n"
        )
    kept = np.where(sizes > count, sizes - count, sizes)
    return _cut(data, ~_first_of_each_user(data, times, kept), "user")


def kfold(interactions: Any, *, folds: int = 5, seed: int = 0) -> list[Split]:
    """Split into ``folds`` pairs of parts such that every interaction is tested on exactly once.

    Parameters
    ----------
    interactions : Interactions or scipy sparse matrix
        What to split.
    folds : int
        From 2 to the number of interactions. Test parts differ in size by one at most.
    seed : int
        Not negative; see :mod:`salience.evaluation.splits`.

    Returns
    -------
    list of Split

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    O(n log n + n folds) for n interactions; the folds are all held at once.
    """
    data = as_interactions(interactions)
    if len(data) < 2:
        raise ValueError(f"interactions: {len(data)} entries; expected at least 2")
    count = whole(folds, argument="folds", least=2, most=len(data))
    fold = np.empty(len(data), dtype=np.int64)
    fold[np.argsort(_draws(data, seed), kind="stable")] = np.arange(len(data)) % count
    return [_cut(data, fold == number) for number in range(count)]


def validation(split: Split, splitter: Callable[..., Split] | None = None, **options: Any) -> Split:
    """Split the train part of a split again, to tune on.

    Tune on the result, fit once more on all of ``split.train``, and look at ``split.test`` once.

    Parameters
    ----------
    split : Split
        Whose train part to split; its test part stays untouched.
    splitter : callable, optional
        One of :func:`random`, :func:`temporal` and :func:`leave_last`, or another that takes
        Interactions and returns a Split. By default the kind that keeps the promise of ``split``
        about time.
    **options
        Passed on to the splitter.

    Returns
    -------
    Split
        ``train`` to fit on while tuning, ``test`` to compare on.

    Raises
    ------
    TypeError, ValueError
        If ``split`` is not a Split, or the splitter makes none, or one with other axes or with
        pairs of the test part.
    """
    if not isinstance(split, Split):
        raise TypeError(f"split: {describe(split)}; expected a Split")
    same_kind: dict[str | None, Callable[..., Split]] = {None: random, "global": temporal, "user": leave_last}
    inner = (splitter or same_kind[split.time_order])(split.train, **options)
    if not isinstance(inner, Split):
        raise TypeError(f"splitter: returned {describe(inner)}; expected a Split")
    _checks.same_axes(split.train, inner.test)
    for part in (inner.train, inner.test):
        shared = _checks.overlap(part, split.test)
        if shared:
            raise ValueError(f"splitter: took {shared} pairs from the test part; expected none")
    return inner


def _draws(data: Interactions, seed: int) -> npt.NDArray[np.float64]:
    generator = np.random.Generator(np.random.PCG64(whole(seed, argument="seed")))
    return generator.random(len(data))


def _times(data: Interactions, argument: str) -> npt.NDArray[Any]:
    if data.times is None:
        raise ValueError(f"{argument}: without times; expected the time of every interaction")
    return data.times


def _first_of_each_user(data: Interactions, keys: npt.NDArray[Any], counts: npt.NDArray[Any]) -> BoolArray:
    """Mark, for user u, the ``counts[u]`` entries with the smallest keys; ties by item."""
    rows = data.rows
    order = np.lexsort((keys, rows))
    # Sorted by user the entries stand in the order of the matrix: its row starts still hold.
    places = np.arange(len(data)) - data.matrix.indptr[rows]
    marked = np.empty(len(data), dtype=np.bool_)
    marked[order] = places < counts[rows]
    return marked


def _moment(at: Any) -> int | float:
    if isinstance(at, datetime.datetime):
        aware = at if at.tzinfo else at.replace(tzinfo=datetime.timezone.utc)
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return (aware - epoch) // datetime.timedelta(microseconds=1)
    if isinstance(at, np.datetime64):
        if np.isnat(at):
            raise ValueError(f"at: {at}; expected a moment")
        return int(at.astype("datetime64[us]").astype(np.int64))
    if isinstance(at, (bool, np.bool_, np.timedelta64)) or not isinstance(at, Real):
        raise TypeError(f"at: {describe(at)}; expected a number, a datetime or a numpy.datetime64")
    number = int(at) if isinstance(at, (int, np.integer)) else float(at)
    if not math.isfinite(number):
        raise ValueError(f"at: {at}; expected a finite number")
    return number


def _cut(data: Interactions, tested: BoolArray, time_order: Literal["global", "user"] | None = None) -> Split:
    count = int(np.count_nonzero(tested))
    if not 0 < count < len(data):
        raise _empty_part(data, count)
    return Split(data.select(~tested), data.select(tested), time_order)


def _empty_part(data: Interactions, tested: int) -> ValueError:
    timed = ""
    if data.times is not None and len(data):
        timed = f" (times from {data.times.min()} to {data.times.max()})"
    return ValueError(
        f"interactions: {len(data)} entries{timed}, of which {tested} would be tested on; expected "
        "at least one in train and one in test"
    )
