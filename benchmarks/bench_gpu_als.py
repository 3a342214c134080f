"""ALS on a GPU beside implicit's GPU solver and a plain implementation in torch: one start, one objective, in turn.

    bash benchmarks/gpu.sh                      # builds, tests, then runs this after the benchmark of top-k
    python benchmarks/bench_gpu_als.py --quick
    python benchmarks/bench_gpu_als.py --project   # needs no GPU: what arithmetic says of one, nothing measured

The data are drawn on the GPU, shaped like MovieLens 20M and Netflix. Everyone starts from the same item factors (users
at 0) and minimizes the objective of salience.ALS with exponent 0; epochs are interleaved; after each the loss is
computed from the factors by one function in float64. A contestant's clock runs during its epochs only: wall-clock with
the device synchronized, for implicit what its own callback measures around the work on the device. "seconds" is the
time to the loss that the slowest contestant has after its last epoch.

"limit" is the share of an epoch that the larger of two times makes up: reading every entry's factors twice (once for
each side) in 16 bits at the rate measured on a tensor that fits the cache, and the conjugate gradients' float32
operations at the rate of a float32 matrix product.
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import salience
from bench_gpu import ask_driver, parser_of, rate
from contest import markdown
from salience import ALS, Interactions
from salience._als import padded_width
from salience._als_backends import operations_of_exact

WEIGHT = 0.02  # of unobserved pairs
RIDGE = 2.5
STEPS = 3  # of the peers' conjugate gradients; ours take two
PAIRS = 1 << 21  # entries whose factors the peers' and the losses' gathers hold at once, times 64 factors

SHAPES = {"ml-20m": (138_493, 26_744, 20_000_000), "netflix": (480_189, 17_770, 99_000_000)}
CASES = [("ml-20m", 64), ("ml-20m", 128), ("netflix", 64), ("ml-20m", 256), ("netflix", 128)]
QUICK = [("ml-20m", 64)]


def draw(name: str, device: str, share: float = 1.0) -> Any:
    """Draw users x items pairs with long tails on both sides, as a CSR matrix of ones."""
    import torch

    users, items, entries = (max(20, int(size * share)) for size in SHAPES[name])
    generator = torch.Generator(device).manual_seed(0)
    activity = torch.randn(users, generator=generator, device=device).mul_(1.05).exp_()
    counts = (20 + activity * max(0.0, entries / users - 20) / activity.mean()).clamp_max(items / 4)
    popularity = torch.cumsum(1.0 / (10.0 + torch.arange(items, device=device, dtype=torch.float64)) ** 1.1, 0)
    keys = []
    for part in torch.repeat_interleave(torch.arange(users, device=device), (1.3 * counts).long()).split(1 << 24):
        drawn = torch.rand(len(part), generator=generator, device=device, dtype=torch.float64) * popularity[-1]
        keys.append(part * items + torch.searchsorted(popularity, drawn).clamp_max(items - 1))
    key = torch.unique(torch.cat(keys)).cpu().numpy()
    indptr = np.searchsorted(key, np.arange(users + 1, dtype=np.int64) * items)
    return sp.csr_matrix((np.ones(len(key), np.float32), (key % items).astype(np.int32), indptr), shape=(users, items))


class Entries:
    """The pairs of a matrix on the device, and passes over them in parts."""

    def __init__(self, matrix: Any, factors: int, device: str) -> None:
        import torch

        counts = torch.from_numpy(np.diff(matrix.indptr).astype(np.int64)).to(device)
        self.rows = torch.repeat_interleave(torch.arange(matrix.shape[0], device=device), counts)
        self.columns = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)
        self.part = max(1, PAIRS * 64 // factors)

    def parts(self) -> Any:
        return zip(self.rows.split(self.part), self.columns.split(self.part), strict=True)


def loss_of(entries: Entries, users: Any, items: Any) -> float:
    """Compute the objective from factors on the device, in float64."""
    x, y = users.double(), items.double()
    found = sum(
        float((1.0 - (users[rows].double() * items[columns].double()).sum(1)).square().sum())
        for rows, columns in entries.parts()
    )
    return found + WEIGHT * float(((x.T @ x) * (y.T @ y)).sum()) + RIDGE * float(x.square().sum() + y.square().sum())


class Ours:
    """salience.ALS on the device."""

    def __init__(self, matrix: Any, items: np.ndarray, device: str) -> None:
        model = ALS(
            items.shape[1], unobserved_weight=WEIGHT, regularization=RIDGE, regularization_exponent=0.0, device="cuda"
        )
        model.mean_ = 0.0
        self.state = model._start(Interactions.from_csr(matrix), [None, None], None, 1)
        self.state.backend.assign(self.state.items.factors, items)
        self.device, self.number = device, 0

    def epoch(self) -> None:
        self.number += 1
        self.state.epoch(self.number)

    def factors(self) -> Any:
        import torch

        sides = (self.state.users, self.state.items)
        return [torch.from_numpy(self.state.host(side.factors).copy()).to(self.device) for side in sides]


class Implicit:
    """implicit's ALS on the GPU."""

    def __init__(self, matrix: Any, items: np.ndarray, device: str) -> None:
        import implicit.gpu
        from implicit.gpu.als import AlternatingLeastSquares

        if not implicit.gpu.HAS_CUDA:
            raise ImportError("implicit's CUDA extension does not load")
        excess = 1.0 / WEIGHT
        self.scale, self.device = float(np.sqrt(excess / (1.0 + excess))), device
        self.matrix = matrix.copy()
        self.matrix.data[:] = 1.0 + excess
        self.model = AlternatingLeastSquares(
            factors=items.shape[1], regularization=RIDGE * (1.0 + excess), iterations=1
        )
        self.model.user_factors = implicit.gpu.Matrix(np.zeros((matrix.shape[0], items.shape[1]), np.float32))
        self.model.item_factors = implicit.gpu.Matrix((items / self.scale).astype(np.float32))
        self.seconds: list[float] = []
        self.model.fit_callback = lambda *measured: self.seconds.append(measured[1])

    def epoch(self) -> float:
        self.model.fit(self.matrix, show_progress=False)
        return self.seconds[-1]

    def factors(self) -> Any:
        import torch

        found = (self.model.user_factors.to_numpy(), self.model.item_factors.to_numpy())
        return [torch.from_numpy(part * np.float32(self.scale)).to(self.device) for part in found]


class Torch:
    """Conjugate gradients for all rows of a side together, by gathers and scatters of torch."""

    def __init__(self, matrix: Any, items: np.ndarray, device: str) -> None:
        import torch

        factors = items.shape[1]
        self.sides = [Entries(matrix, factors, device), Entries(matrix.T.tocsr(), factors, device)]
        self.x = [torch.zeros(matrix.shape[0], factors, device=device), torch.from_numpy(items.copy()).to(device)]

    def _half(self, side: int) -> None:
        entries, x, y = self.sides[side], self.x[side], self.x[1 - side]
        gramian = WEIGHT * (y.T @ y)
        gramian.diagonal().add_(RIDGE)

        def apply(p: Any) -> Any:
            out = p @ gramian
            for rows, columns in entries.parts():
                seen = y[columns]
                out.index_add_(0, rows, (p[rows] * seen).sum(1, keepdim=True) * seen)
            return out

        residual = -apply(x)
        for rows, columns in entries.parts():
            residual.index_add_(0, rows, y[columns])
        direction, rho = residual.clone(), residual.square().sum(1, keepdim=True)
        for _ in range(STEPS):
            image = apply(direction)
            step = rho / (direction * image).sum(1, keepdim=True).clamp_min(1e-30)
            x += step * direction
            residual -= step * image
            following = residual.square().sum(1, keepdim=True)
            direction = residual + following / rho.clamp_min(1e-30) * direction
            rho = following

    def epoch(self) -> None:
        self._half(0)
        self._half(1)

    def factors(self) -> Any:
        return [part.clone() for part in self.x]


CONTESTANTS = {"ours": Ours, "implicit": Implicit, "torch": Torch}


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def start(name: str, matrix: Any, items: np.ndarray, device: str) -> Any:
    """Make a contestant, or say why it is missing."""
    try:
        CONTESTANTS[name](matrix[:200], items, device).epoch()  # what starting costs is not counted
        return CONTESTANTS[name](matrix, items, device)
    except (ImportError, MemoryError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def race(matrix: Any, factors: int, epochs: int, device: str, patience: float) -> dict[str, Any]:
    """Run everyone's epochs in turn; returns clocks and losses, and why somebody is missing."""
    random = np.random.default_rng(0)
    items = (random.standard_normal((matrix.shape[1], factors)) * 0.1 / np.sqrt(factors)).astype(np.float32)
    entries, running, missing = Entries(matrix, factors, device), {}, {}
    for name in CONTESTANTS:
        found = start(name, matrix, items, device)
        (missing if isinstance(found, str) else running)[name] = found
    begun = time.perf_counter()
    clocks: dict[str, list[float]] = {name: [] for name in running}
    losses: dict[str, list[float]] = {name: [] for name in running}
    for number in range(epochs):
        for name in [*running][number % len(running) :] + [*running][: number % len(running)]:
            if time.perf_counter() - begun > patience and number >= 2:
                continue
            synchronize(device)
            before = time.perf_counter()
            measured = running[name].epoch()
            synchronize(device)
            clocks[name].append(time.perf_counter() - before if measured is None else measured)
            losses[name].append(loss_of(entries, *running[name].factors()))
    return {"seconds": clocks, "losses": losses, "missing": missing}


def limits() -> dict[str, float]:
    """Measure what the device reads from its cache and multiplies in float32 at most."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    small = torch.zeros(1 << 22, dtype=torch.int32, device="cuda")  # 16 MB
    reading = rate(lambda: [small.sum(dtype=torch.int32) for _ in range(64)], 64 * small.numel() * 4)
    a = torch.randn(4096, 4096, device="cuda")
    return {"cache_bytes_per_second": reading, "float32_operations_per_second": rate(lambda: a @ a, 2 * 4096**3)}


def row_of(case: tuple[str, int], matrix: Any, found: dict[str, Any], reached: dict[str, float]) -> dict[str, Any]:
    """Sum a race up."""
    name, factors = case
    target = max(series[-1] for series in found["losses"].values())
    row: dict[str, Any] = {"data": name, "factors": factors, "shape": [*matrix.shape, int(matrix.nnz)], **found}
    row["epoch"] = {who: statistics.median(clock) for who, clock in found["seconds"].items()}
    row["to_target"] = {
        who: float(np.cumsum(found["seconds"][who])[np.argmax(np.array(series) <= target)])
        for who, series in found["losses"].items()
    }
    lowest = min(min(series) for series in found["losses"].values())
    # Fewer steps in other bases: the curves differ, where they go does not.
    assert target < 1.05 * lowest, f"the contestants come to different losses: {found['losses']}"
    gathers = 2 * matrix.nnz * factors * 2 / reached["cache_bytes_per_second"]
    steps = 2 * matrix.nnz * factors * (2 + 8 + 4 * 2) / reached["float32_operations_per_second"]
    row["limit"] = max(gathers, steps) / row["epoch"]["ours"]
    row["limit_of"] = "gathers" if gathers > steps else "operations"
    return row


def cells(row: dict[str, Any]) -> list[str]:
    """Put a row into words."""
    found = [f"{row['data']}, {row['factors']}"]
    for who in CONTESTANTS:
        if who not in row["epoch"]:
            found.append("-")
            continue
        epoch, to_target = row["epoch"][who], row["to_target"][who]
        ratios = f"{epoch / row['epoch']['ours']:.1f}x, {to_target / row['to_target']['ours']:.1f}x"
        found.append(f"{1e3 * epoch:.1f} ms, {to_target:.2f} s ({ratios})")
    return [*found, f"{row['limit']:.0%} of {row['limit_of']}"]


# --- What arithmetic says of a GPU that is not there ---

# An H200, and what of it this is assumed to reach: no GPU has confirmed any of it.
L2_BYTES, L2_RATE, MEMORY_RATE = 40e6, 5e12, 0.85 * 4.8e12  # of 50 MB for gathers; bytes a second
SHARED_RATE = 0.5 * 132 * 128 * 1.755e9  # bytes a second: multiprocessors, bytes a cycle, cycles
PASS_RATE, TILE_RATE, DOUBLE_RATE = 30e12, 0.25 * 60e12, 8e12  # operations a second: float32 twice, float64
CALL_SECONDS, CALLS = 4e-6, 150  # launches, copies and allocations: twice what the emulator counted on a small case
EIGENBASES = {64: 0.6e-3, 128: 2.2e-3, 256: 13e-3}  # both of an epoch: measured, one core of an EPYC
OUR_STEPS, RESIDENT_BYTES = 2, 96 << 10


def degrees(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return entries of users and of items, in the mean of what :func:`draw` draws."""
    users, items, entries = SHAPES[name]
    activity = np.exp(1.05 * np.random.default_rng(0).standard_normal(users))
    of_users = np.minimum(20 + activity * (entries / users - 20) / activity.mean(), items / 4)
    popularity = (10.0 + np.arange(items)) ** -1.1
    low, high = 0.0, 1e12
    for _ in range(100):  # no item has more than all users
        of_items = np.minimum(users / 2, popularity * (low + high) / 2)
        low, high = ((low + high) / 2, high) if of_items.sum() < entries else (low, (low + high) / 2)
    return of_users * entries / of_users.sum(), of_items


def project(name: str, factors: int) -> dict[str, float]:
    """Say what each part of an epoch would take on an H200, in seconds, following csrc/cuda/als.cu."""
    stride, sides = padded_width(factors), degrees(name)
    rows, entries = sum(map(len, sides)), float(sides[0].sum())
    fixed = stride * (5 + 1 + 3 * max(1, 512 // stride))  # vectors and partial sums of a block, in floats
    most = max(0.0, (RESIDENT_BYTES / 4 - fixed) / (stride / 2 + 4))  # entries of a row that is gathered once
    passes = gathers = 0.0
    for counts, others in zip(sides, sides[::-1], strict=True):
        table = 2 * stride * len(others)
        reading = L2_RATE if table <= L2_BYTES else MEMORY_RATE
        times = np.where(counts <= most, 1, 1 + OUR_STEPS)  # long rows are gathered anew in each pass
        gathers += float((counts * times).sum()) * 2 * stride / reading
        # A staged row is written once a gather and read twice a pass: for its product, and to be added up.
        passes += float((counts * (times + 2 * (1 + OUR_STEPS))).sum()) * 2 * stride / SHARED_RATE
        passes += float(counts.sum()) * (8 + 4 * OUR_STEPS) * stride / PASS_RATE
    loss = entries * 4 * stride / (L2_RATE if 4 * stride * len(sides[0]) <= L2_BYTES else MEMORY_RATE)
    dense = 5.0 * rows * factors**2 / TILE_RATE + 2 * 4 * 4.0 * rows * stride / MEMORY_RATE
    exact = operations_of_exact(sides[0], factors) / DOUBLE_RATE
    parts = {"gathers": gathers, "passes": passes, "loss": loss, "dense": dense,
             "eigenbases": EIGENBASES[factors], "calls": CALLS * CALL_SECONDS}  # fmt: skip
    limit = max(2 * entries * factors * 2 / L2_RATE, 2 * entries * factors * (2 + 8 + 4 * 2) / PASS_RATE)
    apart = sum(parts.values())
    together = max(gathers, passes) + loss + dense + EIGENBASES[factors] + CALLS * CALL_SECONDS
    return {**parts, "apart": apart, "together": together, "exact": exact, "limit": limit / apart}


PROJECTION = """# ALS on a GPU: projected, not measured

No GPU has run this. `python benchmarks/bench_gpu_als.py --project` computes it from what the kernels read and compute
and from assumed rates of an H200; `benchmarks/gpu.sh` measures on one. Milliseconds an epoch, two steps of conjugate
gradients, synthetic data in the shapes of MovieLens 20M and Netflix.

{table}

- Gathers: 2 bytes a factor and entry on both sides, at 5 TB/s where the table fits 40 MB of L2, else 85 % of
  4.8 TB/s; rows whose factors do not fit 96 KB of shared memory are gathered in each of three passes.
- Passes: shared memory at half of its 29.7 TB/s, and {operations} float32 operations a factor and entry at 30 TFLOP/s.
- Loss: each entry's factors once more, in float32. Dense: Gramians and rotations at a quarter of 60 TFLOP/s.
- Eigenbases: on the host, two an epoch; measured on one core of an EPYC. Calls: 150 of 4 us, twice what the
  emulator counted on a small case.
- Epoch: from gathers hidden behind the passes, or the other way round, to nothing hidden. Limit: the larger of gathers
  at 5 TB/s and operations at 30 TFLOP/s, for all rows gathered once, as a share of the upper end.
- Wanted for MovieLens 20M are 8, 15 and 30 ms: with 64 and 128 factors only where gathers are hidden; not with 256,
  for which eigenbases on the host and passes in float32 are too slow.
- At the end of a fit the users are solved exactly, once: float64 at 8 TFLOP/s.
"""


def write_projection(folder: Path) -> None:
    """Write what arithmetic says, and say so."""
    columns, rows = ("gathers", "passes", "loss", "dense", "eigenbases", "calls"), []
    for name, factors in itertools.product(SHAPES, EIGENBASES):
        found = {part: 1e3 * value for part, value in project(name, factors).items()}
        epoch, limit = f"{found['together']:.0f} to {found['apart']:.0f}", f"{found['limit'] / 1e3:.0%}"
        rows.append(
            [f"{name}, {factors}", *(f"{found[part]:.1f}" for part in columns), epoch, limit, f"{found['exact']:.0f}"]
        )
    head = ["data, factors", *columns, "epoch", "limit", "exact users, once"]
    text = PROJECTION.format(table=markdown(head, rows), operations=8 + 4 * OUR_STEPS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_als_projection.md").write_text(text)
    print(text)


def main() -> None:
    parser = parser_of(__doc__, repeats="--epochs", times=10, budget=150.0)
    parser.add_argument("--project", action="store_true", help="write what arithmetic says, without a GPU")
    options = parser.parse_args()
    if options.project:
        write_projection(options.save)
        return
    import torch

    start = time.perf_counter()
    reached = limits()
    found: dict[str, Any] = {
        "device": ask_driver("name"),
        "versions": {
            "salience": salience.__version__, "driver": ask_driver("driver_version"), "torch": torch.__version__,
            "python": platform.python_version(), "module": salience.show_config()["cuda"],
        },
        "limits": reached, "rows": [], "left_out": [],
    }  # fmt: skip
    path = options.save / ("gpu-als-" + found["device"].lower().replace(" ", "-") + ".json")
    options.save.mkdir(parents=True, exist_ok=True)
    matrices: dict[str, Any] = {}
    for case in QUICK if options.quick else CASES:
        left = options.budget - (time.perf_counter() - start)
        if left < 15:
            found["left_out"].append(case)
            continue
        if case[0] not in matrices:
            matrices = {case[0]: draw(case[0], "cuda")}
        torch.cuda.empty_cache()
        matrix = matrices[case[0]]
        row = row_of(case, matrix, race(matrix, case[1], options.epochs, "cuda", left / 3), reached)
        found["rows"].append(row)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(" | ".join(cells(row)), *row["missing"].items(), flush=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{found['device']}; cache {reached['cache_bytes_per_second'] / 1e9:.0f} GB/s, float32 "
          f"{reached['float32_operations_per_second'] / 1e12:.0f} TFLOP/s; {path}")  # fmt: skip
    if found["left_out"]:
        print(f"out of time: {found['left_out']}")
    head = ["data, factors", *(f"{who}: an epoch, to the loss" for who in CONTESTANTS), "limit"]
    print(markdown(head, [cells(row) for row in found["rows"]]))


if __name__ == "__main__":
    main()
