"""The hybrid scorer: scores are the formula, attention never sees what components saw, everybody is served."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp

from salience import ALS, EASE, Collaborative, Content, History, HybridScorer, ItemKNN, Popularity, Prior
from salience.datasets import synthetic
from salience.evaluation import evaluate, splits
from salience.hybrid import Component, attention
from salience.hybrid import scorer as scoring
from salience.hybrid.attention import Attention, Scaling, train_linear, train_softmax
from salience.hybrid.losses import CrossEntropy, Lists, MissedAtTheTop
from salience.hybrid.scorer import Moments, _competing, held_out_lists

KINDS = ("linear", "softmax", "fixed")


@pytest.fixture(scope="module")
def catalogue():
    found = synthetic(300, 150, seed=3)
    data, features = found.interactions, found.item_features[found.interactions.items - 1]
    features = features.copy()
    features[:5] = 0  # items without content
    return data, features


def parts(features):
    return [
        ALS(8, epochs=3), Content(features), History(ItemKNN(10, weighting="degree")), History(EASE(30.0), rank=6),
        Popularity(),
    ]  # fmt: skip


def make(catalogue, attention="linear", **options):
    data, features = catalogue
    return HybridScorer(parts(features), attention=attention, most_users=100, **options).fit(data)


@pytest.fixture(scope="module")
def models(catalogue):
    return {kind: make(catalogue, kind) for kind in KINDS}


def by_the_formula(model, histories, rows):
    """All scores, from the components' vectors, in float64."""
    fitted, attention = model._parts, model.attention_
    voices, state = fitted.voices(histories, rows)
    standard, available = [], []
    for component, voice in zip(fitted.components, voices, strict=True):
        scores = voice.vectors.astype(np.float64) @ component.item_vectors.astype(np.float64).T
        if voice.additions is not None:
            scores = scores + voice.additions.toarray()
        inside = scores[:, component.item_available]
        mean, deviation = inside.mean(axis=1), inside.std(axis=1)
        here = voice.available[:, None] & component.item_available
        standard.append(np.where(here, (scores - mean[:, None]) / np.where(deviation > 0, deviation, 1)[:, None], 0))
        available.append(here)
    standard, available = np.stack(standard, axis=2), np.stack(available, axis=2)
    weights = (attention.users.apply(state) @ attention.theta.T)[:, None, :] * np.ones(standard.shape)
    if attention.kind == "softmax":
        from salience.hybrid.attention import item_state

        logits = weights + (attention.items.apply(item_state(fitted.item_counts)) @ attention.phi.T)[None]
        gate = np.exp(np.where(available, logits - logits.max(axis=2, keepdims=True), -np.inf))
        weights = attention.scale * gate / gate.sum(axis=2, keepdims=True)
    return (weights * available * standard).sum(axis=2)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_formula(models, catalogue, kind):
    model, data = models[kind], catalogue[0]
    expected = by_the_formula(model, data.matrix, np.arange(data.shape[0]))
    users, items = (grid.ravel() for grid in np.meshgrid(np.arange(40), np.arange(data.shape[1]), indexing="ij"))
    found = model.score(data.users[users], data.items[items])
    assert np.allclose(found, expected[users, items], rtol=1e-4, atol=1e-4)
    masked = np.where(data.matrix.toarray() != 0, -np.inf, expected)
    lists = model.recommend(data.users, 10)
    best = -np.sort(-masked, axis=1)[:, :10]
    assert np.allclose(lists.scores, best, rtol=1e-4, atol=1e-4)
    assert np.allclose(np.take_along_axis(masked, lists.rows, axis=1), lists.scores, rtol=1e-4, atol=1e-4)


def test_the_moments_of_a_component_give_mean_and_deviation_of_its_scores():
    random = np.random.default_rng(0)
    component = Component()
    component.item_vectors = random.standard_normal((50, 7)).astype(np.float32) + 2
    component.item_available = random.random(50) < 0.7
    moments, users = Moments.of(component), random.standard_normal((9, 7))
    scores = users @ component.item_vectors[component.item_available].T.astype(np.float64)
    assert np.allclose(users @ moments.mean, scores.mean(axis=1))
    variance = np.einsum("nd,nd->n", users @ moments.covariance, users)
    assert np.allclose(np.sqrt(variance), scores.std(axis=1))


class Memory(Component):
    """Scores what it was trained on, and nothing else."""

    name = "memory"

    def fit(self, data):
        self.seen = data
        self.item_vectors = np.zeros((data.shape[1], 0), np.float32)
        self.item_available = np.ones(data.shape[1], bool)
        return self

    def user_vectors(self, histories, rows):
        del rows
        return np.zeros((histories.shape[0], 0), np.float32)

    def additions(self, histories):
        return sp.csr_matrix((np.ones(histories.nnz, np.float32), histories.indices, histories.indptr), histories.shape)


def test_attention_never_hears_a_component_on_what_it_has_seen(catalogue):
    data, features = catalogue
    model = HybridScorer([Memory(), Content(features), Popularity()], attention="linear")
    random = np.random.default_rng(1)
    mask = random.random(len(data)) < 0.3
    fitted = model._fitted(data.select(~mask))
    lists = held_out_lists(fitted, data.select(mask), 1000, 0)
    for start, count in zip(lists.ends[:-1], lists.held_out, strict=True):
        assert (lists.scores[start : start + count, 0] <= 0).all()  # below the mean: it was not there to be remembered
    # What it does remember are items of its own training part, which never compete: so it tells nothing.
    assert lists.scores[:, 0].max() <= 0
    model.fit(data)
    share = np.abs(model.attention(data.users)[:, 0])
    honest = np.abs(model.attention(data.users)[:, 1:]).sum(axis=1)
    assert share.mean() < honest.mean()


def test_lists_of_users_with_many_held_out_items_take_some_of_them(catalogue, monkeypatch):
    data, features = catalogue
    mask = np.random.default_rng(1).random(len(data)) < 0.5
    held_out = data.select(mask)
    fitted = HybridScorer([Content(features), Prior()], attention="linear")._fitted(data.select(~mask))
    monkeypatch.setattr(scoring, "_HELD_OUT", 3)
    drawn = []
    monkeypatch.setattr(scoring, "_competing", lambda *given: drawn.append(_competing(*given)) or drawn[-1])
    lists = held_out_lists(fitted, held_out, 1000, 0)
    sizes = np.diff(held_out.matrix.indptr)
    users = np.flatnonzero(sizes)
    assert sizes.max() > 3
    assert np.array_equal(lists.held_out, np.minimum(sizes[users], 3))
    for user, (items, _, log_weights, count) in zip(users, drawn, strict=True):
        wanted, known = held_out.matrix[[user]].indices, fitted.data.matrix[[user]].indices
        assert np.isin(items[:count], wanted).all()
        assert not np.isin(items[count:], [*wanted, *known]).any()
        assert (log_weights[:count] == 0).all()
        assert len(np.unique(items)) == len(items) == len(log_weights)


def test_components_are_fitted_anew_for_every_round(catalogue):
    data, _ = catalogue
    sizes = []

    class Counting(Prior):
        def fit(self, part):
            sizes.append(len(part))
            return super().fit(part)

    HybridScorer([Counting(), ALS(4, epochs=1)], held_out=0.25, rounds=3).fit(data)
    assert sizes == [len(data) - int(0.25 * len(data))] * 3 + [len(data)]


def test_attention_learned_by_time_is_learned_on_what_came_later(catalogue, tmp_path):
    data, _ = catalogue
    latest = []

    class Watching(Prior):
        def fit(self, part):
            latest.append((len(part), part.times.max()))
            return super().fit(part)

    model = HybridScorer([Watching(), ALS(4, epochs=1)], held_out=0.25, rounds=3, held_out_by="time").fit(data)
    size, times = int(0.25 * len(data)), np.sort(data.times)
    assert latest == [(count, times[count - 1]) for count in len(data) - size * np.array([1, 2, 3, 0])]
    for kept, held_out in model._divisions(data):
        assert data.times[kept].max() <= data.times[held_out].min()
        assert np.count_nonzero(held_out) == size
    with pytest.raises(ValueError, match="interactions: no times; expected times, as held_out_by='time' goes by them"):
        model.fit(data.matrix)
    model = HybridScorer([ALS(4, epochs=1)], rounds=1, held_out_by="time").fit(data)
    model.save(tmp_path / "model.safetensors")
    assert HybridScorer.load(tmp_path / "model.safetensors").held_out_by == "time"


@pytest.mark.parametrize("kind", KINDS)
def test_explanations_add_up(models, catalogue, kind):
    model, data = models[kind], catalogue[0]
    lists = model.recommend(data.users[:6], 3)
    for user, items, scores in zip(data.users[:6], lists.ids, lists.scores, strict=True):
        for item, score in zip(items, scores, strict=True):
            why = model.explain(user, item)
            assert why.score == pytest.approx(score, rel=1e-5, abs=1e-5)
            assert why.contributions.sum() == pytest.approx(why.score, rel=1e-9)
            assert np.allclose(why.weights * why.scores, why.contributions)
            total = why.item_contributions.sum(axis=0) + why.base
            assert np.allclose(total, why.contributions, rtol=1e-5, atol=1e-6)
            assert sorted(why.items) == sorted(data.items[data.matrix[data.user_map.rows([user])[0]].indices])
            assert list(why.to_frame().columns) == ["item", "contribution", *model.component_names]
            assert f"item {item} for user {user}" in str(why)


def test_features_explain_content_exactly(catalogue):
    data, _ = catalogue
    words = sp.random_array((data.shape[1], 80), density=0.1, format="csr", rng=np.random.default_rng(5))
    names = [f"word {n}" for n in range(80)]
    model = HybridScorer(
        [Content(words, rank=12, feature_names=names), Popularity()], attention="fixed", weights=[1, 0.5]
    ).fit(data)
    why = model.explain(data.users[0], data.items[9])
    voice = model._parts.voices(data.matrix[[0]], np.array([0]))[0][0]
    level = why.weights[0] * voice.mean[0] / voice.deviation[0]
    assert sum(why.features["content"].values()) - level == pytest.approx(why.contributions[0], rel=1e-5)
    assert set(why.features["content"]) == {names[column] for column in words[[9]].indices}


@pytest.mark.parametrize("kind", KINDS)
def test_histories_that_are_given_are_those_of_training(models, catalogue, kind):
    model, data = models[kind], catalogue[0]
    stored = model.recommend(data.users[:20], 8)
    folded = model.recommend(data.users[:20], 8, interactions=data.matrix[:20])
    assert np.allclose(folded.scores, stored.scores, rtol=1e-4, atol=1e-4)
    again = model.score(data.users[:20], stored.ids[:, 0], interactions=data.matrix[:20])
    assert np.allclose(again, stored.scores[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_is_served(models, catalogue, kind):
    model, data = models[kind], catalogue[0]
    counts = np.bincount(data.matrix.indices, minlength=data.shape[1])
    lists = model.recommend([10**9, data.users[0], 10**9 + 1], 7)
    assert np.array_equal(lists.ids[0], lists.ids[2])
    assert np.array_equal(lists.rows[0], np.lexsort((np.arange(len(counts)), -counts))[:7])  # nothing known: popularity
    assert np.array_equal(lists.ids[1], model.recommend([data.users[0]], 7).ids[0])
    assert lists.queries.tolist() == [10**9, data.users[0], 10**9 + 1]
    shares = model.attention([10**9, data.users[0]])
    assert np.allclose(np.abs(shares).sum(axis=1), 1)
    assert shares[0].tolist() == [0, 0, 0, 0, 1]
    one = sp.csr_matrix(([1.0], ([0], [20])), shape=(1, data.shape[1]))
    few = model.recommend([10**9], 5, interactions=one)
    assert 20 not in few.rows
    assert (model.attention([10**9], interactions=one) != 0).all()


def test_items_with_features_alone_are_found_by_content(catalogue):
    data, features = catalogue
    new_ids = np.array([9001, 9002])
    ids = np.concatenate([new_ids, data.items[5:]])
    wide = np.concatenate([np.eye(len(features[0]))[[0, 3]], features[5:]])
    model = HybridScorer([ALS(8, epochs=3), Content(wide, items=ids), Popularity()]).fit(data)
    assert set(new_ids) <= set(model.item_map.ids)
    user = data.users[np.argmax((data.matrix @ features)[:, 0] / np.diff(data.matrix.indptr))]
    why = model.explain(user, 9001)
    assert why.weights[0] == 0
    assert why.weights[1] > 0
    assert model.score([user], [9001]) > model.score([user], [9002])
    assert len(model.recommend([user], 10, allow=[9001, 9002]).ids[0]) == 10
    without = model.explain(user, data.items[0])
    assert without.weights[1] == 0
    assert without.weights[0] != 0


def test_a_hybrid_beats_its_components():
    found = synthetic(1200, 500, seed=1)
    split = splits.random(found.interactions, seed=2)
    features = found.item_features[found.interactions.items - 1]
    model = HybridScorer([ALS(16), Content(features), History(), Popularity()]).fit(split.train)
    hybrid = evaluate(model, split.train, split.test, metrics=["ndcg@20"]).values["ndcg@20"]
    for place in range(4):
        alone = Attention.fixed(np.eye(4)[place])
        model._adopt(split.train, model._parts, alone)
        assert hybrid > evaluate(model, split.train, split.test, metrics=["ndcg@20"]).values["ndcg@20"]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_scorers_answer_the_same(models, catalogue, kind, tmp_path):
    model, data = models[kind], catalogue[0]
    path = tmp_path / "hybrid.safetensors"
    model.save(path)
    again = HybridScorer.load(path)
    for one in (model.recommend(data.users, 9), model.recommend([10**9], 9)):
        other = again.recommend(one.queries, 9)
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.scores, other.scores)
    assert again.component_names == model.component_names
    first = data.users[0], data.items[3]
    assert again.explain(*first).score == model.explain(*first).score
    damaged = bytearray(path.read_bytes())
    path.write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(ValueError, match="damaged"):
        HybridScorer.load(path)


@pytest.mark.parametrize("user_map", ["profile", "ridge", "mlp"])
def test_ways_from_a_history_to_features(catalogue, user_map, tmp_path):
    if user_map == "mlp":
        pytest.importorskip("sklearn")
    data, features = catalogue
    split = splits.random(data)
    model = HybridScorer([Content(features, user_map=user_map, temperature=0.5, hidden=16)], attention="fixed",
                         weights=[1.0]).fit(split.train)  # fmt: skip
    quality = evaluate(model, split.train, split.test, metrics=["recall@50"]).values["recall@50"]
    assert quality > 50 / 150
    why = model.explain(data.users[1], data.items[9])
    assert why.item_contributions.any() == (user_map != "mlp")
    model.save(tmp_path / "model.safetensors")
    again = HybridScorer.load(tmp_path / "model.safetensors").recommend(data.users[:3], 5)
    assert np.array_equal(again.scores, model.recommend(data.users[:3], 5).scores)


def test_ratings_are_predicted(catalogue):
    data, features = catalogue
    split = splits.random(data)
    explicit = ALS(8, feedback="explicit")
    model = HybridScorer([explicit, Content(features), History(ItemKNN(20))], objective="rating").fit(split.train)
    hybrid = evaluate(model, split.train, split.test, metrics=["rmse"]).values["rmse"]
    alone = evaluate(explicit.fit(split.train), split.train, split.test, metrics=["rmse"]).values["rmse"]
    assert hybrid < alone * 1.005
    mean = split.train.matrix.data.mean()
    unknown = model.score([10**9], [data.items[7]])[0]
    assert abs(unknown - mean) < 1.5  # mean and the item's bias, not 0
    why = model.explain(data.users[0], data.items[7])
    assert why.score == pytest.approx(float(model.score([data.users[0]], [data.items[7]])[0]), rel=1e-5)


def test_runs_repeat_to_the_bit(catalogue, models):
    again = make(catalogue, "linear")
    assert np.array_equal(again.attention_.theta, models["linear"].attention_.theta)
    users = catalogue[0].users
    assert np.array_equal(again.recommend(users).scores, models["linear"].recommend(users).scores)


def drawn_lists(seed=0, lists=60, components=3):
    random = np.random.default_rng(seed)
    lengths = random.integers(5, 20, lists)
    ends, total = np.concatenate([[0], np.cumsum(lengths)]), lengths.sum()
    users = np.column_stack([np.ones(lists), *random.standard_normal((4, lists))])
    items = np.column_stack([np.ones(total), *random.standard_normal((3, total))])
    available = random.random((total, components)) < 0.8
    available[:, -1] = True
    scores = np.where(available, random.standard_normal((total, components)), 0).astype(np.float32)
    held_out = random.integers(1, 3, lists)
    scores[ends[:-1]] += np.array([1.0, 0.5, 0.0], np.float32) * available[ends[:-1]]
    log_weights = random.random(total).astype(np.float32)
    for start, count in zip(ends, held_out, strict=False):
        log_weights[start : start + count] = 0.0
    return Lists(scores, available, users, items, ends, held_out, log_weights)


def loss_of(attention, lists):
    weights = (attention.users.apply(lists.users) @ attention.theta.T)[lists.rows]
    if attention.kind == "softmax":
        logits = weights + attention.items.apply(lists.items) @ attention.phi.T
        gate = np.exp(np.where(lists.available, logits, -np.inf))
        weights = attention.scale * gate / gate.sum(axis=1, keepdims=True)
    value, _ = MissedAtTheTop(lists, 3)((weights * lists.scores).sum(axis=1).astype(np.float32))
    return value


def cross_entropy(scores, log_weights, count):
    return np.mean(np.log(np.exp(scores + log_weights).sum()) - scores[:count])


def missed_at_the_top(scores, log_weights, count):
    missed = []
    for n in range(count):
        above = np.exp(log_weights) / (1 + np.exp(8.0 * (scores[n] - scores)))
        rank = 1 + above.sum() - above[n]
        missed.append(1 - 1 / (1 + (rank / 3) ** 2))
    return np.mean(missed)


@pytest.mark.parametrize(
    ("make_loss", "definition"),
    [(CrossEntropy, cross_entropy), (lambda lists: MissedAtTheTop(lists, 3), missed_at_the_top)],
)
def test_the_listwise_losses_are_their_definitions(make_loss, definition):
    lists = drawn_lists()
    scores = np.random.default_rng(1).standard_normal(lists.ends[-1]).astype(np.float32)

    def defined(scores):
        return np.mean([
            definition(scores[start:end], lists.log_weights[start:end].astype(np.float64), lists.held_out[n])
            for n, (start, end) in enumerate(pairwise(lists.ends))
        ])  # fmt: skip

    value, gradient = make_loss(lists)(scores)
    assert value == pytest.approx(defined(scores.astype(np.float64)), rel=1e-5)
    for place in range(40):
        step = 1e-5 * (np.arange(len(scores)) == place)
        slope = (defined(scores + step) - defined(scores - step)) / 2e-5
        assert slope == pytest.approx(gradient[place], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("train", [train_linear, train_softmax])
def test_training_ends_where_the_loss_is_least(train):
    lists = drawn_lists()
    found = train(lists, strength=0.0, cutoff=3)
    least, length = loss_of(found, lists), np.linalg.norm(found.theta[:, 0])
    random = np.random.default_rng(2)
    for _ in range(30):
        theta, phi = found.theta.copy(), found.phi.copy()
        found.theta = theta + 0.05 * random.standard_normal(theta.shape)
        if found.kind == "linear":
            found.theta *= length / np.linalg.norm(found.theta[:, 0])
        else:
            found.phi = phi + 0.05 * random.standard_normal(phi.shape) * (np.arange(phi.shape[1]) > 0)
        assert loss_of(found, lists) > least - 2e-4
        found.theta, found.phi = theta, phi
    same_for_all = train_linear(lists, strength=0.0, cutoff=3, state=False)
    assert (same_for_all.theta[:, 1:] == 0).all()
    assert least <= loss_of(same_for_all, lists) + 1e-4


@pytest.mark.parametrize("train", [train_linear, train_softmax])
def test_training_in_parts_and_threads_is_training(train, monkeypatch):
    # Sums of parts round differently: only descents that go on to the end have the same end.
    monkeypatch.setattr(attention, "_UNTIL", {"maxiter": 1000, "ftol": 1e-12})
    lists = drawn_lists()
    assert lists.bounds(10**6) == [0, 60]
    whole = loss_of(train(lists, strength=1e-3, cutoff=3), lists)
    monkeypatch.setattr(attention, "_PART_ENTRIES", 50)
    bounds = lists.bounds(50)
    assert len(bounds) > 10
    assert all(lists.ends[last] - lists.ends[first] < 50 + 20 for first, last in pairwise(bounds))
    one, three = (train(lists, strength=1e-3, cutoff=3, threads=threads) for threads in (1, 3))
    assert np.array_equal(one.theta, three.theta)
    assert np.array_equal(one.phi, three.phi)
    assert loss_of(one, lists) == pytest.approx(whole, rel=1e-4)


def test_states_beyond_those_of_training_are_held_at_its_edge():
    state = np.column_stack([np.ones(9), np.arange(9.0)])
    scaling = Scaling.of(state)
    assert np.allclose(scaling.apply(np.array([[1.0, 100.0]])), scaling.apply(state[-1:]))
    assert np.allclose(Scaling.of(np.ones((4, 2))).apply(np.array([[1.0, 5.0]])), [[1, 0]])  # no variance, no say


BAD = [
    (lambda f: HybridScorer([]), "components"),
    (lambda f: HybridScorer(["als"]), "components: "),
    (lambda f: HybridScorer([ALS(4)], attention="max"), "attention: 'max'"),
    (lambda f: HybridScorer([ALS(4)], weights=[1.0]), "weights: given with attention 'softmax'"),
    (lambda f: HybridScorer([ALS(4)], cutoff=0), "cutoff: 0"),
    (lambda f: HybridScorer([ALS(4)], attention="fixed", weights=[1.0, 2.0]), "weights: 2 of them; expected 1"),
    (lambda f: HybridScorer([ALS(4)], attention="fixed", weights=[np.nan]), "weights: nan"),
    (lambda f: HybridScorer([ALS(4)], objective="rating"), "objective: 'rating' without an explicit ALS"),
    (lambda f: HybridScorer([ALS(4)], objective="clicks"), "objective: 'clicks'"),
    (lambda f: HybridScorer([ALS(4)], held_out=1.0), "held_out: 1.0"),
    (lambda f: HybridScorer([ALS(4)], held_out_by="user"), "held_out_by: 'user'; expected 'chance' or 'time'"),
    (lambda f: HybridScorer([ALS(4)], held_out=0.5, held_out_by="time"), "rounds: 2; expected 1 to 1"),
    (lambda f: HybridScorer([ALS(4)], held_out=0.5, rounds=3), "rounds: 3"),
    (lambda f: Content(f, user_map="mean"), "user_map: 'mean'"),
    (lambda f: Content(f * np.nan), "item_features: values that are not finite"),
    (lambda f: Content(f, items=[1, 2]), "items: 2 ids"),
    (lambda f: Content(f[:2], items=[1, 1]), "items: 1 repeated"),
    (lambda f: Content(f, feature_names=["a"]), "feature_names: 1 of them"),
    (lambda f: Content(f, temperature=0), "temperature: 0"),
    (lambda f: Collaborative(Prior()), "model: "),
    (lambda f: History(ALS(4)), "model: "),
    (lambda f: History(rank=0), "rank: 0"),
]


@pytest.mark.parametrize(("make_bad", "message"), BAD)
def test_bad_settings_are_named(catalogue, make_bad, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_bad(catalogue[1])


def test_bad_data_is_named(catalogue, models):
    data, features = catalogue
    with pytest.raises(ValueError, match="item_features: 149 rows; expected one for each of the 150 items"):
        HybridScorer([Content(features[1:])]).fit(data)
    with pytest.raises(ValueError, match="item_features: zeros alone"):
        HybridScorer([Content(features * 0), ALS(4)]).fit(data)
    with pytest.raises(ValueError, match="half_life: interactions without times"):
        HybridScorer([Prior(half_life=3.0)]).fit(data.matrix)
    with pytest.raises(ValueError, match="interactions"):
        HybridScorer([ALS(4)]).fit(sp.csr_matrix((3, 3)))
    with pytest.raises(ValueError, match="not fitted"):
        HybridScorer([ALS(4)]).recommend([0])
    model = models["linear"]
    with pytest.raises(ValueError, match="items: 1 unknown"):
        model.score([data.users[0]], [10**9])
    with pytest.raises(ValueError, match="interactions: shape"):
        model.recommend([1, 2], interactions=data.matrix[:1])


def test_a_component_that_says_the_same_of_all_items_takes_no_part(catalogue):
    data, _ = catalogue
    flat = Content(np.ones((data.shape[1], 3)), name="flat")
    for kind in KINDS:
        model = HybridScorer([ALS(4, epochs=2), flat, Popularity()], attention=kind, most_users=50).fit(data)
        assert (model.attention(data.users)[:, 1] == 0).all()
        assert np.isfinite(model.recommend(data.users, 5).scores).all()


def test_names_are_told_apart_and_progress_is_reported(catalogue):
    data, features = catalogue
    calls = []
    model = HybridScorer([ALS(4, epochs=1), ALS(8, epochs=1), Content(features)], rounds=2, most_users=40)
    model.fit(data, progress=lambda done, total: calls.append((done, total)))
    assert model.component_names == ["collaborative", "collaborative_2", "content", "popularity"]
    assert calls == [(1, 3), (2, 3), (3, 3)]


def circulant(items=24):
    """Every item has as many interactions as every other."""
    rows = [(user, (user + offset) % items) for user in range(items) for offset in (0, 1, 3, 7)]
    users, columns = np.array(rows).T
    return sp.csr_matrix((np.ones(len(rows), np.float32), (users, columns)), shape=(items, items))


def test_popularity_without_spread_still_serves_everybody():
    features = np.random.default_rng(0).random((24, 4))
    model = HybridScorer([Content(features)]).fit(circulant())
    assert np.isfinite(model.recommend([0, 1, 999], 5).scores).all()
    assert np.isfinite(model.score([999], [2])).all()
    plain = HybridScorer([Content(features), Prior()], attention="fixed", weights=[1, 1]).fit(circulant())
    for item in range(4):
        assert plain.score([0], [item])[0] == pytest.approx(plain.explain(0, item).score, abs=1e-5)


def test_unknown_users_change_nothing_for_known_ones(models, catalogue):
    data, features = catalogue
    matrix = data.matrix.copy()
    matrix.data -= 1  # ratings of 0 among them
    model = HybridScorer([ALS(4, feedback="explicit"), Content(features)], objective="rating").fit(matrix)
    alone, among = model.recommend([0], 150), model.recommend([10**9, 0], 150)
    assert np.array_equal(alone.ids[0], among.ids[1])
    assert np.array_equal(models["linear"].score([data.users[0]] * 2, data.items[:2]),
                          models["linear"].score([data.users[0], data.users[0], 10**9], data.items[:3])[:2])  # fmt: skip


def test_histories_of_other_items_are_an_error(models, catalogue):
    data = catalogue[0]
    turned = type(data).from_csr(data.matrix[:1], items=data.items[::-1])
    with pytest.raises(ValueError, match="interactions: other items"):
        models["linear"].recommend([1], interactions=turned)


def test_features_of_any_sparse_format_are_saved(catalogue, tmp_path):
    data, features = catalogue
    als = Collaborative(ALS(4, epochs=1), item_features=sp.csc_array(features))
    model = HybridScorer([als, Prior()], attention="fixed", weights=[1, 1]).fit(data)
    model.save(tmp_path / "model.safetensors")
    again = HybridScorer.load(tmp_path / "model.safetensors")
    assert np.array_equal(again.recommend(data.users[:3]).scores, model.recommend(data.users[:3]).scores)


def test_parts_that_cancel_are_left_to_the_base():
    matrix = circulant()
    model = HybridScorer([History(ItemKNN(4))], attention="fixed", weights=[1.0]).fit(matrix)
    history = sp.csr_matrix(([1.0, -1.0], ([0, 0], [0, 8])), shape=(1, 24))
    for item in range(24):
        assert np.abs(model.explain(999, item, interactions=history).item_contributions).max() < 1e4
