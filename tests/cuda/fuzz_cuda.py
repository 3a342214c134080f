"""Compare the CUDA kernels with the CPU and the oracle on random configurations.

python tests/cuda/fuzz_cuda.py 1000                          # 1,000 of each kernel, on the emulator
python tests/cuda/fuzz_cuda.py 1000 --gpu                    # on the GPU of this machine
python tests/cuda/fuzz_cuda.py 1 --kernel topk --first 4711  # configuration 4711 again
"""

# ruff: noqa: E402, I001, T201
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "kernels"), str(Path(__file__).parents[1])]

import ml_dtypes
import numpy as np

import reference
import salience
from salience import _device
from test_topk import KINDS, METRICS, clustered, drawn_filters, same, vectors


def configure(module, number, **settings):
    """Give the emulator a lane order and a machine of its own for each configuration."""
    if hasattr(module, "configure"):
        random = np.random.default_rng([number, 77])
        shared = int(random.choice([64, 99, 163, 227])) << 10
        module.configure(seed=number, shared_bytes=shared, multiprocessors=int(random.integers(1, 5)), **settings)


def topk_configuration(number):
    """Draw the arguments of one search, all from its number."""
    random = np.random.default_rng([number, 2025])
    queries = int(random.choice([0, 1, 2, 7, 8, 9, 17, 40, 64, 65, 130], p=[0.02, *[0.12] * 7, 0.06, 0.04, 0.04]))
    items = int(random.choice([1, 2, 13, 127, 128, 129, 300, 700, 1500]))
    columns = int(random.choice([0, 1, 2, 7, 8, 9, 31, 32, 33, 48, 65, 96]))
    kind = str(random.choice([*KINDS, "clustered"]))
    draw = clustered if kind == "clustered" else lambda random, rows, columns: vectors(random, rows, columns, kind)
    q, x = draw(random, queries, columns), draw(random, items, columns)
    dtype = random.choice(["float32", "float32", "float16", "bfloat16"])
    with np.errstate(all="ignore"):
        x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    k = int(min(items, random.choice([1, 2, 10, 64, 300, items])))
    pattern = allowed = excluded = None
    if random.random() < 0.4:
        pattern, allowed, excluded = drawn_filters(random, queries, items)
    tuning = {}
    if random.random() < 0.5:
        tuning["capacity"] = int(random.choice([1, k, k + 3, 2 * k + 20, 100]))
    if random.random() < 0.3:
        tuning["sample_tiles"] = int(random.choice([0, 1, 2, 5]))
    if random.random() < 0.3:
        tuning["block_rows"] = int(random.choice([128, 256, 400]))
    return {
        "queries": q, "items": x, "k": k, "metric": str(random.choice(METRICS)), "exclude": pattern,
        "allow": allowed, "deny": None, "path": str(random.choice(["auto", "exact", "rows", "panels"])),
        "tuning": tuning,
    }, excluded, bool(random.random() < 0.4)  # fmt: skip


def by_index(module, queries, items, k, metric, exclude, allow, deny, path, tuning):
    """Search through an index."""
    held = _device.Held(module, items, "items", types=("float32", "float16"))
    state = _device.DeviceIndex.build(module, held, metric, None)
    pattern = salience._arrays.exclusion_pattern(exclude, len(queries), len(items))
    mask = salience._arrays.item_mask(allow, deny, len(items))
    return state.search(queries, k, pattern, mask, 0, path, tuning)


def check_topk(module, number):
    """Say whether one search agrees with the CPU and the oracle to the bit."""
    configure(module, number)
    arguments, excluded, packed = topk_configuration(number)
    found = by_index(module, **arguments) if packed else _device.topk(module, **arguments)
    q, x, k, metric = (arguments[name] for name in ("queries", "items", "k", "metric"))
    expected = reference.topk(q, x.astype(np.float32), k, metric, excluded)
    cpu = salience.topk(q, x, k, metric=metric, exclude=arguments["exclude"], allow=arguments["allow"], device="cpu")
    return all(np.array_equal(found[0], other[0]) and same(found[1], other[1]) for other in (expected, cpu))


def check_similarity(module, number):
    """Compare one score matrix."""
    configure(module, number)
    random = np.random.default_rng([number, 2026])
    a, b = (int(random.choice([0, 1, 7, 31, 32, 33, 70])) for _ in range(2))
    columns, kind = int(random.choice([0, 1, 7, 8, 9, 31, 32, 33, 65, 100])), str(random.choice(KINDS))
    x, y, metric = vectors(random, a, columns, kind), vectors(random, b, columns, kind), str(random.choice(METRICS))
    found = _device.similarity(module, x, y, metric)
    return same(found, reference.similarity(x, y, metric)) and same(found, salience.similarity(x, y, metric=metric))


def check_select(module, number):
    """Compare one selection."""
    configure(module, number)
    random = np.random.default_rng([number, 2027])
    rows, columns = int(random.integers(0, 5)), int(random.choice([1, 2, 100, 1000, 8193, 20000]))
    k = int(min(columns, random.choice([1, 2, 10, 300, 1024, 1025, columns])))
    scores = vectors(random, rows, columns, str(random.choice(KINDS))).astype(random.choice([np.float32, np.float64]))
    if random.random() < 0.2:
        scores[random.random(scores.shape) < 0.999] = np.nan
    found = _device.select(module, scores, k)
    return all(
        np.array_equal(found[0], other[0]) and np.array_equal(found[1], other[1], equal_nan=True)
        for other in (reference.select(scores, k), salience.select(scores, k))
    )


CHECKS = {"topk": check_topk, "similarity": check_similarity, "select": check_select}


def main():
    """Check configurations first to first + count of each kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kernel", choices=CHECKS)
    parser.add_argument("--gpu", action="store_true", help="on the GPU of this machine instead of the emulator")
    options = parser.parse_args()
    if options.gpu:
        module = salience._backends.cuda()
    else:
        from cuda_on_cpu import build

        module = build.load()
    failed = False
    for name in [options.kernel] if options.kernel else CHECKS:
        start, bad = time.perf_counter(), []
        for number in range(options.first, options.first + options.count):
            try:
                good = CHECKS[name](module, number)
            except RuntimeError as error:
                print(name, number, error)
                good = False
            if not good:
                bad.append(number)
        seconds = time.perf_counter() - start
        print(f"{name}: {options.count} configurations, {len(bad)} differ {bad[:10]}, {seconds:.0f} s", flush=True)
        failed |= bool(bad)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
