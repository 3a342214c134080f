"""Lists of other systems: every form of the same lists has the same report."""

from __future__ import annotations

import numpy as np
import pandas
import polars
import pytest
import scipy.sparse as sp

from salience import Interactions
from salience.evaluation import evaluate_lists, read_qrels, read_run

METRICS = ("recall@2", "map@3", "ndcg@3", "mrr", "coverage@2")


@pytest.fixture
def test_part():
    frame = pandas.DataFrame({"user": ["u1", "u1", "u2", "u4"], "item": ["a", "b", "c", "d"]})
    return Interactions.from_frame(frame, user="user", item="item")


LISTS = {"u1": ["b", "x", "a"], "u2": ["a", "c"], "stranger": ["a"]}


def triples(lists):
    return [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items, 1)]


def test_every_form_has_the_same_report(test_part):
    rows = triples(LISTS)
    columns = {"user": [r[0] for r in rows], "item": [r[1] for r in rows], "rank": [r[2] for r in rows]}
    scored = {"user_id": columns["user"], "item_id": columns["item"], "score": [-float(r) for r in columns["rank"]]}
    shuffled = pandas.DataFrame(columns).sample(frac=1, random_state=0)
    report = evaluate_lists(LISTS, test_part, metrics=METRICS)
    for form in (
        {user: {item: -rank for rank, item in enumerate(items)} for user, items in LISTS.items()},
        shuffled, polars.DataFrame(columns), polars.LazyFrame(columns), pandas.DataFrame(scored),
    ):  # fmt: skip
        other = evaluate_lists(form, test_part, metrics=METRICS)
        assert other.values == report.values
        assert other.unknown_users == report.unknown_users == 1
    assert report.per_user["recall@2"].tolist() == [0.5, 1.0, 0.0]  # the unknown x takes a slot
    assert report.per_user["mrr"].tolist() == [1.0, 0.5, 0.0]
    assert report.cold_users == 1  # u4 got no list
    assert report.short_lists == 2
    assert report.values["coverage@2"] == 3 / 4


def test_rows_of_an_array():
    test = sp.csr_matrix(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32))
    report = evaluate_lists(np.array([[2, 1], [0, -1], [-1, -1]]), test, metrics=["recall@1", "recall@9", "map"])
    assert report.per_user["recall@1"].tolist() == [0.5, 0.0]
    assert report.users_without_test == 1
    assert report.short_lists == 2
    assert report.held_out.ranks.tolist() == [0, 1, 0]


def test_gaps_in_lists_take_no_rank():
    test = sp.csr_matrix(np.array([[0, 0, 1, 1]], np.float32))
    lists = np.array([[-1, 0, -1, 2, 1, 3]])
    report = evaluate_lists(lists, test, metrics=["mrr@3", "recall@2", "coverage@3"], keep_lists=True)
    assert report.values["mrr@3"] == 0.5
    assert report.values["recall@2"] == 0.5
    assert report.values["coverage@3"] == 3 / 4
    assert report.lists.tolist() == [[0, 2, 1]]


def test_cut_offs_far_beyond_the_lists():
    test = sp.csr_matrix(np.array([[0, 0, 1, 1]], np.float32))
    names = [f"{base}@{10**17 - 1}" for base in ("recall", "ndcg", "precision", "serendipity", "coverage")]
    for lists in (np.array([[0, 2]]), {0: [0, 2]}):
        report = evaluate_lists(lists, test, metrics=names, train=sp.csr_matrix(np.array([[1, 0, 0, 0]], np.float32)))
        assert report.values[names[0]] == 0.5
        assert report.short_lists == 1
    with pytest.raises(ValueError, match="expected a cut-off of at most"):
        evaluate_lists(np.array([[0, 2]]), test, metrics=[names[1] + ":cutoff"])


@pytest.fixture
def files(tmp_path):
    run, qrels = tmp_path / "run.txt", tmp_path / "qrels.txt"
    run.write_text("q1 Q0 d1 1 0.5 me\nq1 Q0 d2 2 0.5 me\nq1 Q0 d3 3 0.9 me\n\nq2 Q0 d9 1 1 me\n")
    qrels.write_text("q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\nq3 0 d1 0\n")
    return run, qrels


def test_run_files_in_three_orders(files):
    assert read_run(files[0])["q1"] == ["d3", "d1", "d2"]
    assert read_run(files[0], order="rank")["q1"] == ["d1", "d2", "d3"]
    assert read_run(files[0], order="trec_eval")["q1"] == ["d3", "d2", "d1"]


def test_runs_against_qrels(files):
    judged = read_qrels(files[1])
    report = evaluate_lists(read_run(files[0]), judged, metrics=["mrr", "ndcg:linear", "recall@1"])
    assert report.per_user["mrr"].tolist() == [0.5, 0.0]
    assert report.users_without_test == 1  # q3 has nothing relevant
    as_mapping = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}, "q3": {"d1": 0}}
    assert evaluate_lists(read_run(files[0]), as_mapping, metrics=["mrr"]).values["mrr"] == report.values["mrr"]


def test_json_of_ranx_is_what_trec_files_are(files, tmp_path):
    """``Run.save`` and ``Qrels.save`` write JSON by default."""
    run, qrels = tmp_path / "run.json", tmp_path / "qrels.json"
    run.write_text('{"q1": {"d1": 0.5, "d2": 0.5, "d3": 0.9}, "q2": {"d9": 1}}')
    qrels.write_text('{"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}, "q3": {"d1": 0}}')
    for order in ("score", "rank", "trec_eval"):
        assert read_run(run, order=order) == read_run(files[0], order=order)
    ours, theirs = read_qrels(qrels), read_qrels(files[1])
    assert (ours.matrix != theirs.matrix).nnz == 0
    assert ours.users.tolist() == theirs.users.tolist() == ["q1", "q2", "q3"]
    assert ours.items.tolist() == theirs.items.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"q1": {"d1": 0.5, "d1": 0.4}}', "an item twice in the list of 'q1'"),
        (b'{"q1": {"d1": NaN}}', "holds nan for user 'q1'"),
        (b'{"q1": {"d1": "0.5"}}', "holds '0.5' for user 'q1'"),
        (b'{"q1": ["d1"]}', "expected {user: {item: number}}"),
        (b"3", "expected {user: {item: number}}"),
        (b'{"q1": ', "is no JSON"),
        (b"\xff\xfe", "run.json is not UTF-8"),
    ],
)
def test_damaged_json(tmp_path, text, words):
    path = tmp_path / "run.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=words):
        read_run(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q1 Q0 d1 1 0.5\n", "5 fields in line 1"),
        ("q1 Q0 d1 one 0.5 me\n", "'one' in line 1"),
        ("q1 Q0 d1 1 nan me\n", "'nan' in line 1"),
        ("q1 Q0 d1 1 0.5 me\nq1 Q0 d1 2 0.4 me\n", "an item twice in the list of 'q1'"),
    ],
)
def test_damaged_runs(tmp_path, text, words):
    path = tmp_path / "run.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_run(path)


def test_a_pair_judged_twice(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text("q1 0 d1 2\nq1 0 d1 1\n")
    with pytest.raises(ValueError, match="1 pairs judged twice"):
        read_qrels(path)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"u1": ["a", "a"]}, "holds item 0 more than once"),
        ({"u1": ["x", "x"], "u2": ["a"]}, "holds item 4 more than once"),
        ({"nobody": ["a"]}, "none of 1 users is in test"),
        ({"u1": ["nothing"]}, "none of 1 items is in test"),
        (pandas.DataFrame({"user": ["u1"], "item": ["a"]}), "expected rank or score"),
        (pandas.DataFrame({"user": ["u1"], "rank": [1]}), "for the item"),
        (pandas.DataFrame({"user": ["u1"], "item": ["a"], "score": [np.nan]}), "missing rank or score"),
        (np.zeros((1, 2), int), "one line for every user row"),
        ({"u1": {"a": np.nan}}, "a score that is NaN for user 'u1'"),
    ],
)
def test_wrong_lists(test_part, lists, words):
    with pytest.raises(ValueError, match=words):
        evaluate_lists(lists, test_part, metrics=["recall@2"])


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"u1": "abc"}, "expected a sequence of item ids"),
        ({"u1": {"a", "b"}}, "expected a sequence of item ids"),
        ({1: ["a"]}, "expected ids of str"),
    ],
)
def test_lists_of_the_wrong_type(test_part, lists, words):
    with pytest.raises(TypeError, match=words):
        evaluate_lists(lists, test_part, metrics=["recall@2"])


@pytest.mark.parametrize("metric", ["rmse", "auc", "recall@2:expected"])
def test_metrics_that_lists_do_not_tell(test_part, metric):
    with pytest.raises(ValueError, match="that lists tell"):
        evaluate_lists(LISTS, test_part, metrics=[metric])
