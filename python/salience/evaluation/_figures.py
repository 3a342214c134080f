"""Figures in files, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salience import _storage


def new_figure(width: float, height: float, *, caller: str) -> Any:
    """Return an empty figure, sizes in inches; ImportError says how to install what ``caller`` needs."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"{caller}: needs matplotlib; pip install 'salience[report]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure in the format that the file's name ends in, through a temporary name."""
    with _storage.replace_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
