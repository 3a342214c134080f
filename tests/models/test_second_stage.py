"""The second stage: what it adds to a first, and that it learns nothing from what it is tested on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from salience import ALS, Interactions, Popularity, Recommender
from salience.datasets import synthetic
from salience.evaluation import evaluate, splits
from salience.second_stage import HistoryAttention, cooccurrence_vectors, mixed, standardized


@pytest.fixture(scope="module")
def world():
    catalogue = synthetic(400, 250)
    outer = splits.random(catalogue.interactions, per_user=True)
    inner = splits.random(outer.train, per_user=True, seed=1)
    return catalogue, outer, inner


def vectors_of(data):
    return cooccurrence_vectors(data, 16)


def test_without_mixing_it_is_the_first_stage(world):
    _, outer, _ = world
    first = ALS(8, epochs=3)
    model = HistoryAttention(first, mixing=0.0, depth=50).fit(outer.train)
    users = outer.train.users[:40]
    assert np.array_equal(model.recommend(users, 20).ids, first.recommend(users, 20).ids)
    longer = model.recommend(users[:3], 60)
    assert (longer.rows[:, 50:] == -1).all()
    assert (longer.scores[:, 50:] == -np.inf).all()


def test_training_finds_what_helps_and_lifts_quality(world):
    catalogue, outer, inner = world
    model = HistoryAttention(Popularity(), vectors=catalogue.item_features, depth=None)
    model.fit(inner.train, validation=inner.test)
    tried = model.validation_history_
    best = max(tried, key=lambda pair: pair[1])
    assert best[0]["mixing"] == model.mixing > 0
    assert best[0]["temperature"] == model.temperature
    assert best[0]["smoothing"] == model.smoothing
    assert best[0]["popularity"] == model.popularity
    assert len(model._seen) == len(inner.train) + len(inner.test)
    first, both = (
        evaluate(m, outer.train, outer.test, metrics=("ndcg@20",)).values["ndcg@20"] for m in (model.first, model)
    )
    assert both > 1.2 * first


def test_the_judge_of_training_is_the_metric(world):
    _, _, inner = world
    model = HistoryAttention(ALS(8, epochs=3), depth=None)
    model.fit(inner.train, validation=inner.test, refit=False, users=10_000)
    measured = evaluate(model, inner.train, inner.test, metrics=("ndcg@20",)).values["ndcg@20"]
    assert max(value for _, value in model.validation_history_) == pytest.approx(measured, abs=1e-9)


def test_scores_are_those_of_the_lists(world):
    _, outer, _ = world
    model = HistoryAttention(ALS(8, epochs=3), vectors=vectors_of, depth=80, mixing=0.4, popularity=0.7).fit(
        outer.train
    )
    best = model.recommend(outer.train.users[:5], 6)
    users = np.repeat(best.queries, 6)
    assert np.allclose(model.score(users, best.ids.ravel()), best.scores.ravel(), atol=2e-5)
    assert isinstance(model, Recommender)


def test_popularity_is_what_many_liked(world):
    _, outer, _ = world
    data = outer.train
    first = ALS(8, epochs=3)
    model = HistoryAttention(first, mixing=0.0, popularity=1e6, depth=40).fit(data)
    likes = np.bincount(data.matrix.indices, minlength=data.shape[1])
    rows = model.recommend(data.users[:30], 40).rows
    assert (np.diff(likes[rows], axis=1) <= 0).all()
    assert np.array_equal(np.sort(rows, axis=1), np.sort(first.recommend(data.users[:30], 40).rows, axis=1))
    disliked = np.where(data.matrix.indices == np.argmax(likes), -1.0, 1.0)
    changed = sp.csr_matrix((disliked, data.matrix.indices, data.matrix.indptr), shape=data.shape)
    assert HistoryAttention(first).fit(changed)._crowd[np.argmax(likes)] == 0
    few = model.recommend(data.users[:3], 60, allow=data.items[:9])
    assert ((few.rows < 0) == np.isneginf(few.scores)).all()


def test_popularity_helps_where_first_stage_and_attention_miss_it(world):
    """A first stage that ranks against what many had is put right by training."""
    catalogue, _, inner = world
    data = inner.train
    rarest = ALS(1, epochs=1).fit(data)
    rarest.user_factors_ = np.ones((data.shape[0], 1), np.float32)
    rarest.item_factors_ = -np.log1p(np.bincount(data.matrix.indices, minlength=data.shape[1]))[:, None].astype("f4")
    rarest.fit = lambda interactions: rarest
    model = HistoryAttention(rarest, vectors=catalogue.item_features, depth=None)
    model.fit(data, validation=inner.test, refit=False)
    assert model.popularity > 0


def test_recent_items_speak_louder_with_a_half_life():
    data = Interactions._from_columns(
        {"user": np.array([0, 0, 1]), "item": np.array([0, 1, 5]), "time": np.array([0.0, 100.0, 0.0])}, "last"
    )
    items = np.zeros((3, 4), np.float32)
    assert data.items.tolist() == [0, 1, 5]
    items[0, 0] = items[1, 1] = 1
    items[2] = [0.9, 0.1, 0, 0]
    cosines = np.array([0.9, 0.1]) / np.hypot(0.9, 0.1)
    for half_life, recency in ((None, [1, 1]), (10.0, [2.0**-10, 1])):
        model = HistoryAttention(Popularity(), vectors=items, half_life=half_life, temperature=2.0, smoothing=0.5).fit(
            data
        )
        weights = np.exp((cosines - 1) / 2.0) * recency
        expected = (weights @ cosines) / np.sqrt(weights.sum())
        assert model._attend(np.array([0]), np.array([[2]]))[0, 0] == pytest.approx(expected, rel=1e-6)


def test_a_saved_model_recommends_the_same(world, tmp_path):
    _, outer, _ = world
    model = HistoryAttention(ALS(8, epochs=3), vectors=vectors_of, depth=60, half_life=5e6, popularity=0.3).fit(
        outer.train
    )
    model.save(tmp_path / "second")
    again = HistoryAttention.load(tmp_path / "second")
    users = outer.train.users[:50]
    best, loaded = model.recommend(users, 10), again.recommend(users, 10)
    assert np.array_equal(best.ids, loaded.ids)
    assert np.array_equal(best.scores, loaded.scores)
    with pytest.raises(ValueError, match="first: the vectors of a saved model"):
        again.fit(outer.train)


def test_filters_reach_the_first_stage(world):
    _, outer, _ = world
    model = HistoryAttention(ALS(8, epochs=3), depth=30).fit(outer.train)
    some = outer.train.items[:40]
    assert np.isin(model.recommend(outer.train.users[:9], 10, allow=some).ids, [*some, -1]).all()
    assert not np.isin(model.recommend(outer.train.users[:9], 10, deny=some).ids, some).any()


def test_cooccurrence_vectors_point_where_users_agree():
    blocks = sp.csr_matrix(np.kron(np.eye(3), np.ones((20, 10))).astype(np.float32))
    random = np.random.default_rng(0)
    kept = blocks.multiply(random.random(blocks.shape) < 0.6).tocsr()
    vectors = cooccurrence_vectors(kept, 3)
    assert vectors.shape == (30, 3)
    assert vectors.dtype == np.float32
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    inside = np.kron(np.eye(3), np.ones((10, 10))) > 0
    assert cosines[inside].min() > 0.9
    assert np.abs(cosines[~inside]).max() < 0.4


def test_standardized_lists_have_mean_zero_and_variance_one():
    scores = np.array([[3, 1, -np.inf, 2], [5, 5, 5, -np.inf], [-np.inf] * 4], np.float32)
    found = standardized(scores)
    assert found[0, [0, 1, 3]].mean() == pytest.approx(0, abs=1e-12)
    assert found[0, [0, 1, 3]].std() == pytest.approx(1)
    assert found[1, :3].tolist() == [0, 0, 0]
    for part in (0.0, 0.5, 1.0):
        assert np.array_equal(np.isneginf(mixed(found, found, part)), np.isneginf(scores))


def wrong(world, **changes):
    _, _, inner = world
    return HistoryAttention(ALS(4, epochs=1), **changes).fit(inner.train)


def test_wrong_input_is_named(world):
    _, _, inner = world
    with pytest.raises(TypeError, match="first: 'als'; expected a model"):
        HistoryAttention("als")
    with pytest.raises(ValueError, match="temperature: 0.001; expected at least 0.005"):
        HistoryAttention(ALS(4), temperature=0.001)
    with pytest.raises(ValueError, match="mixing: 1.5; expected 0 to 1"):
        HistoryAttention(ALS(4), mixing=1.5)
    with pytest.raises(ValueError, match="popularity: -1.0; expected a finite number that is not negative"):
        HistoryAttention(ALS(4), popularity=-1.0)
    with pytest.raises(ValueError, match="vectors: 3 rows; expected one for each of the"):
        wrong(world, vectors=np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="vectors: a value that is not finite in row 0"):
        wrong(world, vectors=np.full((inner.train.shape[1], 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="validation: .* pairs are in interactions too"):
        HistoryAttention(ALS(4, epochs=1)).fit(inner.train, validation=inner.train)
    with pytest.raises(ValueError, match="validation: .*expected the users and items of interactions"):
        HistoryAttention(ALS(4, epochs=1)).fit(inner.train, validation=inner.test.matrix[:5])
    with pytest.raises(ValueError, match="HistoryAttention: not fitted"):
        HistoryAttention(ALS(4)).recommend([0])
    with pytest.raises(ValueError, match="half_life: interactions without times"):
        HistoryAttention(ALS(4, epochs=1), half_life=3.0).fit(inner.train.matrix).recommend([0])
    with pytest.raises(ValueError, match="dimensions: 500; expected 1 to"):
        cooccurrence_vectors(inner.train, 500)
