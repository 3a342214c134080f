"""What privacy costs: recall of PrivateALS on Gowalla for epsilon 1, 3, 10 and infinity.

Settings of each epsilon are the best of --tune on valid (a random search, on a quarter of the users); the final model
is fitted on train + valid and measured on test. delta is 1e-5, below 1 over the 29,858 users. The search itself is not
in the budget: it stands for what would be known from public data of the same kind. Noise is fixed by a seed here, so
that the figures can be had again; --seeds N shows how much they move.

    SALIENCE_DATA=... python benchmarks/quality/private_als.py [--tune MINUTES] [--seeds N]
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np

from salience import Interactions, Popularity
from salience.datasets import load_gowalla
from salience.evaluation import evaluate
from salience.privacy import PrivateALS

METRICS = ("recall@20", "ndcg@20")
DELTA = 1e-5
# The best of a short search (about ten trials an epsilon).
SETTINGS: dict[float, dict[str, Any]] = {
    1.0: {"factors": 16, "head_items": 4000, "regularization": 1.0, "clip_norm": 0.2, "unobserved_weight": 0.03,
          "steps": 8, "max_items_per_user": 20},
    3.0: {"factors": 16, "head_items": 1000, "regularization": 0.3, "clip_norm": 0.2, "unobserved_weight": 1.0,
          "steps": 4, "max_items_per_user": 20},
    10.0: {"factors": 32, "head_items": 1000, "regularization": 0.3, "clip_norm": 0.1, "unobserved_weight": 0.1,
           "steps": 4, "max_items_per_user": 10},
    math.inf: {"factors": 32, "head_items": 40_981, "regularization": 0.3, "clip_norm": 0.1, "unobserved_weight": 0.1,
               "steps": 8, "max_items_per_user": 10},
}  # fmt: skip
GRID = {
    "factors": (16, 32, 64, 128), "regularization": (0.3, 1.0, 3.0), "clip_norm": (0.1, 0.2, 0.4),
    "unobserved_weight": (0.03, 0.1, 0.3, 1.0), "steps": (3, 4, 6, 8), "max_items_per_user": (10, 20, 40),
}  # fmt: skip
HEADS = {True: (10_000, 40_981), False: (1000, 2000, 4000)}


def tune(minutes: float) -> None:
    train, valid, _ = load_gowalla()
    valid = valid.select(valid.rows % 4 == 0)
    random = np.random.default_rng(0)
    best: dict[float, tuple[float, dict[str, Any]]] = {}
    started = time.monotonic()
    while time.monotonic() - started < 60 * minutes:
        for epsilon in (1.0, 3.0, 10.0, math.inf):
            settings = {name: random.choice(values).item() for name, values in GRID.items()}
            settings["head_items"] = random.choice(HEADS[math.isinf(epsilon)]).item()
            model = PrivateALS(epsilon=epsilon, delta=DELTA, seed=1, **settings).fit(train)
            found = evaluate(model, train, valid, metrics=METRICS).values["recall@20"]
            if epsilon not in best or found > best[epsilon][0]:
                best[epsilon] = found, settings
                print(f"epsilon {epsilon:g}: recall@20 {found:.4f} on valid, {settings}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", type=float, metavar="MINUTES")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.tune:
        tune(options.tune)
        return
    train, valid, test = load_gowalla()
    both = Interactions.from_csr(train.matrix + valid.matrix)
    found = evaluate(Popularity().fit(both), both, test, metrics=METRICS).values
    print("popularity (not private):", {name: round(value, 4) for name, value in found.items()}, flush=True)
    for epsilon, settings in SETTINGS.items():
        values = []
        for seed in range(options.seeds if not math.isinf(epsilon) else 1):
            model = PrivateALS(epsilon=epsilon, delta=DELTA, seed=seed, **settings).fit(both)
            values.append([evaluate(model, both, test, metrics=METRICS).values[name] for name in METRICS])
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        words = ", ".join(f"{name} {m:.4f} (seeds ± {s:.4f})" for name, m, s in zip(METRICS, mean, spread, strict=True))
        print(f"epsilon {epsilon:g}, delta {DELTA:g}: {words}; {settings}", flush=True)


if __name__ == "__main__":
    main()
