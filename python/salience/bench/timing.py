"""The one timing loop: contestants in turn, so that whatever the machine does meets them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]

_TURN = 0.01


def take_turns(
    contestants: dict[str, Call],
    *,
    rounds: int,
    patience: float,
    on_error: Callable[[str, Exception], None] | None = None,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time the contestants in turn, ``rounds`` times.

    A turn lasts at least 10 ms: what is shorter is repeated and every repeat counts, so that short calls are
    timed as in use, one after another. The first round warms up and is not counted, unless it alone outlasts
    ``patience`` seconds: then the contestant runs no more. A pause lets the threads of the one before stop
    spinning.

    Parameters
    ----------
    contestants : dict of str to callable without arguments
    rounds : int
        Counted rounds, at least 1.
    patience : float
        Seconds a contestant may take for a turn before it is left out of later rounds.
    on_error : callable, optional
        Called as ``on_error(name, exception)`` where a contestant raises; it then takes no further part and
        has neither times nor an answer. Without it the exception is raised.

    Returns
    -------
    times : dict of str to list of float
        Seconds of every counted call.
    answers : dict of str to object
        What each contestant returned first.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, Any] = {}
    done: set[str] = set()
    names = list(contestants)
    for turn in range(rounds + 1):
        start = turn % max(len(names), 1)
        for name in names[start:] + names[:start]:
            if name in done:
                continue
            try:
                spent, answer = _turn(contestants[name], times[name], counted=turn > 0, patience=patience)
            except Exception as error:
                if on_error is None:
                    raise
                done.add(name)
                answers.pop(name, None)
                del times[name]
                on_error(name, error)
                continue
            answers.setdefault(name, answer)
            if spent > patience:
                done.add(name)
    return {name: values for name, values in times.items() if values}, answers


def _turn(call: Call, times: list[float], *, counted: bool, patience: float) -> tuple[float, Any]:
    time.sleep(_TURN)
    spent, answer = 0.0, None
    while spent < _TURN:
        start = time.perf_counter()
        answer = call()
        elapsed = time.perf_counter() - start
        spent += elapsed
        if counted or elapsed > patience:
            times.append(elapsed)
    return spent, answer


def interleave(
    contestants: dict[str, Call], *, rounds: int, patience: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Time the contestants by :func:`take_turns`; returns median seconds and the first answers."""
    times, answers = take_turns(contestants, rounds=rounds, patience=patience)
    return {name: statistics.median(values) for name, values in times.items()}, answers
