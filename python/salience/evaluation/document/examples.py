"""Example users: what they had, what they would get, why, and what they chose."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salience.evaluation.metrics import parse_metric
from salience.evaluation.report import Report
from salience.interactions import Interactions

_PAST = 8
_REASONS = 2


@dataclass(frozen=True)
class Item:
    """A line of a list.

    Attributes
    ----------
    title : str
    hit : bool
        Whether the user chose it in the test part.
    reasons : tuple of (str, str)
        Past items and what each adds to the score.
    """

    title: str
    hit: bool
    reasons: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Example:
    """One user under one model.

    Attributes
    ----------
    user, why, model : str
        ``why`` says how the user was picked.
    past : tuple of str
        Titles of what the user had in training, the latest first where times are known.
    past_count : int
    items : tuple of Item
    hits, tested : int
        Test items among the list, and in all.
    """

    user: str
    why: str
    model: str
    past: tuple[str, ...]
    past_count: int
    items: tuple[Item, ...]
    hits: int
    tested: int


def pick(report: Report, k: int) -> dict[Any, str]:
    """Choose users who show the range: little, typical and much history, and one for whom nothing was found.

    Returns
    -------
    dict of user id to str
        Why each was picked.
    """
    held_out = report.held_out
    if held_out is None:
        return {}
    users = _ranked_users(report)
    found = np.bincount(held_out.users, (held_out.ranks > 0) & (held_out.ranks <= k), minlength=len(users)) > 0
    history = next((report.history[n] for n in report.users if report.users[n] is users and n in report.history), None)
    chosen: dict[Any, str] = {}
    if history is None:
        history = np.bincount(held_out.users, minlength=len(users))
    with_hit = np.flatnonzero(found)
    for share, why in ((0.1, "little history"), (0.5, "typical history"), (0.9, "much history")):
        if with_hit.size:
            wanted = np.quantile(history[with_hit], share)
            best = with_hit[np.argmin(np.abs(history[with_hit] - wanted))]
            chosen.setdefault(users[best], f"{why}, with a hit")
    without = np.flatnonzero(~found)
    if without.size:
        wanted = np.quantile(history[without], 0.5)
        chosen.setdefault(users[without[np.argmin(np.abs(history[without] - wanted))]], "nothing found")
    return chosen


def _ranked_users(report: Report) -> Any:
    """Return the users of ranking metrics, which ``held_out.users`` counts."""
    return next(users for name, users in report.users.items() if parse_metric(name).kind != "rating")


@dataclass(frozen=True)
class Shown:
    """Where examples come from.

    Attributes
    ----------
    train : Interactions or None
        What the models have learned from.
    fold_in : Interactions or None
        Histories of users whom they have not learned from, in place of it.
    titles : mapping
    k : int
        Length of the lists.
    """

    train: Interactions | None
    fold_in: Interactions | None
    titles: Mapping[Any, str]
    k: int

    @property
    def past(self) -> Interactions | None:
        """What users had before."""
        return self.train if self.fold_in is None else self.fold_in


def show(user: Any, why: str, name: str, model: Any, report: Report, shown: Shown) -> Example:
    """Look at one user under one model."""
    ids, tested = _list(user, model, report, shown), _tested(report, user)
    items = tuple(Item(_title(item, shown.titles), item in tested, _reasons(model, user, item, shown)) for item in ids)
    past, count = _past(shown.past, user)
    return Example(
        str(user), why, name, tuple(_title(item, shown.titles) for item in past), count, items,
        sum(item.hit for item in items), len(tested),
    )  # fmt: skip


def _list(user: Any, model: Any, report: Report, shown: Shown) -> list[Any]:
    """Return the list that was measured, where it was kept; of users who were trained on, the model's."""
    folded = shown.fold_in is not None
    if report.lists is not None and (folded or report.lists.shape[1] >= shown.k):
        place = np.flatnonzero(_ranked_users(report) == user)
        if place.size:
            measured = report.lists[place[0], : shown.k].tolist()
            return [item for item in measured if item is not None and item != -1]
    if folded:
        raise ValueError(f"fold_in: without a list of user {user!r}; expected reports made with keep_lists=True")
    found = model.recommend([user], shown.k)
    return np.asarray(found.ids)[0][np.asarray(found.rows)[0] >= 0].tolist()  # type: ignore[no-any-return]


def _tested(report: Report, user: Any) -> set[Any]:
    held_out = report.held_out
    if held_out is None:
        return set()
    place = np.flatnonzero(_ranked_users(report) == user)
    return set(held_out.items[np.isin(held_out.users, place)].tolist())


def _reasons(model: Any, user: Any, item: Any, shown: Shown) -> tuple[tuple[str, str], ...]:
    """Return the past items that add most to a score, as the model explains it."""
    explain = getattr(model, "explain", None)
    if not callable(explain):
        return ()
    given = {}
    if shown.fold_in is not None:
        if "interactions" not in inspect.signature(explain).parameters:
            return ()
        row = int(shown.fold_in.user_map.rows([user], argument="users")[0])
        given["interactions"] = shown.fold_in.matrix[[row]]
    past, added = _additions(explain(user, item, **given))
    if past is None or added is None:
        return ()
    pairs = zip(np.asarray(past).tolist()[:_REASONS], np.asarray(added).tolist()[:_REASONS], strict=True)
    return tuple((_title(one, shown.titles), f"{share:+.3f}") for one, share in pairs if share > 0)


def _additions(reason: Any) -> tuple[Any, Any]:
    """Return past items and what each adds: of a pair of the two, or of an explanation that has them."""
    if isinstance(reason, tuple) and len(reason) == 2:
        return reason
    through = getattr(reason, "item_contributions", None)  # of components, whose own are the contributions then
    added = getattr(reason, "contributions", None) if through is None else np.asarray(through).sum(axis=1)
    return getattr(reason, "items", None), added


def _past(data: Interactions | None, user: Any) -> tuple[Sequence[Any], int]:
    if data is None:
        return (), 0
    row = int(data.user_map.rows([user], argument="users")[0])
    start, stop = data.matrix.indptr[row : row + 2]
    columns = data.matrix.indices[start:stop]
    if data.times is not None:
        columns = columns[np.argsort(-data.times[start:stop], kind="stable")]
    return data.item_map.ids_of(columns[:_PAST].astype(np.int64)).tolist(), int(stop - start)


def _title(item: Any, titles: Mapping[Any, str]) -> str:
    return str(titles.get(item, titles.get(str(item), item)))
