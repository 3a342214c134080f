"""Compare top-k with the oracle on random configurations; the long version of test_topk_is_the_oracle.

python tests/kernels/fuzz_topk.py 100000            # on the best instruction set of this machine
python tests/kernels/fuzz_topk.py 100000 --all      # on every one, a process each
python tests/kernels/fuzz_topk.py 1 --first 4711    # configuration 4711 again
"""

# ruff: noqa: E402, I001, T201
from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import ml_dtypes
import numpy as np

import reference
import salience
from test_topk import KINDS, METRICS, PATHS, by_path, clustered, drawn_filters, same, vectors


def configuration(number):
    """Draw the arguments of one comparison, all from its number."""
    random = np.random.default_rng([number, 2024])
    queries = int(random.choice([0, 1, 2, 3, 5, 8, 17, 33]))
    several = random.random() < 0.05  # enough blocks for scans of the same queries to share them
    items = int(random.choice([3_100, 6_200, 9_300] if several else [1, 2, 13, 100, 191, 192, 193, 400, 900]))
    columns = int(random.choice([0, 1, 2, 7, 8, 9, 31, 32, 33, 48, 65]))
    kind = random.choice([*KINDS, "clustered"])
    draw = clustered if kind == "clustered" else lambda random, rows, columns: vectors(random, rows, columns, kind)
    q, x = draw(random, queries, columns), draw(random, items, columns)
    dtype = random.choice(["float32", "float32", "float16", "bfloat16"])
    with np.errstate(all="ignore"):
        x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    pattern = allowed = excluded = None
    if random.random() < 0.4:
        pattern, allowed, excluded = drawn_filters(random, queries, items)
    return {
        "q": q, "x": x, "k": int(min(items, random.choice([1, 2, 10, 64, 300]))),
        "metric": str(random.choice(METRICS)), "path": str(random.choice(PATHS)),
        "threads": int(random.integers(1, 5)), "pattern": pattern, "allowed": allowed,
        "packed": bool(random.random() < 0.5),
    }, excluded  # fmt: skip


def check(number):
    """Say whether one configuration agrees with the oracle to the bit."""
    arguments, excluded = configuration(number)
    found = by_path(**arguments)
    items = arguments["x"].astype(np.float32)
    expected = reference.topk(arguments["q"], items, arguments["k"], arguments["metric"], excluded)
    return np.array_equal(found[0], expected[0]) and same(found[1], expected[1])


def main():
    """Check configurations first to first + count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="on every instruction set of this machine")
    options = parser.parse_args()
    if options.all:
        names = [row["name"] for row in salience.show_config()["instruction_sets"] if row["offered"]]
        command = [sys.executable, __file__, str(options.count), "--first", str(options.first)]
        return max(subprocess.run(command, env={**os.environ, "SALIENCE_ISA": name}).returncode for name in names)
    bad = [number for number in range(options.first, options.first + options.count) if not check(number)]
    kernels = salience.show_config()["kernels"]
    print(f"{kernels}: {options.count} configurations, {len(bad)} differ from the oracle {bad[:10]}", flush=True)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
