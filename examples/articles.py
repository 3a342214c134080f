"""Articles by their readers and their words, on CiteULike-t: new articles are recommended by what is in them.

    SALIENCE_DATA=... python examples/articles.py

Prints how much each component counts for a reader with ten articles and for one with a single article, the best
articles among those that nobody has read yet, and the words that speak for the first.
"""

from __future__ import annotations

import numpy as np

from salience import ALS, Collaborative, Content, History, HybridScorer, ItemKNN, Prior
from salience.datasets import citeulike_words, load_citeulike


def main(*, user: int = 7) -> HybridScorer:
    """Fit, recommend unread articles, and explain."""
    train, _ = load_citeulike()
    words, names = citeulike_words()
    model = HybridScorer(
        [
            Collaborative(ALS(64)),
            Content(words, rank=128, feature_names=names, name="words"),
            History(ItemKNN(100), item_features=words, name="neighbours"),
            Prior(),
        ],
        most_users=300,
    ).fit(train)
    one = train.matrix[[user]].copy()
    one.data[1:] = 0
    one.eliminate_zeros()
    for name, histories in (("ten articles", None), ("one article", one)):
        shares = zip(model.component_names, model.attention([user], interactions=histories)[0], strict=True)
        print(f"{name}: " + ", ".join(f"{component} {share:.2f}" for component, share in shares))
    unread = np.bincount(train.matrix.indices, minlength=train.shape[1]) == 0
    lists = model.recommend([user], 3, allow=unread)
    why = model.explain(user, lists.ids[0, 0])
    print(why)
    print("  words:", {name: round(value, 3) for name, value in list(why.features["words"].items())[:6]})
    return model


if __name__ == "__main__":
    main()
