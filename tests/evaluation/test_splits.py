"""Splits: what they promise, on data where a leak would show."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from salience import Interactions
from salience.evaluation import Split, splits


def data(seed=0, users=60, items=40, *, timed=True):
    random = np.random.default_rng(seed)
    dense = random.random((users, items)) < random.random(items) * 0.5
    u, i = np.nonzero(dense)
    columns = {"user": u + 100, "item": i * 2, "value": random.integers(1, 6, len(u))}
    if timed:
        columns["time"] = random.integers(0, 300, len(u))
    return Interactions._from_columns(columns, "error")


def pairs(part):
    return set(zip(part.rows.tolist(), part.matrix.indices.tolist(), strict=True))


def users(part):
    return set(part.rows.tolist())


def items(part):
    return set(part.matrix.indices.tolist())


KINDS = {
    "random": lambda d, s: [splits.random(d, seed=s)],
    "random per user": lambda d, s: [splits.random(d, seed=s, per_user=True)],
    "temporal": lambda d, s: [splits.temporal(d)],
    "leave last": lambda d, s: [splits.leave_last(d)],
    "folds": lambda d, s: splits.kfold(d, folds=4, seed=s),
    "folds of users": lambda d, s: splits.kfold(d, folds=4, seed=s, by="users"),
    "held-out users": lambda d, s: [splits.held_out_users(d, seed=s)],
    "held-out users by time": lambda d, s: [splits.held_out_users(d, seed=s, order="time")],
    "cold users": lambda d, s: [splits.cold_users(d, seed=s)],
    "cold items": lambda d, s: [splits.cold_items(d, seed=s)],
    "newest items": lambda d, s: [splits.cold_items(d, order="newest")],
}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_parts_divide_the_data_and_repeat(kind, seed):
    whole = data(seed)
    parts, again = KINDS[kind](whole, seed), KINDS[kind](whole, seed)
    for part, same in zip(parts, again, strict=True):
        pieces = [p for p in (part.train, part.test, part.fold_in) if p is not None]
        assert set().union(*map(pairs, pieces)) == pairs(whole)
        assert sum(map(len, pieces)) == len(whole)
        assert pairs(part.test) == pairs(same.test)
        assert len(part.train)
        assert len(part.test)
    if kind == "folds":
        assert sorted(p for part in parts for p in pairs(part.test)) == sorted(pairs(whole))
    if kind == "folds of users":
        tested = [users(part.test) for part in parts]
        assert sum(map(len, tested)) == len(set().union(*tested))
        assert max(map(len, tested)) - min(map(len, tested)) <= 1


@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_temporal_keeps_the_future_out(seed, fraction):
    part = splits.temporal(data(seed), test_fraction=fraction)
    assert part.train.times.max() < part.test.times.min()
    assert part.late_share == 0


def test_random_splits_leak_the_future_and_say_how_much():
    part = splits.random(data())
    assert part.late_share == np.mean(part.train.times > part.test.times.min()) > 0.9
    assert np.isnan(splits.random(data(timed=False)).late_share)


def test_leave_last_takes_each_users_latest():
    part = splits.leave_last(data(), n=2)
    for user in users(part.test):
        mine, held = part.train.times[part.train.rows == user], part.test.times[part.test.rows == user]
        assert len(held) == 2
        assert mine.max() <= held.min()


def test_held_out_users_are_strangers_with_a_history():
    part = splits.held_out_users(data(), test_fraction=0.3, fold_in_fraction=0.6)
    assert not users(part.train) & users(part.test)
    assert users(part.test) == users(part.fold_in)
    sizes = np.diff(part.test.matrix.indptr) + np.diff(part.fold_in.matrix.indptr)
    for user in users(part.test):
        shown = np.diff(part.fold_in.matrix.indptr)[user]
        assert shown == min(max(int(0.6 * sizes[user] + 0.5), 1), sizes[user] - 1)


def test_what_held_out_users_show_is_earlier_if_asked():
    part = splits.held_out_users(data(), order="time")
    for user in users(part.test):
        shown, held = (p.times[p.rows == user] for p in (part.fold_in, part.test))
        assert shown.max() <= held.min()


def test_cold_means_cold():
    part = splits.cold_items(data(), test_fraction=0.25)
    assert not items(part.train) & items(part.test)
    assert len(items(part.test)) == 10
    part = splits.cold_users(data(), test_fraction=0.25)
    assert not users(part.train) & users(part.test)
    assert len(users(part.test)) == 15


def test_the_newest_items_are_those_that_appear_last():
    whole = data()
    part = splits.cold_items(whole, order="newest", test_fraction=0.2)
    first = [whole.times[whole.matrix.indices == item].min() for item in range(whole.shape[1])]
    assert min(first[i] for i in items(part.test)) >= max(first[i] for i in items(part.train))


@given(seed=st.integers(0, 2**32 - 1), windows=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_windows_roll_forward(seed, windows):
    whole = data(seed)
    parts = splits.rolling(whole, windows=windows, test_fraction=0.15)
    assert len(parts) == windows
    for part in parts:
        assert part.train.times.max() < part.test.times.min()
        assert len(part.train) == np.count_nonzero(whole.times < part.test.times.min())
    for before, after in itertools.pairwise(parts):
        assert before.test.times.max() < after.test.times.min()
    assert sum(len(part.test) for part in parts) == np.count_nonzero(whole.times >= parts[0].test.times.min())


def test_windows_may_forget():
    for part in splits.rolling(data(), windows=2, train_span=50):
        assert part.train.times.min() >= part.test.times.min() - 50


def test_minimum_counts_are_those_of_train():
    split = splits.random(data(), test_fraction=0.4, seed=1)
    kept = splits.at_least(split, user_interactions=5, item_interactions=4)
    by_user, by_item = np.diff(kept.train.matrix.indptr), np.bincount(kept.train.matrix.indices, minlength=40)
    assert (by_user[by_user > 0] >= 5).all()
    assert (by_item[by_item > 0] >= 4).all()
    assert users(kept.test) <= users(kept.train)
    assert items(kept.test) <= items(kept.train)
    # The largest such core: what was dropped had too little in train, whatever it had in test.
    dropped = users(split.train) - users(kept.train)
    assert dropped
    for user in dropped:
        assert len([i for u, i in pairs(split.train) if u == user and i in items(kept.train)]) < 5


def test_minimum_counts_keep_held_out_users():
    split = splits.held_out_users(data())
    kept = splits.at_least(split, user_interactions=9, item_interactions=3)
    assert users(kept.test) == users(split.test)
    assert items(kept.test) | items(kept.fold_in) <= items(kept.train)


def test_validation_keeps_the_promises():
    for split in (
        splits.temporal(data()), splits.leave_last(data()), splits.held_out_users(data()), splits.cold_items(data()),
        splits.cold_users(data()), splits.random(data()),
    ):  # fmt: skip
        inner = splits.validation(split)
        assert (inner.time_order, inner.cold) == (split.time_order, split.cold)
        assert (inner.fold_in is None) == (split.fold_in is None)
        assert pairs(inner.train) | pairs(inner.test) <= pairs(split.train)
        assert not pairs(inner.test) & pairs(split.test)


def shared_parts(first, second):
    csr = sp.csr_matrix(np.array(first, np.float32)), sp.csr_matrix(np.array(second, np.float32))
    return [Interactions.from_csr(part) for part in csr]


@pytest.mark.parametrize(
    ("parts", "promise", "words"),
    [
        (([[1, 0]], [[1, 0]]), {}, "test: 1 of 1 pairs in train too"),
        (([[1, 0]], [[0, 1]]), {"cold": "users"}, "test: 1 users with interactions in train"),
        (([[1, 0], [0, 0]], [[0, 0], [1, 0]]), {"cold": "items"}, "test: 1 items with interactions in train"),
        (([[1, 0]], [[0, 1]]), {"cold": "everything"}, "cold: 'everything'"),
        (([[1, 0]], [[0, 1, 0]]), {}, "expected the axes of train"),
    ],
)
def test_leaks_are_errors(parts, promise, words):
    with pytest.raises(ValueError, match=words):
        Split(*shared_parts(*parts), **promise)


def test_leaks_into_fold_in_are_errors():
    train, test = shared_parts([[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]])
    known, repeated = shared_parts([[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="fold_in: 1 users with interactions in train"):
        Split(train, test, fold_in=known)
    with pytest.raises(ValueError, match="test: 1 of 1 pairs in fold_in too"):
        Split(train, test, fold_in=repeated)


def test_late_interactions_are_errors():
    whole = data()
    early = whole.times < 150
    with pytest.raises(ValueError, match="later than one in test"):
        Split(whole.select(~early), whole.select(early), "global")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: splits.random(d, test_fraction=1.5), "test_fraction: 1.5"),
        (lambda d: splits.kfold(d, folds=1), "folds: 1"),
        (lambda d: splits.kfold(d, by="items"), "by: 'items'"),
        (lambda d: splits.kfold(d, folds=61, by="users"), "folds: 61"),
        (lambda d: splits.held_out_users(d, order="size"), "order: 'size'"),
        (lambda d: splits.held_out_users(d, fold_in_fraction=1), "fold_in_fraction: 1"),
        (lambda d: splits.cold_items(d, order="oldest"), "order: 'oldest'"),
        (lambda d: splits.cold_items(d, test_fraction=0.001), "would be tested on"),
        (lambda d: splits.rolling(d, windows=4, test_fraction=0.25), "windows: 4"),
        (lambda d: splits.rolling(d, windows=0), "windows: 0"),
        (lambda d: splits.rolling(d, train_span=-1), "train_span: -1"),
        (lambda d: splits.rolling(Interactions.from_csr(d.matrix)), "without times"),
        (lambda d: splits.temporal(Interactions.from_csr(d.matrix)), "without times"),
        (lambda d: splits.leave_last(d, n=0), "n: 0"),
        (lambda d: splits.at_least(splits.random(d), user_interactions=99), "no interaction would be left"),
        (lambda d: splits.at_least(splits.cold_items(d), user_interactions=1), "cold items"),
    ],
)
def test_wrong_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call(data())
