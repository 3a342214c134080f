"""Published rows of quality tables: those that take seconds, and what there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

QUALITY = Path(__file__).parents[2] / "benchmarks" / "quality"


def published(*arguments):
    command = [sys.executable, QUALITY / "published.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.data
@pytest.mark.parametrize("row", ["gowalla-popularity", "gowalla-itemknn", "citeulike-popularity"])
def test_a_row_is_as_published(row, data_folder):
    done = published(row)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agrees" in done.stdout
    assert "DIFFERS" not in done.stdout


def test_only_rows_that_there_are():
    done = published("gowalla-lightgcn")
    assert done.returncode == 2
    assert "invalid choice: 'gowalla-lightgcn'" in done.stderr


def test_the_readme_lists_every_row():
    listed = published("--list").stdout
    rows = [line.split()[0] for line in listed.splitlines()]
    assert len(rows) >= 8
    text = (QUALITY / "README.md").read_text()
    assert [row for row in rows if row not in text] == []
