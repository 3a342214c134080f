"""Item-to-item models against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from salience import EASE, Interactions, ItemKNN
from salience.evaluation import evaluate, splits


def ratings(seed=0, users=60, items=40, density=0.15):
    random = np.random.default_rng(seed)
    matrix = sp.random_array((users, items), density=density, format="csr", rng=random, dtype=np.float32)
    matrix.data = random.integers(1, 6, matrix.nnz).astype(np.float32)
    return sp.csr_matrix(matrix)


def best_of_rows(weights, k):
    kept = np.zeros_like(weights)
    for row, values in enumerate(weights):
        best = np.lexsort((np.arange(len(values)), -values))[:k]
        best = best[values[best] > 0]
        kept[row, best] = values[best]
    return kept


def definition(matrix, similarity, weighting, shrinkage):
    dense, binary = matrix.toarray().astype(np.float64), (matrix.toarray() != 0).astype(np.float64)
    counts, lengths = binary.sum(axis=0), np.maximum(binary.sum(axis=1), 1)
    if weighting == "degree":
        dense = dense / np.sqrt(lengths[:, None] * np.maximum(counts, 1))
    elif weighting == "tfidf":
        dense = dense * np.log1p(dense.shape[1] / lengths)[:, None]
    elif weighting == "bm25":
        span = 0.25 + 0.75 * counts / counts.mean()
        dense = dense * np.log1p(dense.shape[1] / lengths)[:, None] * 2.2 / (dense + 1.2 * span)
    if similarity == "pearson":
        dense = np.where(binary > 0, dense - dense.sum(axis=0) / np.maximum(counts, 1), 0.0)
    dots, support = dense.T @ dense, binary.T @ binary
    squares = np.diag(dots)
    if similarity == "jaccard":
        found = support / (counts[:, None] + counts - support + shrinkage + (support == 0))
    elif similarity == "euclidean":
        distance = np.sqrt(np.maximum(squares[:, None] + squares - 2 * dots, 0))
        found = np.where(support > 0, 1 / (1 + distance), 0)
    elif weighting == "degree":
        found = dots
    else:
        found = dots / (np.sqrt(np.outer(squares, squares)) + shrinkage + 1e-12)
    if shrinkage and (similarity == "euclidean" or weighting == "degree"):
        found = found * support / (support + shrinkage)
    np.fill_diagonal(found, 0)
    return found, counts


@pytest.mark.parametrize("shrinkage", [0.0, 7.0])
@pytest.mark.parametrize(
    ("similarity", "weighting"),
    [("cosine", "none"), ("cosine", "degree"), ("cosine", "tfidf"), ("cosine", "bm25"), ("pearson", "none"),
     ("euclidean", "none"), ("jaccard", "none")],
)  # fmt: skip
def test_neighbours_are_those_of_the_definition(similarity, weighting, shrinkage):
    matrix = ratings()
    model = ItemKNN(6, similarity=similarity, weighting=weighting, shrinkage=shrinkage).fit(matrix)
    weights, counts = definition(matrix, similarity, weighting, shrinkage)
    expected = best_of_rows(weights, 6)
    if weighting == "degree":
        expected *= np.sqrt(counts[:, None] / np.maximum(counts, 1))
    assert np.allclose(model.similarity_.toarray(), expected, atol=1e-6)
    scores = matrix.toarray() @ expected.T
    users, items = np.nonzero(np.ones(matrix.shape))
    assert np.allclose(model.score(users, items), scores.ravel(), rtol=1e-5, atol=1e-5)


def test_blocks_do_not_change_neighbours(monkeypatch):
    matrix = ratings(3, items=70)
    whole = ItemKNN(9, similarity="jaccard").fit(matrix).similarity_
    monkeypatch.setattr("salience.neighbors._BLOCK_ENTRIES", 500)
    assert (ItemKNN(9, similarity="jaccard").fit(matrix).similarity_ != whole).nnz == 0


def test_features_join_the_cosine():
    matrix, features = ratings(1), np.random.default_rng(2).random((40, 5))
    model = ItemKNN(40, feature_weight=0.5).fit(matrix, item_features=features)
    columns = matrix.toarray().T
    columns = columns / np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-12)
    both = np.hstack([columns, 0.5 * features / np.linalg.norm(features, axis=1, keepdims=True)])
    cosine = both @ both.T / np.outer(*[np.linalg.norm(both, axis=1)] * 2)
    np.fill_diagonal(cosine, 0)
    assert np.allclose(model.similarity_.toarray(), cosine, atol=1e-6)


@pytest.mark.parametrize("users", [None, 31, 30, 9])  # by way of the items, or of the users where they are few
@pytest.mark.parametrize("rows", [1024, 16, 7])
def test_ease_is_the_closed_form(rows, users, monkeypatch):
    monkeypatch.setattr("salience.neighbors._PIVOT_ROWS", rows)
    matrix = ratings(4)[:users]
    gramian = (matrix.T @ matrix).toarray().astype(np.float64) + 3.0 * np.eye(40)
    inverse = np.linalg.inv(gramian)
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    model = EASE(3.0).fit(matrix)
    assert np.allclose(model.similarity_, expected.T, atol=1e-6)
    few = EASE(3.0, neighbors=5).fit(matrix).similarity_.toarray()
    assert ((few != 0).sum(axis=1) == np.minimum((expected != 0).sum(axis=0), 5)).all()
    smallest = np.where(few != 0, np.abs(few), np.inf).min(axis=1)
    assert (np.abs(expected.T * (few == 0)).max(axis=1) <= smallest + 1e-6).all()


@pytest.mark.parametrize("make", [lambda: ItemKNN(8), lambda: EASE(10.0), lambda: EASE(10.0, neighbors=7)])
def test_recommendations_are_the_brute_force_ranking(make, tmp_path):
    matrix = ratings(5)
    data = Interactions.from_csr(matrix, users=[f"u{n}" for n in range(60)], items=np.arange(40) * 10)
    model = make().fit(data)
    scores = np.asarray(model.score_histories(matrix).todense() if sp.issparse(model.similarity_)
                        else model.score_histories(matrix))  # fmt: skip
    scores = np.where(matrix.toarray() != 0, -np.inf, scores)
    scores[:, 3] = -np.inf
    found = model.recommend(["u4", "u0"], 45, deny=[30])
    for row, user in enumerate((4, 0)):
        count = np.isfinite(scores[user]).sum()
        order = np.lexsort((np.arange(40), -scores[user]))[:count]
        assert found.rows[row, :count].tolist() == order.tolist()
        assert (found.rows[row, count:] == -1).all()
        assert np.isneginf(found.scores[row, count:]).all()
    past, parts = model.explain("u4", 0)
    assert parts.sum() == pytest.approx(float(model.score(["u4"], [0])[0]), abs=1e-5)
    assert set(past) == set(matrix[4].indices * 10)
    model.save(tmp_path / "model.safetensors")
    again = type(model).load(tmp_path / "model.safetensors")
    assert np.array_equal(again.recommend(["u4"], 9).scores, model.recommend(["u4"], 9).scores)
    similar = model.similar_items([50], 3)
    row = model.similarity_[[5]]
    row = row.toarray()[0] if sp.issparse(row) else row[0]
    assert similar.scores[0][0] == row.max()


def test_binary_models_see_only_likes_and_dislikes():
    matrix = ratings(8)
    matrix.data[::5] *= -1
    ones = matrix.copy()
    ones.data[:] = np.where(matrix.data > 0, 1, -1)
    for make in (lambda **options: ItemKNN(7, **options), lambda **options: EASE(5.0, **options)):
        seen, plain = make(binary=True).fit(matrix), make().fit(ones)
        assert np.array_equal(seen.recommend(np.arange(60), 9).scores, plain.recommend(np.arange(60), 9).scores)


def test_evaluation_asks_for_blocks_of_scores():
    split = splits.random(Interactions.from_csr(ratings(6, 200, 50, 0.2)))
    model = ItemKNN(10).fit(split.train)
    lists = evaluate(model, split.train, split.test, metrics=["auc", "ndcg@10"])
    assert 0.4 < lists.values["auc"] < 1

    class Listed:
        user_map, item_map = model.user_map, model.item_map
        recommend = staticmethod(model.recommend)

    again = evaluate(Listed(), split.train, split.test, metrics=["ndcg@10"])
    assert again.values["ndcg@10"] == pytest.approx(lists.values["ndcg@10"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ItemKNN(0), "neighbors: 0"),
        (lambda: ItemKNN(similarity="manhattan"), "similarity: 'manhattan'"),
        (lambda: ItemKNN(weighting="idf"), "weighting: 'idf'"),
        (lambda: ItemKNN(similarity="jaccard", weighting="degree"), "weighting: 'degree'"),
        (lambda: ItemKNN(shrinkage=-1), "shrinkage: -1"),
        (lambda: EASE(0), "regularization: 0"),
        (lambda: EASE().fit(sp.csr_matrix((3, 3))), "interactions"),
        (lambda: EASE().fit(ratings(), item_features=np.ones((40, 1))), "item_features: given"),
        (lambda: ItemKNN(similarity="jaccard").fit(ratings(), item_features=np.ones((40, 1))), "item_features: given"),
        (lambda: ItemKNN().fit(ratings(), item_features=np.ones((39, 1))), "item_features: shape"),
        (lambda: ItemKNN().recommend([0]), "ItemKNN: not fitted"),
        (lambda: ItemKNN().fit(ratings()).score_histories(sp.csr_matrix((2, 3))), "histories: shape"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(")):
        make()
