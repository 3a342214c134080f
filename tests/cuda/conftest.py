"""The CUDA module under test: on the CPU always, on a GPU where there is one."""

from __future__ import annotations

import functools
import os
import shutil

import pytest

from cuda_on_cpu import build
from salience import _backends

REQUIRED = os.environ.get("SALIENCE_REQUIRE_GPU") == "1"
BACKENDS = ["emulated", "gpu"] if REQUIRED or not _backends.cuda_why_not() else ["emulated"]
ONLY_GPU = os.environ.get("SALIENCE_ONLY_GPU") == "1"  # benchmarks/gpu.sh: its minutes are for the GPU
if ONLY_GPU:
    BACKENDS = ["gpu"]


@functools.cache
def emulated_module():
    if shutil.which(os.environ.get("CXX", "g++")) is None and not os.environ.get("CI"):
        pytest.skip("SKIPPED: no C++ compiler to build the emulated CUDA module with")
    return build.load()


def use_emulated(monkeypatch, **settings):
    """Put the emulated module in the place of the real one."""
    if ONLY_GPU:
        pytest.skip("SKIPPED: SALIENCE_ONLY_GPU=1")
    module = emulated_module()
    module.configure(**settings)
    module.take_launches()
    monkeypatch.setattr(_backends, "_import_cuda", lambda: module)
    monkeypatch.setattr(_backends, "_driver_trouble", lambda: "")
    return module


@pytest.fixture
def emulated(monkeypatch):
    return use_emulated(monkeypatch)


@pytest.fixture(params=BACKENDS)
def cuda(request, monkeypatch):
    """The module, ready for use by salience."""
    if request.param == "emulated":
        return use_emulated(monkeypatch)
    if reason := _backends.cuda_why_not():
        pytest.fail(f"SALIENCE_REQUIRE_GPU=1, but {reason}")
    return _backends.cuda()
