"""Learning from events: what follows at once, what comes with a refresh, and that nothing is lost or half done."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pandas
import pytest
import scipy.sparse as sp

from salience import (
    ALS,
    EASE,
    Collaborative,
    Content,
    History,
    HybridScorer,
    Interactions,
    ItemKNN,
    Prior,
    _storage,
)
from salience.datasets import synthetic
from salience.hybrid import EventLog, Events, Exploration, Feedback, explore
from salience.hybrid.attention import Attention
from salience.hybrid.feedback import Absorption, lesson
from salience.privacy import PrivateALS

KINDS = ("softmax", "linear", "fixed")


@pytest.fixture(scope="module")
def catalogue():
    found = synthetic(200, 120, seed=5)
    return found.interactions, found.item_features[found.interactions.items - 1]


@pytest.fixture(scope="module")
def fitted(catalogue):
    data, features = catalogue
    return {
        kind: HybridScorer(
            [ALS(8, epochs=3), Content(features), History(ItemKNN(10, weighting="degree")), Prior()],
            attention=kind, most_users=60, weights=[1.0, 0.5, 0.3, 0.1] if kind == "fixed" else None,
        ).fit(data)
        for kind in KINDS
    }  # fmt: skip


@pytest.fixture(params=KINDS)
def scorer(fitted, request):
    return copy.copy(fitted[request.param])


@pytest.fixture
def softmax(fitted):
    return copy.copy(fitted["softmax"])


def stream(data, count, seed=0, newcomers=5):
    """Events of known and new users, of all kinds, some late and some repeated."""
    random = np.random.default_rng(seed)
    users = np.concatenate([data.users[:30], np.arange(10**6, 10**6 + newcomers)])
    latest = int(data.times.max())
    events = Events.of(
        random.choice(users, count), random.choice(data.items, count), random.choice([-1.0, 0.0, 1.0, 2.0], count),
        times=latest + random.integers(-1000, 5000, count), positions=random.integers(0, 8, count),
        propensities=random.choice([1.0, 0.3], count),
    )  # fmt: skip
    again = np.concatenate([np.arange(count), random.integers(0, count, count // 10)])
    return events.select(again)


def everything(scorer):
    """What tells scorers apart."""
    data = scorer.interactions_
    lists = scorer.recommend([*data.users, 5 * 10**6], 15)
    return (
        data.users, data.matrix.indptr, data.matrix.indices, data.matrix.data, data.times, lists.ids, lists.scores,
        scorer.attention(data.users), scorer.attention_.theta, np.array([scorer.observed_]),
    )  # fmt: skip


def assert_same(one, other):
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine, theirs)


def test_recommendations_follow_at_once(scorer, catalogue):
    data, _ = catalogue
    user, item = data.users[0], scorer.recommend(data.users[:1], 1).ids[0, 0]
    found = scorer.observe(Events.of([user], [item], times=[data.times.max()]))
    assert (found.events, found.changed, found.new_users, found.refreshed) == (1, 1, 0, 0)
    assert item not in scorer.recommend([user], 120).ids
    assert scorer.interactions_.matrix[0, data.item_map.find([item])[0]] == 1.0
    assert scorer.explain(user, data.items[3]).score == pytest.approx(
        scorer.score([user], [data.items[3]])[0], rel=1e-4
    )


def test_users_are_scored_as_if_their_history_were_given(scorer, catalogue):
    data, _ = catalogue
    events = stream(data, 60)
    scorer.feedback = Feedback(refresh=None)
    scorer.observe(events)
    known = scorer.interactions_
    people = np.concatenate([data.users[:40], known.users[-5:]])
    rows = known.user_map.find(people)
    stored = scorer.recommend(people, 12)
    given = scorer.recommend(people, 12, interactions=known.matrix[rows])
    touched = np.isin(people, events.users)
    assert touched.any()
    assert np.array_equal(stored.scores[touched], given.scores[touched])
    pairs = scorer.score(people, stored.ids[:, 0])
    assert np.allclose(pairs, stored.scores[:, 0], rtol=1e-5)


@pytest.mark.parametrize("refresh", [None, 0.01])
def test_events_give_the_same_scorer_however_they_come(scorer, catalogue, refresh, tmp_path):
    data, _ = catalogue
    scorer.feedback = Feedback(refresh=refresh)
    events = stream(data, 120).in_order()
    together, apart, saved = copy.copy(scorer), copy.copy(scorer), copy.copy(scorer)
    log = EventLog(tmp_path / "events.log")
    assert (together.observe(events, log=log).refreshed > 0) == (refresh is not None)
    for start in range(0, len(events), 7):
        apart.observe(events.select(slice(start, start + 7)))
        if start == 49:
            apart.save(tmp_path / "half.safetensors")
    assert_same(everything(together), everything(apart))
    saved.replay(log)
    assert_same(everything(together), everything(saved))
    half = HybridScorer.load(tmp_path / "half.safetensors")
    assert half.observed_ == 56
    assert half.feedback == scorer.feedback
    half.replay(log)
    assert_same(everything(together), everything(half))
    half.save(tmp_path / "whole.safetensors")
    assert_same(everything(together), everything(HybridScorer.load(tmp_path / "whole.safetensors")))
    assert half.replay(log).events == 0
    with pytest.raises(ValueError, match="log: 0 events; expected the 132 that the scorer has observed"):
        half.replay(EventLog(tmp_path / "none.log"))


def test_what_is_known_in_the_end_does_not_depend_on_the_order(softmax, catalogue):
    data, _ = catalogue
    softmax.feedback = Feedback(refresh=None)
    events = stream(data, 150, newcomers=0)
    one, other = copy.copy(softmax), copy.copy(softmax)
    for place in range(len(events)):
        one.observe(events.select([place]))
        other.observe(events.select([len(events) - 1 - place]))
    assert abs(one.interactions_.matrix - other.interactions_.matrix).nnz == 0


def test_contradictory_late_and_repeated_events(softmax, catalogue):
    data, _ = catalogue
    user = data.users[4]
    row = softmax.user_map.find([user])[0]
    fresh = np.setdiff1d(np.arange(data.shape[1]), data.matrix[row].indices)[:1]
    item, late = data.items[fresh], int(data.times.max())

    def value():
        return softmax.interactions_.matrix[row, fresh[0]]

    def see(value, time):
        return softmax.observe(Events.of([user], item, [value], times=[time]))

    assert see(2.0, late).changed == 1
    assert see(2.0, late)[1:3] == (0, 1)  # delivered twice
    assert value() == 2.0
    assert see(-1.0, late - 5).changed == 0  # an older opinion
    assert value() == 2.0
    assert see(-1.0, late + 5).changed == 1  # a newer one
    assert value() == -1.0
    assert see(0.0, late + 6).changed == 0  # shown again and passed over
    assert value() == -1.0
    assert item[0] not in softmax.recommend([user], 120).ids
    softmax.feedback = Feedback(duplicates="sum")
    see(3.0, late + 7)
    assert value() == 2.0
    softmax.feedback = Feedback(duplicates="max")
    see(1.0, late + 8)
    assert value() == 2.0


def test_wrong_events_change_nothing(softmax, catalogue, tmp_path):
    data, _ = catalogue
    log = EventLog(tmp_path / "log")
    before = everything(softmax)
    user, item, time = data.users[:2], data.items[:2], data.times[:2]
    for make, message in (
        (lambda: Events.of(user, [item[0], 10**9], times=time), "events: 1 unknown .1000000000."),
        (lambda: Events.of(user, item, [1.0, np.nan], times=time), "values: nan; expected finite numbers"),
        (lambda: Events.of(user, item), "events: no times; expected times, as the interactions have them"),
        (lambda: Events.of(user, item, times=[0.5, 1.0]), "events: times of float64; expected whole numbers"),
        (lambda: Events.of(user, item[:1], times=time), "items: shape .1,.; expected .2,., one for each of the users"),
        (lambda: Events.of(user, item, [1.0], times=time), "values: shape .1,.; expected .2,."),
        (lambda: Events.of(user, item, times=[1, np.inf]), "times: inf; expected finite numbers"),
        (lambda: Events.of(user, item, times=time, positions=[1, -1]), "positions: -1"),
        (lambda: Events.of(user, item, times=time, positions=[1, 1.5]), "positions: 1.5"),
        (lambda: Events.of(user, item, times=time, propensities=[1, 0]), "propensities: 0.0; expected probabilities"),
        (lambda: Events.of([user[0], None], item, times=time), "users: a missing id"),
        (lambda: pandas.DataFrame({"user": user}), "events: no column 'item'"),
        (lambda: pandas.DataFrame({"user": user, "item": ["a", "b"], "time": time}), "events: ids of str"),
        (lambda: [(1, 2)], "events: .*; expected Events or a frame"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            softmax.observe(make(), log=log)
    assert_same(before, everything(softmax))
    assert len(log) == 0
    skipped = softmax.observe(Events.of(user, [item[0], 10**9], times=time), unknown="skip")
    assert skipped.skipped == 1
    for arguments, message in (({"unknown": "x"}, "unknown: 'x'"), ({"log": "path"}, "log: 'path'; expected EventLog")):
        with pytest.raises((TypeError, ValueError), match=message):
            softmax.observe(Events.of(user, item, times=time), **arguments)
    with pytest.raises(TypeError, match="log: 'x'; expected EventLog"):
        softmax.replay("x")


@pytest.mark.parametrize("place", ["teach", "refresh", "log"])
def test_a_failure_on_the_way_leaves_the_scorer_as_it_was(softmax, catalogue, tmp_path, monkeypatch, place):
    data, _ = catalogue
    softmax.feedback = Feedback(refresh=0.01)
    softmax.observe(stream(data, 30, seed=1))
    before, events, calls = everything(softmax), stream(data, 200, seed=2), []

    def fail(*_, **__):
        calls.append(1)
        if len(calls) == (90 if place == "teach" else 2 if place == "refresh" else 1):
            raise KeyboardInterrupt
        return keep(*_, **__)

    owner, name = {
        "teach": (HybridScorer, "_lesson"), "refresh": (HybridScorer, "refresh"), "log": (os, "fsync")
    }[place]  # fmt: skip
    keep = getattr(owner, name)
    monkeypatch.setattr(owner, name, fail)
    log = EventLog(tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        softmax.observe(events, log=log)
    monkeypatch.undo()
    assert_same(before, everything(softmax))
    assert len(log) == 0
    softmax.observe(events, log=log)
    assert len(log) == len(events)


def test_a_refresh_brings_items_and_users_in(catalogue):
    """An item that nobody had chosen gets factors and neighbours; the users that came are stored users afterwards."""
    data, features = catalogue
    new = data.items[7]
    kept = data.select(data.matrix.indices != 7)
    scorer = HybridScorer(
        [ALS(8, epochs=5), Content(features), History(ItemKNN(10)), Prior()], most_users=60, seed=1
    ).fit(kept)
    fans = np.arange(10**6, 10**6 + 25)
    liked = np.argsort(-np.bincount(kept.matrix.indices, minlength=120))[3:6]
    scorer.feedback = Feedback(refresh=None)
    time = int(data.times.max())
    events = Events.of(np.repeat(fans, 4), np.tile([*data.items[liked], new], 25), times=np.full(100, time))
    scorer.observe(events)
    assert not scorer._parts.item_available[7, 0]
    before = scorer.attention_.theta
    asker = sp.csr_matrix((np.ones(3), ([0, 0, 0], np.sort(liked))), shape=(1, 120))
    earlier = np.flatnonzero(scorer.recommend([0], 120, interactions=asker).rows[0] == 7)[0]
    scorer.refresh()
    assert scorer._parts.item_available[7].all()
    assert np.array_equal(scorer.attention_.theta, before)
    assert len(scorer.user_map) == 225
    assert scorer.observed_ == 100
    assert len(scorer._seen) == len(kept) + 100
    assert np.flatnonzero(scorer.recommend([0], 120, interactions=asker).rows[0] == 7)[0] < earlier - 50
    anew = copy.copy(scorer).refresh(anew=True)
    found = ALS(8, epochs=5).fit(scorer.interactions_)
    assert np.array_equal(anew._parts.components[0].item_vectors, found._item_vectors())
    assert scorer._parts.components[0].model.epochs == 5


def test_models_that_only_fold_in_stay_and_serve_newcomers(catalogue):
    data, features = catalogue
    private = PrivateALS(4, epsilon=5.0, delta=1e-3, seed=0)
    scorer = HybridScorer(
        [Collaborative(private), History(EASE(50.0)), Content(features), Prior()], attention="fixed",
        weights=[1, 1, 1, 0.1],
    ).fit(data)  # fmt: skip
    vectors = scorer._parts.components[0].item_vectors
    events = stream(data, 40)
    scorer.observe(events)
    asked = np.unique(events.users)
    before = scorer.recommend(asked, 10)
    scorer.refresh()
    assert scorer._parts.components[0].item_vectors is vectors  # no more of the budget is spent
    after = scorer.recommend(asked, 10)
    assert (after.rows >= 0).all()
    assert np.mean(after.rows == before.rows) > 0.8  # popularity has moved, nothing else


def test_features_of_users_and_ratings_go_on(catalogue):
    data, features = catalogue
    tastes = sp.csr_matrix(data.matrix @ features)
    als = Collaborative(ALS(4, epochs=2), user_features=tastes, item_features=features)
    scorer = HybridScorer([als, Prior()], attention="fixed", weights=[1, 0.1]).fit(data)
    scorer.observe(stream(data, 30))
    scorer.refresh().refresh()
    assert scorer._parts.components[0].user_features.shape[0] == len(scorer.user_map) > 200
    scorer.refresh(anew=True)  # of users who came since nothing but their history is known
    assert scorer.recommend(scorer.user_map.ids[-3:], 5).counts.tolist() == [5, 5, 5]
    ratings = HybridScorer(
        [ALS(4, feedback="explicit"), Content(features)], objective="rating", most_users=60
    ).fit(data)  # fmt: skip
    person, film = data.users[3], data.items[10]
    time = int(data.times.max())
    before = ratings.score([person], [film])[0]
    low = np.setdiff1d(data.items, [film])[:30]
    ratings.observe(Events.of(np.repeat(person, 30), low, np.zeros(30), times=np.full(30, time)))
    assert ratings.score([person], [film])[0] < before
    assert 0.0 in ratings.interactions_.matrix[3].data  # a rating of 0 is a rating


def test_models_that_cannot_fold_in_refuse(catalogue):
    data, features = catalogue

    class Fixed(ALS):
        fold_in = property()

    scorer = HybridScorer([Collaborative(Fixed(4)), Content(features)], most_users=60).fit(data)
    with pytest.raises(TypeError, match="model: Fixed cannot score users that it was not fitted on"):
        scorer.observe(Events.of(data.users[:1], data.items[:1], times=data.times[:1]))


def test_bare_matrices_know_no_newcomers(catalogue):
    data, features = catalogue
    scorer = HybridScorer([ALS(4), Content(features)], most_users=60).fit(data.matrix)
    scorer.observe(Events.of([3], [5]))
    with pytest.raises(ValueError, match="events: 1 unknown .200.; expected rows 0 to 199"):
        scorer.observe(Events.of([200], [5]))


def test_histories_are_kept_to_their_limit(softmax, catalogue):
    data, _ = catalogue
    softmax.feedback = Feedback(history_limit=6, refresh=None)
    time = int(data.times.max())
    softmax.observe(Events.of(np.full(9, 10**6), data.items[20:29], times=time + np.arange(9)))
    past = softmax.interactions_.matrix[-1].indices
    assert past.tolist() == list(range(23, 29))


def test_what_is_chosen_moves_attention(softmax, catalogue):
    """A user who goes by one component alone is soon served by it; those who do not, are not."""
    data, _ = catalogue
    softmax.feedback = Feedback(refresh=None, rate=0.0)
    user, bystander = data.users[:1], data.users[1:2]
    before = softmax.attention(bystander)
    name = softmax.component_names.index("content")
    start, time = softmax.attention(user)[0, name], int(data.times.max())
    alone = softmax.with_weights(np.eye(len(softmax.components))[name])
    for n in range(12):
        best = alone.recommend(user, 1).ids[0]
        event = Events.of(user, best, times=[time + n])
        softmax.observe(event)
        alone.observe(event)
    assert softmax.attention(user)[0, name] > max(start + 0.1, 1.3 * start)
    assert np.array_equal(softmax.attention(bystander), before)
    assert softmax.with_weights([1, 0, 0, 0]).observed_ == 12


def test_fixed_weights_stay(fitted, catalogue):
    data, _ = catalogue
    scorer = copy.copy(fitted["fixed"])
    before = scorer.attention(data.users)
    scorer.observe(stream(data, 50))
    assert np.allclose(scorer.attention(data.users), before)


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_lessons_are_gradients(kind, value):
    random = np.random.default_rng(4)
    scores, factors = random.standard_normal((9, 3)), np.exp(random.standard_normal((9, 3)))
    if kind == "linear":
        factors = (factors > 0.5).astype(float)
    competing = np.array([0.0, *np.full(7, 1.2), -np.inf])
    attention = Attention(kind, np.zeros((3, 5)), np.zeros((3, 4)), scale=1.7 if kind == "softmax" else 1.0)

    def loss(w):
        shares = (np.exp(w) if kind == "softmax" else w) * factors
        mixed = (shares * scores).sum(axis=1)
        if kind == "softmax":
            mixed = attention.scale * mixed / shares.sum(axis=1)
        logits = mixed + competing
        share = np.exp(logits[0] - np.logaddexp.reduce(logits))
        return (1 - share**0.25) / 0.25 if value > 0 else -np.log1p(-share)

    at = random.standard_normal(3)
    found = lesson(attention, np.exp(at) if kind == "softmax" else at, scores, factors, competing, value, focus=0.25,
                   rating=False)  # fmt: skip
    steps = 1e-6 * np.eye(3)
    expected = [(loss(at + step) - loss(at - step)) / 2e-6 for step in steps]
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_weights_undo_position_and_chance():
    feedback = Feedback(examination=1.0, clip=10.0)
    assert feedback.weight(True, 0, 1.0) == 1.0
    assert feedback.weight(True, 4, 1.0) == 4.0
    assert feedback.weight(True, 4, 0.5) == 8.0
    assert feedback.weight(True, 8, 0.1) == 10.0  # clipped
    assert Feedback(examination=400.0).weight(True, 10, 1.0) == 10.0  # as good as never looked at
    assert feedback.weight(False, 4, 1.0) == 0.25  # hardly looked at, hardly a refusal
    for arguments, message in (
        ({"duplicates": "first"}, "duplicates: 'first'"), ({"rate": -1}, "rate: -1"), ({"pull": 2}, "pull: 2"),
        ({"focus": 2}, "focus: 2"), ({"negatives": 0}, "negatives: 0"), ({"clip": 0.5}, "clip: 0.5"),
        ({"refresh": 0}, "refresh: 0"), ({"history_limit": 0}, "history_limit: 0"),
        ({"examination": np.nan}, "examination: nan"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Feedback(**arguments)
    with pytest.raises(TypeError, match="feedback: 3; expected Feedback"):
        HybridScorer([Prior()], feedback=3)


def test_logs_survive_what_a_crash_cuts_off(tmp_path):
    log = EventLog(tmp_path / "events.log")
    first = Events.of(["a", "b"], ["x", "ü"], [1.0, -2.5], times=[3, 4], positions=[0, 2], propensities=[1, 0.25])
    log.append(first)
    with log.path.open("ab") as file:
        file.write(b'["c", "x", 1.')
    assert len(log) == 2
    log.append(first.select([0]))
    found = log.read()
    assert found.users.tolist() == ["a", "b", "a"]
    assert found.items.tolist() == ["x", "ü", "x"]
    assert found.values.tolist() == [1.0, -2.5, 1.0]
    assert found.times.tolist() == [3, 4, 3]
    assert found.positions.tolist() == [0, 2, 0]
    assert found.propensities.tolist() == [1, 0.25, 1]
    assert log.read(2).users.tolist() == ["a"]
    assert len(log.read(3)) == 0
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + b"rubbish\n" + lines[2])
    with pytest.raises(ValueError, match="path: events.log is damaged in line 2"):
        log.read()


def test_a_crash_while_saving_leaves_the_old_file(softmax, tmp_path):
    """A process that dies in the middle of writing: the file that was there still loads."""
    path = tmp_path / "scorer.safetensors"
    softmax.save(path)
    before = everything(HybridScorer.load(path))
    script = (
        "import os, pathlib, sys\n"
        "from salience import HybridScorer\n"
        "scorer = HybridScorer.load(sys.argv[1])\n"
        "write = pathlib.Path.write_bytes\n"
        "def die(self, data):\n"
        "    write(self, data[:len(data) // 2])\n"
        "    os._exit(9)\n"
        "pathlib.Path.write_bytes = die\n"
        "scorer.save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=120)
    assert done.returncode == 9
    assert_same(before, everything(HybridScorer.load(path)))


def test_files_of_another_version_are_named(softmax, tmp_path):
    path = tmp_path / "scorer.safetensors"
    softmax.save(path)
    tensors, metadata = _storage.load_tensors(path, kind="HybridScorer")
    without = {name: tensor for name, tensor in tensors.items() if name != "live.numbers"}
    _storage.save_tensors(path, without, kind="HybridScorer", metadata=metadata)
    with pytest.raises(ValueError, match="path: .*scorer.safetensors holds no 'live.numbers'; expected a model of"):
        HybridScorer.load(path)


def test_numbers_of_numpy_can_be_saved(catalogue, tmp_path):
    feedback = Feedback(rate=np.float32(0.25), negatives=np.int64(7), history_limit=np.int32(9))
    scorer = HybridScorer([Prior()], attention="fixed", weights=[1.0], feedback=feedback).fit(catalogue[0])
    scorer.save(tmp_path / "scorer.safetensors")
    assert HybridScorer.load(tmp_path / "scorer.safetensors").feedback == Feedback(
        rate=0.25, negatives=7, history_limit=9
    )


def test_logs_of_other_events_are_not_replayed(softmax, catalogue, tmp_path):
    data, _ = catalogue
    mine, other = EventLog(tmp_path / "mine.jsonl"), EventLog(tmp_path / "other.jsonl")
    events = Events.of(data.users[[0, 1, 2]], data.items[[3, 4, 5]], times=data.times.max() + np.array([9, 7, 8]))
    scorer, late = copy.copy(softmax), events.select([2])
    scorer.observe(events.select(slice(2)), log=mine)
    other.append(events.select([0, 2]))
    before = everything(scorer)
    with pytest.raises(ValueError, match="log: other events than the first 2 that the scorer has observed"):
        scorer.replay(other)
    assert_same(before, everything(scorer))
    mine.append(late)
    assert scorer.replay(mine).events == 1
    scorer.refresh().save(tmp_path / "scorer.safetensors")
    assert HybridScorer.load(tmp_path / "scorer.safetensors").replay(mine).events == 0


def test_exploration_shows_what_its_propensities_say(softmax, catalogue):
    data, _ = catalogue
    candidates = softmax.recommend(data.users[:2], 6)
    counts, chances = np.zeros((2, 3, 6)), np.zeros((2, 3, 6))
    for seed in range(4000):
        found = explore(candidates, 3, epsilon=0.4, seed=seed)
        places = (found.recommendations.rows[:, :, None] == candidates.rows[:, None, :]).argmax(axis=2)
        assert all(len(set(one)) == 3 for one in places.tolist())
        for place in range(3):
            counts[[0, 1], place, places[:, place]] += 1
            chances[[0, 1], place, places[:, place]] += 1 / found.propensities[:, place]
    # Each place was shown as often as propensities say: the inverse weights add up to the candidates that were left.
    assert np.allclose(chances.sum(axis=2) / 4000, [6, 5, 4], rtol=0.1)
    assert np.allclose(counts[:, 0, 0] / 4000, 0.6 + 0.4 / 6, atol=0.03)
    plain = explore(candidates, 3, epsilon=0.0, seed=0)
    assert isinstance(plain, Exploration)
    assert np.array_equal(plain.recommendations.rows, candidates.rows[:, :3])
    assert (plain.propensities == 1).all()
    few = softmax.recommend(data.users[:1], 5, allow=np.setdiff1d(data.items, data.items[data.matrix[0].indices])[:2])
    shown = explore(few, 4, epsilon=1.0, seed=1)
    assert sorted(shown.recommendations.rows[0].tolist())[:2] == [-1, -1]
    assert (shown.recommendations.rows[0, :2] >= 0).all()
    for arguments, message in (({"k": 7}, "k: 7; expected 1 to 6"), ({"epsilon": 1.5}, "epsilon: 1.5")):
        with pytest.raises(ValueError, match=message):
            explore(candidates, **{"k": 3, "seed": 0, **arguments})


def test_events_come_from_any_frame(catalogue):
    polars = pytest.importorskip("polars")
    columns = {"who": [1, 2], "what": [3, 4], "at": [5, 6], "score": [1.0, 0.0]}
    found = Events.from_frame(polars.DataFrame(columns), user="who", item="what", value="score", time="at")
    assert (found.users.tolist(), found.items.tolist(), found.times.tolist()) == ([1, 2], [3, 4], [5, 6])
    assert found.values.tolist() == [1.0, 0.0]
    assert repr(found) == "Events(2, with times)"
    with pytest.raises(ValueError, match="item: no column 'x'"):
        Events.from_frame(polars.DataFrame(columns), user="who", item="x")


def test_fitting_again_starts_anew(softmax, catalogue):
    data, _ = catalogue
    softmax.observe(stream(data, 40))
    known = softmax.interactions_
    assert isinstance(known, Interactions)
    again = copy.copy(softmax)
    again.components = [component.fresh() for component in again.components]
    again.components[1] = Content(catalogue[1], items=data.items)
    again.fit(known)
    assert again.observed_ == 0
    assert np.array_equal(again.interactions_.matrix.data, known.matrix.data)


def test_logs_are_replayed_in_the_order_of_the_calls(softmax, catalogue, tmp_path):
    """An event that came late, in a call of its own, is late again: it does not move before what was learned."""
    data, _ = catalogue
    log, twin, latest = EventLog(tmp_path / "log"), copy.copy(softmax), int(data.times.max())
    assert twin.replay(log).events == 0  # nothing was observed yet
    for place in np.random.default_rng(3).permutation(30):
        event = Events.of(data.users[[place % 3]], data.items[[place]], [1.0], times=[latest + place])
        softmax.observe(event, log=log)
    twin.replay(log)
    assert_same(everything(softmax), everything(twin))


def test_times_that_the_interactions_lack_only_order_a_call(catalogue, tmp_path):
    data, features = catalogue
    timeless = Interactions(data.matrix, data.user_map, data.item_map, None)
    scorer = HybridScorer([Content(features), Prior()], most_users=60).fit(timeless)
    twin, log = copy.copy(scorer), EventLog(tmp_path / "log")
    row = np.setdiff1d(np.arange(120), data.matrix[0].indices)[0]
    user, item = data.users[[0, 0]], data.items[[row, row]]
    scorer.observe(Events.of(user, item, [2.0, 1.0], times=[1e9 + 0.5, 5.0]), log=log)
    assert scorer.interactions_.matrix[0, row] == 2.0
    scorer.observe(Events.of(user[:1], item[:1], [-1.0]), log=log)  # the later call counts
    assert scorer.interactions_.matrix[0, row] == -1.0
    twin.replay(log)
    assert abs(twin.interactions_.matrix - scorer.interactions_.matrix).nnz == 0


def test_new_users_who_were_only_shown_items_have_no_history(softmax, catalogue):
    data, _ = catalogue
    softmax.observe(Events.of([10**6], data.items[:1], [0.0], times=data.times[:1]))
    assert softmax.interactions_.shape == (201, 120)
    assert softmax.interactions_.matrix[200].nnz == 0
    assert softmax.refresh().recommend([10**6], 5).counts[0] == 5


def test_sums_beyond_float32_are_an_error(softmax, catalogue):
    data, _ = catalogue
    softmax.feedback = Feedback(duplicates="sum")
    row = np.setdiff1d(np.arange(120), data.matrix[0].indices)[0]
    latest, before = int(data.times.max()), everything(softmax)
    events = Events.of(data.users[[0, 0]], data.items[[row, row]], [3e38, 3e38], times=[latest, latest + 1])
    with pytest.raises(ValueError, match=r"events: values that add up to 6.*e\+38; expected finite numbers"):
        softmax.observe(events)
    assert_same(before, everything(softmax))


def test_weights_learned_for_everybody_stay_the_same_for_everybody(catalogue):
    data, features = catalogue
    scorer = HybridScorer([ALS(8, epochs=3), Content(features), Prior()], attention="fixed", most_users=60).fit(data)
    before = scorer.attention_.theta
    scorer.observe(stream(data, 40))
    assert (scorer.attention_.theta[:, 0] != before[:, 0]).any()
    assert np.ptp(scorer.attention(data.users), axis=0).max() < 1e-12


def test_dislikes_were_looked_at(softmax, catalogue):
    """A dislike far down the list teaches more than one at the top; an item that was passed over there, less."""
    data, _ = catalogue
    softmax.feedback = Feedback(refresh=None)
    row = np.setdiff1d(np.arange(120), data.matrix[0].indices)[0]

    def moved(value, position):
        twin = copy.copy(softmax)
        twin.observe(Events.of(data.users[:1], data.items[[row]], [value], times=data.times[:1], positions=[position]))
        return np.abs(twin.attention_.theta - softmax.attention_.theta).max()

    assert moved(-1.0, 5) == pytest.approx(5 * moved(-1.0, 1))
    assert moved(0.0, 5) == pytest.approx(moved(0.0, 1) / 5)


def test_lessons_without_competitors_teach_nothing():
    attention = Attention("softmax", np.zeros((2, 5)), np.zeros((2, 4)))
    scores, factors = np.array([[2.0, -1.0], [0.5, 3.0]]), np.ones((2, 2))
    for value in (1.0, -1.0):
        found = lesson(
            attention, np.ones(2), scores, factors, np.array([0.0, -np.inf]), value, focus=0.25, rating=False
        )
        assert (found == 0).all()


def test_large_calls_hold_each_history_once(catalogue):
    """What undoes a call is as large as the histories that it changes, not as all their versions."""
    seen = Interactions.from_csr(sp.csr_matrix(([1.0], ([0], [0])), shape=(1, 500)))
    scorer = HybridScorer([Prior()], attention="fixed", weights=[1], feedback=Feedback(refresh=None)).fit(seen)
    absorption = Absorption(scorer, scorer.feedback)
    absorption.run(Events.of(np.zeros(400, int), np.arange(1, 401)), np.arange(1, 401))
    assert len(scorer._live.histories[0].items) == 401
    assert len(absorption._undo) == 1
    absorption.undo()
    assert not scorer._live.histories


def test_dislikes_make_nothing_popular(catalogue):
    data, _ = catalogue
    scorer = HybridScorer([Prior()], attention="fixed", weights=[1], feedback=Feedback(refresh=None)).fit(data)
    before = scorer.recommend([10**6], 120).rows
    rare = data.items[before[0, -1:]]
    users = data.users[100:]
    scorer.observe(
        Events.of(users, np.repeat(rare, 100), np.full(100, -1.0), times=np.full(100, int(data.times.max()) + 1))
    )
    assert np.flatnonzero(scorer.refresh().recommend([10**6], 120).ids[0] == rare)[0] >= 118


def test_damaged_ids_in_a_log_are_not_rounded(tmp_path):
    log = EventLog(tmp_path / "events.log")
    log.path.write_bytes(b"[1.5, 3, 1.0, 0, 1.0, 5]\n")
    with pytest.raises(ValueError, match="path: events.log is damaged .ids: objects of float"):
        log.read()
