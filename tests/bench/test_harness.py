"""The harness: turns, outcomes, and everyone who takes part or does not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from click.testing import CliRunner
from threadpoolctl import threadpool_info

from salience import ALS, Collaborative, History, HybridScorer, Interactions, ItemKNN, Prior, cli, datasets
from salience.bench import (
    PEERS,
    Peer,
    UnsupportedError,
    choose_peers,
    contest,
    hold,
    record_environment,
    results,
    take_turns,
)
from salience.bench import als as bench_als
from salience.bench import evaluation as bench_evaluation
from salience.bench import hybrid as bench_hybrid
from salience.bench import topk as bench_topk
from salience.bench.als import ExplicitALS, ImplicitALS, objective
from salience.bench.evaluation import Evaluation
from salience.bench.hybrid import Hybrid
from salience.bench.peers import on_one_blas_thread
from salience.bench.topk import TopK
from salience.evaluation import splits

ROOT = Path(__file__).parents[2]


def small_topk(k=5):
    return TopK(*bench_topk.draw("gaussian", 7, 300, 12), k, 1, "gaussian")


def random_matrix(users=60, items=40, share=0.1, seed=0):
    pattern = np.random.default_rng(seed).random((users, items)) < share
    pattern[:, 0] |= ~pattern.any(axis=1)
    return sp.csr_matrix(pattern.astype(np.float32))


def implicit_problem(exponent=0.0, weight=0.2):
    return ImplicitALS(Interactions.from_csr(random_matrix(200, 120)), 8, 15, weight, 0.7, exponent, 1, "random")


# Turns


def test_turns_rotate_warm_up_and_keep_the_first_answer():
    order = []

    def contestant(name):
        def call():
            order.append(name)
            end = __import__("time").perf_counter() + 0.011
            while __import__("time").perf_counter() < end:
                pass
            return len(order)

        return call

    times, answers = take_turns({name: contestant(name) for name in "abc"}, rounds=2, patience=10)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert answers == {"a": 1, "b": 2, "c": 3}
    assert min(min(values) for values in times.values()) >= 0.011


def test_who_outlasts_patience_is_timed_once():
    import time

    calls = {"slow": 0, "quick": 0}

    def slow():
        calls["slow"] += 1
        time.sleep(0.05)

    def quick():
        calls["quick"] += 1
        time.sleep(0.011)

    times, _ = take_turns({"slow": slow, "quick": quick}, rounds=3, patience=0.03)
    assert calls == {"slow": 1, "quick": 4}
    assert len(times["slow"]) == 1
    assert len(times["quick"]) == 3


def test_who_raises_is_reported_and_left_out():
    attempts = []

    def fails_later():
        attempts.append(1)
        if len(attempts) > 1:
            raise RuntimeError("out of memory")

    failed = {}
    times, answers = take_turns(
        {"good": lambda: 1, "bad": fails_later},
        rounds=1,
        patience=1,
        on_error=lambda name, error: failed.update({name: error}),
    )
    assert set(times) == set(answers) == {"good"}
    assert str(failed["bad"]) == "out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        take_turns({"bad": fails_later}, rounds=1, patience=1)


# Outcomes


@pytest.fixture
def strange_peers(monkeypatch):
    """Peers that are absent, unable, broken and wrong, as real ones are now and then."""

    def unable(problem):
        raise UnsupportedError("cannot do this")

    def broken(problem):
        raise ImportError("libsomething.so.3: no such file")

    def crashing(problem):
        def search():
            raise RuntimeError("segment\nand more")

        return {"crashing": search}

    def wrong(problem):
        right = bench_topk.by_numpy(problem)["numpy"]
        return {"wrong": lambda: (right()[0], right()[1] + 1)}

    adapters = {"absent": unable, "unable": unable, "broken": broken, "crashing": crashing, "wrong": wrong}
    for name in adapters:
        monkeypatch.setitem(
            PEERS, name, Peer(name, "no_such_module" if name == "absent" else "numpy", f"{name}-package")
        )
    monkeypatch.setattr(TopK, "adapters", {**adapters, "numpy": bench_topk.by_numpy})
    return [*adapters, "numpy"]


def test_nobody_is_skipped_silently(strange_peers, tmp_path):
    outcome = hold(small_topk(), strange_peers, rounds=1, patience=5)
    found = {result.name: result for result in outcome.results}
    assert outcome.reference is found["salience"]
    assert found["absent"].status == "missing"
    assert found["absent"].note == "not installed: pip install absent-package"
    assert (found["unable"].status, found["unable"].note) == ("unsupported", "cannot do this")
    assert (found["broken"].status, found["broken"].note) == ("failed", "ImportError: libsomething.so.3: no such file")
    assert (found["crashing"].status, found["crashing"].note) == ("failed", "RuntimeError: segment")
    assert outcome.disagreeing == ["wrong"]
    assert found["numpy"].verdict.agrees

    text = results.table([outcome], record_environment(1))
    for words in (
        "missing: not installed: pip install absent-package",
        "unsupported: cannot do this",
        "differs: 35 of 35",
    ):
        assert words in text
    held = json.loads(results.to_json([outcome], record_environment(1)))
    entries = {entry["name"]: entry for entry in held["outcomes"][0]["results"]}
    assert set(entries) == {"salience", *strange_peers}
    assert entries["wrong"]["agrees"] is False
    assert entries["numpy"]["ratio"] == pytest.approx(entries["numpy"]["median"] / entries["salience"]["median"])
    assert entries["absent"]["status"] == "missing"
    pytest.importorskip("matplotlib")
    results.write_png(tmp_path / "a.png", [outcome], record_environment(1))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_differing_answer_ends_with_status_1(strange_peers):
    done = CliRunner().invoke(cli.cli, ["bench", "topk", "--shapes", "5x60x8x3", "--rounds", "1", "--threads", "1"])
    assert done.exit_code == 1
    assert "Answers differ: wrong" in done.output
    assert "absent" in done.output


def test_our_own_failure_is_an_error(monkeypatch):
    def fails():
        raise RuntimeError("ours")

    problem = small_topk()
    monkeypatch.setattr(problem, "ours", lambda: {contest.OURS: fails})
    with pytest.raises(RuntimeError, match="ours"):
        hold(problem, [], rounds=1, patience=1)


def test_the_environment_is_recorded():
    found = record_environment(3)
    assert found["threads"] == 3
    for key in ("processor", "cores", "instruction_set", "system", "python", "salience", "load_average"):
        assert found[key] or found[key] == 0, key
    assert found["libraries"]["numpy"] == np.__version__
    json.dumps(found)


def test_unknown_peers_are_named():
    with pytest.raises(ValueError, match="peers: 'surprise' has no adapter for topk; expected some of faiss, implicit"):
        choose_peers(TopK, ["surprise"])


def test_every_peer_of_an_adapter_is_known():
    for task in (TopK, ImplicitALS, ExplicitALS, Evaluation, Hybrid):
        assert set(task.adapters) <= set(PEERS)
    everyone = {name for task in (TopK, ImplicitALS, ExplicitALS, Evaluation, Hybrid) for name in task.adapters}
    assert everyone == set(PEERS)


# Peers

ADAPTERS = [
    (task, name)
    for task, adapters in (
        ("topk", bench_topk.ADAPTERS),
        ("als", bench_als.IMPLICIT),
        ("ratings", bench_als.EXPLICIT),
        ("lists", bench_evaluation.ADAPTERS),
        ("factors", bench_evaluation.ADAPTERS),
        ("hybrid, folded", bench_hybrid.ADAPTERS),
        ("hybrid, sparse and gated", bench_hybrid.ADAPTERS),
        ("hybrid, gated", bench_hybrid.ADAPTERS),
    )
    for name in adapters
]


def problem_of(task):
    if task == "topk":
        return small_topk()
    if task == "als":
        return implicit_problem()
    if task == "ratings":
        return ExplicitALS(splits.random(datasets.synthetic(60, 40).interactions), 4, 5, 1, "synthetic")
    if task.startswith("hybrid"):
        return hybrid_problem(
            rank=None if "sparse" in task else 6, attention="softmax" if "gated" in task else "linear"
        )
    return Evaluation(*bench_evaluation.draw(30, 90, 8), (3, 5), task, 1, "random")


def hybrid_problem(*, rank, attention, k=35):
    """Some of whose users have too few items left to fill their lists."""
    data = datasets.synthetic(60, 40).interactions
    parts = [Collaborative(ALS(4, epochs=2, threads=1)), History(ItemKNN(8), rank=rank), Prior()]
    model = HybridScorer(parts, attention=attention, rounds=1, most_users=30, threads=1).fit(data)
    heavy = np.argsort(-np.diff(data.matrix.indptr))[:20]
    assert 40 - np.diff(data.matrix.indptr).max() < k
    return Hybrid(model, data.user_map.ids_of(heavy), k, 1, "synthetic")


SEARCHING = ("faiss", "implicit", "usearch")


@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize(("task", "name"), ADAPTERS)
def test_peers_agree(task, name):
    if not PEERS[name].installed:
        pytest.skip(f"{name} is not installed: its adapter is not tested")
    outcome = hold(problem_of(task), [name], rounds=1, patience=60)
    for result in outcome.results:
        if (task, name) == ("lists", "irspack"):
            assert result.status == ("unsupported" if result.peer else "measured")
            continue
        if "gated" in task and name in SEARCHING:
            assert result.status == ("unsupported" if result.peer else "measured")
            continue
        assert result.status == "measured", result.note
        assert result.verdict.agrees in ((True,) if task != "ratings" else (None,)), result.verdict
        if task == "ratings":
            assert result.verdict.figures["rmse"] < 1.5


def test_blas_has_one_thread_only_while_it_is_held():
    def blas_threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas_threads()
    assert before, "NumPy brings a BLAS"
    assert on_one_blas_thread(blas_threads)() == [1] * len(before)
    assert blas_threads() == before


# Objectives


def brute_objective(matrix, x, y, weight, ridge, exponent):
    dense = matrix.toarray().astype(float)
    scores = x.astype(float) @ y.astype(float).T
    users = ridge * ((dense.sum(1) + weight * dense.shape[1]) ** exponent) @ (x.astype(float) ** 2).sum(1)
    items = ridge * ((dense.sum(0) + weight * dense.shape[0]) ** exponent) @ (y.astype(float) ** 2).sum(1)
    return ((1 - scores[dense > 0]) ** 2).sum() + weight * (scores**2).sum() + users + items


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_the_objective_is_what_it_says(exponent):
    random = np.random.default_rng(3)
    matrix = random_matrix()
    x, y = (random.standard_normal((rows, 5)).astype(np.float32) for rows in matrix.shape)
    settings = {"unobserved_weight": 0.3, "regularization": 0.4, "regularization_exponent": exponent}
    assert objective(matrix, x, y, **settings) == pytest.approx(
        brute_objective(matrix, x, y, 0.3, 0.4, exponent), rel=1e-12
    )


def test_the_objective_is_that_of_our_als():
    problem = implicit_problem(exponent=0.5)
    data = Interactions.from_csr(problem.matrix)
    model = ALS(8, epochs=15, alpha=1.0, threads=1, **problem._settings).fit(data)
    loss = objective(problem.matrix, model.user_factors_, model.item_factors_, **problem._settings)
    assert loss == pytest.approx(model.loss_history_[-1], rel=1e-3)


def test_the_mapping_to_confidences_keeps_the_objective_up_to_a_constant():
    """What implicit minimizes, times a constant and plus one, is ours at the mapped factors, wherever one looks."""
    problem = implicit_problem(weight=0.2)
    extra, ridge = problem.confidence()
    dense = problem.matrix.toarray() > 0
    random = np.random.default_rng(5)
    pairs = []
    for scale in (0.1, 0.3, 0.5, 1.0):
        x, y = (scale * random.standard_normal((rows, 4)) for rows in dense.shape)
        scores = x @ y.T
        theirs = (np.where(dense, 1 + extra, 1) * (dense - scores) ** 2).sum() + ridge * ((x**2).sum() + (y**2).sum())
        ours = objective(problem.matrix, *problem.from_confidence(x, y), **problem._settings)
        pairs.append((theirs, ours))
    theirs, ours = np.array(pairs).T
    slope = (ours[1:] - ours[0]) / (theirs[1:] - theirs[0])
    np.testing.assert_allclose(slope, slope[0], rtol=1e-6)
    assert slope[0] > 0


def test_what_confidences_cannot_say_is_unsupported():
    with pytest.raises(UnsupportedError, match="exponent of 0"):
        implicit_problem(exponent=1.0).confidence()
    with pytest.raises(UnsupportedError, match="unobserved weight above 0"):
        implicit_problem(weight=0.0).confidence()


def test_a_wrong_loss_is_noticed():
    problem = implicit_problem()
    x, y = problem.ours()["salience"]()
    verdicts = problem.judge({"salience": (x, y), "wrong": (x * 1.5, y)})
    assert verdicts["salience"].agrees
    assert verdicts["wrong"].agrees is False


def test_who_converges_more_slowly_is_behind_and_not_wrong():
    problem = implicit_problem()
    settings = {"alpha": 1.0, "threads": 1, **problem._settings}
    early = ALS(8, epochs=2, **settings).fit(problem.interactions)
    answers = {"salience": problem.ours()["salience"](), "early": (early.user_factors_, early.item_factors_)}
    verdict = problem.judge(answers)["early"]
    assert verdict.agrees is None
    assert "above the lowest: behind after as many epochs" in verdict.words


def test_a_wrong_metric_is_noticed():
    problem = problem_of("lists")
    values = dict(problem.ours()["salience"]())
    assert 0.05 < values["recall@5"] < 0.95
    wrong = {**values, "ndcg@5": values["ndcg@5"] + 1e-6}
    verdicts = problem.judge({"salience": values, "right": values, "wrong": wrong})
    assert verdicts["right"].words == "the same 14 values"
    assert verdicts["wrong"].words.startswith("differs: ndcg@5 by 1.0e-06")


def test_a_wrong_hybrid_is_noticed():
    """What the peers are given is the scorer's own: its lists follow from it, and from nothing less."""
    problem = hybrid_problem(rank=None, attention="softmax")
    right, folded = problem.ours()["salience"](), problem.folded
    unseen = sp.csr_matrix(folded.seen.shape, dtype=np.float32)
    for less in ({"additions": None}, {"gates": None}, {"seen": unseen}):
        problem.folded = replace(folded, **less)
        answer = bench_hybrid.by_numpy(problem)["numpy"]()
        assert problem.judge({"salience": right, "other": answer})["other"].agrees is False, less


# Commands


def bench(*arguments, status=0):
    done = CliRunner().invoke(cli.cli, ["bench", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.output


def test_topk_of_your_own_vectors(tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "q.npy", random.standard_normal((4, 6), dtype=np.float32))
    np.save(tmp_path / "x.npy", random.standard_normal((50, 6), dtype=np.float32))
    options = ("--peers", "numpy", "--rounds", 1)
    text = bench("topk", "--queries", tmp_path / "q.npy", "--items", tmp_path / "x.npy", "-k", "3,5", *options,
                 "--json", tmp_path / "out.json")  # fmt: skip
    assert "4 x 50 x 6, k 3 (x.npy)" in text
    held = json.loads((tmp_path / "out.json").read_text())
    assert [outcome["problem"]["k"] for outcome in held["outcomes"]] == [3, 5]
    assert all(entry["agrees"] for outcome in held["outcomes"] for entry in outcome["results"])


@pytest.mark.parametrize(
    "task", [("topk", "--users", 20), ("als", "--epochs", 2), ("evaluate", "-k", "3,5"), ("hybrid", "--users", 20)]
)
def test_your_own_interactions(task, tmp_path):
    path = tmp_path / "ratings.csv"
    datasets.synthetic(80, 50).interactions.to_frame().to_csv(path, index=False)
    some = "numpy" if task[0] in ("topk", "hybrid") else "rectools"
    text = bench(task[0], path, *task[1:], "--peers", some, "--factors", "4", "--rounds", 1)
    assert "ratings.csv" in text
    assert "salience" in text
    assert some in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["topk"], "Nothing to measure: give one of DATA, --shapes, --items"),
        (["topk", "data.csv", "--shapes", "1x2x3x4"], "Too much to measure"),
        (["topk", "--shapes", "1x2x3"], "'1x2x3'; expected QUERIESxITEMSxDIMSxK"),
        (["topk", "--shapes", "axb"], "'axb'; expected whole numbers above 0"),
        (["topk", "--items", "x.npy"], "--queries and --items belong together"),
        (["als", "--shapes", "10x10x4", "--peers", "faiss"], "peers: 'faiss' has no adapter for als"),
        (["als", "nothing.csv"], "nothing.csv is not a file"),
        (["hybrid", "--shapes", "30x20x2", "-k", "21"], "k: 21; expected 1 to 20"),
    ],
)
def test_errors_say_what_is_wrong(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    assert ended.value.code in (1, 2)
    assert words in capsys.readouterr().err


def test_the_script_is_the_same_command():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "compare.py", "topk", "--shapes", "3x40x8x2", "--peers", "numpy", "--rounds", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "3 x 40 x 8, k 2 (gaussian)" in done.stdout
    assert "the same" in done.stdout
