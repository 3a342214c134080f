"""The classic hybrid formula, worked: r(u, i) = 0.5 collaborative + 0.2 content + 0.3 history, for 100 users and items.

    python examples/classic_formula.py

The formula is often written with embeddings whose widths do not fit each other. Here they do: 16 collaborative factors
a user and item, 8 features an item and the mean of the history's features for a user, and item-to-item cosines
(100 x 100) for the history. Scores are not standardized, so that the formula is taken at its word; prints the three
terms and their sum for one user, and the sum as the scorer gives it.
"""

from __future__ import annotations

import numpy as np

from salience import ALS, Collaborative, Content, History, HybridScorer, ItemKNN
from salience.datasets import synthetic

WEIGHTS = (0.5, 0.2, 0.3)


def main() -> tuple[float, float]:
    """Print the terms; returns the sum by hand and by the scorer."""
    catalogue = synthetic(100, 100)
    data = catalogue.interactions
    features = catalogue.item_features[data.items - 1]
    model = HybridScorer(
        [
            Collaborative(ALS(16)),
            Content(features, feature_names=catalogue.genres),
            History(ItemKNN(100, binary=True), power=1.0),
        ],
        attention="fixed",
        weights=WEIGHTS,
        standardize=False,
    ).fit(data)
    user = data.users[0]
    item = model.recommend([user], 1).ids[0, 0]

    als, content, history = model._parts.components
    row = data.item_map.rows([item])[0]
    seen = data.matrix[[0]]
    terms = (
        float(als.model.user_factors_[0] @ als.model.item_factors_[row]),
        float(seen.data @ content.item_vectors[seen.indices] @ content.item_vectors[row] / seen.nnz),
        float(history.model.similarity_[row].toarray()[0, seen.indices].sum()),
    )
    by_hand = float(np.dot(WEIGHTS, terms))
    print(f"item {item} for user {user}: " + " + ".join(f"{w} x {t:.4f}" for w, t in zip(WEIGHTS, terms, strict=True)))
    print(f"= {by_hand:.4f}; the scorer says {model.score([user], [item])[0]:.4f}")
    print(model.explain(user, item))
    return by_hand, float(model.score([user], [item])[0])


if __name__ == "__main__":
    main()
