"""Splits of interactions into a part to learn from and a part to test on, checked for leaks.

All parts keep the axes of the whole, so that row u is the same user everywhere. Every split is
verified when it is made: no pair is in two parts; where the split goes by time, nothing in
train is later than what it is tested on; held-out users and cold users or items have nothing in train.

A split by global time (:func:`temporal`, :func:`rolling`) is the one that resembles use: whatever splits at
random lets the model learn from interactions that happened after those it has to predict.

What is fitted must be fitted on ``train`` alone: also minimum counts (:func:`at_least`), scalers and features.

All randomness is ``numpy.random.Generator(numpy.random.PCG64(seed)).random(n)``, one number for
every stored entry in the order (user, item), or for every row of users or items; the smallest are drawn first.
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

from salience._arrays import describe, real, whole
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
    fold_in : Interactions or None
        History of held-out users, of whom train knows nothing: given to the fitted model when it is tested,
        as :func:`salience.evaluation.evaluate` does with its argument of this name.
    cold : {"users", "items"} or None
        What of the test part has nothing in train.
    """

    train: Interactions
    test: Interactions
    time_order: Literal["global", "user"] | None = None
    fold_in: Interactions | None = None
    cold: Literal["users", "items"] | None = None

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
        for argument, part in (("train", self.train), ("test", self.test), ("fold_in", self.fold_in)):
            if not isinstance(part, Interactions) and not (argument == "fold_in" and part is None):
                raise TypeError(f"{argument}: {describe(part)}; expected Interactions")
        if self.time_order not in (None, "global", "user"):
            raise ValueError(f"time_order: {self.time_order!r}; expected 'global', 'user' or None")
        if self.cold not in (None, "users", "items"):
            raise ValueError(f"cold: {self.cold!r}; expected 'users', 'items' or None")
        _disjoint("train", self.train, "test", self.test)
        late = self._late()
        if late:
            raise ValueError(
                f"train: {late} of {len(self.train)} interactions later than one in test; expected "
                f"none ({self.time_order} time order)"
            )
        if self.fold_in is not None:
            _disjoint("fold_in", self.fold_in, "test", self.test)
            _disjoint("train", self.train, "fold_in", self.fold_in)
            self._check_unknown("users", "fold_in", self.fold_in)
        if self.fold_in is not None or self.cold == "users":
            self._check_unknown("users", "test", self.test)
        if self.cold == "items":
            self._check_unknown("items", "test", self.test)

    def _check_unknown(self, axis: str, argument: str, part: Interactions) -> None:
        shared = np.count_nonzero((_sizes(self.train, axis) > 0) & (_sizes(part, axis) > 0))
        if shared:
            raise ValueError(f"{argument}: {shared} {axis} with interactions in train; expected none")

    @property
    def late_share(self) -> float:
        """Share of the train interactions that happened after the first one in test: what a split at random leaks.

        0 for a split by global time. NaN where there are no times.
        """
        if self.train.times is None or self.test.times is None or not len(self.train):
            return math.nan
        return float(np.mean(self.train.times > self.test.times.min()))

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


def kfold(
    interactions: Any,
    *,
    folds: int = 5,
    seed: int = 0,
    by: Literal["interactions", "users"] = "interactions",
    fold_in_fraction: float = 0.8,
) -> list[Split]:
    """Split into ``folds`` pairs of parts such that everything is tested on exactly once.

    Parameters
    ----------
    interactions : Interactions or scipy sparse matrix
        What to split.
    folds : int
        From 2 to the number of interactions (or users). Folds differ in size by one at most.
    seed : int
        Not negative; see :mod:`salience.evaluation.splits`.
    by : {"interactions", "users"}
        "users": each fold holds out other users, whose history is divided as by :func:`held_out_users`.
    fold_in_fraction : float
        As there; of folds by users only.

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
    if by not in ("interactions", "users"):
        raise ValueError(f"by: {by!r}; expected 'interactions' or 'users'")
    if len(data) < 2:
        raise ValueError(f"interactions: {len(data)} entries; expected at least 2")
    if by == "users":
        rows = _divisible_users(data)
        count = whole(folds, argument="folds", least=2, most=max(rows.size, 2))
        order = rows[np.argsort(_random(rows.size, seed), kind="stable")]
        return [_hold_out(data, order[number::count], fold_in_fraction, seed, "random") for number in range(count)]
    count = whole(folds, argument="folds", least=2, most=len(data))
    fold = np.empty(len(data), dtype=np.int64)
    fold[np.argsort(_draws(data, seed), kind="stable")] = np.arange(len(data)) % count
    return [_cut(data, fold == number) for number in range(count)]


def held_out_users(
    interactions: Any,
    *,
    test_fraction: float = 0.2,
    fold_in_fraction: float = 0.8,
    order: Literal["random", "time"] = "random",
    seed: int = 0,
) -> Split:
    """Learn from some users, test on others, of whose interactions a part is shown to the fitted model.

    This is strong generalization (Marlin, 2004), the protocol of Mult-VAE (Liang et al., WWW 2018).

    Parameters
    ----------
    interactions : Interactions or scipy sparse matrix
        What to split.
    test_fraction : float
        Share of the users with at least two interactions to hold out, between 0 and 1.
    fold_in_fraction : float
        Share of a held-out user's interactions in ``Split.fold_in``; at least one stays there and one in test.
    order : {"random", "time"}
        Which of them: drawn at random, or the earliest.
    seed : int
        Not negative; see :mod:`salience.evaluation.splits`.

    Returns
    -------
    Split
        With ``fold_in``. Users with a single interaction stay in train.

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
    rows = _divisible_users(data)
    chosen = rows[_drawn(rows.size, share, seed)]
    return _hold_out(data, chosen, fold_in_fraction, seed, order)


def cold_users(interactions: Any, *, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """Test on users of whom nothing at all is known: all their interactions are in test.

    Parameters
    ----------
    interactions : Interactions or scipy sparse matrix
        What to split.
    test_fraction : float
        Share of the users with interactions, between 0 and 1.
    seed : int
        Not negative; see :mod:`salience.evaluation.splits`.

    Returns
    -------
    Split
        With ``cold="users"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a part would be empty.
    """
    data = as_interactions(interactions)
    share = _checks.fraction(test_fraction, argument="test_fraction")
    rows = np.flatnonzero(_sizes(data, "users"))
    return _cut(data, np.isin(data.rows, rows[_drawn(rows.size, share, seed)]), cold="users")


def cold_items(
    interactions: Any,
    *,
    test_fraction: float = 0.2,
    order: Literal["random", "newest"] = "random",
    seed: int = 0,
) -> Split:
    """Test on items that nobody had in training: all their interactions are in test.

    Parameters
    ----------
    interactions : Interactions or scipy sparse matrix
        What to split.
    test_fraction : float
        Share of the items with interactions, between 0 and 1.
    order : {"random", "newest"}
        Which items: drawn at random, or those whose first interaction is the latest.
    seed : int
        Not negative; see :mod:`salience.evaluation.splits`.

    Returns
    -------
    Split
        With ``cold="items"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, there are no times to say what is new, or a part would be empty.
    """
    data = as_interactions(interactions)
    share = _checks.fraction(test_fraction, argument="test_fraction")
    columns = np.flatnonzero(_sizes(data, "items"))
    if order == "random":
        chosen = columns[_drawn(columns.size, share, seed)]
    elif order == "newest":
        times = _times(data, "interactions")
        first = np.full(data.shape[1], times.max(initial=0), dtype=times.dtype)
        np.minimum.at(first, data.matrix.indices, times)
        newest_first = np.argsort(-first[columns], kind="stable")
        chosen = columns[newest_first[: math.floor(share * columns.size + 0.5)]]
    else:
        raise ValueError(f"order: {order!r}; expected 'random' or 'newest'")
    return _cut(data, np.isin(data.matrix.indices, chosen), cold="items")


def rolling(
    interactions: Any, *, windows: int = 4, test_fraction: float = 0.1, train_span: float | None = None
) -> list[Split]:
    """Test on one stretch of time after another, each time learning from what came before it.

    Parameters
    ----------
    interactions : Interactions
        With times.
    windows : int
        How many stretches, at least 1.
    test_fraction : float
        Share of all interactions in each, counted back from the latest. Interactions of the same moment stay
        together, so that stretches may differ in size.
    train_span : float, optional
        Learn only from what is no older than this before the stretch, in the unit of the times; everything
        before it where not given.

    Returns
    -------
    list of Split
        In order of time, each with ``time_order="global"``. What lies after a stretch is in neither part.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, there are no times, or a part would be empty.

    Notes
    -----
    O(n log n + n windows) for n interactions.
    """
    data = as_interactions(interactions)
    count = whole(windows, argument="windows", least=1)
    share = _checks.fraction(test_fraction, argument="test_fraction")
    span = math.inf if train_span is None else real(train_span, argument="train_span", positive=True)
    times = _times(data, "interactions")
    if count * share >= 1:
        raise ValueError(
            f"windows: {count} of {share} of the interactions each; expected some to be left to learn from"
        )
    ordered = np.sort(times)
    starts = [len(data) - math.floor((count - number) * share * len(data) + 0.5) for number in range(count)]
    cuts = [ordered[min(max(start, 0), len(data) - 1)] if len(data) else 0 for start in starts]
    parts = []
    for number, cut in enumerate(cuts):
        tested = times >= cut if number + 1 == count else (times >= cut) & (times < cuts[number + 1])
        learned = (times < cut) & (times >= cut - span)
        if not tested.any() or not learned.any():
            raise _empty_part(data, int(np.count_nonzero(tested)))
        parts.append(Split(data.select(learned), data.select(tested), "global"))
    return parts


def at_least(split: Split, *, user_interactions: int = 0, item_interactions: int = 0) -> Split:
    """Keep users and items with enough interactions, counted in train alone.

    Counting before splitting would choose by the test part what is tested on. Pairs of dropped users and items
    are taken out of all parts, again and again until all counts in train are reached (the k-core).

    Parameters
    ----------
    split : Split
        Not one of cold users or items, whose counts in train are 0.
    user_interactions, item_interactions : int
        Least numbers in train. Held-out users are not counted in train, and stay.

    Returns
    -------
    Split
        With the same axes and promises.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, or a part would be empty.
    """
    if not isinstance(split, Split):
        raise TypeError(f"split: {describe(split)}; expected a Split")
    if split.cold is not None:
        raise ValueError(f"split: of cold {split.cold}; expected one whose test users and items are in train")
    least = {
        "users": whole(user_interactions, argument="user_interactions"),
        "items": whole(item_interactions, argument="item_interactions"),
    }
    train, kept = split.train, {"users": np.ones(0, dtype=np.bool_), "items": np.ones(0, dtype=np.bool_)}
    size = -1
    while len(train) != size:
        size = len(train)
        kept = {axis: _sizes(train, axis) >= count for axis, count in least.items()}
        train = train.select(kept["users"][train.rows] & kept["items"][train.matrix.indices])
    if split.fold_in is not None:
        kept["users"] = kept["users"] | (_sizes(split.fold_in, "users") > 0)
    rest = [
        None if part is None else part.select(kept["users"][part.rows] & kept["items"][part.matrix.indices])
        for part in (split.test, split.fold_in)
    ]
    test, fold_in = rest
    if not len(train) or test is None or not len(test):
        raise ValueError(f"split: no interaction would be left in train or test by {least}; expected lower counts")
    return Split(train, test, split.time_order, fold_in, split.cold)


def validation(split: Split, splitter: Callable[..., Split] | None = None, **options: Any) -> Split:
    """Split the train part of a split again, to tune on.

    Tune on the result, fit once more on all of ``split.train``, and look at ``split.test`` once.

    Parameters
    ----------
    split : Split
        Whose train part to split; its test part stays untouched.
    splitter : callable, optional
        One of those above that return one Split, or another that takes
        Interactions and returns a Split. By default the kind that keeps the promises of ``split``
        about time, held-out users and cold users or items.
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
    inner = (splitter or _same_kind(split))(split.train, **options)
    if not isinstance(inner, Split):
        raise TypeError(f"splitter: returned {describe(inner)}; expected a Split")
    _checks.same_axes(split.train, inner.test)
    for part in (inner.train, inner.test):
        shared = _checks.overlap(part, split.test)
        if shared:
            raise ValueError(f"splitter: took {shared} pairs from the test part; expected none")
    return inner


def _same_kind(split: Split) -> Callable[..., Split]:
    if split.fold_in is not None:
        return held_out_users
    if split.cold is not None:
        return cold_users if split.cold == "users" else cold_items
    by_time: dict[str | None, Callable[..., Split]] = {None: random, "global": temporal, "user": leave_last}
    return by_time[split.time_order]


def _disjoint(first_name: str, first: Interactions, second_name: str, second: Interactions) -> None:
    _checks.same_axes(first, second, first_name, second_name)
    shared = _checks.overlap(first, second)
    if shared:
        raise ValueError(f"{second_name}: {shared} of {len(second)} pairs in {first_name} too; expected none")


def _sizes(data: Interactions, axis: str) -> npt.NDArray[np.int64]:
    """Count the interactions of every user or item."""
    if axis == "users":
        return np.asarray(np.diff(data.matrix.indptr), dtype=np.int64)
    return np.asarray(np.bincount(data.matrix.indices, minlength=data.shape[1]), dtype=np.int64)


def _random(count: int, seed: int) -> npt.NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64(whole(seed, argument="seed"))).random(count)


def _draws(data: Interactions, seed: int) -> npt.NDArray[np.float64]:
    return _random(len(data), seed)


def _drawn(count: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Return which of ``count`` are drawn, rounded to whole ones, halves up."""
    return np.sort(np.argsort(_random(count, seed), kind="stable")[: math.floor(share * count + 0.5)])


def _divisible_users(data: Interactions) -> npt.NDArray[np.int64]:
    """Return the users whose interactions can be shared between fold-in and test."""
    return np.flatnonzero(_sizes(data, "users") >= 2)


def _hold_out(
    data: Interactions, users: npt.NDArray[np.int64], fold_in_fraction: float, seed: int, order: str
) -> Split:
    share = _checks.fraction(fold_in_fraction, argument="fold_in_fraction")
    if order not in ("random", "time"):
        raise ValueError(f"order: {order!r}; expected 'random' or 'time'")
    sizes = _sizes(data, "users")
    shown = np.clip(np.floor(share * sizes + 0.5).astype(np.int64), 1, np.maximum(sizes - 1, 1))
    keys = _draws(data, seed) if order == "random" else _times(data, "interactions")
    first, held = _first_of_each_user(data, keys, shown), np.isin(data.rows, users)
    if not held.any() or held.all():
        raise _empty_part(data, int(np.count_nonzero(held)))
    return Split(data.select(~held), data.select(held & ~first), fold_in=data.select(held & first))


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


def _cut(
    data: Interactions,
    tested: BoolArray,
    time_order: Literal["global", "user"] | None = None,
    cold: Literal["users", "items"] | None = None,
) -> Split:
    count = int(np.count_nonzero(tested))
    if not 0 < count < len(data):
        raise _empty_part(data, count)
    return Split(data.select(~tested), data.select(tested), time_order, cold=cold)


def _empty_part(data: Interactions, tested: int) -> ValueError:
    timed = ""
    if data.times is not None and len(data):
        timed = f" (times from {data.times.min()} to {data.times.max()})"
    return ValueError(
        f"interactions: {len(data)} entries{timed}, of which {tested} would be tested on; expected "
        "at least one in train and one in test"
    )
