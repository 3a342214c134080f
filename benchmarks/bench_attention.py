"""Attention over the history beside NumPy and torch: pooled similarities of 500 candidates, Gowalla's histories.

    SALIENCE_DATA=... python benchmarks/bench_attention.py [--save NAME]

Interleaved; unit vectors of 128 and 256 random dimensions, the histories of 2,000 users, 500 random candidates each.
NumPy works user by user with one matrix product and whole-array exponentials, in float32, on one BLAS thread; torch
(where it is installed) likewise, with its own threads. Answers agree to 1e-4.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import salience
from contest import RESULTS, interleave, machine, markdown, milliseconds
from salience import _arrays, _core
from salience.datasets import load_gowalla

TEMPERATURE, SMOOTHING, USERS, CANDIDATES = 0.1, 0.5, 2000, 500


def numpy_attention(units: np.ndarray, pattern: tuple[np.ndarray, np.ndarray], items: np.ndarray) -> np.ndarray:
    out = np.zeros(items.shape, np.float32)
    for user, candidates in enumerate(items):
        past = pattern[1][pattern[0][user] : pattern[0][user + 1]]
        products = units[candidates] @ units[past].T
        weights = np.exp((products - 1) / TEMPERATURE) * (candidates[:, None] != past)
        total = weights.sum(axis=1)
        out[user] = (weights * products).sum(axis=1) / np.where(total > 0, total, 1) ** SMOOTHING
    return out


def torch_attention(units: np.ndarray, pattern: tuple[np.ndarray, np.ndarray], threads: int) -> Callable[..., Any]:
    import torch

    torch.set_num_threads(threads)
    vectors, pointers = torch.from_numpy(np.ascontiguousarray(units)), pattern[0]
    indices = torch.from_numpy(pattern[1].astype(np.int64))

    def attention(items: np.ndarray) -> np.ndarray:
        found = []
        for user, candidates in enumerate(torch.from_numpy(items)):
            past = indices[pointers[user] : pointers[user + 1]]
            products = vectors[candidates] @ vectors[past].T
            weights = torch.exp((products - 1) / TEMPERATURE) * (candidates[:, None] != past)
            total = weights.sum(dim=1)
            found.append((weights * products).sum(dim=1) / torch.where(total > 0, total, 1.0) ** SMOOTHING)
        return torch.stack(found).numpy()

    return attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    matrix = load_gowalla()[0].matrix
    random = np.random.default_rng(0)
    pattern = _arrays.pattern_of_rows(matrix, np.arange(USERS))
    items = random.integers(0, matrix.shape[1], (USERS, CANDIDATES))
    rows = []
    for dimensions in (128, 256):
        vectors = random.standard_normal((matrix.shape[1], dimensions), np.float32)
        units = _core.unit_rows(vectors, options.threads)
        contestants: dict[str, Callable[[], Any]] = {
            "salience": lambda u=units: _core.attend(u, pattern, None, items, TEMPERATURE, SMOOTHING, options.threads),
            "NumPy": lambda u=units: numpy_attention(u, pattern, items),
        }
        try:
            peer = torch_attention(units, pattern, options.threads)
            contestants["torch"] = lambda p=peer: p(items)
        except ImportError:
            print("torch: not installed")
        with threadpool_limits(1):
            times, answers = interleave(contestants, rounds=options.rounds, patience=600)
        for name, answer in answers.items():
            assert np.allclose(answer, answers["salience"], rtol=1e-4, atol=1e-4), name
        for name, spent in times.items():
            rows.append(
                [
                    str(dimensions),
                    name,
                    milliseconds(spent),
                    f"{spent / USERS * 1e6:.0f}",
                    f"{spent / times['salience']:.1f}x",
                ]
            )
    length = pattern[0][-1] / USERS
    lines = (
        f"- {machine()}; {options.threads} threads, {salience.show_config()['kernels']} kernels",
        f"- {USERS:,} users with {length:.0f} items in the mean, {CANDIDATES} candidates; medians of {options.rounds}",
    )
    head = "\n".join(lines)
    table = markdown(["dimensions", "", "ms", "us a user", "times salience"], rows)
    print(f"{head}\n\n{table}")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text(f"# Attention over the history\n\n{head}\n\n{table}\n")


if __name__ == "__main__":
    main()
