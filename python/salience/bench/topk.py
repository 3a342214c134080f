"""Exact top-k by inner product, beside libraries that search dense vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.bench.contest import OURS, Problem, Verdict
from salience.bench.peers import UnsupportedError, by_blas_threads
from salience.bench.timing import Call
from salience.similarity import Index

Float32 = npt.NDArray[np.float32]
Answer = tuple[npt.NDArray[np.int64], Float32]

SYNTHETIC = ("gaussian", "anisotropic")
_MOST_SCORES = 8 << 30  # bytes of a score matrix, which some peers write whole


def draw(data: str, queries: int, items: int, dims: int) -> tuple[Float32, Float32]:
    """Draw queries and items: standard normal, or with a common component and a falling spectrum.

    The second kind ("anisotropic") resembles text embeddings. Same shape, same numbers.
    """
    if data not in SYNTHETIC:
        raise ValueError(f"data: {data!r}; expected {' or '.join(SYNTHETIC)}")
    random = np.random.default_rng([queries, items, dims])
    q, x = (random.standard_normal((rows, dims), dtype=np.float32) for rows in (queries, items))
    if data == "anisotropic":
        spectrum = np.float32(1 / np.sqrt(1 + np.arange(dims)))
        common = np.random.default_rng(0).standard_normal(dims, dtype=np.float32)
        q, x = q * spectrum + common, x * spectrum + common
    return q, x


@dataclass
class TopK(Problem):
    """The ``k`` items of ``items`` with the largest inner products, for every row of ``queries``.

    Indexes are built before the clock starts, wherever a library has one.
    """

    queries: Float32
    items: Float32
    k: int
    threads: int
    data: str

    task = "topk"

    def describe(self) -> dict[str, Any]:
        """Return data, queries, items, dims and k."""
        shape = {"queries": len(self.queries), "items": len(self.items), "dims": self.items.shape[1], "k": self.k}
        return {"data": self.data, **shape}

    def title(self) -> str:
        """Return queries x items x dims, k (data)."""
        return f"{len(self.queries):,} x {len(self.items):,} x {self.items.shape[1]}, k {self.k} ({self.data})"

    def ours(self) -> dict[str, Call]:
        """Search a packed index."""
        index = Index.borrow(self.items)
        return {OURS: lambda: index.search(self.queries, self.k, threads=self.threads)}

    def judge(self, answers: dict[str, Answer]) -> dict[str, Verdict]:
        """Compare scores place by place, up to the rounding of fp32 sums, and count the equal ids."""
        return judge(answers, answers[OURS], self.queries, self.items)

    @property
    def score_matrix_fits(self) -> bool:
        """Whether a library that writes every score can be asked."""
        return len(self.queries) * len(self.items) * 4 <= _MOST_SCORES

    def require_score_matrix(self) -> None:
        """Raise UnsupportedError where the score matrix would be too large."""
        if not self.score_matrix_fits:
            size = len(self.queries) * len(self.items) * 4 / 1e9
            raise UnsupportedError(f"writes all scores: {size:.0f} GB")


def judge(answers: dict[str, Answer], reference: Answer, queries: Float32, items: Float32) -> dict[str, Verdict]:
    """Compare answers with a reference; ids may differ where scores are equal up to fp32 rounding."""
    scale = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1).max(initial=0)
    return compare(answers, reference, 1e-5 * scale + 1e-6)


def compare(answers: dict[str, Answer], reference: Answer, slack: Any) -> dict[str, Verdict]:
    """Compare scores place by place, up to ``slack``, and count the equal ids; empty slots score -inf."""
    ids, scores = reference
    verdicts = {}
    for name, (found, theirs) in answers.items():
        if np.shape(found) != ids.shape:
            verdicts[name] = Verdict(f"differs: shape {np.shape(found)}", agrees=False)
            continue
        same = float((np.asarray(found) == ids).mean())
        with np.errstate(invalid="ignore"):  # of two empty slots
            wrong = int((~((theirs == scores) | (np.abs(theirs - scores) <= slack))).sum())  # NaN is wrong too
        if wrong:
            words = f"differs: {wrong:,} of {ids.size:,} scores"
        elif reference is answers[name]:
            words = "the reference"
        else:
            words = "the same" if same == 1 else f"the same scores, {same:.4%} of the ids"
        verdicts[name] = Verdict(words, agrees=not wrong, figures={"ids_equal": same})
    return verdicts


def by_faiss(problem: TopK) -> dict[str, Call]:
    """IndexFlatIP."""
    import faiss

    faiss.omp_set_num_threads(problem.threads)
    index = faiss.IndexFlatIP(problem.items.shape[1])
    index.add(problem.items)

    def search() -> Any:
        scores, ids = index.search(problem.queries, problem.k)
        return ids, scores

    return {"faiss": search}


def by_implicit(problem: TopK) -> dict[str, Call]:
    """Search with what is behind implicit's recommend, with both kinds of BLAS threads."""
    from implicit.cpu.topk import topk

    def search() -> Any:
        return topk(problem.items, problem.queries, problem.k, num_threads=problem.threads)

    return by_blas_threads("implicit", search)


def by_numpy(problem: TopK) -> dict[str, Call]:
    """Multiply, partition, and sort what is left."""
    problem.require_score_matrix()
    queries, items, k = problem.queries, problem.items, problem.k

    return {"numpy": lambda: best_of(queries @ items.T, k)}


def best_of(scores: Float32, k: int) -> Answer:
    """Select with NumPy."""
    ids = np.argpartition(scores, -k, axis=1)[:, -k:]
    found = np.take_along_axis(scores, ids, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(found, order, axis=1)


def by_rectools(problem: TopK) -> dict[str, Call]:
    """Rank as RecTools' vector models do, by implicit's search; its flat triplets are read back into rows."""
    from rectools.models.rank import Distance, ImplicitRanker

    ranker = ImplicitRanker(Distance.DOT, problem.queries, problem.items, num_threads=problem.threads)
    subjects, shape = np.arange(len(problem.queries)), (len(problem.queries), problem.k)

    def search() -> Any:
        _, ids, scores = ranker.rank(subjects, problem.k)
        return np.reshape(ids, shape), np.reshape(scores, shape)

    return by_blas_threads("rectools", search)


def by_torch(problem: TopK) -> dict[str, Call]:
    """Multiply and select by torch.topk."""
    import torch

    problem.require_score_matrix()
    torch.set_num_threads(problem.threads)
    queries, items = torch.from_numpy(problem.queries), torch.from_numpy(problem.items)

    def search() -> Any:
        scores, ids = torch.topk(queries @ items.T, problem.k)
        return ids.numpy(), scores.numpy()

    return {"torch": search}


def by_usearch(problem: TopK) -> dict[str, Call]:
    """Exact search."""
    from usearch.index import MetricKind, search

    queries, items, k = problem.queries, problem.items, problem.k

    def run() -> Any:
        found = search(items, queries, k, MetricKind.IP, exact=True, threads=problem.threads)
        return found.keys.reshape(len(queries), k), 1 - found.distances.reshape(len(queries), k)

    return {"usearch": run}


ADAPTERS: dict[str, Callable[[TopK], dict[str, Call]]] = {
    "faiss": by_faiss,
    "implicit": by_implicit,
    "numpy": by_numpy,
    "rectools": by_rectools,
    "torch": by_torch,
    "usearch": by_usearch,
}
TopK.adapters = ADAPTERS
