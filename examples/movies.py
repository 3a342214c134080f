"""Movies with more modalities, genres, tags and titles, on MovieLens ml-latest-small.

    SALIENCE_DATA=... python examples/movies.py
    SALIENCE_DATA=... python examples/movies.py --titles     # and embeddings of titles: pip install '.[text]'

Prints a user's recommendations with how much each component counts, and the reasons for the first: components, past
movies, genres.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from salience import ALS, Collaborative, Content, History, HybridScorer, ItemKNN, Prior
from salience.datasets import load_movielens, movielens_genres, movielens_tags, movielens_titles


def title_embeddings(titles: list[str]) -> Content:
    """Embed titles with a text model that comes with its package; any other model's embeddings serve as well."""
    import wordllama

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    return Content(model.embed(titles, norm=True), name="titles")


def main(*, with_titles: bool = False, user: int = 15) -> HybridScorer:
    """Fit, recommend and explain."""
    data = load_movielens()
    titles = movielens_titles()
    (genres, genre_names), (tags, tag_names) = movielens_genres(data.items), movielens_tags(data.items)
    components = [
        Collaborative(ALS(32)),
        Content(genres, feature_names=genre_names, name="genres"),
        Content(tags, feature_names=tag_names, name="tags"),
        History(ItemKNN(100, weighting="degree", binary=True)),
        Prior(),
    ]
    if with_titles:
        components.append(title_embeddings([titles[int(movie)] for movie in data.items]))
    model = HybridScorer(components, most_users=300).fit(data)
    shares = zip(model.component_names, model.attention([user])[0], strict=True)
    print(f"user {user}: " + ", ".join(f"{name} {share:.2f}" for name, share in shares))
    lists = model.recommend([user], 5)
    for movie, score in zip(lists.ids[0], lists.scores[0], strict=True):
        print(f"  {score:.3f}  {titles[int(movie)]}")
    why = model.explain(user, lists.ids[0, 0])
    print(why)
    print("  because of", ", ".join(titles[int(movie)] for movie in why.items[:3]))
    print("  genres:", {name: round(value, 3) for name, value in list(why.features["genres"].items())[:4]})
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", action="store_true")
    main(with_titles=parser.parse_args().titles)
