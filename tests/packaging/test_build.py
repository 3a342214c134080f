"""What was built and how it is chosen."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest

import salience
from salience import _core

ROOT = Path(__file__).parents[2]


def test_config_is_consistent():
    config = salience.show_config()
    sets = {row["name"]: row for row in config["instruction_sets"]}
    assert sets["baseline"]["built"]
    assert sets["baseline"]["offered"]
    assert sets[config["chosen"]]["offered"]
    assert sets[config["kernels"]]["built"]
    assert sets[config["kernels"]]["offered"]
    assert config["threads"] >= 1
    assert config["cuda"].startswith(("not built, because", "built with nvcc"))
    assert (config["gpu"] is None) == bool(config["cuda_why_not"])
    for row in sets.values():
        assert bool(row["why_not"]) != row["offered"]


def test_the_cuda_module_needs_no_driver_and_no_library_of_cuda():
    if not salience.show_config()["cuda"].startswith("built"):
        pytest.skip("SKIPPED: the CUDA module was " + salience.show_config()["cuda"])
    module = importlib.import_module("salience._cuda")
    assert isinstance(module.unavailable(), str)
    if shutil.which("readelf") is None:
        pytest.skip("no readelf on this machine")
    listing = subprocess.run(["readelf", "-d", module.__file__], capture_output=True, text=True, check=True).stdout
    needed = [line for line in listing.splitlines() if "NEEDED" in line]
    assert needed
    assert not [line for line in needed if "cuda" in line or "cublas" in line]


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert salience.__version__ == version("salience")


def test_the_module_exports_its_entry_point_only():
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine")
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines() if " T " in line}
    assert "PyInit__core" in names
    assert not {name for name in names if "salience" in name}


@pytest.mark.parametrize(("inline", "accepted"), [("static ", True), ("", False)])
def test_the_symbol_check_finds_shared_functions(tmp_path, inline, accepted):
    if any(shutil.which(tool) is None for tool in ("g++", "nm", "cmake")):
        pytest.skip("no g++, nm or cmake on this machine")
    source, built = tmp_path / "kernel.cpp", tmp_path / "kernel.o"
    source.write_text(
        f"{inline}inline int helper(int x) {{ return x * x; }}\n"
        'extern "C" { int (*table())(int) { return helper; } }\n'
    )
    subprocess.run(["g++", "-O0", "-c", source, "-o", built], check=True)
    check = ROOT / "csrc/cmake/check_symbols.cmake"
    done = subprocess.run(
        ["cmake", "-DNM=nm", f"-DOBJECT={built}", f"-DSTAMP={tmp_path}/stamp", "-DSYMBOL=table", "-P", check],
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is accepted
    assert accepted or "shares a symbol" in done.stderr
