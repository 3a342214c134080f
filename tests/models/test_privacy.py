"""Private ALS: sensitivities by neighbouring data, accounting by published values, the limit without noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from salience import ALS, Interactions, Recommender
from salience.datasets import synthetic
from salience.evaluation import evaluate, splits
from salience.privacy import (
    Noise,
    PrivateALS,
    Statistics,
    bounded_sample,
    gaussian_budget,
    gaussian_epsilon,
    positive_part,
    shrunk_sums,
)

SETTINGS = {
    "delta": 1e-6, "max_items_per_user": 20, "clip_norm": 1.0, "steps": 3, "head_items": None, "moments": "own",
    "unobserved_weight": 0.2, "regularization": 0.5, "seed": 7,
}  # fmt: skip


def private(factors, **changes):
    return PrivateALS(factors, **{**SETTINGS, **changes})


def histories(seed, users=40, items=25):
    random = np.random.default_rng(seed)
    dense = (random.random((users, items)) < random.uniform(0.05, 0.9, (users, 1))).astype(np.float32)
    dense[0, 0] = 1
    return sp.csr_matrix(dense)


def bounded(random, users, f, clip):
    x = random.standard_normal((users, f)) * random.uniform(0.1, 5, (users, 1))
    return x * np.minimum(1, clip / np.linalg.norm(x, axis=1, keepdims=True))


@given(
    seed=st.integers(0, 2**32 - 1), most=st.integers(1, 12), f=st.integers(1, 6), clip=st.sampled_from([0.05, 1.0, 3.0])
)
@settings(max_examples=150, deadline=None)
def test_one_user_changes_no_statistic_by_more_than_its_sensitivity(seed, most, f, clip):
    random = np.random.default_rng(seed)
    sample = bounded_sample(histories(seed), most, random)
    assert np.diff(sample.indptr).max() <= most
    users = bounded(random, sample.shape[0], f, clip)
    gone = int(random.integers(sample.shape[0]))
    others = np.arange(sample.shape[0]) != gone
    full, less = (Statistics.of(users[rows], sample[rows], moments=True) for rows in (slice(None), others))
    upper = np.triu_indices(f)
    slack = 1 + 1e-9
    assert np.linalg.norm((full.gramian - less.gramian)[upper]) <= clip**2 * slack
    assert np.linalg.norm((full.moments - less.moments)[:, upper[0], upper[1]]) <= math.sqrt(most) * clip**2 * slack
    assert np.linalg.norm(full.sums - less.sums) <= math.sqrt(most) * clip * slack
    counts = [np.bincount(part.indices, minlength=part.shape[1]) for part in (sample, sample[others])]
    assert np.linalg.norm(counts[0] - counts[1]) <= math.sqrt(most)


def test_the_bounds_are_reached():
    """A user with as many items as count and factors of full length: the sensitivities are no overestimate."""
    most, clip = 5, 0.7
    users = np.array([[clip, 0.0]])
    found = Statistics.of(users, sp.csr_matrix(np.ones((1, most))), moments=True)
    assert np.linalg.norm(found.gramian) == pytest.approx(clip**2)
    assert np.linalg.norm(found.moments) == pytest.approx(math.sqrt(most) * clip**2)
    assert np.linalg.norm(found.sums) == pytest.approx(math.sqrt(most) * clip)


def test_what_is_sampled_of_a_user_depends_on_that_user_alone():
    matrix = histories(3)
    rank = np.arange(25.0)
    whole = bounded_sample(matrix, 4, np.random.default_rng(0), rank=rank)
    part = bounded_sample(matrix[1:], 4, np.random.default_rng(5), rank=rank)
    assert (whole[1:] != part).nnz == 0
    for row in range(matrix.shape[0]):
        had = np.sort(matrix[[row]].indices)
        assert whole[[row]].indices.tolist() == had[:4].tolist()
    drawn = bounded_sample(matrix, 4, np.random.default_rng(0))
    assert (drawn > matrix).nnz == 0
    assert np.array_equal(np.diff(drawn.indptr), np.minimum(np.diff(matrix.indptr), 4))


def test_the_noise_has_the_size_that_the_accounting_assumes():
    noise = Noise(counts=None, gramian=3.0, moments=2.0, sums=4.0, steps=1)
    # Second moments are projected: a large multiple of the identity beneath shows the noise itself.
    f = 6
    high = Statistics(1e6 * np.eye(f), 1e6 * np.tile(np.eye(f), (800, 1, 1)), np.zeros((800, f)))
    random = np.random.default_rng(1)
    seen = high.noisy(noise, 0.5, 9, random)
    assert seen.sums.std() == pytest.approx(4.0 * 0.5 * 3, rel=0.03)
    upper = np.triu_indices(f)
    assert np.allclose(seen.moments, seen.moments.transpose(0, 2, 1))
    spread = (seen.moments - high.moments)[:, upper[0], upper[1]].std(axis=0)
    assert np.allclose(spread, 2.0 * 0.25 * 3, rtol=0.08)
    grams = [high.noisy(noise, 0.5, 9, random).gramian - high.gramian for _ in range(40)]
    rest = np.array(grams)[:, upper[0], upper[1]]
    assert rest.std() == pytest.approx(3.0 * 0.25, rel=0.08)


# Of dp-accounting 0.6 (RdpAccountant, default orders): noise multiplier, compositions, delta, epsilon.
PUBLISHED = (
    (2.0, 3, 1e-5, 4.011321708510026), (1.0, 1, 1e-5, 4.728507067217623), (5.0, 10, 1e-6, 3.131089774915035),
    (10.0, 100, 1e-8, 6.0863539497691015),
)  # fmt: skip


def orders():
    return np.concatenate([np.arange(11, 110) / 10, np.arange(11, 64), [128, 256, 512, 1024]])


@pytest.mark.parametrize(("multiplier", "times", "delta", "epsilon"), PUBLISHED)
def test_epsilon_is_that_of_dp_accounting(multiplier, times, delta, epsilon):
    budget = times / multiplier**2
    assert gaussian_epsilon(budget, delta, orders=orders()) == pytest.approx(epsilon, rel=1e-12)
    assert 0.998 * epsilon <= gaussian_epsilon(budget, delta) <= epsilon


def test_epsilon_agrees_with_the_library_itself():
    library = pytest.importorskip("dp_accounting", reason="pip install 'salience[dp]'")
    from dp_accounting import rdp

    for multiplier in (0.3, 1.0, 3.0, 20.0):
        for times in (1, 7, 100):
            for delta in (1e-3, 1e-6, 1e-9):
                accountant = rdp.RdpAccountant()
                accountant.compose(library.SelfComposedDpEvent(library.GaussianDpEvent(multiplier), times))
                theirs = accountant.get_epsilon(delta)
                ours = gaussian_epsilon(times / multiplier**2, delta, orders=orders())
                assert ours == pytest.approx(theirs, rel=1e-9)
                assert gaussian_epsilon(times / multiplier**2, delta) <= theirs * (1 + 1e-9)


def test_a_model_spends_what_the_library_says():
    library = pytest.importorskip("dp_accounting", reason="pip install 'salience[dp]'")
    from dp_accounting import rdp

    for extra in ({}, {"head_items": 10}, {"head_items": 10, "moments": "shared"}):
        model = private(4, epsilon=2.0, **extra).fit(histories(1))
        accountant = rdp.RdpAccountant()
        accountant.compose(model.dp_event())
        assert isinstance(model.dp_event(), library.DpEvent)
        assert model.epsilon_ == pytest.approx(2.0, rel=1e-6)
        assert model.epsilon_ <= 2.0 * (1 + 1e-9)
        assert 0.99 * accountant.get_epsilon(1e-6) <= model.epsilon_ <= accountant.get_epsilon(1e-6) * (1 + 1e-9)


@given(epsilon=st.floats(0.05, 50), delta=st.sampled_from([1e-3, 1e-6, 1e-10]))
@settings(max_examples=60, deadline=None)
def test_a_budget_buys_its_epsilon(epsilon, delta):
    budget = gaussian_budget(epsilon, delta)
    assert gaussian_epsilon(budget, delta) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_epsilon(2 * budget, delta) > epsilon
    for counts in (False, True):
        for moments in (False, True):
            assert Noise.of(budget, 3, counts=counts, moments=moments).budget == pytest.approx(budget, rel=1e-12)


def clipped_als(matrix, items, steps, clip, most, settings):
    """ALS with sampled items and clipped users, by dense systems."""
    weight, ridge = settings["unobserved_weight"], settings["regularization"]
    dense = matrix.toarray()

    def solve(design, observed, extra):
        systems = extra + ridge * np.eye(design.shape[1]) + np.einsum("nm,mf,mg->nfg", observed, design, design)
        return np.linalg.solve(systems, (observed @ design)[..., None])[..., 0]

    for _ in range(steps):
        users = solve(items, dense, weight * items.T @ items)
        users *= np.minimum(1, clip / np.linalg.norm(users, axis=1, keepdims=True))
        items = solve(users, most.T, weight * users.T @ users)
    return items


@pytest.mark.parametrize("clip", [0.3, 100.0])
@pytest.mark.parametrize("most", [6, 1000])
def test_without_noise_it_is_clipped_als(clip, most):
    matrix = histories(5)
    model = private(5, epsilon=math.inf, clip_norm=clip, max_items_per_user=most)
    model.fit(matrix)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(7)))
    sample = bounded_sample(matrix, most, random).toarray()
    start = random.standard_normal((25, 5)) / (clip * math.sqrt(5))
    expected = clipped_als(matrix, start, 3, clip, sample, SETTINGS)
    assert np.allclose(model.item_factors_, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert model.epsilon_ == math.inf


def test_without_noise_and_bounds_it_converges_to_als():
    matrix = histories(6)
    options = {"unobserved_weight": 0.2, "regularization": 0.5, "regularization_exponent": 0.0}
    plain = ALS(5, epochs=120, solver="cholesky", relaxation=1.0, **options).fit(matrix)
    bounded = private(5, epsilon=math.inf, clip_norm=100.0, max_items_per_user=1000, steps=120).fit(matrix)

    def loss(x, y):
        scores = x.astype(np.float64) @ y.T
        ridge = 0.5 * (np.square(x, dtype=np.float64).sum() + np.square(y, dtype=np.float64).sum())
        return (matrix.toarray() * (1 - scores) ** 2).sum() + 0.2 * (scores**2).sum() + ridge

    assert loss(bounded.user_factors_, bounded.item_factors_) == pytest.approx(plain.loss_history_[-1], rel=1e-3)


def test_shrinking_keeps_what_is_certain_and_drops_what_is_noise():
    random = np.random.default_rng(4)
    counts = np.concatenate([np.full(50, 1000.0), np.full(50, 5.0)])
    own = 0.1 * random.standard_normal((100, 4))
    truth = counts[:, None] * (np.array([1.0, 0, 0, 0]) + own)
    assert shrunk_sums(truth, counts, 0.0) is truth
    noisy = truth + 20.0 * random.standard_normal(truth.shape)
    error = {
        name: np.square(found - truth).mean(axis=1)
        for name, found in (("raw", noisy), ("shrunk", shrunk_sums(noisy, counts, 20.0)))
    }
    assert error["shrunk"][50:].mean() < 0.05 * error["raw"][50:].mean()
    assert error["shrunk"][:50].mean() < error["raw"][:50].mean()


def test_the_positive_part_is_the_nearest():
    random = np.random.default_rng(2)
    matrix = random.standard_normal((3, 5, 5))
    matrix = matrix + matrix.transpose(0, 2, 1)
    found = positive_part(matrix)
    assert np.linalg.eigvalsh(found).min() > -1e-12
    sound = matrix @ matrix
    assert np.allclose(positive_part(sound), sound)


def test_privacy_costs_quality_and_less_of_it_costs_less():
    split = splits.random(synthetic(1500, 200, seed=1).interactions, per_user=True)
    options = {"delta": 1e-4, "head_items": 150, "moments": "shared", "clip_norm": 0.2, "regularization": 0.1,
               "unobserved_weight": 1.0, "max_items_per_user": 10, "seed": 3}  # fmt: skip
    found = [
        evaluate(
            PrivateALS(8, epsilon=epsilon, **options).fit(split.train), split.train, split.test, metrics=("ndcg@20",)
        ).values["ndcg@20"]
        for epsilon in (0.1, 3.0, math.inf)
    ]
    assert found[0] < found[1] < found[2]


def test_the_noise_differs_from_fit_to_fit():
    first, second = (private(4, epsilon=1.0, seed=None).fit(histories(1)).item_factors_ for _ in range(2))
    assert not np.allclose(first, second)
    again = [private(4, epsilon=1.0).fit(histories(1)).item_factors_ for _ in range(2)]
    assert np.array_equal(*again)


def test_values_do_not_count_and_dislikes_are_left_out():
    matrix = histories(2)
    weighted = matrix.copy()
    weighted.data *= np.random.default_rng(0).uniform(0.5, 100, matrix.nnz).astype(np.float32)
    extra = weighted.tolil()
    empty = np.argwhere(matrix.toarray() == 0)[:10]
    for row, column in empty:
        extra[row, column] = -5
    models = [private(4, epsilon=1.0).fit(data) for data in (matrix, weighted, extra.tocsr())]
    assert all(np.array_equal(models[0].item_factors_, model.item_factors_) for model in models[1:])


def test_a_saved_model_recommends_the_same_and_a_published_one_holds_no_users(tmp_path):
    frame = synthetic(200, 100).interactions
    model = private(6, epsilon=5.0, head_items=50, moments="shared", sampling="tail", delta=1e-3).fit(frame)
    assert isinstance(model, Recommender)
    users = frame.users[:20]
    best = model.recommend(users, 8)
    model.save(tmp_path / "private")
    again = PrivateALS.load(tmp_path / "private")
    assert np.array_equal(again.recommend(users, 8).ids, best.ids)
    assert again.epsilon_ == pytest.approx(model.epsilon_)
    assert np.array_equal(again.item_counts_, model.item_counts_)
    assert again.seed is None
    model.save(tmp_path / "public", users=False)
    public = PrivateALS.load(tmp_path / "public")
    assert len(public.user_map) == 0
    assert len(public._seen) == 0
    assert np.array_equal(public.item_factors_, model.item_factors_)
    assert np.array_equal(public.item_map.ids, frame.items)
    folded = public.fold_in(frame.matrix)
    assert np.array_equal(folded, model.user_factors_)
    assert (model.item_factors_[~model.head_] == 0).all()
    assert model.head_.sum() == 50


WRONG = {
    "epsilon of zero": ("epsilon: 0", lambda: PrivateALS(epsilon=0, delta=1e-6)),
    "delta of one": ("delta: 1.0; expected less than 1", lambda: PrivateALS(epsilon=1, delta=1.0)),
    "delta of zero": ("delta: 0", lambda: PrivateALS(epsilon=1, delta=0)),
    "no bound on items": ("max_items_per_user: 0", lambda: PrivateALS(epsilon=1, delta=1e-6, max_items_per_user=0)),
    "no bound on length": ("clip_norm: inf", lambda: PrivateALS(epsilon=1, delta=1e-6, clip_norm=math.inf)),
    "shared moments without counts": ("head_items: None", lambda: PrivateALS(epsilon=1, delta=1e-6, moments="shared", head_items=None)),
    "the tail without counts": ("head_items: None", lambda: PrivateALS(epsilon=1, delta=1e-6, moments="own", sampling="tail", head_items=None)),
    "unknown moments": ("moments: 'none'", lambda: PrivateALS(epsilon=1, delta=1e-6, moments="none")),
    "a delta too large for the users": ("delta: 0.1; expected at most 1 over the 40 users", lambda: PrivateALS(4, epsilon=1, delta=0.1, moments="own").fit(histories(0))),
    "no interactions": ("interactions: .*expected at least one", lambda: PrivateALS(4, epsilon=1, delta=1e-6, moments="own").fit(sp.csr_matrix((3, 4)))),
    "another catalogue": (r"interactions: shape \(2, 7\); expected 25 columns", lambda: PrivateALS(4, epsilon=1, delta=1e-6, moments="own").fit(histories(0)).fold_in(sp.csr_matrix((2, 7)))),
    "not fitted": ("PrivateALS: not fitted", lambda: PrivateALS(epsilon=1, delta=1e-6, moments="own").recommend([0])),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name):
    words, call = WRONG[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_interactions_with_ids_are_taken():
    data = Interactions.from_csr(histories(0), users=[f"u{n}" for n in range(40)], items=[f"i{n}" for n in range(25)])
    model = private(4, epsilon=1.0).fit(data)
    assert model.recommend(["u3"], 2).ids.dtype == object
