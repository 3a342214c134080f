"""ALS against dense float64 solutions of its own objective."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import salience
from salience import ALS, Interactions, Popularity


def ratings(seed=0, users=60, items=40, density=0.2, implicit=False):
    random = np.random.default_rng(seed)
    dense = random.integers(1, 6, (users, items)) * (random.random((users, items)) < density)
    dense[3] = 0  # a user without history
    return sp.csr_matrix((dense > 0 if implicit else dense).astype(np.float32))


def dense_user_factors(model, matrix):
    """Solve every user of the implicit objective exactly, in float64."""
    items = model.item_factors_.astype(np.float64)
    out = []
    for user in range(matrix.shape[0]):
        row = matrix[[user]]
        observed, weights = items[row.indices], model.alpha * row.data.astype(np.float64)
        strength = row.nnz + model.unobserved_weight * len(items)
        ridge = model.regularization * strength**model.regularization_exponent
        system = model.unobserved_weight * items.T @ items + observed.T @ (weights[:, None] * observed)
        out.append(np.linalg.solve(system + ridge * np.eye(items.shape[1]), observed.T @ weights))
    return np.array(out)


def objective(model, matrix):
    users, items = model.user_factors_.astype(np.float64), model.item_factors_.astype(np.float64)
    scores = users @ items.T
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    error = (model.alpha * matrix.data * (1 - scores[rows, matrix.indices]) ** 2).sum()
    total = error + model.unobserved_weight * (scores**2).sum()
    for factors, counts, others in (
        (users, np.diff(matrix.indptr), len(items)),
        (items, np.bincount(matrix.indices, minlength=len(items)), len(users)),
    ):
        ridge = model.regularization * (counts + model.unobserved_weight * others) ** model.regularization_exponent
        total += (ridge * (factors**2).sum(axis=1)).sum()
    return total


@pytest.mark.parametrize("solver", ["auto", "cg", "cholesky", "subspace"])
def test_users_solve_their_systems_exactly(solver):
    matrix = ratings()
    model = ALS(24, epochs=3, alpha=2.0, regularization=0.01, solver=solver, block=16).fit(matrix)
    expected = dense_user_factors(model, matrix)
    assert np.abs(model.user_factors_ - expected).max() < 1e-5 * np.abs(expected).max()


def test_loss_history_is_the_objective_and_falls():
    matrix = ratings(implicit=True)
    seen = []
    model = ALS(8, epochs=6, steps=30, regularization=0.01)
    model.fit(matrix, callback=lambda epoch, current: seen.append((epoch, objective(current, matrix))))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert all(np.diff(model.loss_history_) <= 1e-6 * model.loss_history_[0])
    # The callback's model has users solved for the epoch's items: its objective is no larger.
    for (_, exact), recorded in zip(seen, model.loss_history_, strict=True):
        assert exact <= recorded * (1 + 1e-6)
    assert seen[-1][1] == pytest.approx(model.loss_history_[-1], rel=0.02)


def test_explicit_biases_and_factors_solve_their_joint_system():
    matrix = ratings(seed=1)
    model = ALS(6, feedback="explicit", epochs=5, regularization=0.3).fit(matrix)
    items = np.hstack([model.item_factors_, np.ones((matrix.shape[1], 1))]).astype(np.float64)
    for user in (0, 3, 11):
        row = matrix[[user]]
        observed = items[row.indices]
        target = row.data - model.mean_ - model.item_biases_[row.indices]
        ridge = 0.3 * max(row.nnz, 1) ** 0.5
        expected = np.linalg.solve(observed.T @ observed + ridge * np.eye(7), observed.T @ target)
        found = np.append(model.user_factors_[user], model.user_biases_[user])
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_thread_count_does_not_change_a_bit(feedback):
    matrix = ratings(users=3000, items=500, density=0.05)
    models = [ALS(16, feedback=feedback, epochs=2, threads=threads).fit(matrix) for threads in (1, 2, 3)]
    for model in models[1:]:
        assert np.array_equal(model.user_factors_, models[0].user_factors_)
        assert np.array_equal(model.item_factors_, models[0].item_factors_)
        assert model.loss_history_ == models[0].loss_history_


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_explanation_adds_up_to_the_score(feedback):
    matrix = ratings(seed=2)
    model = ALS(8, feedback=feedback, epochs=4).fit(matrix)
    for user, item in ((0, 1), (5, 30), (3, 7)):
        reason = model.explain(user, item)
        score = model.score([user], [item])[0]
        assert reason.base + reason.contributions.sum() == pytest.approx(reason.score)
        assert reason.score == pytest.approx(score, abs=1e-4)
        assert sorted(reason.items) == sorted(matrix[[user]].indices)
        assert all(np.diff(reason.contributions) <= 0)


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_fold_in_of_a_history_gives_the_stored_user(feedback):
    matrix = ratings(seed=3)
    model = ALS(8, feedback=feedback, epochs=4).fit(matrix)
    folded = model.fold_in(matrix)
    assert np.abs(folded[:, :8] - model.user_factors_).max() < 2e-4 * np.abs(folded).max()
    if feedback == "explicit":
        assert np.abs(folded[:, 8] - model.user_biases_).max() < 1e-4


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_saved_models_answer_the_same(feedback, tmp_path):
    frame = {"u": ["zoë", "bob", "bob", "アン"], "i": [10, 20, 30, 10], "v": [3.0, 4.0, 5.0, 1.0]}
    import pandas as pd

    data = Interactions.from_frame(pd.DataFrame(frame), user="u", item="i", value="v")
    model = ALS(4, feedback=feedback, epochs=3).fit(data)
    model.save(tmp_path / "model")
    again = ALS.load(tmp_path / "model")
    for name in ("rows", "ids", "scores"):
        ours, theirs = (getattr(m.recommend(data.users, 5), name) for m in (model, again))
        assert np.array_equal(ours, theirs)
    assert np.array_equal(model.fold_in(data.matrix), again.fold_in(data.matrix))
    assert again.loss_history_ == model.loss_history_


def test_recommend_is_the_brute_force_ranking_without_seen_items():
    matrix = ratings(seed=4)
    model = ALS(8, epochs=3).fit(matrix)
    found = model.recommend(np.arange(60), 50, deny=[0, 1])
    scores = salience.similarity(model.user_factors_, model.item_factors_)
    for user in range(60):
        open_items = np.setdiff1d(np.arange(2, 40), matrix[[user]].indices)
        order = open_items[np.lexsort((open_items, -scores[user, open_items]))]
        assert found.counts[user] == len(order)
        assert np.array_equal(found.ids[user, : len(order)], order)
        assert np.all(found.ids[user, len(order) :] == -1)
        assert np.all(np.isneginf(found.scores[user, len(order) :]))


def test_popularity_counts_users_and_breaks_ties_by_row():
    model = Popularity().fit(sp.csr_array(np.array([[1, 0, 5, 0], [1, 1, 0, 0], [1, 1, 0, 2]])))
    assert model.recommend([0], 4, exclude_seen=False).ids.tolist() == [[0, 1, 2, 3]]
    assert model.recommend([0], 4).ids.tolist() == [[1, 3, -1, -1]]


def test_similar_items_leave_themselves_out():
    model = ALS(8, epochs=3).fit(ratings())
    found = model.similar_items(np.arange(40), 39)
    assert all(item not in row for item, row in enumerate(found.rows))
    assert (found.counts == 39).all()
    farther = model.similar_items([0], 50, metric="euclidean")
    assert np.isposinf(farther.scores[0, 39:]).all()
    assert (farther.rows[0, 39:] == -1).all()


def test_divergence_names_the_row():
    matrix = ratings()
    matrix.data[:] = 1e30
    with pytest.raises(FloatingPointError, match=r"users row \d+"):
        ALS(8, alpha=1e30, regularization=0.0, unobserved_weight=0.0).fit(matrix)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"factors": 0}, ValueError, "factors: 0"),
        ({"factors": 2.5}, TypeError, "factors: 2.5"),
        ({"factors": True}, TypeError, "factors: True"),
        ({"feedback": "both"}, ValueError, "feedback: 'both'"),
        ({"alpha": -1.0}, ValueError, r"alpha: -1\.0"),
        ({"alpha": float("nan")}, ValueError, "alpha: nan"),
        ({"regularization": float("inf")}, ValueError, "regularization: inf"),
        ({"regularization": "much"}, TypeError, "regularization: 'much'"),
        ({"epochs": 0}, ValueError, "epochs: 0"),
        ({"steps": 0}, ValueError, "steps: 0"),
        ({"tolerance": -1}, ValueError, r"tolerance: -1\.0"),
        ({"block": 24}, ValueError, "block: 24; expected a multiple of 16"),
        ({"relaxation": 2}, ValueError, r"relaxation: 2\.0; expected less than 2"),
        ({"nonnegative": "yes"}, ValueError, "nonnegative: 'yes'"),
        ({"feature_regularization": -1.0}, ValueError, "feature_regularization: -1"),
        ({"seed": -1}, ValueError, "seed: -1"),
        ({"threads": 0}, ValueError, "threads: 0"),
        ({"solver": "magic"}, ValueError, "solver: 'magic'"),
        ({"device": "gpu"}, ValueError, "device: 'gpu'"),
        (
            {"device": "cuda", "solver": "subspace"},
            ValueError,
            "solver: 'subspace' with device 'cuda'; expected 'auto'",
        ),
        ({"device": "cuda", "nonnegative": True}, ValueError, "nonnegative: True with device 'cuda'"),
    ],
)
def test_wrong_settings(arguments, error, words):
    with pytest.raises(error, match=words):
        ALS(**arguments)


def test_wrong_calls(tmp_path):
    matrix = ratings()
    with pytest.raises(ValueError, match="ALS: not fitted"):
        ALS().recommend([0])
    with pytest.raises(ValueError, match="interactions: .*0 entries"):
        ALS().fit(sp.csr_array((3, 4)))
    with pytest.raises(TypeError, match="interactions: .*expected Interactions"):
        ALS().fit(np.ones((3, 4)))
    model = ALS(4, epochs=1).fit(matrix)
    with pytest.raises(ValueError, match="users: 1 unknown \\(60\\)"):
        model.recommend([0, 60])
    with pytest.raises(TypeError, match="users: ids of str"):
        model.recommend(["0"])
    with pytest.raises(ValueError, match="k: 0"):
        model.recommend([0], 0)
    with pytest.raises(ValueError, match="allow: 1 unknown"):
        model.recommend([0], allow=[99])
    with pytest.raises(ValueError, match="items: 1 of them"):
        model.score([0, 1], [0])
    with pytest.raises(ValueError, match="interactions: shape .*expected 40 columns"):
        model.fold_in(matrix.T.tocsr())
    model.save(tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="path: .*damaged"):
            ALS.load(tmp_path / "cut")
    with pytest.raises(ValueError, match="holds salience ALS; expected salience Popularity"):
        Popularity.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        ALS.load(tmp_path / "absent")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    model = ALS(4, epochs=1).fit(ratings())
    model.save(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.data
def test_rating_error_on_movielens(data_folder):
    from salience.datasets import load_movielens

    data = load_movielens(data_folder)
    held_out = np.random.default_rng(0).random(len(data)) < 0.2
    model = ALS(feedback="explicit").fit(data.select(~held_out))
    test = data.select(held_out)
    predicted = np.clip(model.score(test.users[test.rows], test.items[test.matrix.indices]), 0.5, 5)
    assert np.sqrt(np.mean((predicted - test.matrix.data) ** 2)) < 0.89


def test_weights_that_are_not_given_follow_from_the_data():
    matrix = ratings(seed=11, implicit=True)
    scaled = matrix.copy()
    scaled.data *= 1000
    wide = sp.vstack(
        [sp.hstack([matrix, sp.csr_matrix((matrix.shape[0], 50))]), sp.csr_matrix((30, matrix.shape[1] + 50))]
    )
    model, thousandfold, padded = (ALS(8, epochs=2).fit(m) for m in (matrix, scaled, wide.tocsr()))
    assert model.alpha == pytest.approx(1 / matrix.data.mean())
    observed = model.alpha * matrix.data.sum()
    pairs = np.count_nonzero(np.diff(matrix.indptr)) * len(np.unique(matrix.indices))
    assert model.unobserved_weight * pairs == pytest.approx(14 * observed)
    assert np.allclose(thousandfold.user_factors_, model.user_factors_, rtol=1e-4, atol=1e-6)
    assert padded.unobserved_weight == pytest.approx(model.unobserved_weight)
    again = model.fit(scaled)
    assert again.alpha == pytest.approx(thousandfold.alpha)
