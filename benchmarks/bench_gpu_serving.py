"""Blended top-k and attention over histories on a GPU beside torch, in turn, answers checked.

    bash benchmarks/gpu.sh                        # builds, tests, then runs this last
    python benchmarks/bench_gpu_serving.py --quick

What HybridScorer and HistoryAttention ask for: queries, additions, gates and candidates come from host memory and
answers go back there; items and unit vectors are on the device already, torch's too. Ours are the CPU's to the bit (on
some queries), torch's scores agree to 1e-4 of the largest.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

import salience
from bench_gpu import ask_driver, parser_of
from contest import interleave, markdown, milliseconds
from salience import _backends, _core, _device

TEMPERATURE, SMOOTHING, HISTORY = 0.1, 0.5, 50
# queries, items, dims, k: with a tenth of a per cent of additions and two columns of gates.
BLENDS = [(256, 100_000, 128, 10), (1024, 1_000_000, 128, 10), (64, 1_000_000, 128, 100)]
# users, items, dims, candidates
ATTENTIONS = [(1000, 100_000, 128, 500), (4000, 100_000, 256, 500)]
Contest = tuple[dict[str, Callable[[], Any]], Callable[[dict[str, Any]], None]]


def packed(matrix: Any) -> tuple[tuple[Any, Any], Any]:
    """Return additions as a search takes them."""
    return (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)), matrix.data


def blended(shape: tuple[int, int, int, int], device: str) -> Contest:
    """Say who searches blended scores, and how answers are checked."""
    queries, items, dims, k = shape
    random = np.random.default_rng(queries + items)
    q, x = (random.standard_normal((rows, dims), np.float32) for rows in (queries, items))
    added = sp.random_array((queries, items), density=0.001, format="csr", dtype=np.float32, rng=random)
    added.sort_indices()
    gates = tuple(np.sort(random.random((rows, 2), np.float32) + 0.5, axis=0) for rows in (queries, items))
    index = salience.Index(x, device="cuda")

    def check(answers: dict[str, Any]) -> None:
        ids, scores = answers["ours"]
        some = np.linspace(0, queries - 1, min(4, queries)).astype(int)
        blend = packed(added[some]), (gates[0][some], gates[1])
        expected = salience.Index(x)._state.search(q[some], k, None, None, 0, "auto", *blend, None)
        assert np.array_equal(ids[some], expected[0]), "ids differ from the CPU's"
        assert scores[some].tobytes() == expected[1].tobytes(), "scores differ from the CPU's"
        for name in set(answers) - {"ours"}:
            assert np.abs(answers[name][1] - scores).max() <= 1e-4 * np.abs(scores).max(), name

    everyone = {"ours": lambda: index._state.search(q, k, None, None, 0, "auto", packed(added), gates, None)}
    with contextlib.suppress(ImportError):
        everyone["torch"] = blended_by_torch(q, x, added, gates, k, device)
    return everyone, check


def blended_by_torch(q: Any, x: Any, added: Any, gates: Any, k: int, device: str) -> Callable[[], Any]:
    """Make every score, then select."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    transposed, item_gates = torch.from_numpy(x).to(device).T, torch.from_numpy(gates[1]).to(device).T
    rows = np.repeat(np.arange(len(q)), np.diff(added.indptr))
    some = max(1, (1 << 30) // len(x))  # queries at a time

    def search() -> Any:
        found = []
        for start in range(0, len(q), some):
            part = slice(start, start + some)
            scores = torch.from_numpy(q[part]).to(device) @ transposed
            there = slice(added.indptr[start], added.indptr[min(start + some, len(q))])
            where = [torch.from_numpy(array[there].astype(np.int64)).to(device) for array in (rows, added.indices)]
            scores[where[0] - start, where[1]] += torch.from_numpy(added.data[there]).to(device)
            scores /= torch.from_numpy(gates[0][part]).to(device) @ item_gates
            best = torch.topk(scores, k)
            found.append((best.indices.cpu().numpy(), best.values.cpu().numpy()))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    return search


def attention(shape: tuple[int, int, int, int], device: str) -> Contest:
    """Say who attends over histories of 50 items, and how answers are checked."""
    users, items, dims, candidates = shape
    random = np.random.default_rng(users + items)
    units = _core.unit_rows(random.standard_normal((items, dims), np.float32), 0)
    past = np.sort(random.integers(0, items, (users, HISTORY)).astype(np.int32), axis=1)
    pattern = np.arange(users + 1, dtype=np.int64) * HISTORY, past.ravel()
    wanted = random.integers(0, items, (users, candidates))
    held = _device.DeviceUnits(_backends.cuda(), units)

    def check(answers: dict[str, Any]) -> None:
        some = min(4, users)
        first = pattern[0][: some + 1], pattern[1][: some * HISTORY]
        expected = _core.attend(units, first, None, wanted[:some], TEMPERATURE, SMOOTHING, 0)
        assert answers["ours"][:some].tobytes() == expected.tobytes(), "attention differs from the CPU's"
        for name in set(answers) - {"ours"}:
            assert np.allclose(answers[name], answers["ours"], rtol=1e-3, atol=1e-4), name

    everyone = {"ours": lambda: held.attend(pattern, None, wanted, TEMPERATURE, SMOOTHING)}
    with contextlib.suppress(ImportError):
        everyone["torch"] = attention_by_torch(units, past, wanted, device)
    return everyone, check


def attention_by_torch(units: Any, past: Any, wanted: Any, device: str) -> Callable[[], Any]:
    """Attend for some users at a time by batched products; histories of one length make that easy."""
    import torch

    vectors = torch.from_numpy(np.ascontiguousarray(units)).to(device)

    def attend() -> Any:
        found = []
        for start in range(0, len(past), 256):
            part = slice(start, start + 256)
            before = torch.from_numpy(past[part].astype(np.int64)).to(device)
            items = torch.from_numpy(wanted[part]).to(device)
            products = torch.bmm(vectors[items], vectors[before].transpose(1, 2))
            weights = torch.exp((products - 1) / TEMPERATURE) * (items[:, :, None] != before[:, None, :])
            total = weights.sum(2)
            pooled = (weights * products).sum(2) / torch.where(total > 0, total, 1.0) ** SMOOTHING
            found.append(pooled.cpu().numpy())
        return np.concatenate(found)

    return attend


def run(kind: str, shape: tuple[int, int, int, int], rounds: int, device: str = "cuda") -> dict[str, Any]:
    """Time one shape."""
    everyone, check = {"blended top-k": blended, "attention": attention}[kind](shape, device)
    times, answers = interleave(everyone, rounds=rounds, patience=5.0)
    check(answers)
    return {"what": kind, "shape": shape, "seconds": times}


def cells(row: dict[str, Any]) -> list[str]:
    """Put a row into words."""
    ours, peer = row["seconds"]["ours"], row["seconds"].get("torch")
    words = "-" if peer is None else f"{milliseconds(peer)} ({peer / ours:.1f}x)"
    return [row["what"], " x ".join(f"{size:,}" for size in row["shape"]), milliseconds(ours), words]


def main() -> None:
    options = parser_of(__doc__, repeats="--rounds", times=5, budget=45.0).parse_args()
    start, name = time.perf_counter(), ask_driver("name")
    rows: list[dict[str, Any]] = []
    left_out = []
    shapes = [("blended top-k", BLENDS[0]), ("attention", ATTENTIONS[0])]
    if not options.quick:
        shapes += [*(("blended top-k", shape) for shape in BLENDS[1:]), ("attention", ATTENTIONS[1])]
    for kind, shape in shapes:
        if time.perf_counter() - start > options.budget:
            left_out.append((kind, shape))
            continue
        rows.append(run(kind, shape, options.rounds))
        print(" | ".join(cells(rows[-1])), flush=True)
    options.save.mkdir(parents=True, exist_ok=True)
    path = options.save / ("gpu-serving-" + name.lower().replace(" ", "-") + ".json")
    path.write_text(json.dumps({"device": name, "rows": rows, "left_out": left_out}, indent=1) + "\n")
    print(f"\n{name}; {path}")
    if left_out:
        print(f"out of time: {left_out}")
    print(markdown(["", "queries (users) x items x dims x k (candidates)", "ours, ms", "torch fp32"], map(cells, rows)))


if __name__ == "__main__":
    main()
