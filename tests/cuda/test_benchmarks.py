"""The benchmarks for a GPU, as far as they go without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_gpu_serving

    return bench_gpu_serving


@pytest.mark.parametrize("kind", ["blended top-k", "attention"])
def test_serving_is_timed_and_its_answers_are_checked(emulated, serving, kind):
    emulated.take_launches()
    row = serving.run(kind, (5, 300, 16, 7), rounds=1, device="cpu")
    assert emulated.take_launches()
    assert row["seconds"]["ours"] > 0
    assert serving.cells(row)[:2] == [kind, "5 x 300 x 16 x 7"]


@pytest.mark.parametrize("kind", ["blended", "attention"])
def test_wrong_answers_end_the_benchmark(emulated, serving, kind):
    everyone, check = getattr(serving, kind)((5, 300, 16, 7), "cpu")
    answer = everyone["ours"]()
    check({"ours": answer})
    (answer[1] if kind == "blended" else answer)[0, 0] += 1
    with pytest.raises(AssertionError, match="the CPU's"):
        check({"ours": answer})
    assert emulated.take_launches()


def test_the_projection_needs_no_gpu_and_is_the_file_of_the_results(tmp_path):
    command = [sys.executable, BENCHMARKS / "bench_gpu_als.py", "--project", "--save", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    name = "gpu_als_projection.md"
    found = (tmp_path / name).read_text()
    assert found.startswith("# ALS on a GPU: projected, not measured")
    assert found == (BENCHMARKS / "results" / name).read_text()
