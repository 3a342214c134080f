"""What the benchmarks share: interleaved timing, the machine in words, tables."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleave(
    contestants: dict[str, Callable[[], Any]], *, rounds: int, patience: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Time the contestants in turn, ``rounds`` times; return median seconds and the first answers.

    A turn lasts at least 10 ms: what is shorter is repeated and every repeat counts, so that short calls are
    timed as in use, one after another. The first round warms up and is not counted, unless it alone outlasts
    ``patience`` seconds: then the contestant runs no more. A pause lets the threads of the one before stop
    spinning.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    answers, done = {}, set()
    names = list(contestants)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name in done:
                continue
            time.sleep(0.01)
            spent = 0.0
            while spent < 0.01:
                start = time.perf_counter()
                answer = contestants[name]()
                elapsed = time.perf_counter() - start
                spent += elapsed
                if turn > 0 or elapsed > patience:
                    times[name].append(elapsed)
            answers.setdefault(name, answer)
            if spent > patience:
                done.add(name)
    return {name: statistics.median(values) for name, values in times.items() if values}, answers


def machine() -> str:
    """Name the processor, its cores and the system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Lay out a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def milliseconds(seconds: float) -> str:
    """Three significant digits."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
