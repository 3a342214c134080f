"""Intervals and tests: as other packages compute them, and right as often as they claim."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from salience.evaluation import Report, compare, statistics
from salience.evaluation.metrics import parse_metric
from salience.evaluation.report import make_report


def report(values, users=None, name="ndcg@10"):
    values = np.asarray(values, dtype=np.float64)
    return make_report({parse_metric(name): values}, np.arange(values.size) if users is None else np.asarray(users))


def recalls(random, users, hits=0.3):
    """Values as recall has them: few hits among a few relevant items, many zeros."""
    relevant = random.integers(1, 12, users)
    return random.binomial(relevant, random.beta(1, 1 / hits, users)) / relevant


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 60))
@settings(max_examples=50, deadline=None)
def test_t_test_and_equivalence_are_those_of_scipy(seed, size):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, size))
    assert statistics.paired_t_test(b - a) == pytest.approx(stats.ttest_rel(b, a).pvalue, abs=1e-12)
    margin = 0.3
    low = stats.ttest_1samp(b - a, -margin, alternative="greater").pvalue
    high = stats.ttest_1samp(b - a, margin, alternative="less").pvalue
    assert statistics.equivalence_test(b - a, margin) == pytest.approx(max(low, high), abs=1e-12)
    assert statistics.effect_size(b - a) == pytest.approx(np.mean(b - a) / np.std(b - a, ddof=1))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_few_differences_are_flipped_in_every_way(seed, size):
    differences = np.random.default_rng(seed).integers(-3, 4, size).astype(float)
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=size)
    ]
    expected = np.mean([total >= abs(differences.sum()) for total in sums])
    assert statistics.sign_flip_test(differences) == pytest.approx(expected)


def test_the_randomization_test_agrees_with_the_exact_one():
    differences = np.random.default_rng(0).normal(0.4, 1, 13)
    sums = [abs((signs * differences).sum()) for signs in itertools.product((1, -1), repeat=13)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()))
    assert statistics.sign_flip_test(differences, permutations=20_000) == pytest.approx(exact, abs=0.01)


def test_holm_is_the_step_down_of_the_definition():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    adjusted = statistics.holm([0.01, math.nan, 0.02])
    assert adjusted[0] == 0.02
    assert adjusted[2] == 0.02
    assert math.isnan(adjusted[1])


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_never_lowers_and_keeps_the_order(values):
    adjusted = statistics.holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    for (p, q), (r, s) in itertools.combinations(zip(values, adjusted, strict=True), 2):
        assert not (p < r and q > s)


def test_bootstrap_intervals_are_those_of_scipy():
    values = recalls(np.random.default_rng(1), 300)
    for method in ("percentile", "bca"):
        low, high = statistics.bootstrap_interval(values, resamples=10_000, method=method)
        known = stats.bootstrap(
            (values,), np.mean, n_resamples=10_000, method=method, random_state=np.random.default_rng(0)
        ).confidence_interval
        assert low == pytest.approx(known.low, abs=0.002)
        assert high == pytest.approx(known.high, abs=0.002)


def test_intervals_cover_the_mean_as_often_as_they_claim():
    random = np.random.default_rng(2)
    population = recalls(random, 200_000)
    truth, trials = population.mean(), 400
    covered = {"bca": 0, "percentile": 0}
    for trial in range(trials):
        sample = random.choice(population, 120)
        for method in covered:
            low, high = statistics.bootstrap_interval(sample, level=0.9, resamples=600, seed=trial, method=method)
            covered[method] += low <= truth <= high
    # Four standard errors of a binomial share are 0.06.
    for method, count in covered.items():
        assert 0.84 <= count / trials <= 0.96, method


def test_equal_models_are_told_apart_no_more_often_than_claimed():
    random = np.random.default_rng(3)
    trials, found = 400, {"randomization": 0, "t": 0}
    for trial in range(trials):
        shared = recalls(random, 100)
        # Two models of the same quality: each differs from the shared part in its own users.
        a, b = (np.where(random.random(100) < 0.4, recalls(random, 100), shared) for _ in range(2))
        pair = compare({"a": report(a), "b": report(b)}, level=0.9, resamples=100, permutations=500, seed=trial)[
            "a", "b"
        ]
        found["randomization"] += pair.p_randomization <= 0.1
        found["t"] += pair.p_t <= 0.1
    for test, count in found.items():
        assert 0.04 <= count / trials <= 0.16, test


def test_holm_controls_any_false_positive_among_many():
    random = np.random.default_rng(4)
    false_alarms = 0
    for trial in range(150):
        models = {name: report(recalls(random, 60)) for name in "abcd"}
        false_alarms += any(
            pair.significant for pair in compare(models, level=0.9, resamples=100, permutations=300, seed=trial)
        )
    assert false_alarms / 150 <= 0.2


def test_real_differences_are_found_and_equivalence_shown():
    random = np.random.default_rng(5)
    base = recalls(random, 2000)
    better, same = np.clip(base + 0.05, 0, 1), base + random.normal(0, 0.01, 2000)
    found = compare(
        {"base": report(base), "better": report(better), "same": report(same)}, baseline="base", margin=0.01
    )
    first, second = found["base", "better"], found["base", "same"]
    assert first.better == "better"
    assert first.significant
    assert not first.equivalent
    assert first.low <= first.difference <= first.high
    assert second.better is None
    assert second.equivalent
    assert len(found) == 2
    text = found.table()
    assert "better is better" in text
    assert "equivalent" in text
    assert "2,000 users" in text
    assert found.to_frame()["p_adjusted"].tolist() == [pair.p_adjusted for pair in found]
    assert found.to_dict()["pairs"][0]["first"] == "base"


def test_the_better_model_of_an_error_is_the_smaller():
    random = np.random.default_rng(6)
    errors = random.random(200)
    found = compare({"a": report(errors, name="mae:user"), "b": report(errors + 0.1, name="mae:user")})
    assert found["a", "b"].difference > 0
    assert found["a", "b"].better == "a"


def test_users_are_matched_by_id_and_nan_left_out():
    first = report([0.1, 0.2, math.nan, 0.4], ["a", "b", "c", "d"])
    second = report([0.5, 0.3, 0.2, 0.1], ["d", "c", "b", "a"])
    pair = compare({"x": first, "y": second})["x", "y"]
    assert pair.users == 3
    assert pair.difference == pytest.approx((0.0 + 0.0 + 0.1) / 3)


def test_results_repeat():
    random = np.random.default_rng(7)
    reports = {name: report(recalls(random, 300)) for name in "ab"}
    assert compare(reports).pairs == compare(reports).pairs
    assert compare(reports).pairs != compare(reports, seed=1).pairs


def test_models_that_never_differ():
    values = recalls(np.random.default_rng(8), 50)
    pair = compare({"a": report(values), "b": report(values)}, margin=0.001)["a", "b"]
    assert (pair.p_randomization, pair.p_t, pair.effect_size, pair.p_equivalence) == (1.0, 1.0, 0.0, 0.0)
    assert (pair.low, pair.high) == (0.0, 0.0)
    assert pair.verdict == "equivalent"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: compare({"a": a}), "reports: 1 of them"),
        (lambda a, b: compare({"a": a, "b": b}, metric="mrr@10"), "metric: 'mrr@10'"),
        (lambda a, b: compare({"a": a, "b": b}, baseline="c"), "baseline: 'c'"),
        (lambda a, b: compare({"a": a, "b": b}, level=95), "level: 95"),
        (lambda a, b: compare({"a": a, "b": b}, margin=0), "margin: 0"),
        (lambda a, b: compare({"a": a, "b": report([0.1, 0.2], [1, 2])}), "not the same ones"),
        (lambda a, b: compare({"a": a, "b": report([0.1, 0.2], name="mrr@10")}), "no metric with values of users"),
        (lambda a, b: statistics.bootstrap_interval([[1.0]]), "one dimension"),
        (lambda a, b: statistics.bootstrap_interval([1.0], method="t"), "method: 't'"),
        (lambda a, b: statistics.sign_flip_test([np.inf]), "infinite"),
    ],
)
def test_wrong_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call(report([0.1, 0.2]), report([0.1, 0.3]))


def test_reports_must_be_reports():
    with pytest.raises(TypeError, match="expected a mapping"):
        compare([1, 2])
    with pytest.raises(TypeError, match="expected Reports under names"):
        compare({"a": Report, "b": Report})


def test_one_user_has_neither_interval_nor_effect():
    table = compare({"a": report([0.5]), "b": report([0.7])}).table()
    assert "nan" not in table
    assert "\n1 user; 95% bootstrap intervals" in table
    assert "1 user" in report([0.5]).table().split("\n")[2]
