"""What the benchmarks share: the package's timing loop, machine and tables, and where results are kept."""

from __future__ import annotations

from pathlib import Path

from salience.bench import interleave, machine, markdown, milliseconds

__all__ = ["RESULTS", "interleave", "machine", "markdown", "milliseconds"]

RESULTS = Path(__file__).parent / "results"
