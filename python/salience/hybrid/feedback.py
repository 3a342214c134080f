"""What a scorer learns after the fit: histories, users and attention that follow events at once.

Item factors and item-to-item weights follow when as many interactions have changed as a share of all that there are
(``Feedback.refresh``): the cost of that, spread over the events, does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _arrays
from salience.hybrid.attention import Attention
from salience.hybrid.events import Events
from salience.interactions import IdMap, Interactions, clean_ids

if TYPE_CHECKING:
    from salience.hybrid.scorer import HybridScorer

Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_LARGEST_STEP = 1.0  # of a gradient: what one event can teach
_LARGEST_OFFSET = 5.0
_LEAST_PROBABILITY = 1e-100


@dataclass(frozen=True)
class Feedback:
    """How :meth:`HybridScorer.observe` learns.

    Parameters
    ----------
    duplicates : {"last", "sum", "max"}
        What becomes of the value of a pair that is in the history already: "last" keeps that of the later time.
    rate, user_rate : float
        Step sizes of attention: what is common to all users, and each user's own offset. 0 keeps it as it is.
    pull : float
        Share by which a user's offset shrinks with each event of the user.
    negatives : int
        Items drawn at random that an event's item is compared with.
    focus : float
        From 0 to 1: how much less what was chosen from far down the ranking teaches.
    examination : float
        An item shown at position p is taken to have been looked at with probability ``p ** -examination``.
    clip : float
        Largest weight of an event. What was chosen, disliked or rated weighs 1 / (that probability * the propensity);
        what was passed over, that probability / the propensity.
    refresh : float, optional
        Fit the item side anew, from where it is, when so large a share of the interactions has changed. None: only in
        :meth:`HybridScorer.refresh`.
    history_limit : int, optional
        Keep only so many of a user's interactions, the latest; items that drop out may be recommended again. Without
        times in the interactions, what came before a refresh has no order any more.
    """

    duplicates: Literal["last", "sum", "max"] = "last"
    rate: float = 0.05
    user_rate: float = 0.3
    pull: float = 0.01
    negatives: int = 200
    focus: float = 0.25
    examination: float = 1.0
    clip: float = 10.0
    refresh: float | None = 0.01
    history_limit: int | None = None

    def __post_init__(self) -> None:
        if self.duplicates not in ("last", "sum", "max"):
            raise ValueError(f"duplicates: {self.duplicates!r}; expected 'last', 'sum' or 'max'")
        found: dict[str, float | int] = {
            name: _arrays.real(getattr(self, name), argument=name) for name in ("rate", "user_rate", "examination")
        }
        found["pull"] = _arrays.share(self.pull, argument="pull")
        found["focus"] = _arrays.share(self.focus, argument="focus")
        found["negatives"] = _arrays.whole(self.negatives, argument="negatives", least=1)
        found["clip"] = _arrays.real(self.clip, argument="clip")
        if found["clip"] < 1:
            raise ValueError(f"clip: {self.clip}; expected at least 1")
        if self.refresh is not None:
            found["refresh"] = _arrays.real(self.refresh, argument="refresh", positive=True)
        if self.history_limit is not None:
            found["history_limit"] = _arrays.whole(self.history_limit, argument="history_limit", least=1)
        for name, value in found.items():  # Python's own numbers, which files can hold
            object.__setattr__(self, name, value)

    def weight(self, judged: bool, position: int, propensity: float) -> float:
        """Return how much an event counts, clipped.

        What was ``judged`` (chosen, disliked or rated) was looked at: it counts by the inverse of the probability of
        that and of being shown. What was shown and passed over tells something only as far as it was looked at.
        """
        looked_at = 1.0 if position <= 0 else max(float(position) ** -self.examination, _LEAST_PROBABILITY)
        return min(self.clip, (1.0 / looked_at if judged else looked_at) / propensity)


class Observed(NamedTuple):
    """What became of the events of a call.

    Attributes
    ----------
    events : int
        All that the call was given.
    changed : int
        Those that changed a history; others told of an item that was shown, repeated what was known, or were late.
    repeated : int
        Delivered before: the same user, item, time and value.
    skipped : int
        Of items that the scorer does not know.
    new_users : int
    refreshed : int
        How often the item side was fitted anew.
    """

    events: int
    changed: int
    repeated: int
    skipped: int
    new_users: int
    refreshed: int


class Past(NamedTuple):
    """A user's history: item rows in ascending order, values, and times (numbers of events where there are none)."""

    items: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    times: npt.NDArray[Any]

    def with_event(self, item: int, value: float, time: Any, rule: str) -> tuple[Past, bool, bool]:
        """Add an event; tell whether that changed anything, and whether it had been there before."""
        place = int(np.searchsorted(self.items, item))
        new = np.float32(value)
        if place == len(self.items) or self.items[place] != item:
            items, values = np.insert(self.items, place, item), np.insert(self.values, place, new)
            return Past(items, values, np.insert(self.times, place, time)), True, False
        old, before = self.values[place], self.times[place]
        if time == before and new == old:
            return self, False, True
        if rule == "sum":
            total = float(old) + float(new)
            if abs(total) > float(np.finfo(np.float32).max):
                raise ValueError(
                    f"events: values that add up to {total}; expected finite numbers in the range of float32"
                )
            new = np.float32(total)
        elif (rule == "max" and new < old) or (rule == "last" and time < before):
            new = old
        values, times = self.values.copy(), self.times.copy()
        values[place], times[place] = new, max(time, before)
        return Past(self.items, values, times), bool(new != old), False

    def latest(self, limit: int | None) -> Past:
        """Keep the ``limit`` latest."""
        if limit is None or len(self.items) <= limit:
            return self
        kept = np.sort(np.argsort(-self.times, kind="stable")[:limit])
        return Past(self.items[kept], self.values[kept], self.times[kept])


@dataclass
class Live:
    """What has changed since the components were fitted; histories and offsets in it are never changed in place.

    Attributes
    ----------
    newcomers : dict of id to row
        Users that came since, in rows after those of the scorer's user map.
    histories : dict of row to Past
        Of users with events since.
    offsets : dict of row to array of shape (components,)
        Each user's departure from the attention of all.
    observed : int
        Events so far, since the fit.
    digest : int
        Of what they tell, in any order: by it :meth:`HybridScorer.replay` knows the log that holds them.
    pending : int
        Of them, those that changed a history since the item side was fitted.
    """

    newcomers: dict[Any, int] = field(default_factory=dict)
    histories: dict[int, Past] = field(default_factory=dict)
    offsets: dict[int, Float64] = field(default_factory=dict)
    observed: int = 0
    pending: int = 0
    digest: int = 0

    def copy(self) -> Live:
        """Return a copy that changes by itself."""
        return replace(self, newcomers=dict(self.newcomers), histories=dict(self.histories), offsets=dict(self.offsets))

    def rows(self, user_map: IdMap, users: Any, *, argument: str = "users") -> Rows:
        """Return the rows of users, newcomers among them; -1 for the others."""
        rows = user_map.find(users, argument=argument)
        if self.newcomers and (rows < 0).any():
            names = clean_ids(users, argument=argument)
            for place in np.flatnonzero(rows < 0):
                rows[place] = self.newcomers.get(names[place], -1)
        return rows

    def past(self, row: int, seen: Interactions) -> Past:
        """Return a user's history, as it was in ``seen`` where there were no events; empty for who is not there."""
        if (held := self.histories.get(row)) is not None:
            return held
        matrix = seen.matrix
        entries = slice(*matrix.indptr[row : row + 2]) if 0 <= row < len(seen.user_map) else slice(0, 0)
        times = np.zeros(len(matrix.indices[entries]), np.int64) if seen.times is None else seen.times[entries]
        return Past(matrix.indices[entries].astype(np.int32), matrix.data[entries], times)

    def offsets_of(self, rows: Rows, components: int) -> Float64 | None:
        """Return the offsets of users, shape (n, components); None where there are none at all."""
        if not self.offsets:
            return None
        nothing = np.zeros(components)
        return np.array([self.offsets.get(int(row), nothing) for row in rows]).reshape(len(rows), components)

    def merged(self, seen: Interactions) -> Interactions:
        """Return the interactions with the histories as they are now."""
        if not self.histories and not self.newcomers:
            return seen
        users = seen.user_map
        if self.newcomers:
            users = users.joined(IdMap(clean_ids(list(self.newcomers), argument="users")))
        replaced = np.zeros(len(users), bool)
        replaced[list(self.histories)] = True
        kept = ~replaced[seen.rows]
        pasts = self.histories.values()
        lengths = np.array([len(past.items) for past in pasts], np.int64)
        changed = np.repeat(np.array(list(self.histories), np.int64), lengths)
        rows = np.concatenate([seen.rows[kept], changed])
        order = np.argsort(rows, kind="stable")
        columns, values = (
            np.concatenate([ours[kept], *(past[part] for past in pasts)])[order]
            for part, ours in enumerate((seen.matrix.indices, seen.matrix.data))
        )
        times = None
        if seen.times is not None:
            times = np.concatenate([seen.times[kept], *(past.times for past in pasts)])[order]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(users)))])
        matrix = sp.csr_matrix((values, columns, indptr), shape=(len(users), seen.shape[1]))
        return Interactions(matrix, users, seen.item_map, times)


_ABSENT = object()


class Absorption:
    """Events on their way into a scorer, one by one: all of them arrive, or nothing changes."""

    def __init__(self, scorer: HybridScorer, feedback: Feedback) -> None:
        self.scorer, self.feedback = scorer, feedback
        self.counts = dict.fromkeys(Observed._fields, 0)
        self._before = dict(scorer.__dict__), dict(scorer._live.__dict__)
        self._undo: dict[tuple[int, Any], tuple[dict[Any, Any], Any]] = {}  # what was there first, once for each key

    def run(self, events: Events, items: Rows, write: Callable[[Events], None] | None = None) -> Observed:
        """Learn from events whose items are known, in rows ``items`` (-1 skips), and ``write`` them."""
        live = self.scorer._live
        self.counts["events"] = len(events)
        try:
            times = range(live.observed + 1, live.observed + 1 + len(events)) if events.times is None else events.times
            for place, time in enumerate(times):
                if items[place] < 0:
                    self.counts["skipped"] += 1
                else:
                    self._learn(events, place, int(items[place]), time)
                live.observed += 1
                if self.feedback.refresh is not None and live.pending >= self.feedback.refresh * len(self.scorer._seen):
                    self.scorer.refresh()
                    live = self.scorer._live
                    self.counts["refreshed"] += 1
            live.digest = events.digest(live.digest)
            if write is not None:
                write(events)
        except BaseException:
            self.undo()
            raise
        return Observed(**self.counts)

    def undo(self) -> None:
        """Bring back what was."""
        for (_, key), (mapping, old) in self._undo.items():
            if old is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = old
        self.scorer.__dict__.update(self._before[0])
        self.scorer._live.__dict__.update(self._before[1])

    def _put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.setdefault((id(mapping), key), (mapping, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _learn(self, events: Events, place: int, item: int, time: Any) -> None:
        live, feedback = self.scorer._live, self.feedback
        row, value = self._row(events.users[place : place + 1]), float(events.values[place])
        past = live.past(row, self.scorer._seen)
        found = int(np.searchsorted(past.items, item))
        judged = value != 0 or self.scorer.objective == "rating"
        weight = feedback.weight(judged, int(events.positions[place]), float(events.propensities[place]))
        learns = self.scorer.weights is None and (feedback.rate > 0 or feedback.user_rate > 0)
        if learns and (found == len(past.items) or past.items[found] != item):
            self._teach(row, item, value, weight)
        if not judged:
            return
        new, changed, repeated = past.with_event(item, value, time, feedback.duplicates)
        self.counts["repeated"] += repeated
        if changed:
            live.pending += 1
            self.counts["changed"] += 1
        if new is not past:
            self._put(live.histories, row, new.latest(feedback.history_limit))

    def _row(self, user: Any) -> int:
        live, known = self.scorer._live, self.scorer.user_map
        row = int(live.rows(known, user, argument="events")[0])
        if row < 0:
            row = len(known) + len(live.newcomers)
            self._put(live.newcomers, clean_ids(user, argument="events")[0], row)
            self.counts["new_users"] += 1
        return row

    def _teach(self, row: int, item: int, value: float, weight: float) -> None:
        """Move attention towards what would have put a chosen item higher, and one that was passed over lower."""
        scorer, live, feedback = self.scorer, self.scorer._live, self.feedback
        random = np.random.default_rng([scorer.seed, 3, live.observed])
        others = np.unique(random.integers(0, len(scorer.item_map), feedback.negatives))
        step, state = scorer._lesson(row, item, others[others != item], value)
        same_for_all = scorer.attention_.kind == "fixed"
        if same_for_all:
            state = np.where(np.arange(len(state)) == 0, state, 0.0)
        step *= weight * min(1.0, _LARGEST_STEP / max(float(np.linalg.norm(step)), 1e-12))
        if feedback.user_rate and not same_for_all:
            old = live.offsets.get(row, np.zeros(len(step)))
            new = (1.0 - feedback.pull) * old - feedback.user_rate * step
            self._put(live.offsets, row, np.clip(new, -_LARGEST_OFFSET, _LARGEST_OFFSET))
        if feedback.rate:
            theta = scorer.attention_.theta - feedback.rate * np.outer(step, state)
            scorer.attention_ = replace(scorer.attention_, theta=theta)


def lesson(
    attention: Attention, weights: Float64, scores: Float64, factors: Float64, competing: Float64, value: float,
    *, focus: float, rating: bool,
) -> Float64:  # fmt: skip
    """Return the gradient of an event's loss with respect to the user's weights (softmax: logits), shape (components,).

    Parameters
    ----------
    weights : shape (components,)
        Of the user; softmax: numerators.
    scores : shape (n, components)
        Standardized, of the event's item first and of items drawn at random.
    factors : shape (n, components)
        The items' part of the gate; 1 and 0 where there is no gate.
    competing : shape (n,)
        Log of how many items each stands for; -inf takes it out.
    """
    shares = weights * factors
    mixed = (shares * scores).sum(axis=1)
    if attention.kind == "softmax":
        total = np.maximum(shares.sum(axis=1), 1e-300)
        shares, mixed = shares / total[:, None], mixed / total
        by_weight = attention.scale * shares * (scores - mixed[:, None])
    else:
        by_weight = scores * factors
    if rating:
        return np.asarray(2.0 * (mixed[0] - value) * by_weight[0] / (1.0 + by_weight[0] @ by_weight[0]))
    logits = attention.scale * mixed + competing
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    first = chances[0]
    if value > 0:
        pull = chances.copy()
        pull[0] -= 1.0
        pull *= first**focus
    else:  # the gradient of -log(1 - share of the item), nothing where the item has no competitors
        others = chances[1:].sum()
        pull = -first * chances / others if others > 0 else np.zeros(len(chances))
        pull[0] = first if others > 0 else 0.0
    return np.asarray(pull @ by_weight)


__all__ = ["Absorption", "Feedback", "Live", "Observed", "Past", "lesson"]
