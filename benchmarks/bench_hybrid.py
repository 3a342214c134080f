"""What a hybrid costs: 20 items for every user of Gowalla, beside plain factors of the same total width.

    SALIENCE_DATA=... python benchmarks/bench_hybrid.py

The hybrid holds 256 ALS factors, a neighbourhood of low rank 64 and one whose sparse scores are added exactly, and
popularity. Interleaved: each kind of attention, the largest component alone, and plain factors as wide as the hybrid
altogether. Seen items are left out; two threads. The lists of each are checked against its own scores.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np

from contest import interleave, machine, markdown, milliseconds
from salience import ALS, Collaborative, History, HybridScorer, ItemKNN, Prior
from salience.datasets import load_gowalla
from salience.models import VectorModel

SETTINGS = {"unobserved_weight": 0.03, "regularization": 0.003, "regularization_exponent": 1.0, "epochs": 4}


class Plain(VectorModel):
    """Factors of any origin."""

    def __init__(self, like: VectorModel, width: int) -> None:
        self._seen, self.user_map, self.item_map = like._seen, like.user_map, like.item_map
        random = np.random.default_rng(0)
        users, items = (random.standard_normal((n, width)).astype(np.float32) for n in like._seen.shape)
        self._users, self._items = users, items
        self._forget_indexes()

    def _query_vectors(self, rows: np.ndarray) -> np.ndarray:
        return self._users[rows]

    def _item_vectors(self) -> np.ndarray:
        return self._items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    train = load_gowalla()[0]
    components = [
        Collaborative(ALS(256, **SETTINGS)), History(ItemKNN(50, weighting="degree"), rank=64, name="low rank"),
        History(ItemKNN(50)), Prior(),
    ]  # fmt: skip
    softmax = HybridScorer(components, rounds=1, most_users=500).fit(train)
    fixed = softmax.with_weights([1.0, 0.3, 0.2, 0.1])
    dense = HybridScorer([components[0], components[1], components[3]], rounds=1, most_users=500).fit(train)
    width = softmax._serving.items.shape[1]
    models = {
        "softmax": softmax, "fixed or linear": fixed, "softmax, no sparse scores": dense,
        "largest component alone": softmax._parts.components[0].model,
        f"plain factors of width {width}": Plain(softmax._parts.components[0].model, width),
    }  # fmt: skip
    users = train.users
    for name, model in models.items():
        lists = model.recommend(users[:50], 20)
        again = model.score(np.repeat(users[:50], 20), lists.ids.ravel())
        assert np.allclose(again, lists.scores.ravel(), rtol=1e-4, atol=1e-5), name
    calls = {name: functools.partial(model.recommend, users, 20) for name, model in models.items()}
    times, _ = interleave(calls, rounds=options.rounds, patience=600.0)
    base = times[f"plain factors of width {width}"]
    print(f"{machine()}; {train.shape[0]:,} users, {train.shape[1]:,} items")
    rows = [[name, milliseconds(spent), f"{spent / base:.2f}x"] for name, spent in times.items()]
    print(markdown(["20 items for every user", "milliseconds", "of plain factors"], rows))


if __name__ == "__main__":
    main()
