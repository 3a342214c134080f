"""The study behind the defaults of ALS: one setting that is near the best on every data set.

    SALIENCE_DATA=... python benchmarks/quality/als_defaults.py                 # about 15 minutes on two cores
    SALIENCE_DATA=... python benchmarks/quality/als_defaults.py --feedback explicit

Validation data only. Implicit: Gowalla's valid part, and a random fifth of the training part of CiteULike-t (P = 10)
and of ml-latest-small (its ratings as confidences; the test fifth is set aside); NDCG@20 with 64 factors. The weight of
unobserved pairs is given as unobserved_share, how many times the weight of the observed pairs all pairs have together,
and values count relative to their mean, as ALS does by default: no single absolute weight serves all three sets.
Explicit: ml-latest-small, RMSE on a fifth of the first four fifths. Every setting of the grid is trained on every set;
the default is a round setting near the one whose worst ratio to a set's best is largest. The table is kept in
benchmarks/results/als_defaults.md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from salience import ALS, Interactions
from salience.als import _DEFAULTS, _UNOBSERVED_SHARE
from salience.datasets import load_citeulike, load_gowalla, load_movielens
from salience.evaluation import evaluate

RESULTS = Path(__file__).parents[1] / "results"
METRIC = {"implicit": "ndcg@20", "explicit": "rmse"}
SHARES = (5.0, 14.0, 30.0, 80.0)
RIDGES = {0.0: (0.5, 2.0, 6.0), 0.5: (0.03, 0.06, 0.12, 0.25), 1.0: (0.002, 0.004, 0.008, 0.011, 0.016)}
EXPLICIT_RIDGES = {0.0: (2.0, 4.0, 8.0, 16.0), 0.5: (0.5, 0.7, 1.0, 1.4, 2.0), 1.0: (0.02, 0.05, 0.1, 0.2)}
EPOCHS = (3, 4, 6, 8, 10, 15)
SETTINGS = ("unobserved_share", "regularization", "regularization_exponent", "epochs")

Setting = tuple[float, float, float, int]


def apart(data: Interactions, seed: int) -> tuple[Interactions, Interactions]:
    """Set a random fifth aside."""
    held_out = np.random.default_rng(seed).random(len(data)) < 0.2
    return data.select(~held_out), data.select(held_out)


def data_sets(feedback: str) -> dict[str, tuple[Interactions, Interactions]]:
    movies = apart(load_movielens(), 0)[0]
    if feedback == "explicit":
        return {"ml-latest-small": apart(movies, 1)}
    gowalla = load_gowalla()
    return {"gowalla": gowalla[:2], "citeulike-t": apart(load_citeulike()[0], 0), "ml-latest-small": apart(movies, 1)}


def grid(feedback: str) -> Iterator[dict[str, float]]:
    shares = (0.0,) if feedback == "explicit" else SHARES
    for share, (exponent, ridges) in itertools.product(
        shares, (EXPLICIT_RIDGES if feedback == "explicit" else RIDGES).items()
    ):
        for ridge in ridges:
            yield {"unobserved_share": share, "regularization": ridge, "regularization_exponent": exponent}


def curve(train: Interactions, valid: Interactions, feedback: Any, settings: dict[str, float]) -> dict[int, float]:
    """Measure one run after each of EPOCHS."""
    found = {}

    def measure(epoch: int, model: ALS) -> None:
        if epoch in EPOCHS:
            name = METRIC[feedback]
            found[epoch] = evaluate(model, train, valid, metrics=(name,)).values[name]

    pairs = len(np.unique(train.rows)) * len(np.unique(train.matrix.indices))
    given = {name: value for name, value in settings.items() if name != "unobserved_share"}
    weight = settings["unobserved_share"] * len(train) / pairs
    ALS(64, feedback=feedback, epochs=max(EPOCHS), unobserved_weight=weight, **given).fit(train, callback=measure)
    return found


def study(feedback: str) -> dict[Setting, dict[str, float]]:
    found: dict[Setting, dict[str, float]] = {}
    sets, settings = data_sets(feedback), list(grid(feedback))
    for number, one in enumerate(settings):
        for name, (train, valid) in sets.items():
            for epoch, value in curve(train, valid, feedback, one).items():
                found.setdefault((*one.values(), epoch), {})[name] = value
        print(f"{number + 1} of {len(settings)}", file=sys.stderr, flush=True)
    return found


def ratios(found: dict[Setting, dict[str, float]], *, smaller: bool) -> dict[Setting, dict[str, float]]:
    """Relate every value to the best of its data set; 1 is the best."""
    names = next(iter(found.values()))
    best = {name: (min if smaller else max)(values[name] for values in found.values()) for name in names}
    return {
        setting: {name: best[name] / value if smaller else value / best[name] for name, value in values.items()}
        for setting, values in found.items()
    }


def table(feedback: str, found: dict[Setting, dict[str, float]]) -> str:
    related = ratios(found, smaller=feedback == "explicit")
    order = sorted(related, key=lambda setting: -min(related[setting].values()))
    sets = list(next(iter(found.values())))
    chosen = {"unobserved_share": 0.0 if feedback == "explicit" else _UNOBSERVED_SHARE, **_DEFAULTS[feedback]}
    default = tuple(chosen[name] for name in SETTINGS)
    rows = [("default", default)] if default in found else []
    rows += [("", setting) for setting in order[:10]]
    rows += [(f"best of {name}", max(related, key=lambda setting, name=name: related[setting][name])) for name in sets]
    lines = [
        f"| | {' | '.join(SETTINGS)} | {' | '.join(sets)} | worst |",
        "|" + " --- |" * (len(SETTINGS) + len(sets) + 2),
    ]
    for label, setting in rows:
        values = [f"{found[setting][name]:.4f} ({related[setting][name]:.1%})" for name in sets]
        worst = f"{min(related[setting].values()):.1%}"
        lines.append("| " + " | ".join([label, *(f"{v:g}" for v in setting), *values, worst]) + " |")
    title = f"## {feedback}, {METRIC[feedback]} on validation data, 64 factors ({len(found)} settings)"
    return title + "\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feedback", choices=list(METRIC), nargs="+", default=list(METRIC))
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/als_defaults.md")
    options = parser.parse_args()
    text = "\n\n".join(table(feedback, study(feedback)) for feedback in options.feedback)
    print(text)
    if options.save:
        (RESULTS / "als_defaults.md").write_text("# Defaults of ALS\n\n" + text + "\n")


if __name__ == "__main__":
    main()
