"""Fixtures of every room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of the public data sets; without it the test is skipped, in CI it fails."""
    name = os.environ.get("SALIENCE_DATA", "")
    if Path(name).is_dir() and name:
        return Path(name)
    reason = f"SALIENCE_DATA is {name!r}: set it to the folder of the data sets to run this test"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
