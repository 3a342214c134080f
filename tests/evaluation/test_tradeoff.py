"""The curve of re-ranking, and the trade-off chosen on it."""

from __future__ import annotations

import numpy as np
import pytest

from salience import ALS
from salience.datasets import synthetic
from salience.evaluation import TradeoffCurve, evaluate_lists, splits, tradeoff_curve
from salience.rerank import calibrated


@pytest.fixture(scope="module")
def world():
    catalogue = synthetic(300, 200)
    split = splits.random(catalogue.interactions, per_user=True)
    model = ALS(16, epochs=5).fit(split.train)
    return split, catalogue.item_features, model.recommend(split.train.users, 60)


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_more_of_the_trade_off_is_more_diversity(world, method):
    split, features, lists = world
    curve = tradeoff_curve(
        method, lists, split.test, item_features=features, train=split.train, trade_offs=(0.2, 0.6, 1)
    )
    assert list(curve.values) == ["ndcg@10", "diversity@10", "coverage@10", "calibration@10"]
    assert curve.trade_offs.tolist() == [0, 0.2, 0.6, 1]
    assert (np.diff(curve.values["diversity@10"]) > 0).all()
    plain = evaluate_lists(lists, split.test, metrics=("ndcg@10",))
    assert curve.values["ndcg@10"][0] == plain.values["ndcg@10"]


def test_calibration_calibrates_and_is_what_the_function_gives(world):
    split, features, lists = world
    curve = tradeoff_curve(
        "calibrated", lists, split.test, item_features=features, train=split.train, k=8, trade_offs=(0.5, 0.9)
    )
    assert (np.diff(curve.values["calibration@8"]) < 0).all()
    history = split.train.matrix[split.train.user_map.rows(lists.queries)]
    again = calibrated(lists, features, 8, history=history, trade_off=0.9)
    report = evaluate_lists(again, split.test, metrics=("ndcg@8",))
    assert curve.values["ndcg@8"][-1] == report.values["ndcg@8"]


def test_the_choice_stops_before_the_first_loss_that_is_too_large(tmp_path):
    steps = np.array([0.0, 0.2, 0.4, 0.6, 0.8])
    values = {"ndcg@10": np.array([0.5, 0.51, 0.496, 0.48, 0.499]), "diversity@10": steps}
    curve = TradeoffCurve("mmr", steps, values)
    assert curve.choose(loss=0.01) == 0.4
    assert curve.choose(loss=0.2) == 0.8
    assert curve.choose(loss=0.0) == 0.2
    assert "0.4960" in curve.table().splitlines()[3]
    curve.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert curve.to_frame("pandas").shape == (5, 3)


def test_wrong_input_is_named(world):
    split, features, lists = world
    with pytest.raises(ValueError, match="method: 'xquad'"):
        tradeoff_curve("xquad", lists, split.test, item_features=features)
    with pytest.raises(TypeError, match="candidates: .*expected Recommendations"):
        tradeoff_curve("mmr", lists.rows, split.test, item_features=features)
    with pytest.raises(ValueError, match="train: None"):
        tradeoff_curve("calibrated", lists, split.test, item_features=features)
