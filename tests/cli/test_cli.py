"""The command, as a user types it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from click.testing import CliRunner
from pyarrow.parquet import read_table

from salience import cli, datasets


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    datasets.synthetic(120, 60).interactions.to_frame().to_csv(path, index=False)
    return path


def run(*arguments):
    done = CliRunner().invoke(cli.cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    from rich.console import Console

    class Wide(Console):
        @property
        def file(self):
            return sys.stdout

    monkeypatch.setattr(cli, "output", Wide(width=200))


def test_demo_shows_quality_recommendations_and_reasons(ratings):
    for text in (run("demo"), run("demo", "--data", ratings, "--value", "value", "--time", "time")):
        assert "Popularity" in text
        assert "ndcg@20" in text
        assert "because of" in text


def test_fit_recommend_and_explain(ratings, tmp_path):
    model, table = tmp_path / "model", tmp_path / "out.csv"
    run("fit", ratings, "--value", "value", "--model", model, "--factors", 8)
    run("recommend", model, "-k", 3, "--output", table)
    lines = table.read_text().splitlines()
    assert lines[0] == "user,item,rank,score"
    assert len(lines) == 1 + 3 * 120
    run("recommend", model, "-k", 3, "--output", tmp_path / "out.parquet")
    columns = read_table(tmp_path / "out.parquet").to_pydict()
    user, item = lines[1].split(",")[:2]
    assert (columns["user"][0], columns["item"][0]) == (int(user), int(item))
    assert "past item" in run("explain", model, user, item)
    assert item in run("recommend", model, "-k", 3, "--users", user)


@pytest.mark.parametrize("split", ["random", "temporal", "leave-last"])
def test_evaluate_prints_ratings_and_rankings(ratings, split):
    text = run("evaluate", ratings, "--value", "value", "--time", "time", "--split", split, "--factors", 8)
    for metric in ("rmse", "mae", "recall@10", "ndcg@10", "users"):
        assert metric in text


def test_a_tiny_catalogue_of_text_ids(tmp_path):
    path = tmp_path / "tiny.csv"
    path.write_text("user,item\nzoë,tea\nbob,tea\nbob,coffee\nann,milk\nann,tea\n", encoding="utf-8")
    assert "ndcg@3" in run("evaluate", path, "--factors", 2)
    run("fit", path, "--factors", 2, "--model", tmp_path / "model")
    assert "coffee" in run("recommend", tmp_path / "model", "--users", "zoë")
    run("demo", "--data", path)


def test_doctor_says_what_is_used():
    text = run("doctor")
    assert "in use" in text
    assert "CUDA module: not built, because" in text or "CUDA module: built with nvcc" in text
    assert ("GPU: " in text) == ("CUDA module: built" in text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "none.csv", "--model", "m"], "path: none.csv is not a file"),
        (["recommend", "none"], "salience: none: No such file"),
        (["recommend", "none", "--output", "x.json"], "output: x.json"),
    ],
)
def test_errors_are_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["salience", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_the_catalogue_rewards_a_model_of_taste():
    from salience import ALS, Popularity
    from salience.evaluation import evaluate, splits

    split = splits.temporal(datasets.synthetic().interactions)
    scores = [
        evaluate(model.fit(split.train), split.train, split.test, metrics=["ndcg@20"]).values["ndcg@20"]
        for model in (ALS(32, regularization=0.03), Popularity())
    ]
    assert scores[0] > 1.1 * scores[1]
    assert np.isfinite(scores).all()
