"""Evaluation of models: however a model is asked, the figures are those of a loop over users."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

import evaluation_oracle as oracle
from salience import ALS, EASE, Content, HybridScorer, Interactions, ItemKNN, Popularity
from salience.datasets import load_gowalla
from salience.evaluation import (
    BlockScores,
    Factors,
    Report,
    compare,
    evaluate,
    evaluate_lists,
    factor_ranks,
    metric_names,
    splits,
)

DEEP = ("auc", "r_precision", "ndcg", "recall@5:expected")
SHALLOW = ("recall@5", "ndcg@3", "map@5:relevant", "f1@5", "f1@5:means", "precision@60", "coverage@5", "novelty@3")


def data(seed=0, users=80, items=50):
    random = np.random.default_rng(seed)
    dense = random.random((users, items)) < random.random(items) * 0.5
    u, i = np.nonzero(dense)
    columns = {
        "user": u + 100,
        "item": i * 2,
        "value": random.integers(1, 6, len(u)),
        "time": random.integers(0, 500, len(u)),
    }
    return Interactions._from_columns(columns, "error")


@pytest.fixture(scope="module")
def part():
    return splits.random(data(), seed=1)


@pytest.fixture(scope="module")
def model(part):
    return ALS(8, epochs=4).fit(part.train)


class Recommending:
    """A model that only recommends, of which evaluation knows nothing else."""

    def __init__(self, model):
        self.recommend = model.recommend


def scores_of(model, part):
    return (model.user_factors_.astype(np.float64) @ model.item_factors_.T.astype(np.float64)).astype(np.float32)


def test_evaluate_agrees_with_a_loop(part, model):
    report = evaluate(model, part.train, part.test, metrics=["ndcg@5", "recall@5", "auc"])
    users = np.flatnonzero(np.diff(part.test.matrix.indptr))
    scores = scores_of(model, part)
    for at, user in enumerate(users):
        seen = set(part.train.matrix[[user]].indices.tolist())
        candidates = [item for item in range(50) if item not in seen]
        relevant = dict.fromkeys(part.test.matrix[[user]].indices.tolist(), 1.0)
        ranked = oracle.order(scores[user].tolist(), candidates)
        for name in ("ndcg@5", "recall@5"):
            assert report.per_user[name][at] == pytest.approx(oracle.ranking(name, ranked, relevant), abs=1e-12)
        assert report.per_user["auc"][at] == pytest.approx(
            oracle.area(scores[user].tolist(), candidates, relevant, ties=True)
        )
    assert report.users["auc"].tolist() == (users + 100).tolist()
    assert report.values["ndcg@5"] == pytest.approx(report.per_user["ndcg@5"].mean())
    table = report.table()
    assert f"{report.values['ndcg@5']:.4f}" in table
    assert f"{len(users)} users" in table


def test_every_way_to_ask_gives_the_same_figures(part, model):
    metrics = [*SHALLOW, *DEEP]
    expected = evaluate(model, part.train, part.test, metrics=metrics, keep_lists=True)
    factors = Factors(model.user_factors_, model.item_factors_)
    blocks = BlockScores(lambda rows: scores_of(model, part)[rows])
    for other in (factors, blocks):
        found = evaluate(other, part.train, part.test, metrics=metrics, keep_lists=True, batch=7)
        assert found.values == pytest.approx(expected.values)
        assert np.array_equal(found.held_out.ranks, expected.held_out.ranks)
        assert np.array_equal(found.lists, expected.lists)
    shallow = evaluate(model, part.train, part.test, metrics=SHALLOW)
    recommending = evaluate(Recommending(model), part.train, part.test, metrics=SHALLOW, batch=7)
    assert recommending.values == shallow.values == {name: expected.values[name] for name in SHALLOW}
    assert np.array_equal(recommending.held_out.ranks, shallow.held_out.ranks)
    rows = model.recommend(part.test.users, 60).rows
    of_lists = evaluate_lists(rows, part.test, metrics=SHALLOW, train=part.train)
    assert of_lists.values == pytest.approx(shallow.values)
    assert of_lists.history.keys() == of_lists.per_user.keys()


def test_lists_are_kept_as_ids(part, model):
    report = evaluate(model, part.train, part.test, metrics=["recall@5"], keep_lists=True)
    assert np.array_equal(report.lists, model.recommend(report.users["recall@5"], 5).ids)
    assert evaluate(model, part.train, part.test, metrics=["recall@5"]).lists is None


def test_models_on_other_items_are_matched_by_id(part):
    # Knows other items, some of which test lacks: they take slots and are misses.
    strange = SimpleNamespace()
    offered = np.array([[7, 0, 2, 4]])  # id 7 is no item of the test part

    def recommend(users, k, *, exclude_seen):
        ids = np.tile(offered[:, :k], (len(users), 1))
        return SimpleNamespace(rows=np.tile(np.arange(k), (len(users), 1)), ids=ids)

    strange.recommend = recommend
    found = evaluate(strange, part.train, part.test, metrics=["mrr@4", "coverage@4"])
    places = {0: 2, 2: 3, 4: 4}
    expected = [
        max((1 / places[i * 2] for i in part.test.matrix[[u]].indices.tolist() if i * 2 in places), default=0.0)
        for u in np.flatnonzero(np.diff(part.test.matrix.indptr))
    ]
    assert found.per_user["mrr@4"].tolist() == expected
    assert found.values["coverage@4"] == 3 / 50


def test_unknown_users_get_nothing_and_are_counted(part):
    known = part.train.select(part.train.rows >= 10)
    frame = known.to_frame()
    model = ALS(4, epochs=2).fit(Interactions.from_frame(frame, user="user", item="item"))
    report = evaluate(model, part.train, part.test, metrics=["recall@5"])
    tested = np.flatnonzero(np.diff(part.test.matrix.indptr))
    assert report.cold_users == np.count_nonzero(tested < 10)
    assert (report.per_user["recall@5"][tested < 10] == 0).all()
    assert report.per_user["recall@5"][tested >= 10].sum() > 0


def test_fold_in_evaluates_strangers():
    split = splits.held_out_users(data(), seed=2)
    model = ALS(8, epochs=4).fit(split.train)
    report = evaluate(model, split.train, split.test, fold_in=split.fold_in, metrics=["recall@5", "auc", "coverage@5"])
    rows = np.flatnonzero(np.diff(split.test.matrix.indptr))
    factors = np.zeros((80, 8), np.float32)
    factors[rows] = model.fold_in(split.fold_in.matrix[rows])
    by_hand = evaluate(Factors(factors, model.item_factors_), split.fold_in, split.test, metrics=["recall@5", "auc"])
    assert report.values["recall@5"] == by_hand.values["recall@5"] > 0
    assert report.values["auc"] == by_hand.values["auc"]
    assert report.cold_users == 0
    assert report.history["auc"].tolist() == np.diff(split.fold_in.matrix.indptr)[rows].tolist()


FOLDING = {
    "implicit": lambda: ALS(8, epochs=4),
    "explicit": lambda: ALS(6, feedback="explicit", epochs=4),
    "neighbours": lambda: ItemKNN(9),
    "linear": lambda: EASE(20.0),
    "popular": Popularity,
    "hybrid": lambda: HybridScorer([ALS(4, epochs=2), ItemKNN(9)]),
}


@pytest.mark.parametrize("kind", FOLDING)
def test_a_training_history_folded_in_is_the_user(kind, part):
    """Whatever a model folds in, the history that it was trained on has to give what training gave."""
    model = FOLDING[kind]().fit(part.train)
    names = ["recall@5", "ndcg@5", "coverage@5", *(["rmse", "mae"] if kind in ("explicit", "hybrid") else [])]
    known = evaluate(model, part.train, part.test, metrics=names)
    folded = evaluate(model, part.train, part.test, metrics=names, fold_in=part.train, batch=7)
    assert folded.values == pytest.approx(known.values, abs=1e-3 if kind == "explicit" else 1e-6)
    assert known.values["recall@5"] > 0


@pytest.mark.parametrize("kind", FOLDING)
def test_every_model_that_can_fold_in_is_served(kind):
    """Strangers are ranked by their own history: another one gives other figures, except of popularity."""
    split = splits.held_out_users(data(), seed=2)
    model = FOLDING[kind]().fit(split.train)
    report = evaluate(model, split.train, split.test, fold_in=split.fold_in, metrics=["recall@5"], keep_lists=True)
    rows = np.flatnonzero(np.diff(split.test.matrix.indptr))
    for user, names in zip(rows, report.lists, strict=True):
        seen = split.fold_in.items[split.fold_in.matrix[[user]].indices]
        assert not set(names.tolist()) & set(seen.tolist())
    places = np.arange(80)
    places[rows] = np.roll(rows, 1)
    shown = split.fold_in
    other = Interactions(sp.csr_matrix(shown.matrix[places]), shown.user_map, shown.item_map, None)
    report_of_others = evaluate(
        model, split.train, split.test, fold_in=other, metrics=["recall@5"], exclude_seen=False, allow_overlap=True
    )
    report = evaluate(model, split.train, split.test, fold_in=split.fold_in, metrics=["recall@5"], exclude_seen=False)
    assert (report.per_user["recall@5"] == report_of_others.per_user["recall@5"]).all() == (kind == "popular")


def test_ratings_of_strangers_are_predicted_from_their_history():
    split = splits.held_out_users(data(), seed=2)
    model = ALS(6, feedback="explicit", epochs=4).fit(split.train)
    report = evaluate(model, split.train, split.test, fold_in=split.fold_in, metrics=["mae"])
    users = model.fold_in(split.fold_in.matrix)
    test = split.test
    u, i = users[test.rows], model._items[test.matrix.indices]
    predicted = model.mean_ + (u[:, :-1] * i[:, :-1]).sum(axis=1) + u[:, -1] + i[:, -1]
    assert report.values["mae"] == pytest.approx(np.abs(predicted - test.matrix.data).mean(), abs=1e-5)


def test_histories_reach_a_model_with_more_items():
    """Items that only the content knows are on the model's axis, after those of the interactions."""
    split = splits.held_out_users(data(), seed=2)
    features = np.random.default_rng(0).random((52, 6))
    items = np.concatenate([[991], split.train.items, [992]])
    model = HybridScorer([Content(features, items=items), ItemKNN(9)]).fit(split.train)
    assert len(model.item_map) == 52
    report = evaluate(model, split.train, split.test, fold_in=split.fold_in, metrics=["recall@5"], keep_lists=True)
    user = int(np.flatnonzero(np.diff(split.test.matrix.indptr))[0])
    history = split.fold_in.matrix[[user]].copy()
    history.resize((1, 52))
    best = model.recommend(split.fold_in.users[[user]], 5, interactions=history).ids[0]
    known = np.isin(best, split.test.items)
    assert report.lists[0][known].tolist() == best[known].tolist()


class ByHistory:
    """Somebody's own model, which takes histories."""

    def __init__(self, scores):
        self.scores = scores

    def recommend(self, users, k, *, exclude_seen=True, interactions=None):  # noqa: ARG002 - as evaluate calls it
        scores = interactions.toarray() @ self.scores
        scores[interactions.toarray() > 0] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return SimpleNamespace(rows=rows, ids=rows * 2)


def test_own_models_are_given_histories():
    split = splits.held_out_users(data(), seed=2)
    weights = ItemKNN(9).fit(split.train).similarity_.toarray().T
    dense = SimpleNamespace(score_histories=lambda histories: (histories @ weights).astype(np.float32))
    expected = evaluate(ItemKNN(9).fit(split.train), split.train, split.test, fold_in=split.fold_in, metrics=["ndcg@5"])
    for model in (dense, ByHistory(weights)):
        report = evaluate(model, split.train, split.test, fold_in=split.fold_in, metrics=["ndcg@5"])
        assert report.values["ndcg@5"] == pytest.approx(expected.values["ndcg@5"], abs=0.02)
    with pytest.raises(TypeError, match=r"without score\(\) for histories"):
        evaluate(ByHistory(weights), split.train, split.test, fold_in=split.fold_in, metrics=["rmse"])
    only = SimpleNamespace(fold_in=lambda histories: None)
    with pytest.raises(TypeError, match="without item_factors_"):
        evaluate(only, split.train, split.test, fold_in=split.fold_in, metrics=["recall@5"])


def test_ties_that_decide_are_counted(part):
    popular = Popularity().fit(part.train)
    report = evaluate(popular, part.train, part.test, metrics=["recall@5", "recall@5:expected"])
    counts = popular.counts_.tolist()
    tied = 0
    for user in np.flatnonzero(np.diff(part.test.matrix.indptr)):
        seen = set(part.train.matrix[[user]].indices.tolist())
        ranked = oracle.order(counts, [i for i in range(50) if i not in seen])
        level = counts[ranked[4]]
        tied += counts[ranked[5]] == level and any(counts[i] == level for i in part.test.matrix[[user]].indices)
    assert report.tied_users == tied > 0
    assert "depend on the order of tied items" in report.table()


def test_fewer_candidates_than_slots_are_counted(part, model):
    report = evaluate(model, part.train, part.test, metrics=["recall@200", "precision@200", "precision@200:returned"])
    assert report.short_lists == report.counts["recall@200"]
    assert (report.per_user["recall@200"] == 1).all()
    held = np.diff(part.test.matrix.indptr)
    assert report.per_user["precision@200"] == pytest.approx(held[held > 0] / 200)
    candidates = 50 - np.diff(part.train.matrix.indptr)
    assert report.per_user["precision@200:returned"] == pytest.approx(held[held > 0] / candidates[held > 0])
    assert f"{report.short_lists} lists shorter" in report.table()


def test_seen_items_count_only_where_asked(part, model):
    report = evaluate(model, part.train, part.train, metrics=["recall@50", "auc"], exclude_seen=False)
    assert (report.per_user["recall@50"] == 1).all()
    blocked = evaluate(model, part.train, part.train, metrics=["recall@50", "auc"], allow_overlap=True)
    assert (blocked.per_user["recall@50"] == 0).all()
    assert np.isnan(blocked.per_user["auc"]).all()
    assert math.isnan(blocked.values["auc"])
    assert blocked.counts["auc"] == 0
    with pytest.raises(ValueError, match="in train too"):
        evaluate(model, part.train, part.train, metrics=["recall@5"])


def test_users_without_test_items_are_counted(part, model):
    kept = part.test.select(part.test.rows < 30)
    report = evaluate(model, part.train, kept, metrics=["recall@5"])
    tested = np.count_nonzero(np.diff(kept.matrix.indptr))
    assert report.counts["recall@5"] == tested
    assert report.users_without_test == 80 - tested
    assert "users without test interactions" in report.table()


def test_rating_errors_pool_pairs(part):
    model = ALS(4, feedback="explicit", epochs=4).fit(part.train)
    report = evaluate(model, part.train, part.test, metrics=["rmse", "mae"])
    test = part.test
    error = model.score(test.users[test.rows], test.items[test.matrix.indices]) - test.matrix.data.astype(float)
    assert report.values["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert report.values["mae"] == pytest.approx(np.mean(np.abs(error)))
    clipped = evaluate(model, part.train, part.test, metrics=["rmse"], clip=(2, 3))
    assert clipped.values["rmse"] != report.values["rmse"]


def test_explicit_models_are_ranked_with_their_biases(part):
    model = ALS(4, feedback="explicit", epochs=4).fit(part.train)
    native = evaluate(model, part.train, part.test, metrics=["ndcg@5"])
    assert native.values == evaluate(Recommending(model), part.train, part.test, metrics=["ndcg@5"]).values


def test_threads_and_batches_change_nothing(part, model):
    metrics = [*SHALLOW, *DEEP]
    first = evaluate(model, part.train, part.test, metrics=metrics, threads=1)
    for options in ({"threads": 3}, {"batch": 1}, {"batch": 3, "threads": 2}):
        other = evaluate(model, part.train, part.test, metrics=metrics, **options)
        for name in first.per_user:
            assert other.per_user[name].tobytes() == first.per_user[name].tobytes()


def test_progress_reaches_the_end(part, model):
    calls = []
    evaluate(model, part.train, part.test, metrics=["recall@5"], batch=2, progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1] == np.count_nonzero(np.diff(part.test.matrix.indptr))


def test_reports_survive_a_file(part, model, tmp_path):
    features = np.random.default_rng(0).random((50, 3))
    metrics = [*metric_names(5), "ndcg"]
    report = evaluate(model, part.train, part.test, metrics=metrics, item_features=features)
    path = tmp_path / "report.json"
    report.save(path)
    again = Report.load(path)
    assert again.table() == report.table()
    assert again.to_dict() == report.to_dict()
    for name, values in report.per_user.items():
        assert np.array_equal(again.per_user[name], values, equal_nan=True)
        assert np.array_equal(again.users[name], report.users[name])
    assert np.array_equal(again.held_out.ranks, report.held_out.ranks)
    assert again.by_popularity(5).table() == report.by_popularity(5).table()
    assert again.by_history("ndcg@5").table() == report.by_history("ndcg@5").table()
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, which is no JSON


@pytest.mark.parametrize("text", ["", "{}", '{"format": "salience report", "version": 99}', "[1]"])
def test_damaged_report_files(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="damaged or no report"):
        Report.load(path)


def test_slices_average_their_part(part, model):
    report = evaluate(model, part.train, part.test, metrics=["recall@5", "ndcg@5"])
    history, values = report.history["recall@5"], report.per_user["recall@5"]
    parts = report.by_history("recall@5", edges=(1, 8, 12))
    assert parts.labels == ["0", "1-7", "8-11", "12+"]
    masks = [history == 0, (history >= 1) & (history < 8), (history >= 8) & (history < 12), history >= 12]
    for value, count, mask in zip(parts.values, parts.counts, masks, strict=True):
        assert count == mask.sum()
        assert (value == pytest.approx(values[mask].mean())) if mask.any() else math.isnan(value)
    even = report.by_history("recall@5", buckets=4)
    assert sum(even.counts) == len(values)
    groups = {user: "even" if user % 2 == 0 else "odd" for user in report.users["recall@5"].tolist()}
    halves = report.by_group(groups, "recall@5")
    means = [values[report.users["recall@5"] % 2 == side].mean() for side in (0, 1)]
    assert halves.values == pytest.approx(means)
    assert halves.gap == pytest.approx(abs(means[0] - means[1]))
    assert halves.ratio == pytest.approx(min(means) / max(means))
    assert halves.worst == halves.labels[int(np.argmin(means))]


def test_popularity_buckets_hold_all_held_out_items(part, model):
    report = evaluate(model, part.train, part.test, metrics=["recall@5", "hit_rate@10"])
    counts = np.bincount(part.train.matrix.indices, minlength=50)[part.test.matrix.indices]
    found = (report.held_out.ranks > 0) & (report.held_out.ranks <= 5)
    parts = report.by_popularity(5, edges=(1, 10))
    assert parts.labels == ["0", "1-9", "10+"]
    assert parts.counts.sum() == len(part.test)
    assert parts.values[2] == pytest.approx(found[counts >= 10].mean())
    assert not (parts.low < 0).any()
    assert not (report.by_popularity(1, buckets=10).low < 0).any()
    with pytest.raises(ValueError, match="k: 11"):
        report.by_popularity(11)


def test_sampled_metrics_warn_and_follow_the_draw(part, model):
    names = ["recall@1", "mrr", "ndcg@5"]
    with pytest.warns(UserWarning, match="Krichene"):
        few = evaluate(model, part.train, part.test, metrics=names, sampled=5, seed=3)
    assert "SAMPLED" in few.table()
    assert few.sampled == 5
    with pytest.warns(UserWarning, match="Krichene"):
        everything = evaluate(model, part.train, part.test, metrics=names, sampled=1000)
    # Among all candidates that are not held out, nothing is left to chance.
    full = evaluate(model, part.train, part.test, metrics=["auc"]).held_out
    expected = []
    for user in np.unique(full.users):
        ranks = np.sort(full.ranks[full.users == user])
        expected.append(np.mean(1 / (ranks - np.arange(len(ranks)))))
    assert everything.per_user["mrr"] == pytest.approx(expected)
    assert few.values["recall@1"] > everything.values["recall@1"]


def test_sampled_ranks_are_drawn_without_replacement():
    ranks = factor_ranks(np.ones((1, 1), np.float32), np.arange(9, -1, -1, dtype=np.float32)[:, None], sp.csr_matrix(
        ([1.0], ([0], [4])), shape=(1, 10)
    ))  # fmt: skip
    with pytest.warns(UserWarning, match="sampled"):
        drawn = [int(ranks.sampled(3, seed=s).ranks[0]) for s in range(3000)]
    # 4 of the 9 others come first: the mean number among 3 of them is 3 * 4 / 9.
    assert np.mean(drawn) == pytest.approx(1 + 12 / 9, abs=0.06)
    assert set(drawn) == {1, 2, 3, 4}


@pytest.mark.parametrize("metric", ["auc", "coverage@5", "recall@5:expected"])
def test_what_sampling_does_not_have(part, model, metric):
    with pytest.raises(ValueError, match="sampled=9"):
        evaluate(model, part.train, part.test, metrics=[metric], sampled=9)


def test_intervals_of_reports_surround_the_mean(part, model):
    report = evaluate(model, part.train, part.test, metrics=["recall@5"])
    low, high = report.interval("recall@5")
    assert low < report.values["recall@5"] < high
    assert report.interval("recall@5", level=0.5)[0] > low


def test_users_have_errors_of_their_own(part):
    model = ALS(4, feedback="explicit", epochs=2).fit(part.train)
    report = evaluate(model, part.train, part.test, metrics=["rmse", "rmse:user"])
    assert report.by_history("rmse").metric == "rmse:user"
    assert report.by_history("rmse").values == pytest.approx(report.by_history("rmse:user").values, nan_ok=True)
    assert compare({"a": report, "b": report}, metric="rmse")["a", "b"].metric == "rmse:user"
    with pytest.raises(ValueError, match="such as 'rmse:user'"):
        report.interval("rmse")


@pytest.mark.data
def test_popularity_on_gowalla_gives_the_published_figures(data_folder):
    train, valid, test = load_gowalla(data_folder)
    both = Interactions.from_csr(train.matrix + valid.matrix)
    report = evaluate(Popularity().fit(both), both, test, metrics=["recall@20", "ndcg@20"])
    assert round(report.values["recall@20"], 5) == 0.04163
    assert round(report.values["ndcg@20"], 5) == 0.03169
    assert report.counts["recall@20"] == 29858


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d, m, p: evaluate(m, p.train, p.test, metrics=[]), "metrics: empty"),
        (lambda d, m, p: evaluate(m, p.train, p.test, metrics=["recal@5"]), "recal@5"),
        (lambda d, m, p: evaluate(m, d, p.test, metrics=["recall@5"]), "in train"),
        (lambda d, m, p: evaluate(m, p.train, p.test, metrics=["diversity@5"]), "item_features: None"),
        (lambda d, m, p: evaluate(m, p.train, p.test, item_features=np.ones((3, 2))), "one row for each of the 50"),
        (lambda d, m, p: evaluate(m, p.train, p.test, batch=0), "batch: 0"),
        (lambda d, m, p: evaluate(m, p.train, p.test, threads=0), "threads: 0"),
        (lambda d, m, p: evaluate(Factors(np.ones((3, 2), "f"), np.ones((50, 2), "f")), p.train, p.test), "user_factors: 3 rows"),
        (lambda d, m, p: evaluate(BlockScores(lambda rows: np.ones((1, 50))), p.train, p.test), "expected floats of shape"),
        (lambda d, m, p: evaluate(BlockScores(lambda rows: np.full((len(rows), 50), np.nan)), p.train, p.test), "NaN for item"),
        (lambda d, m, p: evaluate(m, p.train, p.train.select(p.train.rows < 0)), "test: empty"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, words, part):
    with pytest.raises(ValueError, match=words):
        call(data(), Popularity().fit(part.train), part)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, p: evaluate(object(), p.train, p.test), "without recommend"),
        (lambda m, p: evaluate(Recommending(m), p.train, p.test, metrics=["auc"]), "only recommends"),
        (lambda m, p: evaluate(Recommending(m), p.train, p.test, metrics=["rmse"]), "without score"),
        (lambda m, p: evaluate(m, p.train, p.test, progress=3), "progress: 3"),
        (
            lambda m, p: evaluate(Recommending(m), p.train, p.test, fold_in=p.train),
            "ranks only for users that it was fitted on",
        ),
        (lambda m, p: evaluate(BlockScores(3), p.train, p.test), "expected a callable"),
        (lambda m, p: evaluate(m, p.train, [1, 2]), "expected Interactions"),
    ],
)
def test_arguments_of_the_wrong_type(call, words, part):
    with pytest.raises(TypeError, match=words):
        call(Popularity().fit(part.train), part)


def test_bare_matrices_will_do():
    train, test = (sp.csr_matrix(np.array(m, np.float32)) for m in ([[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [1, 0, 0]]))
    report = evaluate(Popularity().fit(train), train, test, metrics=["mrr@2"])
    assert report.per_user["mrr@2"].tolist() == [1.0, 1.0]
