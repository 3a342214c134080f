"""Where the kernels' barriers are, and whether anything notices when one is not there."""

from __future__ import annotations

from pathlib import Path

ALS_KERNELS = ("als_*.cuh", "cholesky.cuh", "gramian.cuh")
KERNELS = Path(__file__).parents[2] / "csrc/cuda/kernels"


def barriers(patterns, leaving_out=()):
    """Find the lines of barriers in kernels."""
    paths = {path for pattern in patterns for path in KERNELS.glob(pattern)}
    found = []
    for path in sorted(paths - {path for pattern in leaving_out for path in KERNELS.glob(pattern)}):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "block_barrier()" in line or "warp_barrier()" in line:
                found.append(f"{path.name}:{number}")
    return found


def goes_wrong(drill, module, attempt, barrier):
    """Say whether a drill notices that a barrier is ignored."""
    try:
        drill(module, 100 * attempt, barrier)
    except (RuntimeError, AssertionError, FloatingPointError):
        return True
    return False
