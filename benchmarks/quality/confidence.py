"""What recency and ratings as confidence do for ALS on ml-latest-small, split at a moment in time.

The latest 20 % of all ratings are the test; of the rest, the latest 20 % choose. Values are rating ** power, halved for
every half-life of age. The curve over the half-life is printed on both, the power that is best without decay kept.

    SALIENCE_DATA=... python benchmarks/quality/confidence.py
"""

from __future__ import annotations

import argparse
import math

from salience import ALS, Interactions
from salience.datasets import load_movielens
from salience.evaluation import evaluate, splits

DAY = 86_400
HALF_LIVES = (30, 90, 180, 365, 730, 1460, math.inf)
POWERS = (0.0, 0.5, 1.0, 2.0)


def confident(data: Interactions, power: float, half_life: float) -> Interactions:
    values = data.weighted((data.matrix.data / 3.5) ** power / data.matrix.data)
    return values if math.isinf(half_life) else values.decayed(half_life * DAY)


def quality(train: Interactions, test: Interactions, power: float, half_life: float) -> tuple[float, float, int]:
    data = confident(train, power, half_life)
    # Decay takes weight away; the model's other weights are chosen for a mean of 1.
    data = data.weighted([float(len(data) / data.matrix.data.sum(dtype=float))] * len(data))
    report = evaluate(ALS(32).fit(data), data, test, metrics=("ndcg@10",))
    low, high = report.interval("ndcg@10", level=0.68)
    return report.values["ndcg@10"], (high - low) / 2, report.counts["ndcg@10"]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    outer = splits.temporal(load_movielens())
    inner = splits.temporal(outer.train)
    by_power = {power: quality(inner.train, inner.test, power, math.inf)[0] for power in POWERS}
    print("validation, no decay, NDCG@10 by power of the rating:", {p: round(v, 4) for p, v in by_power.items()})
    power = max(by_power, key=lambda p: by_power[p])
    print(f"power {power}\nhalf-life, days   validation          test")
    for half_life in HALF_LIVES:
        cells = [quality(part.train, part.test, power, half_life) for part in (inner, outer)]
        print(
            f"{half_life:>15}  "
            + "  ".join(f"{value:.4f} +- {error:.4f} ({users} users)" for value, error, users in cells)
        )


if __name__ == "__main__":
    main()
