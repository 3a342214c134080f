"""MMR, DPP and calibrated re-ranking beside NumPy, one list after another.

    SALIENCE_DATA=... python benchmarks/bench_rerank.py [--save NAME]

Interleaved, the same lists. Gowalla: 200 candidates of ALS for 1,000 users, factors as vectors; ml-latest-small: 100
for all 671 users, genres as vectors and categories. NumPy in two ways: straightforward, where each step computes
the definition (of MMR all cosines of candidates and chosen, of DPP all determinants by one solve with the chosen's
kernel), and incremental, where one matrix product gives all similarities of a list and each step updates what it must
(DPP: the fast greedy method of Chen et al.). Its BLAS has one thread: more make products this small slower. The choices
agree but where gains differ by less than float32 tells.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
from threadpoolctl import threadpool_limits

import salience
from contest import RESULTS, interleave, machine, markdown, milliseconds
from salience import rerank
from salience.datasets import load_gowalla, load_movielens, movielens_genres

Lists = tuple[np.ndarray, np.ndarray]


def relevance_of(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.min()) / max(float(scores.max() - scores.min()), 1e-12)


def unit_of(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def plain_mmr(candidates: Lists, vectors: np.ndarray, k: int, trade_off: float) -> np.ndarray:
    unit = unit_of(vectors)
    found = np.empty((len(candidates[0]), k), np.int64)
    for line, (rows, scores) in enumerate(zip(*candidates, strict=True)):
        relevance, own = (1 - trade_off) * relevance_of(scores), unit[rows]
        chosen = [int(np.argmax(relevance))]
        while len(chosen) < k:
            gain = relevance - trade_off * (own @ own[chosen].T).max(axis=1)
            gain[chosen] = -np.inf
            chosen.append(int(np.argmax(gain)))
        found[line] = rows[chosen]
    return found


def plain_dpp(candidates: Lists, vectors: np.ndarray, k: int, trade_off: float) -> np.ndarray:
    unit = unit_of(vectors)
    found = np.empty((len(candidates[0]), k), np.int64)
    for line, (rows, scores) in enumerate(zip(*candidates, strict=True)):
        relevance, own = (1 - trade_off) * relevance_of(scores), unit[rows].astype(np.float64)
        kernel = 0.999 * (own @ own.T)
        kernel[np.diag_indices_from(kernel)] = 1.0
        chosen = [int(np.argmax(relevance))]
        while len(chosen) < k:
            across = kernel[chosen]
            left = 1.0 - (across * np.linalg.solve(across[:, chosen], across)).sum(axis=0)
            gain = relevance + trade_off * np.log(np.maximum(left, 1e-3))
            gain[chosen] = -np.inf
            chosen.append(int(np.argmax(gain)))
        found[line] = rows[chosen]
    return found


def numpy_mmr(candidates: Lists, vectors: np.ndarray, k: int, trade_off: float) -> np.ndarray:
    unit = unit_of(vectors)
    found = np.empty((len(candidates[0]), k), np.int64)
    for line, (rows, scores) in enumerate(zip(*candidates, strict=True)):
        similar = unit[rows] @ unit[rows].T
        relevance = (1 - trade_off) * relevance_of(scores)
        gain, nearest = relevance.copy(), np.full(len(rows), -np.inf, np.float32)
        for step in range(k):
            best = int(np.argmax(gain))
            found[line, step] = rows[best]
            relevance[best] = -np.inf
            np.maximum(nearest, similar[best], out=nearest)
            gain = relevance - trade_off * nearest
    return found


def numpy_dpp(candidates: Lists, vectors: np.ndarray, k: int, trade_off: float) -> np.ndarray:
    unit = unit_of(vectors)
    found = np.empty((len(candidates[0]), k), np.int64)
    for line, (rows, scores) in enumerate(zip(*candidates, strict=True)):
        kernel = 0.999 * (unit[rows] @ unit[rows].T)
        relevance = (1 - trade_off) * relevance_of(scores)
        left, parts = np.ones(len(rows)), np.zeros((k, len(rows)))
        for step in range(k):
            best = int(np.argmax(relevance + trade_off * np.log(left)))
            found[line, step] = rows[best]
            relevance[best] = -np.inf
            parts[step] = (kernel[best] - parts[:step, best] @ parts[:step]) / np.sqrt(left[best])
            left = np.maximum(left - parts[step] ** 2, 1e-3)
    return found


def numpy_calibrated(
    candidates: Lists, shares: np.ndarray, targets: np.ndarray, k: int, trade_off: float
) -> np.ndarray:
    found = np.empty((len(candidates[0]), k), np.int64)
    has = shares.any(axis=1)
    for line, (rows, scores) in enumerate(zip(*candidates, strict=True)):
        target, own, counted = targets[line], shares[rows], has[rows]
        wanted = target > 0
        relevance, sums, count = (1 - trade_off) * relevance_of(scores), np.zeros(shares.shape[1]), 0
        for step in range(k):
            divisor = np.maximum(count + counted, 1)[:, None]
            mixed = 0.99 * (sums + own)[:, wanted] / divisor + 0.01 * target[wanted]
            best = int(np.argmax(relevance + trade_off * (np.log(mixed) @ target[wanted])))
            found[line, step] = rows[best]
            relevance[best] = -np.inf
            sums, count = sums + own[best], count + counted[best]
    return found


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of lists with the same items in the same order."""
    return float((ours == theirs).all(axis=1).mean())


STRAIGHT, INCREMENTAL = "NumPy, straightforward", "NumPy, incremental"
METHODS = (("MMR", rerank.mmr, plain_mmr, numpy_mmr), ("DPP", rerank.dpp, plain_dpp, numpy_dpp))


def contests(threads: int) -> dict[str, tuple[dict[str, object], float]]:
    """Name every contest: its contestants, and the share of lists that must agree."""
    train = load_gowalla()[0]
    places = salience.ALS(128, threads=threads, unobserved_weight=0.01, regularization=0.003,
                          regularization_exponent=1.0, epochs=5).fit(train)  # fmt: skip
    found: dict[str, tuple[dict[str, object], float]] = {}
    best = places.recommend(np.arange(1000), 200)
    lists = best.rows, best.scores
    vectors = places.item_factors_
    for name, ours, plain, theirs in METHODS:
        for trade_off in (0.1, 0.3, 0.7):
            found[f"{name}, Gowalla, 1,000 lists, 20 of 200, 128 factors, trade-off {trade_off}"] = (
                {"salience": lambda f=ours, t=trade_off: f(lists, vectors, 20, trade_off=t, threads=threads)[0],
                 STRAIGHT: lambda f=plain, t=trade_off: f(lists, vectors, 20, t),
                 INCREMENTAL: lambda f=theirs, t=trade_off: f(lists, vectors, 20, t)},
                0.99,
            )  # fmt: skip
    ratings = load_movielens()
    films = salience.ALS(64, threads=threads).fit(ratings)
    best = films.recommend(ratings.users, 100)
    watched = best.rows, best.scores
    genres = movielens_genres(ratings.items)[0]
    for name, ours, plain, theirs in METHODS:
        found[f"{name}, MovieLens, 671 lists, 10 of 100, genres, trade-off 0.3"] = (
            {"salience": lambda f=ours: f(watched, genres, 10, trade_off=0.3, threads=threads)[0],
             STRAIGHT: lambda f=plain: f(watched, genres, 10, 0.3),
             INCREMENTAL: lambda f=theirs: f(watched, genres, 10, 0.3)},
            0.9,  # genres repeat: gains are equal, but for what float32 rounds
        )  # fmt: skip
    shares = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
    had = (ratings.matrix != 0).astype(np.float64) @ shares
    targets = had / np.maximum(had.sum(axis=1, keepdims=True), 1e-12)
    found["calibrated, MovieLens, 671 lists, 10 of 100, trade-off 0.5"] = (
        {"salience": lambda: rerank.calibrated(watched, shares, 10, targets=targets, threads=threads)[0],
         STRAIGHT: lambda: numpy_calibrated(watched, shares, targets, 10, 0.5)},
        0.9,
    )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    threadpool_limits(1)
    rows = []
    for name, (contestants, least) in contests(options.threads).items():
        times, answers = interleave(contestants, rounds=options.rounds, patience=600)
        same = min(agreement(answers["salience"], answer) for answer in answers.values())
        assert same >= least, f"{name}: {same:.2%} of the lists agree"
        rows.append([name, milliseconds(times["salience"])])
        for peer in (STRAIGHT, INCREMENTAL):
            told = f"{milliseconds(times[peer])} ({times[peer] / times['salience']:.1f}x)" if peer in times else ""
            rows[-1].append(told)
        rows[-1].append(f"{same:.2%}")
        print(*rows[-1], sep="  ", flush=True)
    kernels = salience.show_config()["kernels"]
    head = f"- {machine()}; {options.threads} threads, {kernels} kernels; medians of {options.rounds}"
    table = markdown(["", "salience, ms", f"{STRAIGHT}, ms", f"{INCREMENTAL}, ms", "lists that agree"], rows)
    print("\n".join([head, "", table]))
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text(f"# Re-ranking\n\n{head}\n\n{table}\n")


if __name__ == "__main__":
    main()
