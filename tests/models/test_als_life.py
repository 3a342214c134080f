"""ALS beyond a plain fit: features, fold-in, growth, steering, checkpoints, explanations, hard data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from salience import ALS, Interactions

FEEDBACKS = ("implicit", "explicit")
KINDS = (("implicit", False), ("explicit", False), ("implicit", True), ("explicit", True))


def clusters(seed=0, users=80, items=60, groups=4, noise=0.02, empty_items=0):
    """Users of a group like the items of that group; features tell an item's group."""
    random = np.random.default_rng(seed)
    user_group, item_group = random.integers(0, groups, users), random.integers(0, groups, items)
    likes = (user_group[:, None] == item_group) & (random.random((users, items)) < 0.5)
    likes |= random.random((users, items)) < noise
    likes[:, items - empty_items :] = False
    features = np.eye(groups, dtype=np.float32)[item_group]
    return sp.csr_matrix(likes.astype(np.float32)), features, user_group, item_group


def rated(seed=0, users=60, items=40, density=0.2):
    random = np.random.default_rng(seed)
    dense = random.integers(1, 6, (users, items)) * (random.random((users, items)) < density)
    dense[3] = 0
    return sp.csr_matrix(dense.astype(np.float32))


def same(a, b):
    names = ["user_factors_", "item_factors_", "loss_history_", "residual_history_"]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def hkv_loss(confidence, ridge, x, y, matrix):
    """Hu, Koren and Volinsky's objective, as implicit trains it."""
    dense = matrix.toarray() > 0
    weights = np.where(dense, confidence, 1.0)
    return (weights * (dense - x @ y.T) ** 2).sum() + ridge * ((x**2).sum() + (y**2).sum())


def test_the_parameters_of_implicit_and_of_rendle_map_to_ours():
    matrix, *_ = clusters()
    random = np.random.default_rng(1)
    model = ALS.from_implicit(factors=8, regularization=0.7, confidence=5.0, iterations=3)
    assert model.epochs == 3
    scale = np.sqrt(5.0 / 4.0)
    losses = []
    for _ in range(3):
        x, y = random.standard_normal((80, 8)), random.standard_normal((60, 8))
        ours = model.alpha * (matrix.toarray() * (1 - x @ y.T) ** 2).sum()
        ours += model.unobserved_weight * ((x @ y.T) ** 2).sum() + model.regularization * ((x**2).sum() + (y**2).sum())
        losses.append((ours, hkv_loss(5.0, 0.7, scale * x, scale * y, matrix)))
    ours, theirs = np.array(losses).T
    # The same up to a factor and a constant.
    assert np.allclose(np.diff(theirs) * (4.0 / 5.0) ** 2, np.diff(ours), rtol=1e-9)
    with pytest.raises(ValueError, match="confidence: 1.0; expected more than the 1"):
        ALS.from_implicit(confidence=1.0)
    rendle = ALS.from_rendle(dimension=8, alpha0=0.1, regularization=0.003, nu=0.5)
    assert (rendle.alpha, rendle.unobserved_weight, rendle.regularization_exponent, rendle.epochs) == (
        1.0,
        0.1,
        0.5,
        16,
    )


def test_dislikes_lower_scores():
    matrix, _, user_group, item_group = clusters()
    item = int(np.flatnonzero(item_group == user_group[0])[0])
    plain = matrix.tolil()
    plain[0, item] = 0
    disliked = plain.copy()
    disliked[0, item] = -3
    models = [
        ALS(8, unobserved_weight=0.1, regularization=0.1, regularization_exponent=0).fit(m.tocsr())
        for m in (plain, disliked)
    ]
    before, after = (model.score([0], [item])[0] for model in models)
    assert after < 0.5 * before


@pytest.mark.parametrize(("feedback", "nonnegative"), KINDS)
def test_fold_in_gives_what_training_left_to_the_bit(feedback, nonnegative):
    matrix = rated(seed=3)
    model = ALS(8, feedback=feedback, nonnegative=nonnegative, epochs=4).fit(matrix)
    folded = model.fold_in(matrix)
    assert np.array_equal(folded[:, :8], model.user_factors_)
    if feedback == "explicit":
        assert np.array_equal(folded[:, 8], model.user_biases_)
    if nonnegative:
        assert (model.user_factors_ >= 0).all()
        assert (model.item_factors_ >= 0).all()


@pytest.mark.parametrize(("feedback", "nonnegative"), KINDS)
def test_folded_in_items_solve_their_systems(feedback, nonnegative):
    matrix = rated(seed=4)
    model = ALS(8, feedback=feedback, nonnegative=nonnegative, epochs=4, alpha=1.0, unobserved_weight=0.1,
                regularization=0.3, regularization_exponent=0.5).fit(matrix)  # fmt: skip
    found = model.fold_in_items(matrix[:, :7])
    users = model.user_factors_.astype(np.float64)
    if feedback == "explicit":
        users = np.hstack([users, np.ones((60, 1))])
    for item in range(7):
        column = matrix[:, [item]].tocsc()
        seen = users[column.indices]
        if feedback == "explicit":
            weights, targets = np.ones(column.nnz), column.data - model.mean_ - model.user_biases_[column.indices]
            ridge, dense = 0.3 * column.nnz**0.5, 0
        else:
            weights, targets = column.data.astype(np.float64), np.ones(column.nnz)
            ridge, dense = 0.3 * (column.nnz + 0.1 * 60) ** 0.5, 0.1 * users.T @ users
        system = dense + ridge * np.eye(users.shape[1]) + seen.T @ (weights[:, None] * seen)
        gradient = seen.T @ (weights * targets) - system @ found[item]
        held = np.zeros(users.shape[1], bool)
        if nonnegative:
            held[:8] = found[item, :8] == 0
        scale = np.abs(system).max() * np.abs(found[item]).max()
        assert np.abs(gradient[~held]).max() < 1e-5 * scale
        assert gradient[held].max(initial=0) < 1e-5 * scale


@pytest.mark.parametrize("kind", ["dense", "sparse", "many"])
def test_features_place_items_that_nobody_saw(kind):
    matrix, features, user_group, item_group = clusters(empty_items=8)
    if kind == "sparse":
        features = sp.csr_array(features)
    if kind == "many":  # more columns than are solved directly
        wide = np.zeros((60, 2100), np.float32)
        wide[:, :4] = features
        features = sp.csr_array(wide)
    model = ALS(8, regularization=1.0, regularization_exponent=0, feature_regularization=0.1)
    model.fit(matrix, item_features=features)
    cold = np.arange(52, 60)
    scores = model.user_factors_ @ model.item_factors_[cold].T
    own = user_group[:, None] == item_group[cold]
    assert scores[own].mean() > 3 * np.abs(scores[~own]).mean()
    assert np.allclose(model.item_factors_[cold], (features @ model.item_feature_weights_)[cold], atol=1e-6)
    assert all(np.diff(model.loss_history_) <= 1e-5 * model.loss_history_[0])
    # A new item without interactions, by its features alone.
    new = model.fold_in_items(sp.csr_array((80, 2)), item_features=features[:2])
    assert np.allclose(new, features[:2] @ model.item_feature_weights_, atol=1e-5)


@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_the_loss_with_features_is_the_objective(feedback):
    matrix, features, *_ = clusters()
    matrix.data *= np.random.default_rng(0).integers(1, 5, matrix.nnz)
    model = ALS(
        6, feedback=feedback, epochs=12, alpha=1.0, unobserved_weight=0.1, regularization=0.5,
        regularization_exponent=0.0, feature_regularization=2.0,
    )  # fmt: skip
    seen = []

    def objective(epoch, current):
        x, y = (m.astype(np.float64) for m in (current._users, current._items))
        w = current.item_feature_weights_.astype(np.float64)
        total = 0.5 * ((x**2).sum() + ((y - features @ w) ** 2).sum()) + 2.0 * (w**2).sum()
        if feedback == "explicit":
            error = matrix.toarray() - current.mean_ - x[:, 6:] - y[:, 6] - x[:, :6] @ y[:, :6].T
            total += error[matrix.toarray() > 0] @ error[matrix.toarray() > 0]
        else:
            scores = x @ y.T
            total += (matrix.toarray() * (1 - scores) ** 2).sum() + 0.1 * (scores**2).sum()
        seen.append(total)

    model.fit(matrix, item_features=features, callback=objective)
    # The callback's users are solved for the epoch's items: its objective is no larger, and not far.
    for exact, recorded in zip(seen, model.loss_history_, strict=True):
        assert exact <= recorded * (1 + 1e-5)
    assert seen[-1] == pytest.approx(model.loss_history_[-1], rel=0.05)


def test_user_features_carry_another_domain_over():
    books, _, group, _ = clusters(seed=1)
    films, *_ = clusters(seed=2, users=80)
    # The same people in both domains: film likes follow the book group.
    random = np.random.default_rng(3)
    film_group = random.integers(0, 4, 60)
    films = sp.csr_matrix(((group[:, None] == film_group) & (random.random((80, 60)) < 0.5)).astype(np.float32))
    known, newcomers = np.arange(60), np.arange(60, 80)
    masked = films.tolil()
    masked[newcomers] = 0
    domain = ALS(8).fit(books)
    model = ALS(8, unobserved_weight=0.1, regularization=1.0, regularization_exponent=0.0, feature_regularization=0.1)
    model.fit(masked.tocsr(), user_features=domain.user_factors_)
    scores = model.user_factors_[newcomers] @ model.item_factors_.T
    own = group[newcomers][:, None] == film_group
    assert scores[own].mean() > 3 * np.abs(scores[~own]).mean()
    folded = model.fold_in(films[known], user_features=domain.user_factors_[known])
    assert np.allclose(folded, model.user_factors_[known], atol=1e-5)


@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_partial_fit_grows_and_touches_only_what_changed(feedback):
    import pandas as pd

    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"u": random.integers(0, 50, 600), "i": random.integers(0, 40, 600), "v": random.integers(1, 6, 600)}
    )
    old, new = frame[frame.i < 35], frame[(frame.i >= 35) & (frame.u % 5 == 0)]
    new = pd.concat([new, pd.DataFrame({"u": [99, 99, 99], "i": [1, 2, 36], "v": [5, 4, 3]})])
    kwargs = {"user": "u", "item": "i", "value": "v"}
    model = ALS(6, feedback=feedback, epochs=5).fit(Interactions.from_frame(old, **kwargs))
    before = model.score([1, 2, 3], [4, 4, 4]), model.item_factors_.copy(), model.mean_
    model.partial_fit(Interactions.from_frame(new, **kwargs))
    assert model.mean_ == before[2]
    assert set(model.user_map.ids) == set(old.u) | set(new.u)
    assert model.user_factors_.shape == (len(model.user_map), 6)
    assert np.allclose(
        model.score([1, 2, 3], [4, 4, 4]), before[0], atol=1e-5
    )  # neither the users nor the item changed
    touched = model.user_map.rows([99])
    assert np.allclose(model.fold_in(model._seen.matrix[touched])[:, :6], model.user_factors_[touched], atol=1e-5)
    assert len(model.recommend([99], 5).ids[0]) == 5
    assert not set(model.recommend([99], 40).ids[0]) & {1, 2, 36}
    # A whole training run from there starts where this ends.
    losses = list(model.loss_history_)
    model.fit(model._seen, warm_start=True)
    assert model.loss_history_[0] < losses[0]


def test_partial_fit_of_matrices_and_features():
    matrix, features, *_ = clusters()
    model = ALS(4).fit(matrix[:, :50], item_features=features[:50])
    grown = sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(80, 60))
    with pytest.raises(ValueError, match="item_features: None; expected those that the model was fitted with"):
        model.partial_fit(grown)
    with pytest.raises(ValueError, match=r"item_features: shape \(50, 4\); expected 60 rows"):
        model.partial_fit(grown, item_features=features[:50])
    model.partial_fit(grown, item_features=features, duplicates="last")
    assert model.item_factors_.shape == (60, 4)
    assert (model._seen.matrix != matrix).nnz == 0
    with pytest.raises(ValueError, match="user_features: .*; expected none: the model was fitted without"):
        model.fold_in(matrix, user_features=np.ones((80, 2)))
    with pytest.raises(ValueError, match="duplicates: 'mean'"):
        model.partial_fit(grown, item_features=features, duplicates="mean")


def test_warm_start_is_explicit():
    matrix = rated()
    model = ALS(8, epochs=4)
    with pytest.raises(ValueError, match="ALS: not fitted"):
        model.fit(matrix, warm_start=True)
    first = model.fit(matrix).loss_history_
    again = ALS(8, epochs=4).fit(matrix[:30])
    again.fit(matrix)  # another shape: nothing of the old is read
    assert same(model, again)
    assert model.fit(matrix, warm_start=True).loss_history_[0] < first[1]
    grown = sp.vstack([matrix, matrix[:5]]).tocsr()
    assert model.fit(grown, warm_start=True).user_factors_.shape == (65, 8)
    model.factors = 9
    with pytest.raises(ValueError, match="warm_start: 8 factors were fitted; expected 9"):
        model.fit(matrix, warm_start=True)


def test_callback_stops_and_progress_counts(capsys):
    matrix, seen = rated(), []
    model = ALS(8, epochs=9).fit(matrix, callback=lambda epoch, m: epoch == 3, progress=lambda *done: seen.append(done))
    assert len(model.loss_history_) == model.best_epoch_ == 3
    assert seen == [(1, 9), (2, 9), (3, 9)]
    assert same(model, ALS(8, epochs=3).fit(matrix))
    ALS(2, epochs=2).fit(matrix, progress=True)
    assert "epoch 2 of 2" in capsys.readouterr().err


def test_early_stopping_restores_the_best_epoch():
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.2, 0.9])
    model = ALS(8, epochs=20).fit(rated(), validation=lambda m: next(scores), patience=3)
    assert model.validation_history_ == [0.1, 0.3, 0.2, 0.25, 0.2]
    assert model.best_epoch_ == 2
    assert np.array_equal(model.item_factors_, ALS(8, epochs=2).fit(rated()).item_factors_)


def test_validation_interactions_are_measured():
    from salience.evaluation import evaluate, splits

    matrix, *_ = clusters(users=300)
    split = splits.random(Interactions.from_csr(matrix), seed=1)
    model = ALS(8, epochs=6).fit(split.train, validation=split.test, validation_metric="recall@5", patience=6)
    assert len(model.validation_history_) == 6
    report = evaluate(model, split.train, split.test, metrics=("recall@5",))
    assert report.values["recall@5"] == pytest.approx(max(model.validation_history_))
    explicit = ALS(4, feedback="explicit", epochs=3).fit(split.train, validation=split.test)
    assert all(value <= 0 for value in explicit.validation_history_)  # minus RMSE: larger is better
    with pytest.raises(ValueError, match="validation_metric: 'recall@5' without validation"):
        ALS().fit(matrix, validation_metric="recall@5")
    with pytest.raises(TypeError, match="validation: 5; expected Interactions or a function"):
        ALS().fit(matrix, validation=5)
    with pytest.raises(ValueError, match="validation: nan after epoch 1"):
        ALS().fit(matrix, validation=lambda m: float("nan"))


@pytest.mark.parametrize("solver", ["auto", "subspace"])
@pytest.mark.parametrize("with_features", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, solver, with_features):
    matrix, features, *_ = clusters()
    features = features if with_features else None
    settings = {"epochs": 7, "solver": solver}

    def interrupt(epoch, model):
        if epoch == 4:
            raise KeyboardInterrupt

    def judge(model):
        return -abs(len(model.loss_history_) - 3)

    whole = ALS(24, **settings).fit(matrix, item_features=features, validation=judge, patience=9)
    path = tmp_path / "checkpoint"
    kwargs = {"item_features": features, "validation": judge, "patience": 9, "checkpoint": path, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        ALS(24, **settings).fit(matrix, callback=interrupt, **kwargs)
    epochs = []
    resumed = ALS(24, **settings).fit(matrix, callback=lambda epoch, m: epochs.append(epoch), **kwargs)
    assert epochs == [3, 4, 5, 6, 7]
    assert same(whole, resumed)
    assert resumed.best_epoch_ == whole.best_epoch_ == 3
    # A run that had ended only finishes again; one that asks for more epochs goes on.
    assert same(whole, ALS(24, **settings).fit(matrix, **kwargs))
    longer = ALS(24, **{**settings, "epochs": 9}).fit(matrix, **kwargs)
    assert len(longer.loss_history_) == 9
    with pytest.raises(ValueError, match=r"checkpoint: .* written with other settings; expected the same"):
        ALS(24, **settings, alpha=2.0).fit(matrix, **kwargs)
    with pytest.raises(ValueError, match=r"checkpoint: .* written with other data"):
        ALS(24, **settings).fit(2 * matrix, **kwargs)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        ALS(24, **settings).fit(matrix, **kwargs)


@pytest.mark.parametrize(("feedback", "nonnegative"), KINDS)
def test_explanations_add_up_batched_and_folded_in(feedback, nonnegative):
    matrix = rated(seed=2)
    model = ALS(8, feedback=feedback, nonnegative=nonnegative, epochs=4).fit(matrix)
    users, items = np.array([0, 5, 3, 0]), np.array([1, 30, 7, 2])
    reasons = model.explain(users, items)
    for user, item, reason in zip(users, items, reasons, strict=True):
        assert (reason.user, reason.item) == (user, item)
        assert reason.score == pytest.approx(model.score([user], [item])[0], abs=1e-5)
        assert reason.base + reason.contributions.sum() == pytest.approx(reason.score)
        assert sorted(reason.items) == sorted(matrix[[user]].indices)
        assert all(np.diff(reason.contributions) <= 0)
    single = model.explain(0, 1)
    assert single.score == pytest.approx(reasons[0].score)
    # Strangers, from their histories.
    folded = model.explain(["a", "b"], [1, 30], interactions=matrix[[0, 5]])
    assert [reason.score for reason in folded] == pytest.approx([reason.score for reason in reasons[:2]])
    assert folded[0].user == "a"
    with pytest.raises(ValueError, match=r"interactions: shape \(1, 40\); expected 2 rows"):
        model.explain([0, 5], [1, 30], interactions=matrix[[0]])
    with pytest.raises(ValueError, match=r"item: shape \(1,\); expected one for each of the 2 users"):
        model.explain([0, 5], [1])


def test_explanations_with_features_say_what_features_are_worth():
    matrix, _, user_group, _ = clusters()
    features = np.eye(4, dtype=np.float32)[user_group]
    model = ALS(6, regularization=5.0).fit(matrix, user_features=features)
    for reason in model.explain([0, 1, 2], [3, 4, 5]):
        assert reason.base != 0
        assert reason.score == pytest.approx(model.score([reason.user], [reason.item])[0], abs=1e-5)
    again = model.explain([0], [3], interactions=matrix[[0]], user_features=features[:1])[0]
    assert again.score == pytest.approx(model.score([0], [3])[0], abs=1e-5)


@pytest.mark.parametrize(("feedback", "nonnegative"), KINDS)
def test_saved_models_live_on(feedback, nonnegative, tmp_path):
    matrix, features, *_ = clusters()
    model = ALS(8, feedback=feedback, nonnegative=nonnegative, epochs=3).fit(matrix, item_features=features)
    model.save(tmp_path / "model")
    again = ALS.load(tmp_path / "model")
    assert same(model, again)
    assert np.array_equal(model.fold_in(matrix), again.fold_in(matrix))
    assert np.array_equal(model.fold_in_items(matrix[:, :3], item_features=features[:3]),
                          again.fold_in_items(matrix[:, :3], item_features=features[:3]))  # fmt: skip
    assert again.explain(0, 1).score == model.explain(0, 1).score
    assert again.best_epoch_ == 3


@pytest.mark.parametrize("solver", ["auto", "cg", "cholesky", "subspace"])
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_hard_data_gives_finite_factors_or_a_named_row(solver, feedback):
    random = np.random.default_rng(5)
    dense = (random.random((40, 30)) < 0.1) * 10.0 ** random.uniform(-6, 6, (40, 30))
    dense[0] = 1e6  # a user who saw everything
    dense[:, 29] = 0  # an item nobody saw
    dense[1] = 0
    dense[2] = 0
    dense[2, 3] = 1e-6  # a single interaction
    model = ALS(16, feedback=feedback, solver=solver, epochs=100)
    try:
        model.fit(sp.csr_matrix(dense.astype(np.float32)))
    except FloatingPointError as error:
        assert "row" in str(error)  # noqa: PT017
        return
    for factors in (model.user_factors_, model.item_factors_):
        assert np.isfinite(factors).all()
    assert not model.user_factors_[1].any()
    assert not model.item_factors_[29].any()


def test_an_impossible_system_is_named():
    matrix = sp.csr_matrix(np.eye(5, 8, dtype=np.float32))
    with pytest.raises(FloatingPointError, match="users row 0: its system has no unique solution"):
        ALS(4, regularization=0.0, unobserved_weight=0.0, solver="cholesky").fit(matrix)


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        (np.ones((3, 2)), ValueError, r"item_features: shape \(3, 2\); expected 40 rows, one for each of the items"),
        (np.ones(40), ValueError, r"item_features: shape \(40,\)"),
        (np.ones((40, 0)), ValueError, r"item_features: shape \(40, 0\)"),
        (np.full((40, 2), np.nan), ValueError, "item_features: values that are not finite"),
        (np.full((40, 2), "a"), TypeError, "item_features: .*expected real numbers"),
    ],
)
def test_wrong_features(features, error, words):
    with pytest.raises(error, match=words):
        ALS(4).fit(rated(), item_features=features)


def test_wrong_calls_after_fit():
    matrix = rated()
    model = ALS(4, epochs=1).fit(matrix)
    with pytest.raises(ValueError, match=r"interactions: shape \(40, 60\); expected 60 rows"):
        model.fold_in_items(matrix.T.tocsr())
    with pytest.raises(ValueError, match="interactions: .* 0 entries"):
        model.partial_fit(sp.csr_array((2, 3)))
    with pytest.raises(ValueError, match="interactions: ids; expected row numbers as before"):
        model.partial_fit(Interactions.from_csr(matrix, users=np.arange(60) + 7, items=np.arange(40)))
    with pytest.raises(ValueError, match="patience: 0"):
        model.fit(matrix, patience=0)
    with pytest.raises(ValueError, match="checkpoint_every: 0"):
        model.fit(matrix, checkpoint_every=0)


def test_a_fit_that_fails_leaves_the_model_as_it_was():
    """Factors and what they were learned from stay together, so that the model still serves and can go on."""
    model, bad = ALS(4, epochs=2), rated(1, users=9, items=40)
    bad.data[3] = np.inf
    with pytest.raises((ValueError, FloatingPointError)):
        model.fit(bad)
    with pytest.raises(ValueError, match="not fitted"):
        model.recommend([0])
    model.fit(rated())
    before = dict(model.__dict__)

    def stop(epoch):
        raise KeyboardInterrupt

    for wrong in (
        lambda: model.fit(bad),
        lambda: model.fit(rated(2, users=9), progress=lambda done, total: stop(done)),
    ):
        with pytest.raises((ValueError, FloatingPointError, KeyboardInterrupt)):
            wrong()
        assert all(model.__dict__[name] is before[name] for name in before)
    again = ALS(4, epochs=2).fit(rated()).fit(rated(3), warm_start=True)
    assert same(model.fit(rated(3), warm_start=True), again)
