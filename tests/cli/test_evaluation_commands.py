"""salience evaluate, compare and report, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from click.testing import CliRunner

from salience import ALS, EASE, HybridScorer, Interactions, ItemKNN, Popularity, cli, datasets
from salience.evaluation import Report, compare, evaluate, splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    catalogue = datasets.synthetic(120, 60)
    catalogue.interactions.to_frame().to_csv(path / "ratings.csv", index=False)
    split = splits.random(catalogue.interactions)
    split.train.to_frame().to_csv(path / "train.csv", index=False)
    split.test.to_frame().to_csv(path / "test.csv", index=False)
    rows = "".join(f"{item},{title}\n" for item, title in catalogue.titles.items())
    (path / "titles.csv").write_text("item,title\n" + rows)
    return path


def run(*arguments):
    done = CliRunner().invoke(cli.cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert ended.value.code in (1, 2)
    return capsys.readouterr().err


# salience evaluate


def test_the_figures_are_those_of_the_library(folder):
    data = Interactions.read(folder / "ratings.csv")
    split = splits.random(data, seed=3)
    expected = evaluate(
        ALS(4, epochs=2, seed=3).fit(split.train), split.train, split.test, metrics=["ndcg@7", "recall@5:capped"]
    )
    options = ("--metrics", "ndcg@7,recall@5:capped", "--model", "als:factors=4,epochs=2", "--seed", 3)
    held = json.loads(run("evaluate", folder / "ratings.csv", *options, "--format", "json"))
    (report,) = held["reports"].values()
    assert {name: entry["value"] for name, entry in report["metrics"].items()} == expected.values
    rows = list(csv.DictReader(io.StringIO(run("evaluate", folder / "ratings.csv", *options, "--format", "csv"))))
    assert [row["metric"] for row in rows] == ["ndcg@7", "recall@5:capped"]
    assert [float(row["value"]) for row in rows] == list(expected.values.values())
    table = run("evaluate", folder / "ratings.csv", *options)
    assert f"{expected.values['ndcg@7']:.4f}" in table


def test_parts_may_be_given(folder):
    train, test = (Interactions.read(folder / f"{part}.csv") for part in ("train", "test"))
    text = run(
        "evaluate", folder / "train.csv", "--test", folder / "test.csv", "--model", "popularity", "--format", "json"
    )
    assert f"{len(train):,} interactions to train on, {len(test):,} to test" in json.loads(text)["split"]
    split = splits.random(datasets.synthetic(120, 60).interactions)
    model = Popularity().fit(split.train)
    expected = evaluate(model, split.train, split.test, metrics=["ndcg@10"]).values["ndcg@10"]
    assert json.loads(text)["reports"]["popularity"]["metrics"]["ndcg@10"]["value"] == pytest.approx(
        expected, abs=1e-12
    )


def test_saved_models_and_lists_of_other_systems(folder, tmp_path):
    train = Interactions.read(folder / "train.csv")
    model = ALS(4).fit(train)
    model.save(tmp_path / "small.safetensors")
    found = model.recommend(train.users, 10)
    lines = [
        f"{user} Q0 {item} {rank} {100 - rank} other\n"
        for user, items in zip(found.queries, found.ids, strict=True)
        for rank, item in enumerate(items, 1)
    ]
    (tmp_path / "other.run").write_text("".join(lines))
    options = ("--test", folder / "test.csv", "--metrics", "ndcg@10,recall@10", "--format", "json")
    text = run("evaluate", folder / "train.csv", "--model", tmp_path / "small.safetensors", "--run",
               tmp_path / "other.run", *options)  # fmt: skip
    saved, other = (json.loads(text)["reports"][name]["metrics"] for name in ("small", "other"))
    for metric in saved:
        assert saved[metric]["value"] == pytest.approx(other[metric]["value"], abs=1e-12)


def test_every_kind_of_model_is_fitted_and_loaded(folder, tmp_path):
    train = Interactions.read(folder / "train.csv")
    specs = {"itemknn:neighbors=9": ItemKNN(9), "ease:regularization=30": EASE(30.0),
             "hybrid:factors=4,epochs=2": HybridScorer([ALS(4, epochs=2), ItemKNN(100, weighting="degree"),
                                                        Popularity()])}  # fmt: skip
    options = ("--test", folder / "test.csv", "--metrics", "ndcg@10", "--format", "json")
    for n, (spec, model) in enumerate(specs.items()):
        model.fit(train).save(tmp_path / f"model{n}.safetensors")
        text = run("evaluate", folder / "train.csv", "--model", f"made={spec}", "--model",
                   f"saved={tmp_path / f'model{n}.safetensors'}", *options)  # fmt: skip
        values = [report["metrics"]["ndcg@10"]["value"] for report in json.loads(text)["reports"].values()]
        assert values[0] == pytest.approx(values[1], abs=1e-6)
        assert values[0] > 0


def test_users_may_be_held_out(folder, tmp_path):
    data = Interactions.read(folder / "ratings.csv")
    split = splits.held_out_users(data)
    model = ItemKNN(9).fit(split.train)
    expected = evaluate(model, split.train, split.test, metrics=["ndcg@10"], fold_in=split.fold_in).values["ndcg@10"]
    options = ("--split", "users", "--model", "itemknn:neighbors=9", "--metrics", "ndcg@10")
    held = json.loads(run("evaluate", folder / "ratings.csv", *options, "--format", "json"))
    assert held["reports"]["itemknn:neighbors=9"]["metrics"]["ndcg@10"]["value"] == pytest.approx(expected, abs=1e-12)
    assert f"{len(split.fold_in):,} to tell the tested users by" in held["split"]
    run("report", "--data", folder / "ratings.csv", "--split", "users", "--model", "als", "--model", "hybrid",
        "--factors", 4, "--output", tmp_path / "r.html")  # fmt: skip
    assert 'id="attention-hybrid"' in (tmp_path / "r.html").read_text()


def test_sampled_metrics_come_on_request_and_with_a_warning(folder):
    plain = CliRunner().invoke(cli.cli, ["evaluate", str(folder / "ratings.csv"), "--factors", "4"])
    assert "sampled" not in plain.output
    done = CliRunner().invoke(cli.cli, ["evaluate", str(folder / "ratings.csv"), "--factors", "4", "--sampled", "10"])
    assert done.exit_code == 0
    assert "among 10 sampled candidates" in done.stdout
    assert "warning:" in done.stderr
    assert "Krichene" in done.stderr


def test_output_files_are_whole(folder, tmp_path):
    run("evaluate", folder / "ratings.csv", "--factors", 4, "--output", tmp_path / "out.json", "--format", "json")
    assert json.loads((tmp_path / "out.json").read_text())["reports"]["implicit ALS"]["metrics"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


# salience compare


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    for name, spec in (("als", "als:factors=8"), ("popularity", "popularity")):
        run("evaluate", folder / "ratings.csv", "--model", spec, "--save", path / f"{name}.json")
    return path


def test_saved_results_are_compared(saved):
    reports = {name: Report.load(saved / f"{name}.json") for name in ("als", "popularity")}
    expected = compare(reports, metric=["ndcg@20"], margin=0.05)
    options = ("--metrics", "ndcg@20", "--margin", 0.05)
    files = [saved / "als.json", saved / "popularity.json"]
    assert run("compare", *files, *options).strip() == expected.table()
    held = json.loads(run("compare", *files, *options, "--format", "json"))
    assert held == json.loads(json.dumps(expected.to_dict()))
    (row,) = csv.DictReader(io.StringIO(run("compare", *files, *options, "--format", "csv")))
    assert float(row["p_adjusted"]) == expected.pairs[0].p_adjusted


def test_models_are_fitted_and_compared(folder):
    text = run("compare", "--data", folder / "ratings.csv", "--model", "popularity", "--model", "big=als:factors=16",
               "--baseline", "popularity")  # fmt: skip
    assert "big - popularity" in text
    assert "Holm" in text


# salience report


def test_a_report_of_your_own_data(folder, tmp_path):
    target = tmp_path / "report.html"
    run("report", "--data", folder / "ratings.csv", "--titles", folder / "titles.csv", "--output", target,
        "--factors", 8, "--users", "1,2", "--title", "Mine")  # fmt: skip
    text = target.read_text()
    assert "<h1>Mine</h1>" in text
    for name in ("by-cutoff", "by-history", "by-popularity", "accuracy-diversity", "training-loss", "examples"):
        assert f'id="{name}"' in text
    assert re.findall(r"<h3>User (\w+)</h3>", text) == ["1", "2"]
    assert "Popularity" in text
    assert "chosen" in text


def test_a_report_of_saved_results(saved, tmp_path):
    run("report", saved / "als.json", saved / "popularity.json", "--output", tmp_path / "r.html")
    assert 'id="comparison"' in (tmp_path / "r.html").read_text()


# Errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "{ratings}", "--model", "als:depth=2"], "model: 'als:depth=2': "),
        (
            ["evaluate", "{ratings}", "--model", "als:factors"],
            "model: 'factors' in 'als:factors'; expected parameter=value",
        ),
        (["evaluate", "{ratings}", "--model", "itemknn:neighbors=0"], "model: 'itemknn:neighbors=0': neighbors: 0"),
        (["evaluate", "{train}", "--test", "{test}", "--model", "{model}"], "is damaged or no model of salience"),
        (["evaluate", "{ratings}", "--model", "svd"], "model: 'svd'; expected als, popularity"),
        (["evaluate", "{ratings}", "--model", "als", "--model", "als"], "model: 'als' twice"),
        (["evaluate", "{ratings}", "--metrics", "ndgc@10"], "metrics: 'ndgc@10'"),
        (["evaluate", "{ratings}", "--test", "{ratings}"], "test: "),
        (
            ["evaluate", "{ratings}", "--model", "als", "--model", "popularity", "--save", "x"],
            "--save keeps one report",
        ),
        (["evaluate", "{ratings}", "--model", "{model}"], "'model' was made elsewhere and may know a test part"),
        (["compare"], "Give saved results, or --data with --model"),
        (["compare", "--data", "{ratings}"], "Nothing to fit"),
        (["compare", "{ratings}", "{train}"], "is damaged or no report of salience"),
        (["compare", "none.json"], "none.json"),
        (["report", "{ratings}", "--data", "{ratings}"], "Give saved results, or --data with --model"),
        (["report", "--data", "{ratings}", "--users", "x", "--factors", "2"], "users: 'x'; expected whole numbers"),
    ],
)
def test_errors_name_the_argument(folder, arguments, words, capsys):
    paths = {
        "ratings": folder / "ratings.csv",
        "train": folder / "train.csv",
        "test": folder / "test.csv",
        "model": folder / "model.safetensors",
    }
    paths["model"].touch()
    assert words in fails(capsys, *(argument.format(**paths) for argument in arguments))


def test_users_whom_the_data_does_not_know_are_named(folder, capsys, tmp_path):
    target = tmp_path / "r.html"
    text = fails(
        capsys, "report", "--data", folder / "ratings.csv", "--users", "999999", "--factors", 2, "--output", target
    )
    assert "999999" in text
    assert not target.exists()


def test_ids_of_runs_must_be_those_of_the_data(folder, tmp_path, capsys):
    (tmp_path / "other.run").write_text("zoë Q0 1 1 1.0 other\n", encoding="utf-8")
    parts = (folder / "train.csv", "--test", folder / "test.csv")
    text = fails(capsys, "evaluate", *parts, "--run", tmp_path / "other.run")
    assert "expected ids as in the data, which are numbers" in text
