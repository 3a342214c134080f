"""Agreement with other libraries to 1e-9 where conventions coincide, and a test for each place where they differ.

``pip install '.[peers]'`` brings the libraries (some hold NumPy below 2, so they are no part of ``.[test]``);
without them these tests are skipped by name. Last run in full with ranx 0.3.21, RecTools 0.19.0, irspack 0.3.1,
scikit-learn 1.9.1, pytrec_eval-terrier 0.5.11 (trec_eval 9), implicit 0.7.3 and LensKit 2025.8.1, on NumPy 1.26.4 and
Python 3.11.
Definitions in plain Python (test_metrics.py, test_beyond.py) are tested always.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version

import numpy as np
import pytest
import scipy.sparse as sp

import evaluation_oracle as oracle
from salience import Interactions
from salience.evaluation import (
    Lists,
    evaluate_lists,
    list_ranks,
    parse_metric,
    rating_metrics,
    read_run,
    score_ranks,
)
from salience.evaluation.lists import interactions_of_qrels
from salience.evaluation.metrics import summarize

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

USERS, ITEMS, SLOTS = 60, 40, 12
KINDS = ["random", "ties"]


def peer(name):
    """Import a library, or skip the test and name it."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        pytest.skip(f"PEER NOT INSTALLED: {name} ({missing}); pip install '.[peers]' brings it")


class Problem:
    """Scores and graded relevant items of all users, and the lists that the scores make."""

    def __init__(self, kind):
        random = np.random.default_rng(KINDS.index(kind))
        self.scores = random.normal(size=(USERS, ITEMS))
        if kind == "ties":
            self.scores = random.integers(0, 4, (USERS, ITEMS)).astype(float)
        grades = random.integers(1, 6, (USERS, ITEMS)) * (
            random.random((USERS, ITEMS)) < random.random((USERS, 1)) * 0.6
        )
        grades[np.arange(USERS), random.integers(0, ITEMS, USERS)] = 3
        self.grades = grades.astype(float)
        self.relevant = sp.csr_matrix(self.grades.astype(np.float32))
        self.lists = np.argsort(-self.scores, axis=1, kind="stable")[:, :SLOTS]
        self.users = [f"u{u:03}" for u in range(USERS)]
        self.items = [f"i{i:03}" for i in range(ITEMS)]

    def ours(self, names):
        return list_ranks(self.lists, self.relevant).metrics(names)

    def qrels(self):
        return {
            user: {self.items[i]: int(v) for i, v in enumerate(row) if v}
            for user, row in zip(self.users, self.grades.tolist(), strict=True)
        }

    def run(self):
        """The lists as scores that fall by one a slot: what sorts by score finds the order of the lists."""
        return {
            user: {self.items[i]: float(SLOTS - slot) for slot, i in enumerate(row)}
            for user, row in zip(self.users, self.lists.tolist(), strict=True)
        }


@pytest.fixture(params=KINDS)
def problem(request):
    return Problem(request.param)


def agree(ours, theirs):
    assert np.asarray(ours) == pytest.approx(np.asarray(theirs, dtype=float), abs=1e-9)


# ranx ---------------------------------------------------------------------------------------------------------

RANX = {
    "hit_rate@{k}": "hit_rate@{k}",
    "precision@{k}": "precision@{k}",
    "recall@{k}": "recall@{k}",
    "f1@{k}": "f1@{k}",
    "mrr@{k}": "mrr@{k}",
    "map@{k}": "map@{k}:relevant",
    "ndcg@{k}": "ndcg@{k}:linear",
    "ndcg_burges@{k}": "ndcg@{k}:exponential",
}


def ranx_scores(ranx, problem, names):
    qrels, run = ranx.Qrels(problem.qrels()), ranx.Run(problem.run())
    return ranx.evaluate(qrels, run, names, return_mean=False)


@pytest.mark.parametrize("k", [1, 5, SLOTS])
def test_ranx(problem, k):
    theirs = ranx_scores(peer("ranx"), problem, [name.format(k=k) for name in RANX])
    ours = problem.ours([name.format(k=k) for name in RANX.values()])
    for name, mine in RANX.items():
        agree(ours[mine.format(k=k)], theirs[name.format(k=k)])


def test_ranx_on_whole_lists(problem):
    theirs = ranx_scores(peer("ranx"), problem, ["mrr", "map", "ndcg", "ndcg_burges", "r-precision"])
    ours = problem.ours(["mrr", "map", "ndcg:linear", "ndcg:exponential", "r_precision"])
    for mine, name in zip(ours, ["mrr", "map", "ndcg", "ndcg_burges", "r-precision"], strict=True):
        agree(ours[mine], theirs[name])


def test_ranx_takes_its_own_objects(problem):
    ranx = peer("ranx")
    report = evaluate_lists(ranx.Run(problem.run()), ranx.Qrels(problem.qrels()), metrics=["recall@5", "ndcg@5:linear"])
    theirs = ranx_scores(ranx, problem, ["recall@5", "ndcg@5"])
    agree(report.per_user["recall@5"], theirs["recall@5"])
    agree(report.per_user["ndcg@5:linear"], theirs["ndcg@5"])


def test_ranx_differs_map_at_k_is_over_all_relevant_items(problem):
    """ranx's map@k can stay below 1 for a perfect list; ours without a convention is over min(k, |R|)."""
    theirs = ranx_scores(peer("ranx"), problem, ["map@5", "recall@5"])["map@5"]
    many = np.diff(problem.relevant.indptr) > 5
    assert (problem.ours(["map@5"])["map@5"][many] >= theirs[many]).all()
    assert not np.allclose(problem.ours(["map@5"])["map@5"], theirs)


def test_ranx_differs_rbp_weighs_by_grade(problem):
    """ranx multiplies by the grade (and can exceed 1); ours is binary, as Moffat and Zobel define it."""
    ranx = peer("ranx")
    binary = {user: dict.fromkeys(judged, 1) for user, judged in problem.qrels().items()}
    run = ranx.Run(problem.run())
    agree(
        problem.ours(["rbp:0.80"])["rbp:0.80"],
        ranx.evaluate(ranx.Qrels(binary), run, ["rbp.80", "mrr"], return_mean=False)["rbp.80"],
    )
    graded = ranx.evaluate(ranx.Qrels(problem.qrels()), run, ["rbp.80", "mrr"], return_mean=False)["rbp.80"]
    assert graded.max() > 1
    assert problem.ours(["rbp:0.80"])["rbp:0.80"].max() <= 1


def test_ranx_differs_queries_must_be_the_same(problem):
    """ranx refuses a run that lacks a user; ours counts the user with 0, and says so."""
    ranx = peer("ranx")
    run = problem.run()
    del run["u003"]
    with pytest.raises(AssertionError):
        ranx.evaluate(ranx.Qrels(problem.qrels()), ranx.Run(run), "recall@5")
    comparable = ranx.evaluate(ranx.Qrels(problem.qrels()), ranx.Run(run), "recall@5", make_comparable=True)
    report = evaluate_lists(run, problem.qrels(), metrics=["recall@5"])
    agree(report.values["recall@5"], comparable)
    assert report.cold_users == 1


def test_ranx_tests(problem):
    """The same differences: the same t test, and randomization tests as far as draws allow."""
    peer("ranx")
    from ranx.statistical_tests import fisher_randomization_test, paired_student_t_test

    from salience.evaluation import statistics

    a = problem.ours(["ndcg@5"])["ndcg@5"]
    b = a + np.random.default_rng(0).normal(0.02, 0.1, a.size)
    agree(statistics.paired_t_test(b - a), paired_student_t_test(a, b, max_p=0.01)[0])
    theirs = fisher_randomization_test(a, b, n_permutations=5000, max_p=0.01, random_seed=1)[0]
    assert statistics.sign_flip_test(b - a) == pytest.approx(theirs, abs=0.04)


# trec_eval ----------------------------------------------------------------------------------------------------

TREC = {
    "P_5": "precision@5", "recall_5": "recall@5", "success_5": "hit_rate@5", "map": "map", "map_cut_5": "map@5:relevant",
    "recip_rank": "mrr", "ndcg": "ndcg:linear", "ndcg_cut_5": "ndcg@5:linear", "Rprec": "r_precision",
}  # fmt: skip


def test_trec_eval_on_scores_with_its_own_order_of_ties(problem, tmp_path):
    pytrec_eval = peer("pytrec_eval")
    run = {
        user: {self_item: float(score) for self_item, score in zip(problem.items, row, strict=True)}
        for user, row in zip(problem.users, problem.scores.tolist(), strict=True)
    }
    qrels = problem.qrels()
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"P", "recall", "success", "map", "map_cut", "recip_rank", "ndcg",
                                                    "ndcg_cut", "Rprec"}).evaluate(run)  # fmt: skip
    path = tmp_path / "run.txt"
    lines = [f"{u} Q0 {i} 0 {s!r} tag" for u, scored in run.items() for i, s in scored.items()]
    path.write_text("\n".join(lines))
    test = interactions_of_qrels(
        [u for u, judged in qrels.items() for _ in judged], [i for judged in qrels.values() for i in judged],
        [v for judged in qrels.values() for v in judged.values()],
    )  # fmt: skip
    report = evaluate_lists(read_run(path, order="trec_eval"), test, metrics=list(TREC.values()))
    for name, mine in TREC.items():
        agree(report.per_user[mine], [theirs[user][name] for user in problem.users])


def test_trec_eval_differs_it_ignores_ranks(tmp_path):
    """trec_eval sorts by score, ties by descending id, whatever the rank column says; we do so only if asked."""
    pytrec_eval = peer("pytrec_eval")
    path = tmp_path / "run.txt"
    path.write_text("q Q0 a 1 1.0 t\nq Q0 b 2 1.0 t\n")
    theirs = pytrec_eval.RelevanceEvaluator({"q": {"a": 1}}, {"recip_rank"}).evaluate({"q": {"a": 1.0, "b": 1.0}})
    assert theirs["q"]["recip_rank"] == 0.5
    values = {
        order: evaluate_lists(read_run(path, order=order), {"q": {"a": 1}}, metrics=["mrr"]).values["mrr"]
        for order in ("score", "rank", "trec_eval")
    }
    assert values == {"score": 1.0, "rank": 1.0, "trec_eval": 0.5}


def test_trec_eval_differs_nothing_relevant_is_not_counted():
    """trec_eval gives a user without relevant items 0 and averages it in; ours drops and counts the user."""
    pytrec_eval = peer("pytrec_eval")
    qrels, run = {"a": {"x": 1, "y": 0}, "b": {"x": 0}}, {"a": {"x": 1.0}, "b": {"x": 1.0}}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
    assert theirs["b"]["recip_rank"] == 0
    report = evaluate_lists(run, qrels, metrics=["mrr"])
    assert report.values["mrr"] == 1
    assert report.users_without_test == 1


# RecTools -----------------------------------------------------------------------------------------------------


def rectools_frames(problem):
    import pandas

    users, slots = np.divmod(np.arange(USERS * SLOTS), SLOTS)
    reco = pandas.DataFrame({"user_id": users, "item_id": problem.lists.ravel(), "rank": slots + 1})
    rows, columns = problem.relevant.nonzero()
    return reco, pandas.DataFrame({"user_id": rows, "item_id": columns})


@pytest.mark.parametrize("k", [1, 5, SLOTS])
def test_rectools(problem, k):
    peer("rectools")
    from rectools import metrics as theirs

    reco, interactions = rectools_frames(problem)
    pairs = {
        "precision": theirs.Precision(k),
        "recall": theirs.Recall(k),
        "recall:capped": theirs.Precision(k, r_precision=True),
        "hit_rate": theirs.HitRate(k),
        "f1": theirs.F1Beta(k, beta=1),
        "map:relevant": theirs.MAP(k),
        "map:cutoff": theirs.MAP(k, divide_by_k=True),
        "mrr": theirs.MRR(k),
        "ndcg": theirs.NDCG(k, divide_by_achievable=True),
        "ndcg:cutoff": theirs.NDCG(k),
    }
    for name, metric in pairs.items():
        base, _, convention = name.partition(":")
        mine = f"{base}@{k}{':' if convention else ''}{convention}"
        agree(problem.ours([mine])[mine], metric.calc_per_user(reco, interactions).sort_index())


def test_rectools_beyond_accuracy(problem):
    peer("rectools")
    from rectools import metrics as theirs
    from rectools.metrics.distances import PairwiseDistanceCalculator

    random = np.random.default_rng(5)
    import pandas

    history = sp.csr_matrix(random.random((USERS, ITEMS)) < random.random(ITEMS) * 0.5)
    features = random.random((ITEMS, 4))
    rows, columns = history.nonzero()
    before = pandas.DataFrame({"user_id": rows, "item_id": columns})
    reco, interactions = rectools_frames(problem)
    counts = np.asarray(history.sum(axis=0)).ravel().astype(np.int64)
    lists = Lists(
        problem.lists, ITEMS, problem.relevant, history, counts, int((np.diff(history.indptr) > 0).sum()), features
    )
    found = lists.metrics(["novelty@5", "popularity@5", "serendipity@5", "coverage@5", "diversity@5"])
    agree(found["novelty@5"], theirs.MeanInvUserFreq(5).calc_per_user(reco, before).sort_index())
    agree(found["popularity@5"], theirs.AvgRecPopularity(5).calc_per_user(reco, before).sort_index())
    catalog = np.arange(ITEMS)
    agree(found["serendipity@5"], theirs.Serendipity(5).calc_per_user(reco, interactions, before, catalog).sort_index())
    agree(found["coverage@5"], theirs.CatalogCoverage(5, normalize=True).calc(reco, catalog))

    class Cosine(PairwiseDistanceCalculator):
        def _get_distances_for_item_pairs(self, first, second):
            units = features / np.linalg.norm(features, axis=1, keepdims=True)
            return 1 - (units[np.asarray(first)] * units[np.asarray(second)]).sum(axis=1)

    ild = theirs.IntraListDiversity(5, distance_calculator=Cosine())
    agree(found["diversity@5"], ild.calc_per_user(reco).sort_index())


def test_rectools_differs_ndcg_has_k_hits_as_its_ideal(problem):
    """RecTools' NDCG cannot reach 1 for a user with fewer than k relevant items; ours without a convention can."""
    peer("rectools")
    from rectools.metrics import NDCG

    reco, interactions = rectools_frames(problem)
    theirs = NDCG(10).calc_per_user(reco, interactions).sort_index().to_numpy()
    ours = problem.ours(["ndcg@10"])["ndcg@10"]
    few = np.diff(problem.relevant.indptr) < 10
    assert (ours[few] >= theirs[few]).all()
    assert (ours[few] > theirs[few]).any()
    assert ours[~few] == pytest.approx(theirs[~few])


def test_rectools_differs_one_item_has_no_diversity(problem):
    """RecTools calls the diversity of a single item 0, which averages as if the list were monotonous; ours is NaN."""
    peer("rectools")
    import pandas
    from rectools.metrics import IntraListDiversity
    from rectools.metrics.distances import PairwiseHammingDistanceCalculator

    calculator = PairwiseHammingDistanceCalculator(pandas.DataFrame(np.eye(ITEMS)))
    reco, _ = rectools_frames(problem)
    theirs = IntraListDiversity(1, distance_calculator=calculator).calc_per_user(reco)
    assert (theirs == 0).all()
    assert np.isnan(Lists(problem.lists, ITEMS, features=np.eye(ITEMS)).metrics(["diversity@1"])["diversity@1"]).all()


# LensKit ------------------------------------------------------------------------------------------------------


def lenskit_lists(problem, *, lists=None):
    """Return recommended lists and relevant items (with grades as ratings) as LensKit's collections."""
    from lenskit.data import ItemList, ItemListCollection

    output = ItemListCollection(["user_id"])
    truth = ItemListCollection(["user_id"])
    for user, row in enumerate(problem.lists if lists is None else lists):
        output.add(ItemList(np.asarray(row), ordered=True), user_id=user)
    for user, row in enumerate(problem.grades):
        judged = np.flatnonzero(row)
        truth.add(ItemList(judged, rating=row[judged]), user_id=user)
    return output, truth


def lenskit_values(metrics, output, truth):
    """Measure by LensKit's own analysis; a frame with a column a metric, in the order of users."""
    from lenskit.metrics import RunAnalysis

    analysis = RunAnalysis()
    for name, metric in metrics.items():
        analysis.add_metric(metric, name)
    return analysis.measure(output, truth)


def agree_by_list(problem, pairs):
    """Compare our metrics, by name, with LensKit's, list by list."""
    theirs = lenskit_values(pairs, *lenskit_lists(problem)).list_metrics()
    ours = problem.ours(list(pairs))
    for name in pairs:
        agree(ours[name], theirs[name].to_numpy())


@pytest.mark.parametrize("k", [1, 5, SLOTS])
def test_lenskit(problem, k):
    metrics = peer("lenskit.metrics")
    common = metrics.LogRankWeight(offset=1)  # log2(slot + 1)
    pairs = {
        f"precision@{k}": metrics.Precision(k),
        f"recall@{k}:capped": metrics.Recall(k),
        f"hit_rate@{k}": metrics.Hit(k),
        f"mrr@{k}": metrics.RecipRank(k),
        f"map@{k}:returned": metrics.ranking.AveragePrecision(k),
        f"ndcg@{k}": metrics.NDCG(k, weight=common),
        f"ndcg@{k}:linear": metrics.NDCG(k, weight=common, gain="rating"),
        f"rbp@{k}:0.85": metrics.RBP(k),
    }
    agree_by_list(problem, pairs)


def test_lenskit_on_whole_lists(problem):
    """Without a cut-off, LensKit's recall is over all relevant items, as ours is at the length of the list."""
    metrics = peer("lenskit.metrics")
    pairs = {
        f"recall@{SLOTS}": metrics.Recall(),
        "mrr": metrics.RecipRank(),
        "rbp": metrics.RBP(patience=0.8),
        "ndcg": metrics.NDCG(weight=metrics.LogRankWeight(offset=1)),
    }
    agree_by_list(problem, pairs)


def test_lenskit_gini_of_all_items(problem):
    metrics = peer("lenskit.metrics")
    theirs = lenskit_values({"gini": metrics.ListGini(5, items=ITEMS)}, *lenskit_lists(problem)).global_metrics()
    agree(Lists(problem.lists, ITEMS).metrics(["gini@5"])["gini@5"], theirs["gini"])


def test_lenskit_ratings():
    """Its aggregate is ours over all pairs, the means of its lists ours over users; it keeps scores in float32.

    What ``RunAnalysis`` calls the global RMSE is the mean over lists all the same (2025.8): ``rmse:user`` here.
    """
    metrics = peer("lenskit.metrics")
    from lenskit.data import ItemList, ItemListCollection

    random = np.random.default_rng(0)
    users = np.sort(random.integers(0, 9, 60))
    predicted, actual = random.normal(size=(2, 60)).astype(np.float32).astype(np.float64)
    output, truth = ItemListCollection(["user_id"]), ItemListCollection(["user_id"])
    for user in np.unique(users):
        items = np.flatnonzero(users == user)
        output.add(ItemList(items, scores=predicted[items]), user_id=int(user))
        truth.add(ItemList(items, rating=actual[items]), user_id=int(user))
    rows = np.unique(users, return_inverse=True)[1]
    names = [parse_metric(name) for name in ("rmse", "mae", "rmse:user", "mae:user")]
    values = rating_metrics(predicted, actual, rows, names)
    ours = {metric.name: summarize(metric, values[metric.name], np.bincount(rows))[0] for metric in names}
    measured = lenskit_values({"rmse": metrics.RMSE(), "mae": metrics.MAE()}, output, truth)
    for name, metric in (("rmse", metrics.RMSE()), ("mae", metrics.MAE())):
        parts = [metric.compute_list_data(found, truth.lookup(key)) for key, found in output]
        agree(ours[name], metric.global_aggregate(parts))
        agree(ours[f"{name}:user"], measured.list_summary().loc[name, "mean"])
    if version("lenskit").startswith("2025."):
        agree(ours["rmse:user"], measured.global_metrics()["rmse"])
    assert abs(ours["rmse"] - ours["rmse:user"]) > 0.01


def test_lenskit_differs_the_first_two_slots_of_its_ndcg_weigh_the_same(problem):
    """LensKit's discount is log2(max(slot, 2)), that of 2002's paper; ours and most others' is log2(slot + 1)."""
    metrics = peer("lenskit.metrics")
    theirs = lenskit_values({"ndcg": metrics.NDCG(5)}, *lenskit_lists(problem)).list_metrics()["ndcg"]
    assert np.abs(problem.ours(["ndcg@5"])["ndcg@5"] - theirs.to_numpy()).max() > 0.05
    first, second = ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4])
    one = sp.csr_matrix(([1.0], ([0], [0])), shape=(1, ITEMS), dtype=np.float32)
    from lenskit.data import ItemList

    truth = ItemList(np.array([0]))
    told = [metrics.NDCG(5).measure_list(ItemList(np.array(row), ordered=True), truth) for row in (first, second)]
    assert told == [1.0, 1.0]
    ours = [list_ranks(np.array([row]), one).metrics(["ndcg@5"])["ndcg@5"][0] for row in (first, second)]
    assert ours == pytest.approx([1.0, 1 / np.log2(3)])


def test_lenskit_differs_a_cutoff_caps_its_recall(problem):
    """LensKit's Recall(k) divides by min(k, |R|), and so is above ours, over |R|, for users with more than k."""
    metrics = peer("lenskit.metrics")
    theirs = lenskit_values({"recall": metrics.Recall(5)}, *lenskit_lists(problem)).list_metrics()["recall"].to_numpy()
    ours = problem.ours(["recall@5"])["recall@5"]
    many = np.diff(problem.relevant.indptr) > 5
    agree(ours[~many], theirs[~many])
    assert (theirs[many] >= ours[many]).all()
    assert (theirs[many] > ours[many]).any()


def test_lenskit_differs_a_short_list_is_measured_by_its_length(problem):
    """LensKit divides precision and average precision by what the list holds; ours, if not told, by the cut-off."""
    metrics = peer("lenskit.metrics")
    short = [row[: 1 + user % 4] for user, row in enumerate(problem.lists)]
    padded = np.array([[*row, *[-1] * (SLOTS - len(row))] for row in short])
    pairs = {"precision@5:returned": metrics.Precision(5), "map@5:returned": metrics.ranking.AveragePrecision(5)}
    theirs = lenskit_values(pairs, *lenskit_lists(problem, lists=short)).list_metrics()
    ours = list_ranks(padded, problem.relevant).metrics([*pairs, "precision@5", "map@5"])
    for name in pairs:
        agree(ours[name], theirs[name].to_numpy())
    assert (ours["precision@5"] <= theirs["precision@5:returned"].to_numpy()).all()
    assert (ours["map@5"] < theirs["map@5:returned"].to_numpy()).any()


def test_lenskit_differs_it_measures_the_lists_there_are(problem):
    """LensKit averages over the users with a list, ours over the users with something relevant.

    A user whom the model left out raises LensKit's mean, and counts 0 in ours; a user without relevant items counts
    0 in LensKit's, and is left out and counted aside by ours.
    """
    metrics = peer("lenskit.metrics")
    from lenskit.data import ItemListCollection

    output, truth = lenskit_lists(problem)
    hits = problem.ours(["hit_rate@5"])["hit_rate@5"]
    left_out = int(np.flatnonzero(hits == 0)[0])
    fewer, judged = ItemListCollection(["user_id"]), ItemListCollection(["user_id"])
    for key, found in output:
        if key.user_id != left_out:
            fewer.add(found, user_id=key.user_id)
    for key, found in truth:
        if key.user_id != USERS - 1:
            judged.add(found, user_id=key.user_id)
    missing = lenskit_values({"hit": metrics.Hit(5)}, fewer, truth).list_summary().loc["hit", "mean"]
    agree(missing, np.delete(hits, left_out).mean())
    unjudged = lenskit_values({"hit": metrics.Hit(5)}, output, judged).list_summary().loc["hit", "mean"]
    agree(unjudged, hits[:-1].sum() / USERS)

    lists = {user: problem.lists[user].tolist() for user in range(USERS)}
    items = {user: dict.fromkeys(np.flatnonzero(row).tolist(), 1) for user, row in enumerate(problem.grades)}
    ours = evaluate_lists({u: row for u, row in lists.items() if u != left_out}, items, metrics=["hit_rate@5"])
    agree(ours.values["hit_rate@5"], hits.mean())
    assert ours.cold_users == 1
    del items[USERS - 1]
    ours = evaluate_lists(lists, items, metrics=["hit_rate@5"])
    agree(ours.values["hit_rate@5"], hits[:-1].mean())
    assert ours.unknown_users == 1


# irspack ------------------------------------------------------------------------------------------------------


def irspack_metrics(scores, relevant, k, *, capped=False, recommendable=()):
    from irspack.evaluation.evaluator import EvaluatorCore  # its compiled module has had several names

    core = EvaluatorCore(sp.csr_matrix(relevant, dtype=np.float64), list(recommendable))
    return core.get_metrics_f64(np.ascontiguousarray(scores), k, 0, 1, capped).as_dict()


@pytest.mark.parametrize("k", [1, 5, SLOTS])
def test_irspack(k):
    peer("irspack")
    problem = Problem("random")
    lists = np.argsort(-problem.scores, axis=1, kind="stable")[:, :k]
    ours = list_ranks(lists, problem.relevant).metrics(
        [
            f"hit_rate@{k}",
            f"recall@{k}",
            f"recall@{k}:capped",
            f"precision@{k}:returned",
            f"map@{k}:relevant",
            f"ndcg@{k}:returned",
        ]
    )
    together = Lists(lists, ITEMS).metrics([f"gini@{k}", f"entropy@{k}"])
    for user in range(USERS):
        theirs = irspack_metrics(problem.scores[[user]], problem.relevant[[user]], k)
        agree(ours[f"hit_rate@{k}"][user], theirs["hit"])
        agree(ours[f"recall@{k}"][user], theirs["recall"])
        agree(ours[f"precision@{k}:returned"][user], theirs["precision"])
        agree(ours[f"map@{k}:relevant"][user], theirs["map"])
        agree(ours[f"ndcg@{k}:returned"][user], theirs["ndcg"])
        capped = irspack_metrics(problem.scores[[user]], problem.relevant[[user]], k, capped=True)
        agree(ours[f"recall@{k}:capped"][user], capped["recall"])
    everybody = irspack_metrics(problem.scores, problem.relevant, k)
    agree(together[f"gini@{k}"], everybody["gini_index"])
    agree(together[f"entropy@{k}"], everybody["entropy"])


def test_irspack_differs_a_short_list_is_measured_by_its_length():
    """irspack divides precision by the length of the list, and forgets relevant items it may not recommend."""
    peer("irspack")
    relevant = sp.csr_matrix(np.array([[1.0, 0.0, 1.0, 1.0]], np.float32))
    theirs = irspack_metrics(np.array([[3.0, 2.0, 1.0, 0.0]]), relevant, 4, recommendable=[[0, 1]])
    ours = list_ranks(np.array([[0, 1, -1, -1]]), relevant).metrics(["precision@4", "precision@4:returned", "recall@4"])
    agree(ours["precision@4:returned"][0], theirs["precision"])
    assert ours["precision@4"][0] == 0.25 < theirs["precision"]
    assert ours["recall@4"][0] == pytest.approx(1 / 3)
    assert theirs["recall"] == 1


def test_irspack_differs_what_was_seen_is_recommended_where_nothing_else_is_left():
    """irspack masks seen items with -inf, which still fill a list; ours never ranks an item that is no candidate."""
    peer("irspack")
    relevant = sp.csr_matrix(np.array([[1.0, 0.0, 1.0]], np.float32))
    seen = sp.csr_matrix(np.array([[0.0, 0.0, 1.0]], np.float32))
    differs = tuple(map(int, version("irspack").split(".")[:2])) < (0, 5)  # later versions drop them too
    assert irspack_metrics(np.array([[3.0, 2.0, -np.inf]]), relevant, 3)["recall"] == (1 if differs else 0.5)
    assert score_ranks(np.array([[3.0, 2.0, 1.0]]), relevant, exclude=seen).metrics(["recall@3"])["recall@3"] == [0.5]


# scikit-learn -------------------------------------------------------------------------------------------------


def test_sklearn_auc_and_ndcg_ties_and_all(problem):
    metrics = peer("sklearn.metrics")
    binary = (problem.grades > 0).astype(np.float32)
    ours = score_ranks(problem.scores, sp.csr_matrix(binary)).metrics(["auc", "ndcg@7:expected", "ndcg:expected"])
    for user in range(USERS):
        truth, scores = binary[user], problem.scores[user]
        agree(ours["auc"][user], metrics.roc_auc_score(truth, scores))
        agree(ours["ndcg@7:expected"][user], metrics.ndcg_score([truth], [scores], k=7))
        agree(ours["ndcg:expected"][user], metrics.ndcg_score([truth], [scores]))


def test_sklearn_without_ties():
    metrics = peer("sklearn.metrics")
    problem = Problem("random")
    ranks = score_ranks(problem.scores, problem.relevant)
    ours = ranks.metrics(["map", "ndcg:linear", "ndcg@6:linear", "ndcg:exponential", "auc:ordered"])
    for user in range(USERS):
        truth, scores = problem.grades[user], problem.scores[user]
        agree(ours["map"][user], metrics.average_precision_score(truth > 0, scores))
        agree(ours["ndcg:linear"][user], metrics.ndcg_score([truth], [scores]))
        agree(ours["ndcg@6:linear"][user], metrics.ndcg_score([truth], [scores], k=6))
        agree(ours["ndcg:exponential"][user], metrics.ndcg_score([2.0**truth - 1], [scores]))
        agree(ours["auc:ordered"][user], metrics.roc_auc_score(truth > 0, scores))


def test_sklearn_ratings():
    metrics = peer("sklearn.metrics")
    random = np.random.default_rng(0)
    predicted, actual = random.normal(size=(2, 50))
    found = rating_metrics(predicted, actual, np.zeros(50, int), ["rmse", "mae"])
    agree(found["rmse"][0], np.sqrt(metrics.mean_squared_error(actual, predicted)))
    agree(found["mae"][0], metrics.mean_absolute_error(actual, predicted))


def test_sklearn_differs_ties_are_averaged():
    """scikit-learn's NDCG is that of all orders of ties; ours without a convention is that of the list shown."""
    metrics = peer("sklearn.metrics")
    problem = Problem("ties")
    binary = (problem.grades > 0).astype(np.float32)
    ranks = score_ranks(problem.scores, sp.csr_matrix(binary)).metrics(["ndcg@7", "ndcg@7:expected"])
    theirs = [metrics.ndcg_score([t], [s], k=7) for t, s in zip(binary, problem.scores, strict=True)]
    agree(ranks["ndcg@7:expected"], theirs)
    assert np.abs(ranks["ndcg@7"] - theirs).max() > 0.05
    assert np.mean(ranks["ndcg@7"]) == pytest.approx(np.mean(theirs), abs=0.05)


def test_sklearn_differs_average_precision_treats_ties_as_one_step():
    """scikit-learn's average precision takes tied items at once, in no order; ours goes by the list shown."""
    metrics = peer("sklearn.metrics")
    truth, scores = [1, 0], [0.5, 0.5]
    assert metrics.average_precision_score(truth, scores) == 0.5
    assert score_ranks(np.array([scores]), sp.csr_matrix([truth], dtype=np.float32)).metrics(["map"])["map"] == [1.0]
    assert oracle.expected("map", scores, [0, 1], {0: 1.0}) == 0.75


def test_sklearn_differs_a_single_candidate_is_an_error_there():
    """scikit-learn rejects rows of one item; a list of one has an NDCG all the same."""
    metrics = peer("sklearn.metrics")
    with pytest.raises(ValueError, match="multiple documents|Computing NDCG"):
        metrics.ndcg_score([[1]], [[0.5]])
    assert score_ranks(np.array([[0.5]]), sp.csr_matrix([[1.0]], dtype=np.float32)).metrics(["ndcg"])["ndcg"] == [1.0]


# implicit -----------------------------------------------------------------------------------------------------


class Fixed:
    """A model of implicit's kind that recommends given lists."""

    def __init__(self, lists):
        self.lists = lists.astype(np.int32)

    def recommend(self, userids, user_items, N=10, **options):  # noqa: ARG002 - implicit's own signature
        return self.lists[userids, :N], np.zeros((len(userids), N), np.float32)


def implicit_metrics(problem, k):
    peer("implicit")
    from implicit.evaluation import ranking_metrics_at_k

    nothing = sp.csr_matrix((USERS, ITEMS), dtype=np.float32)
    return ranking_metrics_at_k(
        Fixed(problem.lists), nothing, problem.relevant, K=k, show_progress=False, num_threads=1
    )


def test_implicit(problem):
    theirs = implicit_metrics(problem, 5)
    ours = {name: values.mean() for name, values in problem.ours(["map@5", "ndcg@5"]).items()}
    agree(ours["map@5"], theirs["map"])
    agree(ours["ndcg@5"], theirs["ndcg"])


def test_implicit_differs_its_precision_is_a_pooled_capped_recall(problem):
    """implicit's "precision" is the hits of all users over the sum of min(K, |R|), no mean over users."""
    theirs = implicit_metrics(problem, 5)
    ours = problem.ours(["precision@5", "recall@5:capped"])
    possible = np.minimum(5, np.diff(problem.relevant.indptr))
    agree((ours["recall@5:capped"] * possible).sum() / possible.sum(), theirs["precision"])
    assert ours["precision@5"].mean() != pytest.approx(theirs["precision"], abs=1e-3)
    assert ours["recall@5:capped"].mean() != pytest.approx(theirs["precision"], abs=1e-4)


def test_implicit_differs_its_auc_knows_only_the_list(problem):
    """implicit guesses the rest of the ranking from the first K; ours counts every pair."""
    theirs = implicit_metrics(problem, 5)["auc"]
    ours = score_ranks(problem.scores, problem.relevant).metrics(["auc:ordered"])["auc:ordered"]
    exact = [
        oracle.area(s, range(ITEMS), dict.fromkeys(np.flatnonzero(g).tolist(), 1.0), ties=False)
        for s, g in zip(problem.scores.tolist(), problem.grades, strict=True)
    ]
    agree(ours, exact)
    assert theirs != pytest.approx(np.mean(exact), abs=1e-4)


def test_agreement_does_not_depend_on_ids(problem):
    """Lists under ids of str, through Interactions, are those of rows."""
    rows, columns = problem.relevant.nonzero()
    test = interactions_of_qrels(
        [problem.users[r] for r in rows], [problem.items[c] for c in columns], problem.relevant.data.tolist()
    )
    assert isinstance(test, Interactions)
    report = evaluate_lists(problem.run(), test, metrics=["ndcg@5:linear"])
    agree(report.per_user["ndcg@5:linear"], problem.ours(["ndcg@5:linear"])["ndcg@5:linear"])
