"""Predict, then learn: ranks by hand, nothing learned too early, periods, and the picture."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from salience import Content, History, HybridScorer, Interactions, ItemKNN, Popularity, Prior
from salience.datasets import synthetic
from salience.evaluation import PrequentialReport, plot_prequential, prequential
from salience.hybrid import Events


@pytest.fixture(scope="module")
def halves():
    found = synthetic(120, 80, seed=2)
    data, features = found.interactions, found.item_features[found.interactions.items - 1]
    late = data.times > np.median(data.times)
    model = HybridScorer(
        [Content(features), History(ItemKNN(10)), Prior()], attention="fixed", weights=[1, 1, 0.2]
    ).fit(data.select(~late))  # fmt: skip
    return model, data.select(late)


def test_ranks_are_those_before_the_event(halves):
    model, later = halves
    events = Events.of(later.users[later.rows], later.items[later.matrix.indices], times=later.times).in_order()
    events = events.select(slice(0, 60))
    report = prequential(copy.copy(model), events, k=8)
    by_hand, twin = [], copy.copy(model)
    for place in range(60):
        event = events.select([place])
        listed = twin.recommend(event.users, 8).ids[0].tolist()
        by_hand.append(listed.index(event.items[0]) + 1 if event.items[0] in listed else 0)
        twin.observe(event)
    assert report.ranks.tolist() == by_hand
    assert any(by_hand)
    assert report.values["ndcg@8"] == pytest.approx(np.mean([1 / np.log2(1 + r) if r else 0 for r in by_hand]))
    assert report.values["hit_rate@8"] == pytest.approx(np.mean([r > 0 for r in by_hand]))
    assert len(report.learn_seconds) == 60
    assert set(report.latency()) == {"recommend", "learn"}


def test_frozen_models_stay_and_leave_out_what_was_had(halves):
    model, later = halves
    before = model.recommend(model.user_map.ids, 5)
    report = prequential(model, later, k=80, learn=False)
    assert np.array_equal(model.recommend(model.user_map.ids, 5).ids, before.ids)
    assert model.observed_ == 0
    assert len(report.learn_seconds) == 0
    # The only item that a user has not had is first, whatever the model thinks of it.
    user = model.user_map.ids[0]
    left = np.setdiff1d(later.items, later.items[model.interactions_.matrix[0].indices])
    report = prequential(
        model, Events.of(np.repeat(user, len(left)), left, times=np.arange(len(left))), k=80, learn=False
    )
    assert report.ranks[-1] == 1


def test_what_cannot_be_judged_is_not(halves):
    model, later = halves
    user, item = later.users[0], later.items[model.interactions_.matrix[0].indices[0]]
    new = np.setdiff1d(later.items, later.items[model.interactions_.matrix[0].indices])
    events = Events.of([user] * 5, [item, new[0], new[1], new[1], 10**9], [1, 0, -1, 1, 1], times=range(5))
    report = prequential(copy.copy(model), events)
    assert report.ranks.tolist() == [0]  # the unknown item; the others were had, passed over or disliked
    popular = Popularity().fit(model.interactions_)
    report = prequential(popular, Events.of([user, 10**9], [new[0], new[0]], times=[1, 2]), learn=False)
    assert report.ranks[1] == 0  # nobody it knows


@pytest.mark.parametrize("learn", [True, False])
def test_what_was_passed_over_is_judged_when_it_is_chosen(halves, learn):
    model, later = halves
    user = later.users[0]
    new = np.setdiff1d(later.items, later.items[model.interactions_.matrix[0].indices])
    events = Events.of([user] * 3, new[[0, 0, 0]], [0, 1, 1], times=range(3))
    report = prequential(copy.copy(model), events, k=80, learn=learn)
    assert len(report.ranks) == 1  # shown, chosen, chosen again
    assert report.ranks[0] > 0


def test_periods_come_before_their_first_event(halves):
    model, later = halves
    calls = []
    events = Events.of(later.users[:6], later.items[:6], times=[0, 5, 10, 11, 35, 36])
    prequential(copy.copy(model), events, period=10, each_period=lambda scorer: calls.append(scorer.observed_))
    assert calls == [2, 4]


def report(ranks, users):
    count = len(ranks)
    return PrequentialReport(10, np.array(ranks), np.array(users), None, np.zeros(count), np.zeros(count))


def test_intervals_draw_users(tmp_path):
    one, other = report([1] * 50 + [0] * 50, [0] * 50 + [1] * 50), report([0] * 100, [0] * 50 + [1] * 50)
    low, high = one.interval()
    assert (low, high) == (0.0, 1.0)  # two users only: either may be drawn twice
    assert np.array_equal(one.interval(other), one.interval())
    with pytest.raises(ValueError, match="other: a report on other events"):
        one.interval(report([1], [0]))
    assert one.curve(50)[[0, -1]].tolist() == [1.0, 0.0]
    assert one.to_frame()["ndcg"].sum() == 50
    pytest.importorskip("matplotlib")
    plot_prequential({"one": one, "other": other}, tmp_path / "plot.png", window=10)
    assert (tmp_path / "plot.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="reports: none"):
        plot_prequential({}, tmp_path / "none.png")


def test_wrong_input_is_named(halves):
    model, later = halves
    for arguments, message in (
        ({"model": Popularity()}, "has no observe"),
        ({"period": 3.0}, "each_period: expected with period"),
        ({"k": 0}, "k: 0"),
        ({"events": Interactions(later.matrix, later.user_map, later.item_map, None)}, "events: interactions without"),
        ({"events": Events.of([1], [1]), "period": 1.0, "each_period": print}, "period: events without times"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            prequential(**{"model": model, "events": later, **arguments})
