"""Exact top-k on a GPU beside torch and CuPy, in one interleaved run, every answer checked.

    bash benchmarks/gpu.sh                 # builds, tests, then runs this
    python benchmarks/bench_gpu.py --quick

Contestants, all on arrays that are on the device already: ours (Index.search), torch in fp32 (matmul, topk),
torch in bf16 (matmul, topk of some more, exact rescoring in fp32; not exact where the margin does not suffice) and
CuPy (matmul, argpartition). Wall-clock time of a call with the device synchronized before and after; medians of
interleaved rounds. "limit" is the share of the measured memory bandwidth that reading the halves once makes up
(few queries), or of the measured fp16 matrix product rate (many).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import salience
from contest import RESULTS, markdown, milliseconds
from salience import _backends

# queries, items, dims, k: those that decide come first.
SHAPES = [
    (1024, 1_000_000, 128, 10), (1024, 1_000_000, 128, 100), (1024, 1_000_000, 128, 1000), (1, 1_000_000, 128, 10),
    (64, 1_000_000, 128, 10), (8192, 1_000_000, 128, 100), (1024, 1_000_000, 64, 10), (1024, 1_000_000, 256, 10),
    (1, 10_000_000, 128, 10), (64, 10_000_000, 128, 100), (1024, 100_000, 128, 10), (16, 100_000, 64, 10),
]  # fmt: skip
QUICK = [(1024, 1_000_000, 128, 10), (1, 1_000_000, 128, 10), (64, 1_000_000, 128, 10)]
MOST_SCORES = 16 << 30  # bytes of a score matrix at once
MOST_SORTED = 1 << 28  # scores that CuPy's argpartition, a sort of whole copies, gets at once
MARGIN = 4  # times k that the bf16 contestant rescores


def parser_of(description: str | None, *, repeats: str, times: int, budget: float) -> argparse.ArgumentParser:
    """Make what the benchmarks for a GPU take, which benchmarks/gpu.sh calls alike."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(repeats, type=int, default=times)
    parser.add_argument("--budget", type=float, default=budget, help="seconds; what is beyond is left out")
    parser.add_argument("--save", type=Path, default=RESULTS, help="folder of the results file")
    return parser


def ask_driver(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0].strip()


def audit() -> list[list[str]]:
    """Search for violations of the bound on this device; returns the worst share of it per kind of data."""
    sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("kernels", "")]
    from test_screening_bound import KINDS

    module, rows = _backends.cuda(), []
    for kind in KINDS:
        worst, pairs = 0.0, 0
        for seed, d in enumerate((1, 16, 64, 128, 256)):
            random = np.random.default_rng(seed)
            with np.errstate(all="ignore"):
                q, x = (kind(random, n, d).clip(-3.4e38, 3.4e38).astype(np.float32) for n in (64, 4096))
                q[:5] = x[:5]
                for path in ("rows", "panels"):
                    values, errors, _, _ = module.probe_screening(q, x, "dot", path)
                    truth = q.astype(np.longdouble) @ x.astype(np.longdouble).T
                    counted = np.isfinite(errors) & np.isfinite(truth.astype(float))
                    share = (np.abs(values - truth) / errors)[counted]
                    worst, pairs = max(worst, float(share.max(initial=0))), pairs + int(counted.sum())
        assert worst < 1, f"the bound does not hold for {kind.__name__}: {worst}"
        rows.append([kind.__name__, f"{pairs:,}", f"{worst:.3f}"])
    return rows


def rate(work: Any, amount: float) -> float:
    """Find how much of something the device does in a second: the best of some tries."""
    import torch

    best = 0.0
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = max(best, amount / (time.perf_counter() - start))
    return best


def limits() -> dict[str, float]:
    """Measure what the device reads and multiplies at most."""
    import torch

    data = torch.zeros(1 << 30, dtype=torch.float16, device="cuda")
    reading = rate(lambda: data.view(torch.int32).sum(dtype=torch.int32), data.numel() * 2)
    copying = rate(lambda: data[: 1 << 29].copy_(data[1 << 29 :]), data.numel() * 2)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    products = rate(lambda: a @ a, 8192**3)
    return {"bytes_per_second": max(reading, copying), "fp16_products_per_second": products}


def contestants(q: Any, x: Any, k: int) -> dict[str, Any]:
    """Say what each does; every one returns ids and scores in order, on the device."""
    import cupy
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    index = salience.Index(x, device="cuda")
    half, transposed = x.bfloat16(), x.T
    chunk = max(1, min(len(q), MOST_SCORES // (4 * len(x))))
    cq, cx = cupy.asarray(q), cupy.asarray(x)

    def in_chunks(search: Any) -> Any:
        parts = [search(slice(start, start + chunk)) for start in range(0, len(q), chunk)]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def single(rows: slice) -> Any:
        scores, ids = torch.topk(q[rows] @ transposed, k)
        return ids, scores

    def rescored(rows: slice) -> Any:
        rough = torch.topk(q[rows].bfloat16() @ half.T, min(MARGIN * k, len(x)), sorted=False).indices
        exact = torch.empty(rough.shape, device=q.device)
        for start in range(0, len(rough), 64):  # gathered rows of some queries at a time
            part = slice(start, start + 64)
            exact[part] = torch.einsum("qd,qkd->qk", q[rows][part], x[rough[part]])
        scores, order = torch.topk(exact, k)
        return rough.gather(1, order), scores

    def ranked(rows: Any) -> Any:
        scores = rows @ cx.T
        ids = cupy.argpartition(scores, -k, axis=1)[:, -k:]
        found = cupy.take_along_axis(scores, ids, axis=1)
        order = cupy.argsort(-found, axis=1)
        return cupy.take_along_axis(ids, order, axis=1), cupy.take_along_axis(found, order, axis=1)

    def by_cupy() -> Any:
        some = max(1, MOST_SORTED // len(x))
        parts = [ranked(cq[start : start + some]) for start in range(0, len(cq), some)]
        return tuple(cupy.concatenate(part) for part in zip(*parts, strict=True))

    everyone = {
        "ours": lambda: index.search(q, k),
        "torch fp32": lambda: in_chunks(single),
        "torch bf16": lambda: in_chunks(rescored),
    }
    if len(q) * len(x) <= 1 << 30:  # beyond, sorting everything takes too long
        everyone["CuPy"] = by_cupy
    return everyone


def interleave(everyone: dict[str, Any], rounds: int, patience: float) -> tuple[dict[str, float], dict[str, Any]]:
    """Time the contestants in turn; the first round warms up, and one that takes too long runs no more."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in everyone}
    answers: dict[str, Any] = {}
    names = list(everyone)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if len(times[name]) and times[name][0] > patience:
                continue
            torch.cuda.synchronize()
            start = time.perf_counter()
            answer = everyone[name]()
            torch.cuda.synchronize()
            elapsed = time.perf_counter() - start
            if turn > 0 or elapsed > patience:
                times[name].append(elapsed)
            answers.setdefault(name, answer)
    return {name: statistics.median(values) for name, values in times.items()}, answers


def host(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array.cpu().numpy()


def check(answers: dict[str, Any], q: Any, x: Any, k: int) -> dict[str, float]:
    """Ours are the CPU's to the bit (on some queries); says how many ids of each peer agree with ours."""
    ids, scores = (host(array) for array in answers["ours"])
    some = np.linspace(0, len(q) - 1, min(4, len(q))).astype(int)
    expected = salience.topk(q[some].cpu().numpy(), x.cpu().numpy(), k, device="cpu")
    assert np.array_equal(ids[some], expected[0]), "ids differ from the CPU's"
    assert scores[some].tobytes() == expected[1].tobytes(), "scores differ from the CPU's"
    slack = 1e-5 * float(q.norm(dim=1).max()) * float(x.norm(dim=1).max())
    agreeing = {}
    for name in set(answers) - {"ours"}:
        if name != "torch bf16":
            assert np.abs(host(answers[name][1]) - scores).max() <= slack, name
        agreeing[name] = float(np.mean(np.sort(host(answers[name][0]), axis=1) == np.sort(ids, axis=1)))
    return agreeing


def run(shape: tuple[int, int, int, int], rounds: int, reached: dict[str, float]) -> dict[str, Any]:
    """Time one shape."""
    import cupy
    import torch

    torch.cuda.empty_cache()  # each library keeps what it had, where the others cannot use it
    cupy.get_default_memory_pool().free_all_blocks()
    queries, items, dims, k = shape
    torch.manual_seed(queries + items + dims)
    q, x = torch.randn(queries, dims, device="cuda"), torch.randn(items, dims, device="cuda")
    times, answers = interleave(contestants(q, x, k), rounds, 5.0)
    row: dict[str, Any] = {"queries": queries, "items": items, "dims": dims, "k": k, "seconds": times}
    row["agreeing_ids"] = check(answers, q, x, k)
    if queries <= 64:
        row["limit"] = items * dims * 2 / reached["bytes_per_second"] / times["ours"]
        row["limit_of"] = "bandwidth"
    else:
        row["limit"] = queries * items * dims / reached["fp16_products_per_second"] / times["ours"]
        row["limit_of"] = "products"
    return row


def cells(row: dict[str, Any]) -> list[str]:
    """Put a row into words: milliseconds and, in brackets, how many times as long as ours."""
    ours = row["seconds"]["ours"]
    peers = [
        f"{milliseconds(row['seconds'][name])} ({row['seconds'][name] / ours:.1f}x)" if name in row["seconds"] else "-"
        for name in ("torch fp32", "torch bf16", "CuPy")
    ]
    shape = f"{row['queries']} x {row['items']:,} x {row['dims']}, {row['k']}"
    return [shape, milliseconds(ours), *peers, f"{row['limit']:.0%} of {row['limit_of']}"]


def write(found: dict[str, Any], folder: Path) -> Path:
    """Write the results so far: a run that is cut short leaves its rows."""
    path = folder / ("gpu-" + found["device"].lower().replace(" ", "-") + ".json")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def main() -> None:
    options = parser_of(__doc__, repeats="--rounds", times=7, budget=float("inf")).parse_args()
    import cupy
    import torch

    start = time.perf_counter()
    audited = audit()
    print(markdown(["bound: data", "pairs", "worst share of the error"], audited), flush=True)
    reached = limits()
    found: dict[str, Any] = {
        "device": ask_driver("name"),
        "clocks": {name: ask_driver(name) for name in ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")},
        "versions": {
            "salience": salience.__version__, "driver": ask_driver("driver_version"), "torch": torch.__version__,
            "cupy": cupy.__version__, "python": platform.python_version(), "module": salience.show_config()["cuda"],
        },
        "limits": reached,
        "bound": [dict(zip(("data", "pairs", "worst"), row, strict=True)) for row in audited],
        "rows": [],
    }  # fmt: skip
    left_out = []
    for shape in QUICK if options.quick else SHAPES:
        if time.perf_counter() - start > options.budget:
            left_out.append(shape)
            continue
        try:
            row = run(shape, 3 if options.quick else options.rounds, reached)
        except (MemoryError, torch.cuda.OutOfMemoryError) as error:
            print(f"{shape}: left out, {error}", flush=True)
            continue
        found["rows"].append(row)
        write(found, options.save)
        print(" | ".join(cells(row)), flush=True)
    found["clocks"]["clocks.sm after"] = ask_driver("clocks.sm")
    found["left_out"] = left_out
    path = write(found, options.save)
    header = ["queries x items x dims, k", "ours, ms", "torch fp32", "torch bf16 + rescoring", "CuPy", "limit"]
    print(f"\n{found['device']}; reading {reached['bytes_per_second'] / 1e9:.0f} GB/s, fp16 products "
          f"{2 * reached['fp16_products_per_second'] / 1e12:.0f} TFLOP/s; {path}")  # fmt: skip
    if left_out:
        print(f"out of time: {left_out}")
    print(markdown(header, [cells(row) for row in found["rows"]]))


if __name__ == "__main__":
    main()
