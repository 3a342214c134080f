"""Compile the CUDA module for the CPU: the same kernels and drivers, over the emulator of this folder."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SOURCES = (
    *(f"csrc/cuda/{name}.cu" for name in ("topk", "als", "als_factors", "catalogue", "similarity", "select", "attention")),
    *(f"csrc/cuda/{name}.cpp" for name in ("module", "als_module", "attention_module")),
    "csrc/core/validate.cpp", "tests/cuda_on_cpu/emulator.cpp", "tests/cuda_on_cpu/bindings.cpp",
)  # fmt: skip
FOLDERS = ("csrc/core", "csrc/cuda", "csrc/bindings", "tests/cuda_on_cpu")
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wshadow", "-Werror",
    "-ffp-contract=off", "-fno-math-errno", "-DSALIENCE_CUDA_ON_CPU", "-DSALIENCE_CUDA_MODULE=_cuda_on_cpu",
)  # fmt: skip


def _digest(compiler: str) -> str:
    state = hashlib.sha256(" ".join([compiler, *FLAGS, sysconfig.get_config_var("EXT_SUFFIX")]).encode())
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                state.update(path.read_bytes())
    return state.hexdigest()[:16]


def build() -> Path:
    """Return the compiled module, which is built where its sources have changed."""
    import pybind11

    compiler = os.environ.get("CXX", "g++")
    folder = Path(tempfile.gettempdir()) / f"salience-cuda-on-cpu-{os.getuid()}-{_digest(compiler)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    module = folder / "_cuda_on_cpu.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not module.exists():
            _compile(compiler, pybind11.get_include(), folder, module)
    return module


def _compile(compiler: str, pybind: str, folder: Path, module: Path) -> None:
    include = ["-I", "csrc", "-I", "tests", "-I", "tests/cuda_on_cpu", "-isystem", pybind,
               "-isystem", sysconfig.get_path("include")]  # fmt: skip

    def compile_one(source: str) -> Path:
        made = folder / (Path(source).name + ".o")
        command = [compiler, "-x", "c++", *FLAGS, *include, "-c", source, "-o", str(made)]
        subprocess.run(command, cwd=ROOT, check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    unfinished = folder / "unfinished.so"
    subprocess.run([compiler, "-shared", *map(str, objects), "-o", str(unfinished)], check=True)
    unfinished.rename(module)


def load() -> ModuleType:
    """Import the module."""
    loader = importlib.machinery.ExtensionFileLoader("_cuda_on_cpu", str(build()))
    spec = importlib.util.spec_from_loader("_cuda_on_cpu", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build())  # noqa: T201
