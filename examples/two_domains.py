"""Two domains that share users: readers who are new to books, known from films.

    python examples/two_domains.py

Users have tastes, films and books have themes. Half of the users have both films and books; the others have films
alone, and are recommended books: by popularity, by a map of their film factors to book factors (DomainMap), and by
film factors as user features of the books' ALS. Prints NDCG@10 on the books that they would have chosen.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from salience import ALS, Interactions
from salience.domains import DomainMap
from salience.evaluation import Factors, evaluate

USERS, KNOWN, FILMS, BOOKS, THEMES = 1200, 600, 400, 300, 8


def chosen(tastes: np.ndarray, items: int, random: np.random.Generator) -> np.ndarray:
    """Draw who chooses what: by taste, popularity and chance."""
    themes = random.dirichlet(np.full(THEMES, 0.2), items)
    popularity = np.log(1.0 / (1.0 + random.permutation(items)) ** 0.5)
    appeal = popularity + 8.0 * tastes @ themes.T + random.gumbel(size=(len(tastes), items))
    return appeal >= np.sort(appeal, axis=1)[:, [-15]]


def compare_roads(seed: int = 0) -> dict[str, float]:
    """Return NDCG@10 of each road for the users who are new to books."""
    random = np.random.default_rng(seed)
    tastes = random.dirichlet(np.full(THEMES, 0.2), USERS)
    films = Interactions.from_csr(sp.csr_matrix(chosen(tastes, FILMS, random).astype(np.float32)))
    books = chosen(tastes, BOOKS, random).astype(np.float32)
    future = np.zeros_like(books)
    future[KNOWN:] = books[KNOWN:]
    train, test = (Interactions.from_csr(sp.csr_matrix(part)) for part in (books - future, future))

    film_model = ALS(16).fit(films)
    book_model = ALS(16).fit(train)
    mapped = book_model.user_factors_.copy()
    bridge = DomainMap().fit(film_model.user_factors_[:KNOWN], book_model.user_factors_[:KNOWN])
    mapped[KNOWN:] = bridge.transform(film_model.user_factors_[KNOWN:])
    featured = ALS(16).fit(train, user_features=film_model.user_factors_)
    counts = train.matrix.sum(axis=0).A1.astype(np.float32)
    roads = {
        "popularity": Factors(np.ones((USERS, 1), np.float32), counts[:, None]),
        "mapped film factors": Factors(mapped, book_model.item_factors_),
        "film factors as user features": Factors(featured.user_factors_, featured.item_factors_),
    }
    return {
        name: evaluate(factors, train, test, metrics=("ndcg@10",)).values["ndcg@10"] for name, factors in roads.items()
    }


if __name__ == "__main__":
    for name, value in compare_roads().items():
        print(f"{name:30} NDCG@10 {value:.4f}")
