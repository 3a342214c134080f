"""Exact top-k beside its peers, in one interleaved run, every answer checked.

    SALIENCE_DATA=... python benchmarks/bench_topk.py --published     # the table in results: 25 minutes or more
    python benchmarks/bench_topk.py --data gaussian --items 50000 --queries 1,256 --dims 64 --k 10

Ours on every instruction set that the machine has, against faiss (IndexFlatIP), implicit's topk (also with BLAS
on one thread, better for many queries), usearch (exact), NumPy (matmul, argpartition) and torch (matmul, topk),
all on the same threads; the metric is the inner product. Indexes are built before the clock starts. Ratios are of
medians; "limit" is the share of the 16-bit arithmetic (or, for one query, of the memory reading) that this machine
does at most.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

import salience
from contest import RESULTS, interleave, machine, markdown, milliseconds
from salience import _core
from salience.bench import UnsupportedError, topk
from salience.bench.topk import TopK
from salience.datasets import load_gowalla

PEERS = ("faiss-cpu", "implicit", "usearch", "numpy", "torch")
ALS_SETTINGS = {"unobserved_weight": 0.01, "regularization": 0.003, "regularization_exponent": 1.0, "epochs": 4}
NAMES = ("faiss", "implicit", "numpy", "torch", "usearch")
DIMS, MANY = (64, 128, 256), (1, 16, 256, 1024, 8192)
# Shapes whose peers take minutes are left out. Gowalla has the items it has.
PUBLISHED = [
    *itertools.product(["gowalla"], [40_981], DIMS, MANY, [10, 100]),
    *itertools.product(["gaussian"], [50_000], DIMS, MANY, [10, 100]),
    *itertools.product(["gaussian"], [100_000], DIMS, [1], [10, 100]),
    *itertools.product(["anisotropic"], [50_000], DIMS, [1, 256, 8192], [10, 100]),
    *itertools.product(["gaussian"], [1_000_000], DIMS, [1, 16, 256], [10, 100]),
    *itertools.product(["anisotropic"], [1_000_000], [128], [1, 256], [10, 100]),
    *itertools.product(["gaussian"], [1_000_000], DIMS, [1024], [10, 100]),
    *itertools.product(["gaussian"], [1_000_000], [64, 128], [8192], [10, 100]),
]
_factors: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def draw(data: str, queries: int, items: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw queries and items of one kind of data; Gowalla has its own number of items."""
    if data != "gowalla":
        return topk.draw(data, queries, items, dims)
    if dims not in _factors:
        model = salience.ALS(dims, **ALS_SETTINGS).fit(load_gowalla()[0])
        _factors[dims] = model.user_factors_, model.item_factors_
    users, x = _factors[dims]
    random = np.random.default_rng([queries, items, dims])
    return users[random.choice(len(users), queries, replace=False)], x


def peers(q: np.ndarray, x: np.ndarray, k: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Say what each peer does; every one returns ids and scores in order."""
    problem = TopK(q, x, k, threads, "")
    calls = {}
    for name in NAMES:
        with contextlib.suppress(UnsupportedError):
            calls.update(topk.ADAPTERS[name](problem))
    return calls


class Search:
    """Index.search on one instruction set."""

    def __init__(self, name: str, q: np.ndarray, x: np.ndarray, k: int, threads: int) -> None:
        _core.use_instruction_set(name)
        self.name, self.q, self.k, self.threads = name, q, k, threads
        self.index = salience.Index.borrow(x)
        self.packed = self.index.nbytes

    def __call__(self) -> Any:
        """Search."""
        _core.use_instruction_set(self.name)
        return self.index.search(self.q, self.k, threads=self.threads)

    @property
    def element_bytes(self) -> int:
        """What was read of each element: 1 where searches made the copy in 8 bits."""
        return 1 if self.index.nbytes > self.packed else 2


def check(answers: dict[str, Any], q: np.ndarray, x: np.ndarray, sets: list[str]) -> None:
    """Ours agree to the bit; peers agree up to the rounding of fp32 sums, in scores position by position."""
    ids, scores = answers[sets[0]]
    for name in sets:
        assert np.array_equal(answers[name][0], ids), name
        assert answers[name][1].tobytes() == scores.tobytes(), name
    for name, verdict in topk.judge(answers, answers[sets[0]], q, x).items():
        assert verdict.agrees, f"{name} {verdict.words}"
        agreeing = verdict.figures["ids_equal"]
        assert agreeing > 0.99 or name == "numpy", f"{name} has {agreeing:.1%} of the ids"


class Contest:
    """Runs shapes, remembers what peers need per product, and leaves out those that would take too long."""

    def __init__(self, threads: int, patience: float, limits: dict[str, dict[str, float]]) -> None:
        self.threads, self.patience, self.limits = threads, patience, limits
        self.sets = list(limits)
        self.rates: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []

    def run(self, data: str, queries: int, items: int, dims: int, k: int) -> None:
        """Time one shape, check its answers, keep and print its row."""
        q, x = draw(data, queries, items, dims)
        products = queries * len(x) * dims
        everyone = peers(q, x, k, self.threads)
        predicted = {name: self.rates.get(name, 0.0) * products for name in everyone}
        affordable = [name for name in everyone if predicted[name] < self.patience]
        affordable = affordable or [min(predicted, key=predicted.__getitem__)]
        sets = [name for name in self.sets if self.rates.get(name, 0.0) * products < self.patience] or self.sets[-1:]
        ours = {name: Search(name, q, x, k, self.threads) for name in sets}
        contestants = {**ours, **{name: everyone[name] for name in affordable}}
        rounds = int(np.clip(5e11 / products / len(contestants), 2, 9))
        times, answers = interleave(contestants, rounds=rounds, patience=self.patience)
        check(answers, q, x, sets)
        for name in contestants:
            if products > 1e10:
                self.rates[name] = times[name] / products
        fastest = min(affordable, key=times.__getitem__)
        row = {"data": data, "queries": queries, "items": len(x), "dims": dims, "k": k, "fastest": fastest,
               "rounds": rounds, "times": times, "element_bytes": ours[sets[-1]].element_bytes}  # fmt: skip
        self.rows.append(row)
        print(" ".join(self.cells(row)), flush=True)

    def cells(self, row: dict[str, Any]) -> list[str]:
        """Put a row into words."""
        times, best = row["times"], row["times"][row["fastest"]]
        cells = [row["data"], str(row["queries"]), f"{row['items']:,}", str(row["dims"]), str(row["k"])]
        cells += [f"{row['fastest'].split(',')[0]} {milliseconds(best)}"]
        cells += [
            f"{milliseconds(times[name])} ({best / times[name]:.1f}x)" if name in times else "-" for name in self.sets
        ]
        last = self.sets[-1]
        if row["queries"] == 1:
            limit = row["items"] * row["dims"] * row["element_bytes"] / self.limits[last]["bytes_per_second"]
        else:
            limit = row["queries"] * row["items"] * row["dims"] / self.limits[last]["products_per_second"]
        return [*cells, f"{limit / times[last]:.0%}"]

    def table(self) -> str:
        """Lay out ours beside the fastest peer."""
        header = ["data", "queries", "items", "dims", "k", "fastest peer, ms", *(f"{name}, ms" for name in self.sets)]
        return markdown([*header, f"limit ({self.sets[-1]})"], [self.cells(row) for row in self.rows])

    def peer_table(self) -> str:
        """Lay out every peer."""
        names = sorted({name for row in self.rows for name in row["times"]} - set(self.sets))
        rows = [
            [
                *self.cells(row)[:5],
                *(milliseconds(row["times"][name]) if name in row["times"] else "-" for name in names),
            ]
            for row in self.rows
        ]
        return markdown(["data", "queries", "items", "dims", "k", *(f"{name}, ms" for name in names)], rows)


def plot(contest: Contest, path: Any) -> None:
    """Speed-up over the fastest peer, a panel per kind of data."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(row["data"] for row in contest.rows))
    figure, axes = plt.subplots(len(kinds), 1, figsize=(14, 4 * len(kinds)), squeeze=False, layout="constrained")
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        rows = [row for row in contest.rows if row["data"] == kind]
        place = np.arange(len(rows))
        for n, name in enumerate(contest.sets):
            gains = [row["times"][row["fastest"]] / row["times"].get(name, np.inf) for row in rows]
            axis.bar(place + (n - (len(contest.sets) - 1) / 2) * 0.8 / len(contest.sets), gains,
                     0.8 / len(contest.sets), label=name)  # fmt: skip
        labels = [f"{row['queries']} x {row['items'] // 1000}k x {row['dims']}, {row['k']}" for row in rows]
        axis.set_xticks(place, labels, fontsize=7, rotation=90)
        axis.set_xlim(-0.7, len(rows) - 0.3)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(title=f"{kind}: queries x items x dims, k", ylabel="times the fastest peer", yscale="log")
        axis.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes[0, 0].legend(ncols=len(contest.sets), fontsize=8)
    figure.savefig(path, dpi=130)


def growth(threads: int) -> str:
    """How the time of 256 queries of 128 dimensions grows with items and with k."""
    q, x = draw("gaussian", 256, 1_000_000, 128)
    rows = []
    for items, k in [(10_000, 10), (100_000, 10), (1_000_000, 10), (1_000_000, 1), (1_000_000, 100), (1_000_000, 1000),
                     (1_000_000, 10_000)]:  # fmt: skip
        index = salience.Index.borrow(x[:items])
        search = {"ours": lambda index=index, k=k: index.search(q, k, threads=threads)}
        times, _ = interleave(search, rounds=5, patience=30)
        rows.append([f"{items:,}", f"{k:,}", milliseconds(times["ours"]), f"{times['ours'] / items * 1e9:.0f}"])
    return markdown(["items", "k", "ms", "ns per item"], rows)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="gaussian,gowalla,anisotropic")
    parser.add_argument("--items", type=numbers, default=[50_000, 1_000_000])
    parser.add_argument("--queries", type=numbers, default=[1, 16, 256, 1024, 8192])
    parser.add_argument("--dims", type=numbers, default=[64, 128, 256])
    parser.add_argument("--k", type=numbers, default=[10, 100])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sets", help="instruction sets; default: all that are offered")
    parser.add_argument("--patience", type=float, default=4.0, help="seconds a peer may take before it is left out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--published", action="store_true", help="the shapes of the published table")
    parser.add_argument("--growth", action="store_true", help="also show growth with items and k")
    parser.add_argument("--save", help="name of the files in benchmarks/results")
    options = parser.parse_args()
    from threadpoolctl import threadpool_limits

    threadpool_limits(options.threads)
    offered = [row["name"] for row in salience.show_config()["instruction_sets"] if row["offered"]]
    # Last the one that is taken by default, whose limit is shown.
    offered.sort(key=lambda name: name == salience.show_config()["kernels"])
    sets = options.sets.split(",") if options.sets else offered
    limits = {}
    for name in sets:
        _core.use_instruction_set(name)
        limits[name] = _core.machine_limits(options.threads)
    head = [f"{machine()}; {options.threads} threads; salience {salience.show_config()['version']}"]
    head += [", ".join(f"{peer} {version(peer)}" for peer in PEERS)]
    reached = "; ".join(f"{name} {limit['products_per_second'] / 1e9:.0f}" for name, limit in limits.items())
    head += [f"machine limit, 1e9 16-bit multiply-adds/s: {reached}"]
    head += [f"reading memory: {limits[sets[-1]]['bytes_per_second'] / 1e9:.0f} GB/s"]
    print("\n".join(head), flush=True)
    contest = Contest(options.threads, options.patience, limits)
    start = time.perf_counter()
    grid = list(itertools.product(options.data.split(","), options.items, options.dims, options.queries, options.k))
    if options.published:
        grid = PUBLISHED
    try:
        for data, items, dims, queries, k in grid:
            if time.perf_counter() - start > options.seconds:
                print("out of time: the rest is left out", flush=True)
                break
            contest.run(data, queries, items, dims, k)
    except KeyboardInterrupt:
        print("interrupted: the rest is left out", flush=True)
    parts = [*("- " + line for line in head), "", contest.table(), "", "Peers:", "", contest.peer_table()]
    if options.growth:
        _core.use_instruction_set(sets[-1])
        parts += ["", f"Growth, {sets[-1]}, 256 queries of 128 dimensions:", "", growth(options.threads)]
    print("\n".join(parts))
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text("# Exact top-k\n\n" + "\n".join(parts) + "\n")
        plot(contest, RESULTS / f"{options.save}.png")


if __name__ == "__main__":
    main()
