"""Recommending for every user of Gowalla, and for one at a time, beside implicit on the same factors.

    SALIENCE_DATA=... python benchmarks/bench_recommend.py

20 items for each of the 29,858 users in one call, what the user has seen left out; interleaved, the same
factors (256, from salience.ALS), the same threads, lists compared. Then 10,000 calls for one user each.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

import salience
from contest import RESULTS, interleave, machine, markdown, milliseconds
from salience.bench.peers import by_blas_threads
from salience.datasets import load_gowalla

SETTINGS = {"unobserved_weight": 0.01, "regularization": 0.003, "regularization_exponent": 1.0, "epochs": 6}


def latencies(recommend: Callable[[int], Any], users: np.ndarray) -> list[float]:
    """Time one call for each of ``users``, in seconds."""
    spent = []
    for user in users.tolist():
        start = time.perf_counter()
        recommend(user)
        spent.append(time.perf_counter() - start)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, default=256)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--save", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    train = load_gowalla()[0]
    model = salience.ALS(options.factors, threads=options.threads, **SETTINGS).fit(train)
    users, seen = np.arange(train.matrix.shape[0]), train.matrix.tocsr()
    order = np.random.default_rng(0).integers(0, len(users), options.calls)
    # Before the peer is loaded: its idle threads spin on the cores for a while after each of its calls.
    calls = {"salience": latencies(lambda user: model.recommend([user], 20), order)}

    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    threadpool_limits(options.threads)
    peer = AlternatingLeastSquares(factors=options.factors, num_threads=options.threads)
    peer.user_factors, peer.item_factors = model.user_factors_.copy(), model.item_factors_.copy()

    def theirs(rows: Any, left_out: Any) -> Any:
        return peer.recommend(rows, left_out, N=20, filter_already_liked_items=True)

    contestants = {
        "salience": lambda: model.recommend(users, 20),
        **by_blas_threads("implicit", lambda: theirs(users, seen)),
    }
    times, answers = interleave(contestants, rounds=5, patience=600)
    same = (answers["salience"].rows == answers["implicit"][0]).mean()
    assert same > 0.999, f"{same:.2%} of the places agree"
    slack = 1e-4 * np.abs(answers["salience"].scores).max()
    assert (np.abs(answers["salience"].scores - answers["implicit"][1]) <= slack).all()
    calls["implicit"] = latencies(lambda user: theirs(user, seen[user]), order)
    fastest = min(times[name] for name in times if name != "salience")
    rows = [
        [name, f"{times[name]:.2f} s", f"{fastest / times[name]:.1f}x",
         *(f"{milliseconds(np.percentile(calls[name], share))} ms" if name in calls else "-" for share in (50, 99))]
        for name in times
    ]  # fmt: skip
    head = [
        f"{machine()}; {options.threads} threads, {salience.show_config()['kernels']} kernels",
        f"implicit {version('implicit')}; {same:.4%} of the places agree",
        f"Gowalla, {len(users):,} users, {seen.shape[1]:,} items, {options.factors} factors",
    ]
    table = markdown(["", "all users, k 20", "ratio", "one user, p50", "one user, p99"], rows)
    text = "\n".join([*("- " + line for line in head), "", table])
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text("# Recommending\n\n" + text + "\n")


if __name__ == "__main__":
    main()
