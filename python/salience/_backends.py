"""What was built, what this machine offers, and what is used."""

from __future__ import annotations

import functools
import importlib
import os
import platform
from types import ModuleType
from typing import Any, Literal

from salience import _core

Device = Literal["auto", "cpu", "cuda"]


def show_config() -> dict[str, Any]:
    """Report what was built, what this machine offers, what is used, and why not more.

    Returns
    -------
    dict
        ``version``, ``python``, ``machine``; ``threads`` (cores this process may use);
        ``instruction_sets`` (name, ``built``, ``offered``, ``why_not``), ``chosen`` (the highest
        offered, or what ``SALIENCE_ISA`` names), ``kernels`` (the set whose kernels run: a set
        without kernels of its own is served by the next lower one); ``cuda`` (the state of its module
        in words), ``cuda_why_not`` (why no GPU is used; empty where one can be) and ``gpu`` (its name,
        compute capability, memory in bytes and the versions of driver and runtime, or None).

    Raises
    ------
    ValueError
        ``SALIENCE_ISA`` names an instruction set that is unknown or not offered here.
    """
    why_not = cuda_why_not()
    return {
        "version": _core.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "forced": os.environ.get("SALIENCE_ISA") or None,
        **_core.config(),
        "cuda_why_not": why_not,
        "gpu": None if why_not else cuda().device(),
    }


@functools.cache
def _import_cuda() -> ModuleType | str:
    """Import the CUDA module once, or say why there is none."""
    try:
        return importlib.import_module("salience._cuda")
    except ImportError as error:
        state = _core.config()["cuda"]
        return f"the CUDA module was {state}" if state.startswith("not built") else f"the CUDA module: {error}"


_first_process: int | None = None


@functools.cache
def _driver_trouble() -> str:
    """Ask the driver once: it does not come and go."""
    global _first_process
    module = _import_cuda()
    if isinstance(module, str):
        return module
    _first_process = os.getpid()
    return str(module.unavailable())


def cuda_why_not() -> str:
    """Say why no GPU can be used, or nothing."""
    trouble = _driver_trouble()
    if not trouble and _first_process not in (None, os.getpid()):
        return "this process was forked from one that had used the GPU, which CUDA does not allow"
    return trouble


def cuda() -> Any:
    """Return the CUDA module, ready for use.

    Raises
    ------
    RuntimeError
        Saying why there is none.
    """
    if trouble := cuda_why_not():
        raise RuntimeError(f"device: 'cuda', but {trouble}")
    return _import_cuda()


def check_device(device: object) -> Device:
    """Return one of the devices there are."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: {device!r}; expected 'auto', 'cpu' or 'cuda'")
    return device
