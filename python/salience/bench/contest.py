"""A contest: one problem, every contestant on it, in turn, with the answers compared."""

from __future__ import annotations

import contextlib
import io
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from salience.bench.peers import PEERS, UnsupportedError, thread_limit
from salience.bench.timing import Call, take_turns

Status = Literal["measured", "missing", "unsupported", "failed"]
OURS = "salience"


@dataclass(frozen=True)
class Verdict:
    """What a contestant's answer is worth.

    Attributes
    ----------
    words : str
        For people: "the same", "differs: ...".
    agrees : bool or None
        Whether the answer agrees with the reference; None where it is not meant to.
    figures : dict of str to float
        Measures of the answer, such as its loss.
    """

    words: str
    agrees: bool | None = None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How one contestant did.

    Attributes
    ----------
    name : str
        The contestant, such as "implicit, Cholesky".
    peer : str or None
        The library behind it, None for Salience itself.
    version : str
    status : {"measured", "missing", "unsupported", "failed"}
    seconds : tuple of float
        Of every counted call.
    note : str
        Why it was not measured, and what to do about it.
    verdict : Verdict or None
    """

    name: str
    peer: str | None
    version: str
    status: Status
    seconds: tuple[float, ...] = ()
    note: str = ""
    verdict: Verdict | None = None

    @property
    def median(self) -> float:
        """Median seconds; NaN where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else float("nan")

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the seconds (the extremes of fewer than three runs)."""
        if len(self.seconds) < 3:
            return (min(self.seconds), max(self.seconds)) if self.seconds else (float("nan"),) * 2
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        out: dict[str, Any] = {"name": self.name, "peer": self.peer, "version": self.version, "status": self.status}
        if self.seconds:
            out |= {"median": self.median, "quartiles": list(self.quartiles), "seconds": list(self.seconds)}
        if self.note:
            out["note"] = self.note
        if self.verdict is not None:
            out |= {"answer": self.verdict.words, "agrees": self.verdict.agrees, **self.verdict.figures}
        return out


class Problem(ABC):
    """What the contestants are given; one subclass an operation.

    Attributes
    ----------
    task : str
        Name of the operation.
    adapters : dict of str to callable
        By the name of a peer (see ``PEERS``): ``adapter(problem)`` imports the peer, prepares whatever is
        prepared once in use, and returns its contestants by name, to be timed. It raises UnsupportedError where
        the peer cannot do this problem.
    threads : int
        What everyone is told to use.
    """

    task: ClassVar[str]
    adapters: ClassVar[Mapping[str, Callable[[Any], dict[str, Call]]]]
    threads: int

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the shape and origin of the data, ready for JSON."""

    @abstractmethod
    def title(self) -> str:
        """Put :meth:`describe` into a few words."""

    @abstractmethod
    def ours(self) -> dict[str, Call]:
        """Return Salience's own contestants, the reference first."""

    @abstractmethod
    def judge(self, answers: dict[str, Any]) -> dict[str, Verdict]:
        """Compare the answers of all contestants."""


@dataclass(frozen=True)
class Outcome:
    """All results on one problem; the reference comes first."""

    task: str
    title: str
    problem: dict[str, Any]
    results: tuple[Result, ...]

    @property
    def reference(self) -> Result:
        """Salience's own result."""
        return self.results[0]

    def ratio(self, result: Result) -> float:
        """How many times as long as the reference a contestant took (medians)."""
        return result.median / self.reference.median

    @property
    def disagreeing(self) -> list[str]:
        """Contestants whose answers are not equal to the reference."""
        return [r.name for r in self.results if r.verdict is not None and r.verdict.agrees is False]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        results = []
        for result in self.results:
            entry = result.to_dict()
            if result.seconds:
                entry["ratio"] = self.ratio(result)
            results.append(entry)
        return {"task": self.task, "title": self.title, "problem": self.problem, "results": results}


def choose_peers(task: type[Problem], wanted: Sequence[str] | None) -> list[str]:
    """Check names of peers against those that have an adapter for a task; all of them by default.

    Raises
    ------
    ValueError
        Naming the first that has none.
    """
    if wanted is None:
        return list(task.adapters)
    for name in wanted:
        if name not in task.adapters:
            raise ValueError(
                f"peers: {name!r} has no adapter for {task.task}; expected some of {', '.join(task.adapters)}"
            )
    return list(dict.fromkeys(wanted))


def hold(problem: Problem, peers: Sequence[str], *, rounds: int, patience: float) -> Outcome:
    """Time everyone on a problem and compare the answers.

    A peer that is not installed, cannot do the problem or fails on it is part of the outcome, with the reason.

    Parameters
    ----------
    problem : Problem
    peers : sequence of str
        As :func:`choose_peers` returns them.
    rounds, patience
        As in :func:`salience.bench.timing.take_turns`.
    """
    contestants = dict(problem.ours())
    ours = list(contestants)
    owners: dict[str, str | None] = dict.fromkeys(ours)
    absent: list[Result] = []
    for name in peers:
        peer = PEERS[name]
        if not peer.installed:
            note = f"not installed: pip install {peer.package}"
            absent.append(Result(name, name, "-", "missing", note=note))
            continue
        try:
            entered = problem.adapters[name](problem)
        except UnsupportedError as reason:
            absent.append(Result(name, name, peer.version, "unsupported", note=str(reason)))
        except Exception as error:  # whatever a foreign library raises is its result here
            absent.append(_failed(name, name, error))
        else:
            contestants |= entered
            owners |= dict.fromkeys(entered, name)

    def fail(name: str, error: Exception) -> None:
        owner = owners[name]
        if owner is None:
            raise error
        absent.append(_failed(name, owner, error))

    # Some peers print progress: it would end up in the middle of the table.
    with thread_limit(problem.threads), contextlib.redirect_stdout(io.StringIO()):
        times, answers = take_turns(contestants, rounds=rounds, patience=patience, on_error=fail)
    verdicts = problem.judge(answers)
    results = [
        Result(name, owners[name], _version(owners[name]), "measured", tuple(times[name]), verdict=verdicts[name])
        for name in contestants
        if name in times
    ]
    return Outcome(problem.task, problem.title(), problem.describe(), (*results, *absent))


def _version(peer: str | None) -> str:
    if peer is not None:
        return PEERS[peer].version
    from salience import __version__

    return __version__


def _failed(name: str, peer: str, error: Exception) -> Result:
    lines = str(error).strip().splitlines() or [""]
    return Result(name, peer, PEERS[peer].version, "failed", note=f"{type(error).__name__}: {lines[0]}")
