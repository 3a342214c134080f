"""What diversity costs on ml-latest-small: MMR, DPP and calibration over the genres of 100 candidates of ALS.

80 % of each user's ratings to train on, 10 % to choose the trade-off on, 10 % to report (random, per user). All ratings
count as interactions. The curve is drawn from validation data; the chosen trade-off is then measured on test.

    SALIENCE_DATA=... python benchmarks/quality/diversity.py [--plot FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from salience import ALS, Interactions
from salience.datasets import load_movielens, movielens_genres
from salience.evaluation import splits, tradeoff_curve

SETTINGS = {"factors": 32, "unobserved_weight": 0.1, "regularization": 3.0}
DEPTH, LOSS = 100, 0.05


def ones(data: Interactions) -> Interactions:
    matrix = data.matrix.copy()
    matrix.data[:] = 1.0
    return Interactions(matrix, data.user_map, data.item_map, data.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="folder for the figures")
    options = parser.parse_args()
    outer = splits.random(ones(load_movielens()), test_fraction=0.1, per_user=True)
    inner = splits.random(outer.train, test_fraction=1 / 9, per_user=True, seed=1)
    genres, _ = movielens_genres(outer.train.items)
    fitted = {"validation": ALS(**SETTINGS).fit(inner.train), "test": ALS(**SETTINGS).fit(outer.train)}
    for method in ("mmr", "dpp", "calibrated"):
        lists = fitted["validation"].recommend(inner.train.users, DEPTH)
        curve = tradeoff_curve(method, lists, inner.test, train=inner.train, item_features=genres)
        chosen = curve.choose(loss=LOSS)
        print(f"{method}, validation\n{curve.table()}\nchosen at a loss of at most {LOSS:.0%}: {chosen:g}")
        lists = fitted["test"].recommend(outer.train.users, DEPTH)
        final = tradeoff_curve(method, lists, outer.test, train=outer.train, item_features=genres, trade_offs=(chosen,))
        print(f"{method}, test\n{final.table()}\n", flush=True)
        if options.plot is not None:
            options.plot.mkdir(parents=True, exist_ok=True)
            curve.plot(options.plot / f"diversity-{method}.png")


if __name__ == "__main__":
    main()
