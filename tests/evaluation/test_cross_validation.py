"""Cross-validation and search: means of folds, the same for any number of jobs, and after an interruption."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest

from salience import ALS, Interactions, Popularity
from salience.evaluation import Uniform, cross_validate, evaluate, search, splits


def data():
    random = np.random.default_rng(0)
    u, i = np.nonzero(random.random((60, 30)) < random.random(30) * 0.6)
    return Interactions._from_columns({"user": u + 100, "item": i, "time": random.integers(0, 99, len(u))}, "error")


make = partial(ALS, 4, epochs=2)  # a process of joblib cannot import this file


METRICS = ["recall@5", "coverage@5", "rmse"]


def same(a, b):
    assert a.values == b.values
    assert a.standard_errors == pytest.approx(b.standard_errors, nan_ok=True)
    for name in a.per_user:
        assert np.array_equal(a.per_user[name], b.per_user[name])
        assert np.array_equal(a.users[name], b.users[name])


def test_it_is_the_mean_of_folds():
    whole = data()
    report = cross_validate(Popularity, whole, folds=3, metrics=METRICS)
    each = [
        evaluate(Popularity().fit(part.train), part.train, part.test, metrics=METRICS)
        for part in splits.kfold(whole, folds=3)
    ]
    for name in METRICS:
        values = [fold.values[name] for fold in each]
        assert report.values[name] == pytest.approx(np.mean(values))
        assert report.fold_values[name] == pytest.approx(values)
        error = math.sqrt(1 / 3 + 1 / 2) * np.std(values, ddof=1)
        assert report.standard_errors[name] == pytest.approx(error, rel=0.01)
    user = report.users["recall@5"][0]
    mine = [f.per_user["recall@5"][f.users["recall@5"] == user] for f in each]
    assert report.per_user["recall@5"][0] == pytest.approx(np.mean(np.concatenate(mine)))


def test_jobs_do_not_change_the_result():
    pytest.importorskip("joblib")
    same(*(cross_validate(make, data(), folds=3, metrics=METRICS, jobs=jobs) for jobs in (1, 2)))


@pytest.mark.parametrize(
    "folds",
    [
        lambda d: splits.rolling(d, windows=2), lambda d: splits.kfold(d, folds=3, by="users"),
        lambda d: [splits.random(d, seed=s) for s in (0, 1)],
    ],
)  # fmt: skip
def test_folds_of_any_kind(folds):
    report = cross_validate(make, data(), folds=folds(data()), metrics=["recall@5"])
    assert len(report.fold_values["recall@5"]) == len(folds(data()))


def test_it_goes_on_where_it_was_cut_off(tmp_path):
    path, fitted = tmp_path / "folds.json", []

    def fragile():
        fitted.append(1)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return make()

    with pytest.raises(KeyboardInterrupt):
        cross_validate(fragile, data(), folds=4, metrics=METRICS, resume=path)
    calls = []
    report = cross_validate(fragile, data(), folds=4, metrics=METRICS, resume=path, progress=lambda *c: calls.append(c))
    assert len(fitted) == 5  # two folds, the one that failed, and the two that were left
    assert calls == [(3, 4), (4, 4)]
    same(report, cross_validate(make, data(), folds=4, metrics=METRICS))
    same(report, cross_validate(fragile, data(), folds=4, metrics=METRICS, resume=path))
    assert len(fitted) == 5


def test_progress_files_of_something_else_are_errors(tmp_path):
    path = tmp_path / "folds.json"
    cross_validate(make, data(), folds=2, metrics=METRICS, resume=path)
    with pytest.raises(ValueError, match="of other data, folds or settings"):
        cross_validate(make, data(), folds=3, metrics=METRICS, resume=path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="damaged"):
        cross_validate(make, data(), folds=2, metrics=METRICS, resume=path)


SPACE = {
    "factors": [2, 4],
    "regularization": Uniform(0.1, 100, log=True),
    "epochs": Uniform(1, 3, integer=True),
    "seed": 3,
}


def test_search_is_reproducible_and_ranked():
    pytest.importorskip("joblib")
    found = search(ALS, data(), SPACE, metric="ndcg@5", trials=6, seed=1)
    again = search(ALS, data(), SPACE, metric="ndcg@5", trials=6, seed=1, jobs=2)
    assert [t.parameters for t in found.trials] == [t.parameters for t in again.trials]
    assert [t.value for t in found.trials] == [t.value for t in again.trials]
    assert [t.value for t in found.ranked] == sorted((t.value for t in found.trials), reverse=True)
    assert found.best is found.ranked[0]
    for trial in found.trials:
        assert trial.parameters["factors"] in (2, 4)
        assert 0.1 <= trial.parameters["regularization"] <= 100
        assert trial.parameters["epochs"] in (1, 2, 3)
        assert trial.parameters["seed"] == 3
    split = splits.random(data(), seed=1)
    best = ALS(**found.best.parameters).fit(split.train)
    assert evaluate(best, split.train, split.test, metrics=["ndcg@5"]).values["ndcg@5"] == found.best.value
    assert f"{found.best.value:.4f}" in found.table().splitlines()[2]
    assert len(found.to_frame()) == 6


def test_more_trials_begin_with_the_same():
    few, many = (search(ALS, data(), SPACE, metric="ndcg@5", trials=n).trials for n in (2, 4))
    assert [t.parameters for t in many[:2]] == [t.parameters for t in few]


def test_errors_are_minimized():
    found = search(
        ALS, data(), {"factors": [2, 4], "epochs": [1, 2], "feedback": "explicit"}, metric="rmse", method="grid"
    )
    assert len(found.trials) == 4
    assert found.best.value == min(t.value for t in found.trials)


def test_search_resumes(tmp_path):
    path, made = tmp_path / "trials.json", []

    def fragile(**parameters):
        made.append(parameters)
        if len(made) == 3:
            raise KeyboardInterrupt
        return ALS(**parameters)

    with pytest.raises(KeyboardInterrupt):
        search(fragile, data(), SPACE, metric="ndcg@5", trials=4, resume=path)
    assert len(json.loads(path.read_text())["done"]) == 2
    found = search(fragile, data(), SPACE, metric="ndcg@5", trials=4, resume=path)
    assert len(made) == 5
    assert [t.value for t in found.trials] == [
        t.value for t in search(ALS, data(), SPACE, metric="ndcg@5", trials=4).trials
    ]


@pytest.mark.filterwarnings("ignore")
def test_optuna_repeats_and_resumes(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = {"metric": "ndcg@5", "trials": 5, "method": "optuna", "seed": 2}
    found = search(ALS, data(), SPACE, resume=tmp_path / "t.json", **options)
    for again in (
        search(ALS, data(), SPACE, **options),
        search(None.__class__, data(), SPACE, resume=tmp_path / "t.json", **options),
    ):
        assert [(t.parameters, t.value) for t in again.trials] == [(t.parameters, t.value) for t in found.trials]


def test_ranges_cover_their_ends():
    assert {Uniform(1, 3, integer=True).at(s) for s in np.linspace(0, 0.999, 100)} == {1, 2, 3}
    shares = [Uniform(1, 3, integer=True).at(s) for s in np.linspace(0, 1, 999, endpoint=False)]
    assert [shares.count(n) for n in (1, 2, 3)] == [333, 333, 333]
    assert Uniform(1, 100, log=True).at(0.5) == pytest.approx(10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Uniform(2, 1), "low: 2"),
        (lambda: Uniform(0, 1, log=True), "low > 0 if log"),
        (lambda: search(ALS, data(), SPACE, method="grid"), "is a range"),
        (lambda: search(ALS, data(), SPACE, method="guess"), "method: 'guess'"),
        (lambda: search(ALS, data(), SPACE, trials=0), "trials: 0"),
        (lambda: search(ALS, data(), SPACE, metric="best"), "'best'"),
        (lambda: cross_validate(make, data(), folds=[splits.random(data())]), "folds: 1 splits"),
        (lambda: cross_validate(make, data(), jobs=0), "jobs: 0"),
    ],
)
def test_wrong_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cross_validate(3, data()), "make_model: 3"),
        (lambda: cross_validate(object, data()), "expected a model with fit"),
        (lambda: cross_validate(make, data(), folds=[1, 2]), "expected Splits"),
        (lambda: search(ALS, data(), []), "space: "),
    ],
)
def test_arguments_of_the_wrong_type(call, words):
    with pytest.raises(TypeError, match=words):
        call()
