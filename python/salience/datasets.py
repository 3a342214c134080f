"""Published data sets, found through SALIENCE_DATA and checked; and a synthetic catalogue."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience.interactions import Interactions
from salience.neighbors import unit_rows

_CHECKSUMS = {
    "gowalla/train.txt": "d47e01d060624f389956c0b2f89a1ed8c453ea158631cd2b5320c241f3e1a073",
    "gowalla/valid.txt": "ddc22c1cd9a7d14fd5cd0c98b1473b614f4323038fef74ae0d28cc9c92a08ba2",
    "gowalla/test.txt": "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
    "citeulike-t/cf-train-1-users.dat": "e57e506f2e022a6c1605b4f50152e51c4b714210bd8c7b162ceadae6c38dc2ec",
    "citeulike-t/cf-test-1-users.dat": "dca8695f1aa9b397e8b14e3f51124658c90ec6867767cc355786ef7890446154",
    "citeulike-t/cf-train-10-users.dat": "5c459068b822f9889909e784592d2f3d1a387c7cac1a8dd919afc526c32dfdc7",
    "citeulike-t/cf-test-10-users.dat": "bbe490d0ef560c59e74416160c053c4ce90788d1b6e76f650a78131a2c7f9249",
    "citeulike-t/mult.dat": "5ed81e6fdbf8d475122d4a18d622202571ac80f27be017e194a1957da585283d",
    "citeulike-t/vocabulary.dat": "d58f0e6ce40da9e57c7ad6bbb2d0f1351730e3ecfcbbdf14eec07d493ce539e1",
    "ml-latest-small/movies.csv": "43d1736d3c688eb5b7856473c36d86a1c345676cab256c91720c1f6984d263b5",
    "ml-latest-small/tags.csv": "ba8789ec2e7894bcb29a1762b2f9fb34bad7f288be6b4d8388e86af2138d430e",
    "ml-latest-small/ratings.csv": "b4239649fbf90ebf405c56c3ae1d929d9e7c86fc1a3a80cbef1c884df593ef73",
}


def data_folder() -> Path:
    """Return the folder that SALIENCE_DATA names; FileNotFoundError where there is none."""
    name = os.environ.get("SALIENCE_DATA")
    if not name:
        raise FileNotFoundError("SALIENCE_DATA: not set; expected the folder of the data sets")
    folder = Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"SALIENCE_DATA: {name}; expected a folder")
    return folder


def _checked(name: str, folder: str | Path | None) -> Path:
    path = (data_folder() if folder is None else Path(folder)) / name
    if not path.is_file():
        raise FileNotFoundError(f"folder: no {name} in {path.parent.parent}; expected the published file")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _CHECKSUMS[name]:
        raise ValueError(f"folder: {name} has SHA-256 {found}; expected {_CHECKSUMS[name]}: another version?")
    return path


def load_movielens(folder: str | Path | None = None) -> Interactions:
    """Load the ratings of ml-latest-small (2016): 100,004 ratings of 671 users, with times."""
    path = _checked("ml-latest-small/ratings.csv", folder)
    return Interactions.read(path, user="userId", item="movieId", value="rating", time="timestamp")


def movielens_titles(folder: str | Path | None = None) -> dict[int, str]:
    """Load the title of every movie of ml-latest-small, by movie id."""
    with _checked("ml-latest-small/movies.csv", folder).open(encoding="utf-8", newline="") as file:
        return {int(row["movieId"]): row["title"] for row in csv.DictReader(file)}


def movielens_genres(
    items: npt.NDArray[np.int64], folder: str | Path | None = None
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Load the genres of movies of ml-latest-small: ones and zeros of shape (items, genres), and the genres' names.

    ``items`` are movie ids; a movie without genres, or one that is not known, has a row of zeros.
    """
    with _checked("ml-latest-small/movies.csv", folder).open(encoding="utf-8", newline="") as file:
        of_movie = {int(row["movieId"]): row["genres"].split("|") for row in csv.DictReader(file)}
    names = sorted({genre for genres in of_movie.values() for genre in genres} - {"(no genres listed)"})
    column = {name: number for number, name in enumerate(names)}
    table = np.zeros((len(items), len(names)), np.float32)
    for row, item in enumerate(np.asarray(items).tolist()):
        for genre in of_movie.get(item, ()):
            if genre in column:
                table[row, column[genre]] = 1.0
    return table, tuple(names)


def movielens_tags(
    items: npt.NDArray[np.int64], folder: str | Path | None = None, *, before: float | None = None
) -> tuple[sp.csr_matrix, tuple[str, ...]]:
    """Load how often movies of ml-latest-small were given each tag: CSR of shape (items, tags), and the tags' names.

    ``items`` are movie ids. ``before`` leaves out tags that were given at that time, in seconds since 1970, or later.
    Tags are in lower case.
    """
    rows = {int(item): row for row, item in enumerate(np.asarray(items).tolist())}
    with _checked("ml-latest-small/tags.csv", folder).open(encoding="utf-8", newline="") as file:
        given = [(int(line["movieId"]), line["tag"].strip().lower()) for line in csv.DictReader(file)
                 if before is None or float(line["timestamp"]) < before]  # fmt: skip
    names = sorted({tag for _, tag in given})
    columns = {name: column for column, name in enumerate(names)}
    known = [(rows[item], columns[tag]) for item, tag in given if item in rows]
    where = np.array(known, np.int64).reshape(-1, 2).T
    counts = sp.csr_matrix((np.ones(len(known), np.float32), tuple(where)), shape=(len(rows), len(names)))
    counts.sum_duplicates()
    return counts, tuple(names)


def _lists(path: Path, shape: tuple[int, int], *, counted: bool, ordered: bool = False) -> Interactions:
    """Read one line a user; ``counted`` lines begin with their length, others with the user.

    Where lines are ``ordered``, an item's time is its place in the line, as a share of the line.
    """
    users: list[int] = []
    items: list[int] = []
    times: list[float] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        first, *rest = line.split() or ["0"]
        users += [number if counted else int(first)] * len(rest)
        items += map(int, rest)
        times += [place / len(rest) for place in range(len(rest))]
    matrix = sp.csr_array((np.ones(len(users), np.float32), (users, items)), shape=shape)
    found = Interactions.from_csr(matrix)
    if not ordered:
        return found
    order = np.lexsort((items, users))
    return Interactions(found.matrix, found.user_map, found.item_map, np.array(times)[order])


def load_gowalla(
    folder: str | Path | None = None,
) -> tuple[Interactions, Interactions, Interactions]:
    """Load Gowalla check-ins as train, valid and test; ids are row numbers.

    The LightGCN split: 29,858 users, 40,981 places; train and valid together are the published
    training set (810,128 pairs), test holds 217,242. The times of train are places in the user's list, from 0 for the
    first up to 1, as the file orders it: later ones are more like test. Valid was drawn by chance from all places of
    the lists and is in no order, so it has no times; nor has test.
    """
    shape = (29858, 40981)
    paths = [_checked(f"gowalla/{name}.txt", folder) for name in ("train", "valid", "test")]
    valid, test = (_lists(path, shape, counted=False) for path in paths[1:])
    return _lists(paths[0], shape, counted=False, ordered=True), valid, test


def load_citeulike(folder: str | Path | None = None, *, train_items: int = 10) -> tuple[Interactions, Interactions]:
    """Load CiteULike-t as train and test, with 1 or 10 training articles a user."""
    if train_items not in (1, 10):
        raise ValueError(f"train_items: {train_items!r}; expected 1 or 10")
    names = [f"citeulike-t/cf-{part}-{train_items}-users.dat" for part in ("train", "test")]
    train, test = (_lists(_checked(name, folder), (7947, 25975), counted=True) for name in names)
    return train, test


def citeulike_words(
    folder: str | Path | None = None, *, weighting: Literal["tfidf", "none"] = "tfidf"
) -> tuple[sp.csr_array, tuple[str, ...]]:
    """Load the words of CiteULike-t's 25,975 articles: float32 of shape (articles, words), and the words.

    "tfidf": words of at least 3 articles, (1 + log count) * log(articles / articles with the word), rows of length 1.
    "none": how often each word comes, all words.
    """
    if weighting not in ("tfidf", "none"):
        raise ValueError(f"weighting: {weighting!r}; expected 'tfidf' or 'none'")
    lines = _checked("citeulike-t/mult.dat", folder).read_text(encoding="utf-8").splitlines()
    pairs = [[part.split(":") for part in line.split()[1:]] for line in lines]
    rows = np.repeat(np.arange(len(pairs)), [len(part) for part in pairs])
    columns, counts = (np.array([int(pair[n]) for part in pairs for pair in part]) for n in (0, 1))
    names = _checked("citeulike-t/vocabulary.dat", folder).read_text(encoding="utf-8").splitlines()
    articles = np.bincount(columns)
    shape = len(pairs), len(articles)
    if weighting == "none":
        return sp.csr_array((counts.astype(np.float32), (rows, columns)), shape=shape), tuple(names[: shape[1]])
    kept = articles[columns] >= 3
    weights = (1 + np.log(counts[kept])) * np.log(len(pairs) / articles[columns[kept]])
    table = sp.csr_array((weights.astype(np.float32), (rows[kept], columns[kept])), shape=shape)
    used = np.unique(columns[kept])
    return sp.csr_array(unit_rows(table[:, used])), tuple(names[column] for column in used)


GENRES = ("Adventure", "Comedy", "Documentary", "Drama", "Fantasy", "Mystery", "Romance", "Science")
_FIRST = (
    "Quiet", "Golden", "Last", "Hidden", "Winter", "Paper", "Silver", "Distant", "Broken", "Summer",
    "Electric", "Velvet", "Burning", "Secret", "Northern", "Crimson", "Gentle", "Endless", "Wild", "Midnight",
)  # fmt: skip
_SECOND = (
    "Harbour", "Garden", "Letter", "Orchard", "Signal", "River", "Lantern", "Mountain", "Voyage", "Mirror",
    "Station", "Island", "Clock", "Theatre", "Forest", "Bridge", "Comet", "Library", "Summit", "Tide",
)  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """A synthetic catalogue.

    Attributes
    ----------
    interactions : Interactions
        Values 1 to 5, times in seconds over one year.
    titles : dict of int to str
    item_features : array of float32, shape (items, genres)
        Genre weights, columns as in ``genres``.
    genres : tuple of str
    """

    interactions: Interactions
    titles: dict[int, str]
    item_features: npt.NDArray[np.float32]
    genres: tuple[str, ...] = GENRES


def synthetic(users: int = 2000, items: int = 1000, *, seed: int = 0) -> Catalogue:
    """Make a catalogue with skewed popularity, genres, tastes that drift, and times.

    Each user has a few favourite genres; the chance of picking an item grows with its popularity
    (a power law) and with how well its genres fit. Same seed, same catalogue.
    """
    random = np.random.default_rng(seed)
    features = random.dirichlet(np.full(len(GENRES), 0.15), items)
    tastes = random.dirichlet(np.full(len(GENRES), 0.2), users)
    drift = random.dirichlet(np.full(len(GENRES), 0.2), users)
    popularity = 1.0 / (1.0 + random.permutation(items)) ** 0.8
    start, year = 1_700_000_000, 365 * 86400
    pairs: list[npt.NDArray[np.int64]] = []
    values, times = [], []
    for user in range(users):
        count = int(np.clip(random.lognormal(3.2, 0.7), 4, items // 4))
        when = np.sort(random.random(count))
        half = int(np.searchsorted(when, 0.5))
        for part, moments in ((0, when[:half]), (1, when[half:])):
            taste = tastes[user] if part == 0 else 0.8 * tastes[user] + 0.2 * drift[user]
            fit = features @ taste
            noise = random.gumbel(size=items)
            picked = np.argsort(-(np.log(popularity) + 6.0 * fit + noise))[: len(moments)]
            pairs.append(np.column_stack([np.full(len(picked), user), picked]))
            values.append(np.clip(np.round(2.2 + 3.5 * fit[picked] + random.normal(0, 0.6, len(picked))), 1, 5))
            times.append((start + moments * year).astype(np.int64))
    rows = np.concatenate(pairs)
    columns = {
        "user": rows[:, 0] + 1,
        "item": rows[:, 1] + 1,
        "value": np.concatenate(values),
        "time": np.concatenate(times),
    }
    interactions = Interactions._from_columns(columns, "last")
    return Catalogue(interactions, _titles(items), features.astype(np.float32))


def _titles(items: int) -> dict[int, str]:
    plain = [f"The {first} {second}" for second in _SECOND for first in _FIRST]
    names = {}
    for number in range(items):
        volume, at = divmod(number, len(plain))
        names[number + 1] = plain[(at * 137) % len(plain)] + (f" {volume + 1}" if volume else "")
    return names
