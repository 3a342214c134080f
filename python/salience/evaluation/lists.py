"""Recommended lists of other systems: arrays, mappings, frames, run files; and judgements from qrels files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import narwhals.stable.v1 as nw
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience._arrays import describe
from salience.evaluation.metrics import FloatArray, IntArray
from salience.interactions import IdMap, Interactions, clean_ids
from salience.models import Recommendations

Order = Literal["score", "rank", "trec_eval"]
_USER_COLUMNS, _ITEM_COLUMNS = ("user", "user_id", "q_id", "query_id"), ("item", "item_id", "doc_id")


class RowLists(NamedTuple):
    """Lists as rows of a test part.

    ``rows``: int64 (users of test, k), padded with -1, rows from the number of items of test on standing for
    items it does not know; ``columns``: one more than the largest of them; ``unknown_users``: lists left out.
    """

    rows: IntArray
    columns: int
    unknown_users: int


def as_rows(recommended: Any, test: Interactions, k: int | None) -> RowLists:
    """Return lists as item rows of ``test``, cut off at ``k`` slots (None: whole), without gaps."""
    native = nw.from_native(recommended, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        recommended = native.collect().to_native()
    if isinstance(recommended, Recommendations):
        flat = _flat_of_recommendations(recommended)
    elif isinstance(recommended, Mapping):
        flat = _flat_of_mapping(recommended, k)
    elif hasattr(recommended, "run") and hasattr(recommended, "to_dict"):  # ranx.Run
        flat = _flat_of_mapping(recommended.to_dict(), k)
    elif hasattr(recommended, "columns"):
        flat = _flat_of_frame(recommended)
    else:
        return _rows_of_array(recommended, test, k)
    return _rows_of_flat(flat, test, k)


@dataclass(frozen=True)
class _Flat:
    """Lists one after another: ``users[n]`` has ``lengths[n]`` of ``items``, best first."""

    users: Any
    lengths: IntArray
    items: Any


def _rows_of_flat(flat: _Flat, test: Interactions, k: int | None) -> RowLists:
    users = test.user_map.find(flat.users, argument="recommended: user ids")
    known = users >= 0
    if len(users) and not known.any():
        named = clean_ids(flat.users, argument="recommended")[0]
        raise ValueError(f"recommended: none of {len(users)} users is in test, such as {named!r}; expected its users")
    slots = np.arange(flat.lengths.sum()) - np.repeat(np.cumsum(flat.lengths) - flat.lengths, flat.lengths)
    width = int(flat.lengths.max(initial=1)) if k is None else min(k, int(flat.lengths.max(initial=1)))
    kept = np.repeat(known, flat.lengths) & (slots < width)
    rows = np.full((test.shape[0], width), -1, dtype=np.int64)
    columns = test.shape[1]
    if kept.any():
        items = _find_items(clean_ids(flat.items, argument="recommended: item ids")[kept], test)
        rows[np.repeat(users, flat.lengths)[kept], slots[kept]] = items
        columns = max(columns, int(items.max()) + 1)
    return RowLists(rows, columns, int(np.count_nonzero(~known)))


def _find_items(items: npt.NDArray[Any], test: Interactions) -> IntArray:
    """Return item rows of ``test``, and rows beyond them for items that it does not know."""
    found = test.item_map.find(items, argument="recommended: item ids")
    strange = found < 0
    if strange.all():
        raise ValueError(
            f"recommended: none of {len(items)} items is in test, such as {items[0]!r}; expected its item ids"
        )
    if strange.any():
        _, number = np.unique(items[strange], return_inverse=True)
        found[strange] = test.shape[1] + number
    return found


def _rows_of_array(recommended: npt.ArrayLike, test: Interactions, k: int | None) -> RowLists:
    lists = np.asarray(recommended)
    if lists.ndim != 2 or lists.shape[0] != test.shape[0]:
        raise ValueError(
            f"recommended: shape {lists.shape}; expected ({test.shape[0]}, k), one line for every user row of test"
        )
    if not np.issubdtype(lists.dtype, np.integer):
        raise TypeError(f"recommended: {lists.dtype} values; expected integer item rows")
    return RowLists(without_gaps(lists.astype(np.int64, copy=False))[:, :k], test.shape[1], 0)


def without_gaps(lists: IntArray) -> IntArray:
    """Move empty slots (-1) behind the filled ones; the same array where they are there already."""
    if not lists.size or lists.min() >= 0:
        return lists
    empty = lists == -1
    if not (empty[:, :-1] & ~empty[:, 1:]).any():
        return lists
    return np.take_along_axis(lists, np.argsort(empty, axis=1, kind="stable"), axis=1)


def _flat_of_recommendations(found: Recommendations) -> _Flat:
    filled = found.rows >= 0
    return _Flat(found.queries, filled.sum(axis=1), found.ids[filled])


def _flat_of_mapping(lists: Mapping[Any, Any], k: int | None) -> _Flat:
    """Read ``{user: [items]}`` or ``{user: {item: score}}``, equal scores in the order given."""
    kept = [
        _best_first(user, items)[:k] if isinstance(items, Mapping) else _sequence(user, items, k)
        for user, items in lists.items()
    ]
    lengths = np.array([len(items) for items in kept], dtype=np.int64)
    return _Flat(list(lists), lengths, [item for items in kept for item in items])


def _best_first(user: Any, scores: Mapping[Any, Any]) -> list[Any]:
    if any(score != score for score in scores.values()):
        raise ValueError(f"recommended: a score that is NaN for user {user!r}; expected numbers")
    return sorted(scores, key=lambda item: -scores[item])


def _sequence(user: Any, items: Any, k: int | None) -> list[Any]:
    if isinstance(items, (str, bytes)) or not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise TypeError(f"recommended: {describe(items)} for user {user!r}; expected a sequence of item ids")
    return list(items[:k])


def _flat_of_frame(frame: Any) -> _Flat:
    """Read columns of users, items, and rank (ascending) or score (descending, ties as they stand)."""
    table = nw.from_native(frame)
    user, item = (
        _name(table, names, argument) for names, argument in ((_USER_COLUMNS, "user"), (_ITEM_COLUMNS, "item"))
    )
    ids = clean_ids(np.asarray(table[user].to_list()), argument="recommended: user ids")
    users, rows = np.unique(ids, return_inverse=True)
    if "rank" in table.columns:
        keys = np.asarray(table["rank"].to_numpy(), dtype=np.float64)
    elif "score" in table.columns:
        keys = -np.asarray(table["score"].to_numpy(), dtype=np.float64)
    else:
        raise ValueError(f"recommended: columns {list(table.columns)}; expected rank or score among them")
    if np.isnan(keys).any():
        raise ValueError("recommended: a missing rank or score; expected a number in every row")
    order = np.lexsort((keys, rows))
    items = clean_ids(np.asarray(table[item].to_list()), argument="recommended: item ids")
    return _Flat(users, np.bincount(rows, minlength=len(users)).astype(np.int64), items[order])


def _name(table: Any, names: Sequence[str], argument: str) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise ValueError(f"recommended: columns {list(table.columns)}; expected {' or '.join(names)} for the {argument}")


def read_run(path: str | Path, *, order: Order = "score") -> dict[str, list[str]]:
    """Read lists from a TREC run file, lines of ``user Q0 item rank score name``, or a JSON file that ranx has saved.

    Parameters
    ----------
    path : str or Path
        JSON where it ends in .json: ``{user: {item: score}}``, ranked in the order given.
    order : {"score", "rank", "trec_eval"}
        By score, ties by rank; by rank alone; or by score with ties in descending order of item ids, as trec_eval
        has them, whatever the ranks.

    Returns
    -------
    dict of str to list of str
        Item ids, best first, as :func:`evaluate_lists` takes them.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is not as described, an item is twice in a list, or a score is NaN.
    """
    if order not in ("score", "rank", "trec_eval"):
        raise ValueError(f"order: {order!r}; expected 'score', 'rank' or 'trec_eval'")
    found = _entries_of_json(path) if Path(path).suffix == ".json" else _entries_of_trec(path)
    for user, entries in found.items():
        if len({item for item, _, _ in entries}) != len(entries):
            raise ValueError(f"path: {Path(path).name} has an item twice in the list of {user!r}; expected each once")
        if order == "rank":
            entries.sort(key=lambda entry: entry[1])
        elif order == "score":
            entries.sort(key=lambda entry: (-entry[2], entry[1]))
        else:
            entries.sort(key=lambda entry: (entry[2], entry[0]), reverse=True)
    return {user: [item for item, _, _ in entries] for user, entries in found.items()}


_Entries = dict[str, list[tuple[str, float, float]]]  # item, rank, score


def _entries_of_trec(path: str | Path) -> _Entries:
    found: _Entries = {}
    for number, fields in _lines(path, 6, "user Q0 item rank score name"):
        rank, score = (_number(path, number, text) for text in fields[3:5])
        found.setdefault(fields[0], []).append((fields[2], rank, score))
    return found


def _entries_of_json(path: str | Path) -> _Entries:
    found: _Entries = {}
    for user, item, score in _triples_of_json(path):
        entries = found.setdefault(user, [])
        entries.append((item, len(entries) + 1, score))
    return found


def _triples_of_json(path: str | Path) -> list[tuple[str, str, float]]:
    """Read ``{user: {item: number}}``."""
    try:
        held = json.loads(_text(path), object_pairs_hook=list)  # a dict would drop an item that comes twice
    except json.JSONDecodeError as error:
        raise ValueError(f"path: {Path(path).name} is no JSON ({error})") from None
    triples = [(user, item, number) for user, scores in _pairs(held, path) for item, number in _pairs(scores, path)]
    for user, _, number in triples:
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number:
            raise ValueError(f"path: {Path(path).name} holds {number!r} for user {user!r}; expected a number")
    return triples


def _pairs(held: Any, path: str | Path) -> list[tuple[str, Any]]:
    if not isinstance(held, list) or not all(isinstance(pair, tuple) for pair in held):
        raise ValueError(
            f"path: {Path(path).name} holds {describe(held)}; expected {{user: {{item: number}}}}, as ranx saves it"
        )
    return held


def read_qrels(path: str | Path) -> Interactions:
    """Read judgements from a TREC qrels file, lines of ``user 0 item relevance``, or a JSON file that ranx has saved.

    Returns
    -------
    Interactions
        The pairs of positive relevance, which is their value. Users with judgements but nothing relevant are
        on its axis, and count as without test interactions.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is not as described, or a pair is judged twice.
    """
    if Path(path).suffix == ".json":
        lines = _triples_of_json(path)
    else:
        fields = _lines(path, 4, "user 0 item relevance")
        lines = [(found[0], found[2], _number(path, number, found[3])) for number, found in fields]
    return interactions_of_qrels([user for user, _, _ in lines], [item for _, item, _ in lines], [v for *_, v in lines])


def as_test(test: Any) -> Any:
    """Read ``{user: {item: relevance}}`` (also a ranx Qrels) as Interactions; return others as they are."""
    if hasattr(test, "qrels") and hasattr(test, "to_dict"):  # ranx.Qrels
        test = test.to_dict()
    if not isinstance(test, Mapping):
        return test
    for user, judged in test.items():
        if not isinstance(judged, Mapping):
            raise TypeError(f"test: {describe(judged)} for user {user!r}; expected a mapping of items to relevance")
    triples = [(user, item, float(value)) for user, judged in test.items() for item, value in judged.items()]
    return interactions_of_qrels([t[0] for t in triples], [t[1] for t in triples], [t[2] for t in triples])


def interactions_of_qrels(users: list[Any], items: list[Any], values: list[float]) -> Interactions:
    """Keep the pairs of positive relevance, on axes of all users and items."""
    user_ids, rows = np.unique(clean_ids(users, argument="user"), return_inverse=True)
    item_ids, columns = np.unique(clean_ids(items, argument="item"), return_inverse=True)
    relevance: FloatArray = np.asarray(values, dtype=np.float64)
    keys = rows * len(item_ids) + columns
    if len(np.unique(keys)) != len(keys):
        raise ValueError(f"qrels: {len(keys) - len(np.unique(keys))} pairs judged twice; expected each once")
    kept = relevance > 0
    matrix = sp.csr_matrix(
        (relevance[kept].astype(np.float32), (rows[kept], columns[kept])), shape=(len(user_ids), len(item_ids))
    )
    matrix.sum_duplicates()
    return Interactions(matrix, IdMap(user_ids), IdMap(item_ids), None)


def _lines(path: str | Path, fields: int, expected: str) -> list[tuple[int, list[str]]]:
    lines = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        split = line.split()
        if not split:
            continue
        if len(split) != fields:
            raise ValueError(f"path: {Path(path).name} has {len(split)} fields in line {number}; expected {expected!r}")
        lines.append((number, split))
    return lines


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"path: {Path(path).name} is not UTF-8 ({error.reason})") from None


def _number(path: str | Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise ValueError(f"path: {Path(path).name} holds {text!r} in line {line}; expected a number")
    return value
