"""Ranking metrics of many users at several cut-offs, beside libraries that compute them.

Two sources. From "lists", everyone is given the same recommendations, put into its own structures before the
clock starts. From "factors", the ranking is part of the work: a peer that ranks by itself does so; for one that
only measures lists, ``salience.topk`` ranks first and putting its answer into the peer's structures is timed too.

Names say the convention (:mod:`salience.evaluation.metrics`); a peer is compared under the name of what it
computes, such as ``map@10:relevant`` for ranx's ``map@10`` and ``recall@10:capped`` for LensKit's recall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience.bench.contest import OURS, Problem, Verdict
from salience.bench.peers import UnsupportedError
from salience.bench.timing import Call
from salience.evaluation import Factors, evaluate, evaluate_lists
from salience.interactions import Interactions
from salience.similarity import topk

Source = Literal["lists", "factors"]
Values = dict[str, float]

# Peers sum the same terms in another order, irspack's sorting sees scores of fp32 sums.
_SLACK = {"lists": 1e-9, "factors": 1e-4}


def draw(users: int, items: int, dims: int) -> tuple[Any, Any, Interactions, Interactions]:
    """Draw factors, and train and test parts that they predict well: from each user's best items at random.

    A user has 1 to 8 items in test, and as many in train as are left of 24.
    """
    random = np.random.default_rng([users, items, dims])
    user_factors, item_factors = (random.standard_normal((rows, dims), dtype=np.float32) for rows in (users, items))
    best, _ = topk(user_factors, item_factors, min(64, items))
    mixed = random.permuted(best, axis=1)[:, :24]
    most = min(8, mixed.shape[1] - 1)
    tested = np.arange(mixed.shape[1]) < random.integers(1, most + 1, (users, 1))
    parts = []
    for chosen in (~tested, tested):
        rows = np.nonzero(chosen)[0]
        matrix = sp.csr_array((np.ones(len(rows), np.float32), (rows, mixed[chosen])), shape=(users, items))
        parts.append(Interactions.from_csr(matrix))
    return user_factors, item_factors, parts[0], parts[1]


@dataclass
class Evaluation(Problem):
    """All of recall, precision, NDCG, MAP, MRR and hit rate at each cut-off."""

    user_factors: npt.NDArray[np.float32]
    item_factors: npt.NDArray[np.float32]
    train: Interactions
    test: Interactions
    cutoffs: Sequence[int]
    source: Source
    threads: int
    data: str

    task = "evaluate"

    def __post_init__(self) -> None:
        self.users = np.flatnonzero(np.diff(self.test.matrix.indptr))
        self.depth = max(self.cutoffs)
        self.lists = self.rank() if self.source == "lists" else None

    def describe(self) -> dict[str, Any]:
        """Return source, users, items, tested pairs and cut-offs."""
        return {
            "data": self.data,
            "source": self.source,
            "users": len(self.users),
            "items": self.test.shape[1],
            "dims": self.item_factors.shape[1],
            "tested": len(self.test),
            "cutoffs": list(self.cutoffs),
        }

    def title(self) -> str:
        """Return users x items, source, cut-offs (data)."""
        cut = ", ".join(map(str, self.cutoffs))
        return f"{len(self.users):,} users x {self.test.shape[1]:,} items from {self.source}, k {cut} ({self.data})"

    def rank(self) -> npt.NDArray[np.int64]:
        """Rank ``depth`` items that are not in train for every user with a test item."""
        seen = sp.csr_matrix(self.train.matrix)[self.users]
        queries = self.user_factors[self.users]
        ids, _ = topk(queries, self.item_factors, self.depth, exclude=seen, threads=self.threads)
        return np.asarray(ids)

    def rows(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return users, items and slots (from 0) of the lists as three columns, ranking first where that counts."""
        lists = self.rank() if self.lists is None else self.lists
        slots = np.broadcast_to(np.arange(self.depth), lists.shape)
        filled = lists >= 0
        return np.repeat(self.users, filled.sum(axis=1)), lists[filled], slots[filled]

    def ours(self) -> dict[str, Call]:
        """Compute every metric that any peer computes, so that nobody is compared with less work."""
        bases = ("recall", "recall:capped", "precision", "ndcg", "map:relevant", "mrr", "hit_rate")
        metrics = [_at(base, k) for k in self.cutoffs for base in bases]
        if self.lists is not None:
            full = np.full((self.test.shape[0], self.depth), -1, np.int64)
            full[self.users] = self.lists
            return {OURS: lambda: evaluate_lists(full, self.test, metrics=metrics, threads=self.threads).values}
        model = Factors(self.user_factors, self.item_factors)
        options: dict[str, Any] = {"metrics": metrics, "threads": self.threads}
        return {OURS: lambda: evaluate(model, self.train, self.test, **options).values}

    def judge(self, answers: dict[str, Values]) -> dict[str, Verdict]:
        """Compare every value under the name of its convention."""
        reference, slack = answers[OURS], _SLACK[self.source]
        verdicts = {}
        for name, values in answers.items():
            gaps = {metric: abs(value - reference[metric]) for metric, value in values.items()}
            worst = max(gaps, key=gaps.__getitem__)
            agrees = gaps[worst] <= slack
            words = f"the same {len(gaps)} values" + (f" within {gaps[worst]:.0e}" if gaps[worst] else "")
            if name == OURS:
                words = f"{len(gaps)} values"
            elif not agrees:
                words = f"differs: {worst} by {gaps[worst]:.1e}"
            verdicts[name] = Verdict(words, agrees=agrees, figures={"largest_gap": float(gaps[worst])})
        return verdicts


def by_irspack(problem: Evaluation) -> dict[str, Call]:
    """Its evaluator, from dense blocks of scores."""
    if problem.lists is not None:
        raise UnsupportedError("ranks by itself: takes scores, not lists")
    from irspack import BaseRecommender, Evaluator

    class Dense(BaseRecommender):  # type: ignore[misc]
        def _learn(self) -> None:
            pass

        def get_score(self, user_indices: Any) -> Any:
            return problem.user_factors[user_indices] @ problem.item_factors.T

        def get_score_block(self, begin: int, end: int) -> Any:
            return problem.user_factors[begin:end] @ problem.item_factors.T

    train, test = (sp.csr_matrix(part.matrix) for part in (problem.train, problem.test))
    model = Dense(train)
    evaluator = Evaluator(test, masked_interactions=train, n_threads=problem.threads, mb_size=1024)
    pairs = {"recall": "recall", "precision": "precision", "ndcg": "ndcg", "map": "map:relevant", "hit": "hit_rate"}

    def measure() -> Values:
        found = evaluator.get_scores(model, list(problem.cutoffs))
        return {_at(ours, k): found[f"{theirs}@{k}"] for k in problem.cutoffs for theirs, ours in pairs.items()}

    return {"irspack": measure}


def _at(base: str, k: int) -> str:
    """Put a cut-off into the name of a metric: "map:relevant" becomes "map@10:relevant"."""
    name, colon, convention = base.partition(":")
    return f"{name}@{k}{colon}{convention}"


def by_lenskit(problem: Evaluation) -> dict[str, Call]:
    """RunAnalysis, list by list; it has no average precision."""
    import pandas as pd
    from lenskit.data import ItemListCollection
    from lenskit.metrics import NDCG, Hit, LogRankWeight, Precision, Recall, RecipRank, RunAnalysis

    def ndcg(n: int) -> Any:
        return NDCG(n=n, weight=LogRankWeight(offset=1))  # by default its first two slots weigh the same

    kinds = {"recall:capped": Recall, "precision": Precision, "ndcg": ndcg, "mrr": RecipRank, "hit_rate": Hit}
    analysis = RunAnalysis()
    for k in problem.cutoffs:
        for base, kind in kinds.items():
            analysis.add_metric(kind(n=k), _at(base, k))
    truth = pd.DataFrame({"user_id": problem.test.rows, "item_id": problem.test.matrix.indices})
    relevant = ItemListCollection.from_df(truth, ["user_id"])

    def collect() -> Any:
        users, items, slots = problem.rows()
        frame = pd.DataFrame({"user_id": users, "item_id": items, "score": -slots.astype(np.float64)})
        lists = ItemListCollection.from_df(frame, ["user_id"])
        return ItemListCollection.from_dict({key.user_id: _ordered(found) for key, found in lists}, ["user_id"])

    ready = None if problem.lists is None else collect()

    def measure() -> Values:
        found = analysis.measure(ready or collect(), relevant).list_summary()
        return {name: float(found.loc[name, "mean"]) for name in found.index}

    return {"lenskit": measure}


def _ordered(found: Any) -> Any:
    from lenskit.data import ItemList

    return ItemList(found, ordered=True)


def by_ranx(problem: Evaluation) -> dict[str, Call]:
    """Measure with ranx's compiled metrics."""
    import pandas as pd
    import ranx
    from numba import set_num_threads

    set_num_threads(problem.threads)
    pairs = {"recall": "recall", "precision": "precision", "ndcg": "ndcg", "map": "map:relevant", "mrr": "mrr",
             "hit_rate": "hit_rate"}  # fmt: skip
    names = {f"{theirs}@{k}": _at(ours, k) for k in problem.cutoffs for theirs, ours in pairs.items()}
    # ranx takes text in columns of objects only, which pandas 3 no longer makes by itself.
    truth = pd.DataFrame({"q_id": problem.test.rows, "doc_id": problem.test.matrix.indices}).astype(str).astype(object)
    qrels = ranx.Qrels.from_df(truth.assign(score=1))

    def collect() -> Any:
        users, items, slots = problem.rows()
        frame = pd.DataFrame({"q_id": users, "doc_id": items}).astype(str).astype(object)
        return ranx.Run.from_df(frame.assign(score=-slots.astype(np.float64)))

    ready = None if problem.lists is None else collect()

    def measure() -> Values:
        run = collect() if ready is None else ready
        found = ranx.evaluate(qrels, run, list(names), threads=problem.threads, save_results_in_run=False)
        return {ours: float(found[theirs]) for theirs, ours in names.items()}

    return {"ranx": measure}


def by_rectools(problem: Evaluation) -> dict[str, Call]:
    """calc_metrics on pandas frames, with the convention of each metric that has a common name."""
    import pandas as pd
    from rectools.metrics import MAP, MRR, NDCG, HitRate, Precision, Recall, calc_metrics

    metrics: dict[str, Any] = {}
    for k in problem.cutoffs:
        metrics[_at("recall", k)] = Recall(k)
        metrics[_at("precision", k)] = Precision(k)
        metrics[_at("ndcg", k)] = NDCG(k, divide_by_achievable=True)
        metrics[_at("map:relevant", k)] = MAP(k)
        metrics[_at("mrr", k)] = MRR(k)
        metrics[_at("hit_rate", k)] = HitRate(k)
    truth = pd.DataFrame({"user_id": problem.test.rows, "item_id": problem.test.matrix.indices})

    def collect() -> Any:
        users, items, slots = problem.rows()
        return pd.DataFrame({"user_id": users, "item_id": items, "rank": slots + 1})

    ready = None if problem.lists is None else collect()

    def measure() -> Values:
        found = calc_metrics(metrics, collect() if ready is None else ready, truth)
        return {name: float(value) for name, value in found.items()}

    return {"rectools": measure}


ADAPTERS: dict[str, Callable[[Evaluation], dict[str, Call]]] = {
    "irspack": by_irspack,
    "lenskit": by_lenskit,
    "ranx": by_ranx,
    "rectools": by_rectools,
}
Evaluation.adapters = ADAPTERS
