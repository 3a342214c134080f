"""What was built, what this machine offers, and what is used."""

from __future__ import annotations

import os
import platform
from typing import Any

from salience import _core


def show_config() -> dict[str, Any]:
    """Report what was built, what this machine offers, what is used, and why not more.

    Returns
    -------
    dict
        ``version``, ``python``, ``machine``; ``threads`` (cores this process may use);
        ``instruction_sets`` (name, ``built``, ``offered``, ``why_not``), ``chosen`` (the highest
        offered, or what ``SALIENCE_ISA`` names), ``kernels`` (the set whose kernels run: a set
        without kernels of its own is served by the next lower one); ``cuda`` (its state in words).

    Raises
    ------
    ValueError
        ``SALIENCE_ISA`` names an instruction set that is unknown or not offered here.
    """
    return {
        "version": _core.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "forced": os.environ.get("SALIENCE_ISA") or None,
        **_core.config(),
    }
