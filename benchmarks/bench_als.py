"""Training loss against wall time: ALS beside implicit and irspack, from one start, on one objective.

    SALIENCE_DATA=... python benchmarks/bench_als.py --save als                    # Gowalla, and an ML-20M-like set
    SALIENCE_DATA=... python benchmarks/bench_als.py --data gowalla --factors 64   # one case

Everyone starts from the same item factors (users at 0) and minimizes the objective of salience.ALS with exponent 0
(its parameters in those of the peers: the docstring of salience.ALS). Epochs are interleaved: each contestant runs its
next one in turn, on the same threads. The clock runs during epochs only; after each, the loss of the model that would
be handed over then is computed from its factors by one NumPy function in float64, for everyone. What salience hands
over has its users solved exactly once more, which is in its time as in its loss; it is done on a copy after each epoch.
What is reported is the time to the loss that implicit's conjugate gradients reach in their last epoch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import salience
from contest import RESULTS, machine, markdown
from salience import Interactions
from salience._als import Factorization
from salience.bench.als import objective
from salience.datasets import load_gowalla

WEIGHT = 0.02  # of unobserved pairs
RIDGE = 2.5
REFERENCE = "implicit, CG"
PAUSE = 0.02  # seconds: idle threads of the contestant before spin for a while


def movielens_like(seed: int = 0) -> sp.csr_matrix:
    """Make 20 million interactions shaped like MovieLens 20M: 138,493 users, 26,744 items, a long tail, tastes."""
    users, items, entries, groups = 138_493, 26_744, 20_000_000, 20
    random = np.random.default_rng(seed)
    counts = np.exp(random.normal(0.0, 1.05, users))
    counts = np.minimum(20 + counts * (entries / users - 20) / counts.mean(), items / 4).astype(np.int64)
    popularity = 1.0 / (10.0 + np.arange(items)) ** 1.1
    group_of_item = random.integers(0, groups, items)
    cumulative = []
    for group in range(groups):
        chance = popularity * np.where(group_of_item == group, 8.0, 1.0)
        cumulative.append(np.cumsum(chance / chance.sum()))
    group_of_user = random.integers(0, groups, users)
    owner = np.repeat(np.arange(users), (1.6 * counts).astype(np.int64) + 1)
    drawn = np.empty(len(owner), np.int64)
    for group in range(groups):
        theirs = group_of_user[owner] == group
        drawn[theirs] = np.searchsorted(cumulative[group], random.random(theirs.sum()))
    matrix = sp.csr_matrix((np.ones(len(owner), np.float32), (owner, np.minimum(drawn, items - 1))), (users, items))
    matrix.data[:] = 1.0
    return matrix


DATA: dict[str, Callable[[], sp.csr_matrix]] = {
    "gowalla": lambda: sp.csr_matrix(load_gowalla()[0].matrix),
    "ml20m-like": movielens_like,
}


class Ours:
    """salience.ALS."""

    def __init__(self, matrix: sp.csr_matrix, items: np.ndarray, threads: int) -> None:
        self.model = salience.ALS(
            items.shape[1], unobserved_weight=WEIGHT, regularization=RIDGE, regularization_exponent=0.0, threads=threads
        )
        self.model.mean_ = 0.0
        data = Interactions.from_csr(matrix)
        self.state: Factorization = self.model._start(data, [None, None], None)
        self.state.items.factors[:] = items
        self.number = 0

    def epoch(self) -> None:
        self.number += 1
        self.state.epoch(self.number)

    def factors(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Return what would be handed over now, and the seconds that this takes."""
        finished = self.state.copy()
        begun = time.perf_counter()
        finished.finish()
        return finished.users.factors, finished.items.factors, time.perf_counter() - begun


class Implicit:
    """implicit's ALS; BLAS has one thread, as it asks for."""

    def __init__(self, matrix: sp.csr_matrix, items: np.ndarray, threads: int, *, use_cg: bool) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        excess = 1.0 / WEIGHT
        self.scale = np.float32(np.sqrt(excess / (1.0 + excess)))
        self.model = AlternatingLeastSquares(
            factors=items.shape[1], regularization=RIDGE * (1.0 + excess), alpha=1.0 + excess, iterations=1,
            use_cg=use_cg, num_threads=threads,
        )  # fmt: skip
        self.matrix = matrix
        self.model.user_factors = np.zeros((matrix.shape[0], items.shape[1]), np.float32)
        self.model.item_factors = items / self.scale

    def epoch(self) -> None:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            self.model.fit(self.matrix, show_progress=False)

    def factors(self) -> tuple[np.ndarray, np.ndarray, float]:
        return self.model.user_factors * self.scale, self.model.item_factors * self.scale, 0.0


class Irspack:
    """irspack's IALS trainer."""

    def __init__(self, matrix: sp.csr_matrix, items: np.ndarray, threads: int, *, solver: str) -> None:
        from irspack.recommenders.ials import IALSTrainer, LossType, SolverType

        kind = getattr(SolverType, solver)
        self.trainer = IALSTrainer(
            matrix, items.shape[1], WEIGHT, RIDGE, 0.0, 0.1, kind, 3, 64, LossType.IALSPP, 0, threads, 3, 1
        )
        self.trainer.core_trainer.user = np.zeros((matrix.shape[0], items.shape[1]), np.float32)
        self.trainer.core_trainer.item = items.copy()

    def epoch(self) -> None:
        self.trainer.run_epoch()

    def factors(self) -> tuple[np.ndarray, np.ndarray, float]:
        return self.trainer.core_trainer.user, self.trainer.core_trainer.item, 0.0


CONTESTANTS: dict[str, Callable[[sp.csr_matrix, np.ndarray, int], Any]] = {
    "salience": Ours,
    "implicit, CG": lambda *start: Implicit(*start, use_cg=True),
    "implicit, Cholesky": lambda *start: Implicit(*start, use_cg=False),
    "irspack, CG": lambda *start: Irspack(*start, solver="CG"),
    "irspack, iALS++": lambda *start: Irspack(*start, solver="IALSPP"),
    "irspack, Cholesky": lambda *start: Irspack(*start, solver="CHOLESKY"),
}
FAST = ("salience", "implicit, CG", "irspack, CG")


def start_of(matrix: sp.csr_matrix, factors: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.standard_normal((matrix.shape[1], factors)) * 0.1 / np.sqrt(factors)).astype(np.float32)


class Race:
    """Epochs of all contestants in turn; their clocks and their factors after each."""

    def __init__(self, matrix: sp.csr_matrix, factors: int, epochs: int, threads: int, names: tuple[str, ...]) -> None:
        items = start_of(matrix, factors)
        running = {name: CONTESTANTS[name](matrix, items, threads) for name in names}
        self.matrix = matrix
        self.lengths: dict[str, list[float]] = {name: [] for name in names}  # of epochs, in seconds
        self.seconds: dict[str, list[float]] = {name: [] for name in names}  # to what is handed over after each
        self.snapshots: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
        self.losses: dict[tuple[str, int], float] = {}
        for number in range(epochs):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                time.sleep(PAUSE)
                begun = time.perf_counter()
                running[name].epoch()
                self.lengths[name].append(time.perf_counter() - begun)
                users, found, finish = running[name].factors()
                self.seconds[name].append(sum(self.lengths[name]) + finish)
                self.snapshots[name].append((users.copy(), found.copy()))
            print(f"  epoch {number + 1} of {epochs}", file=sys.stderr, flush=True)

    def loss(self, name: str, epoch: int) -> float:
        """Return the objective after an epoch (from 0), computed when it is first asked for."""
        if (name, epoch) not in self.losses:
            self.losses[name, epoch] = objective(
                self.matrix, *self.snapshots[name][epoch], unobserved_weight=WEIGHT, regularization=RIDGE,
                regularization_exponent=0.0,
            )  # fmt: skip
        return self.losses[name, epoch]

    def reaches(self, name: str, target: float) -> int | None:
        """Return the first epoch (from 0) whose loss is at most the target: losses fall."""
        low, high = 0, len(self.snapshots[name]) - 1
        if self.loss(name, high) > target:
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.loss(name, middle) <= target else (middle + 1, high)
        return low

    def curve(self, name: str) -> np.ndarray:
        """Return seconds and losses of the epochs that were measured, shape (n, 2)."""
        epochs = sorted(epoch for other, epoch in self.losses if other == name)
        return np.array([(self.seconds[name][epoch], self.losses[name, epoch]) for epoch in epochs])


def rows_of(data: str, factors: int, race: Race) -> list[list[str]]:
    last = len(race.snapshots[REFERENCE]) - 1
    target = race.loss(REFERENCE, last)
    reached = {name: race.reaches(name, target) for name in race.snapshots}
    ours = reached["salience"]
    rows = []
    for name, epoch in reached.items():
        needed = race.seconds[name][last if epoch is None else epoch]
        over = "over " if epoch is None else ""
        ratio = "-" if ours is None else f"{over}{needed / race.seconds['salience'][ours]:.1f}x"
        rows.append([
            data, str(factors), name, f"{1e3 * np.median(race.lengths[name][1:]):.0f}",
            f"{over}{1 + (last if epoch is None else epoch)}", f"{over}{needed:.2f}", ratio,
            f"{race.loss(name, last):.6g}",
        ])  # fmt: skip
    return rows


def peak_memory(data: str, factors: int, name: str, threads: int) -> str:
    """Run one epoch in a process of its own; returns what it needs at its peak beyond the data, in MB."""
    arguments = [sys.executable, __file__, "--memory", name, "--data", data, "--factors", str(factors)]
    found = subprocess.run([*arguments, "--threads", str(threads)], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def measure_memory(data: str, factors: int, name: str, threads: int) -> None:
    matrix = DATA[data]()
    items = start_of(matrix, factors)

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    CONTESTANTS[name](matrix[:100], items, threads).epoch()  # what importing and starting costs is not counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    CONTESTANTS[name](matrix, items, threads).epoch()
    print(f"{(status('VmHWM') - before) / 1024:.0f}")


def plot(races: dict[tuple[str, int], Race], path: Any) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    curves = {case: {name: race.curve(name) for name in race.snapshots} for case, race in races.items()}
    columns = min(len(curves), 4)
    rows = -(-len(curves) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False)
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for axis, ((data, factors), found) in zip(axes.flat, curves.items(), strict=False):
        best = min(curve[:, 1].min() for curve in found.values())
        for name, curve in found.items():
            style = {"color": f"C{list(CONTESTANTS).index(name)}", "lw": 2 if name == "salience" else 1}
            axis.plot(curve[:, 0], curve[:, 1] / best - 1 + 1e-5, marker=".", label=name, **style)
        axis.set(xscale="log", yscale="log", title=f"{data}, {factors} factors", xlabel="seconds")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss above the lowest")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA)
    parser.add_argument("--factors", type=int, nargs="+")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, help="besides salience and implicit, CG")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--save", help="name of the files in benchmarks/results")
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.data, options.factors[0], options.memory, options.threads)
        return
    cases = [("gowalla", factors) for factors in (64, 128, 256, 512)]
    cases += [("ml20m-like", factors) for factors in (64, 128)]
    if options.data:
        cases = [(options.data, factors) for factors in options.factors or (64,)]
    races: dict[tuple[str, int], Race] = {}
    rows, matrices = [], {}
    for data, factors in cases:
        if data not in matrices:
            matrices[data] = DATA[data]()
        matrix = matrices[data]
        matrix.data[:] = 1.0
        slow = data != "gowalla" or factors > 128
        names = tuple(dict.fromkeys((*FAST[:2], *(options.contestants or (FAST if slow else CONTESTANTS)))))
        print(
            f"{data}: {matrix.shape[0]:,} x {matrix.shape[1]:,}, {matrix.nnz:,} entries, {factors} factors",
            file=sys.stderr,
        )
        race = races[data, factors] = Race(matrix, factors, options.epochs, options.threads, names)
        rows += rows_of(data, factors, race)
        for name in names if data == "gowalla" else ():
            for epoch in range(options.epochs):
                race.loss(name, epoch)
        race.snapshots = {name: [] for name in names}
    head = [
        f"{machine()}; {options.threads} threads, {salience.show_config()['kernels']} kernels",
        f"implicit {version('implicit')}, irspack {version('irspack')}",
        f"unobserved weight {WEIGHT}, ridge {RIDGE}, exponent 0",
        f"target: the loss of {REFERENCE} after {options.epochs} epochs",
    ]
    columns = ["data", "factors", "", "ms an epoch", "epochs to target", "seconds to target", "ratio", "last loss"]
    text = "\n".join([*("- " + line for line in head), "", markdown(columns, rows)])
    data, factors = cases[-1]
    memory = [[data, str(factors), name, peak_memory(data, factors, name, options.threads)] for name in FAST]
    text += "\n\nPeak memory of one epoch beyond the interactions and the start:\n\n"
    text += markdown(["data", "factors", "", "MB"], memory)
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text("# Training\n\n" + text + "\n")
        plot(races, RESULTS / f"{options.save}.png")


if __name__ == "__main__":
    main()
