"""The machine and the software that a measurement belongs to."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from salience._backends import show_config

_LIBRARIES = ("numpy", "scipy", "threadpoolctl")


def processor() -> str:
    """Name the processor as the system does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Name the processor, its cores and the system."""
    return f"{processor()}, {cores()} cores, {platform.system()} {platform.machine()}"


def record_environment(threads: int) -> dict[str, Any]:
    """Record what a measurement depends on: processor, instruction set, threads, versions, load.

    Parameters
    ----------
    threads : int
        Threads that every contestant was told to use.

    Returns
    -------
    dict, ready for JSON
        ``load_average`` is that of the last minute before the run: above ``cores``, others were computing too.
    """
    config = show_config()
    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "instruction_set": config["kernels"],
        "instruction_set_forced": bool(config["forced"]),
        "threads": threads,
        "thread_variables": {name: os.environ[name] for name in sorted(os.environ) if name.endswith("NUM_THREADS")},
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "salience": config["version"],
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def headline(found: dict[str, Any]) -> list[str]:
    """Put what :func:`record_environment` returns into words."""
    forced = " (forced)" if found["instruction_set_forced"] else ""
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    where = f"{found['processor']}, {found['cores']} cores, {found['system']}; load average {found['load_average']:.1f}"
    how = f"{found['threads']} threads; {found['instruction_set']} kernels{forced}; salience {found['salience']}"
    return [where, f"{how}, Python {found['python']}, {libraries}"]
