"""Ranking metrics at three cut-offs for every user of Gowalla, beside ranx and RecTools.

    SALIENCE_DATA=... python benchmarks/bench_evaluate.py [--save evaluate]      # needs pip install '.[peers]'

All ranking metrics that the two have, at 5, 10 and 20, for 29,858 users and 40,981 items: salience computes all
of them, ranx and RecTools their own. Interleaved, the same threads; means compared to 1e-9. All measure the same
lists of 20, made by salience from ALS factors.

- "metrics of given lists": each library has the lists and the held-out items in its own form before the clock
  starts (salience: an array of rows and a CSR; ranx: Run and Qrels; RecTools: frames).
- "with conversion": from the array of rows and the CSR that all are given.
- "CPU time": of the first, all threads together, which others on the machine do not lengthen as they do the rest.
- "with ranking": from factors. salience in one pass; the others by implicit's top-k, as RecTools' own ranker does,
  the fastest that they offer, and then from its arrays.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas

import salience
from contest import RESULTS, interleave, machine, markdown, milliseconds
from salience.datasets import load_gowalla
from salience.evaluation import Factors, evaluate, evaluate_lists

CUTOFFS = (5, 10, 20)
K = max(CUTOFFS)
# Ours; ranx's name; RecTools' class and its options. salience computes all of them, the others what they have.
METRICS: dict[str, tuple[str | None, str | None, dict[str, Any]]] = {
    "precision@{k}": ("precision@{k}", "Precision", {}),
    "recall@{k}": ("recall@{k}", "Recall", {}),
    "recall@{k}:capped": (None, "Precision", {"r_precision": True}),
    "hit_rate@{k}": ("hit_rate@{k}", "HitRate", {}),
    "f1@{k}": ("f1@{k}", "F1Beta", {"beta": 1}),
    "map@{k}:relevant": ("map@{k}", "MAP", {}),
    "map@{k}:cutoff": (None, "MAP", {"divide_by_k": True}),
    "mrr@{k}": ("mrr@{k}", "MRR", {}),
    "ndcg@{k}": ("ndcg@{k}", "NDCG", {"divide_by_achievable": True}),
    "ndcg@{k}:cutoff": (None, "NDCG", {}),
    "ndcg@{k}:exponential": ("ndcg_burges@{k}", None, {}),
}
OURS = [name.format(k=k) for name in METRICS for k in CUTOFFS]
WHO = ("salience", "ranx", "RecTools")
WAYS = ("metrics of given lists", "with conversion", "with ranking")


class Ranx:
    """Evaluation by ranx."""

    def convert(self, lists: np.ndarray, test: Any) -> tuple[Any, Any]:
        """Bring lists and held-out items into ranx's form."""
        from ranx import Qrels, Run

        users, slots = np.divmod(np.arange(lists.size), lists.shape[1])
        run = {"q_id": users.astype(str), "doc_id": lists.ravel().astype(str), "score": (K - slots).astype(float)}
        rows, columns = test.nonzero()
        judged = {"q_id": rows.astype(str), "doc_id": columns.astype(str), "score": np.ones(len(rows), int)}
        return Qrels.from_df(pandas.DataFrame(judged)), Run.from_df(pandas.DataFrame(run))

    def measure(self, held: tuple[Any, Any]) -> dict[str, float]:
        """Compute all metrics, by our names."""
        from ranx import evaluate as ranx_evaluate

        names = {mine.format(k=k): name.format(k=k) for mine, (name, *_) in METRICS.items() if name for k in CUTOFFS}
        found = ranx_evaluate(*held, list(names.values()), save_results_in_run=False)
        return {mine: found[theirs] for mine, theirs in names.items()}


class RecTools:
    """Evaluation by RecTools."""

    def convert(self, lists: np.ndarray, test: Any) -> tuple[Any, Any]:
        """Bring lists and held-out items into frames."""
        users, slots = np.divmod(np.arange(lists.size), lists.shape[1])
        rows, columns = test.nonzero()
        return (
            pandas.DataFrame({"user_id": users, "item_id": lists.ravel(), "rank": slots + 1}),
            pandas.DataFrame({"user_id": rows, "item_id": columns}),
        )

    def measure(self, held: tuple[Any, Any]) -> dict[str, float]:
        """Compute all metrics, by our names."""
        from rectools import metrics

        wanted = {
            mine.format(k=k): getattr(metrics, kind)(k=k, **options)
            for mine, (_, kind, options) in METRICS.items()
            if kind
            for k in CUTOFFS
        }
        return dict(metrics.calc_metrics(wanted, *held))


def contestants(factors: Factors, seen: Any, test: Any, threads: int) -> dict[str, Any]:
    """Name every way of every library."""
    from implicit.cpu.topk import topk

    def rank() -> np.ndarray:
        found, _ = topk(factors.item_factors, factors.user_factors, K, filter_query_items=seen, num_threads=threads)
        return found

    lists = salience.topk(factors.user_factors, factors.item_factors, K, exclude=seen, threads=threads)[0]
    found = {
        ("salience", WAYS[0]): lambda: evaluate_lists(lists, test, metrics=OURS, threads=threads).values,
        ("salience", WAYS[1]): lambda: evaluate_lists(lists, test, metrics=OURS, threads=threads).values,
        ("salience", WAYS[2]): lambda: evaluate(factors, seen, test, metrics=OURS, threads=threads).values,
    }
    for name, peer in (("ranx", Ranx()), ("RecTools", RecTools())):
        held = peer.convert(lists, test)
        found[name, WAYS[0]] = lambda peer=peer, held=held: peer.measure(held)
        found[name, WAYS[1]] = lambda peer=peer: peer.measure(peer.convert(lists, test))
        found[name, WAYS[2]] = lambda peer=peer: peer.measure(peer.convert(rank(), test))
    return found


def check(answers: dict[Any, dict[str, float]]) -> float:
    """Assert that all give the same means; return the largest difference where lists are the same."""
    expected, worst = answers["salience", WAYS[0]], 0.0
    for (_, way), values in answers.items():
        difference = max(abs(values[name] - expected[name]) for name in values)
        # implicit sums in float32: a few of its lists differ, and so do means.
        assert difference < (1e-9 if way != WAYS[2] else 1e-4), (way, difference)
        worst = max(worst, difference if way != WAYS[2] else 0.0)
    return worst


def processor_time(call: Any, rounds: int) -> float:
    """Return the median seconds of processor time of a call, all threads together."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    import numba
    from threadpoolctl import threadpool_limits

    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    train, valid, held_out = load_gowalla()
    both = salience.Interactions.from_csr(train.matrix + valid.matrix)
    model = salience.ALS(options.factors, epochs=4, threads=options.threads).fit(both)
    factors = Factors(model.user_factors_, model.item_factors_)
    threadpool_limits(options.threads)
    named = contestants(factors, both.matrix, held_out.matrix, options.threads)
    times, answers = interleave(
        {str(i): call for i, call in enumerate(named.values())}, rounds=options.rounds, patience=600
    )
    spent = {key: times[str(i)] for i, key in enumerate(named)}
    for who in WHO:
        spent[who, "CPU time of given lists"] = processor_time(named[who, WAYS[0]], 2 * options.rounds)
    worst = check({key: answers[str(i)] for i, key in enumerate(named)})
    rows = [
        [way, f"{milliseconds(spent['salience', way])} ms"]
        + [
            f"{milliseconds(spent[peer, way])} ms ({spent[peer, way] / spent['salience', way]:.1f}x)"
            for peer in WHO[1:]
        ]
        for way in (*WAYS, "CPU time of given lists")
    ]
    shape = f"{len(factors.user_factors):,} users, {len(factors.item_factors):,} items, {options.factors} factors"
    counts = ", ".join(f"{len(answers[str(list(named).index((who, WAYS[0])))])} metrics of {who}" for who in WHO)
    peers = ", ".join(f"{name} {version(name.lower())}" for name in ("ranx", "RecTools", "implicit"))
    head = [
        f"{machine()}; {options.threads} threads, {salience.show_config()['kernels']} kernels",
        f"{peers}, NumPy {np.__version__}",
        f"Gowalla, {shape}; {counts}; means of the same lists differ by {worst:.0e} at most",
        f"medians of {options.rounds} interleaved rounds; in brackets the ratio to salience",
    ]
    text = "\n".join([*("- " + line for line in head), "", markdown(["", *WHO], rows)])
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        note = "`python benchmarks/bench_evaluate.py --save evaluate`; what the rows mean is said there."
        (RESULTS / f"{options.save}.md").write_text(f"# Evaluation\n\n{text}\n\n{note}\n")


if __name__ == "__main__":
    main()
