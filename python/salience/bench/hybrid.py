"""Recommending from a hybrid of factors, a neighbourhood and popularity, beside libraries that multiply or search.

No peer has such a model. What they are given is what the scorer has learned, folded as far as it goes, with the
users' side made ready before the clock starts; Salience's own time is that of ``recommend``, which makes it. A score is

    (q(u) . x(i) + a(u, i)) / (g(u) . f(i)),

a the sparse scores of the neighbourhood, and the quotient that of softmax attention alone. Libraries of arrays compute
all of it; those that search vectors can do what is an inner product only. Items of the user's history are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience._arrays import whole
from salience.bench import topk
from salience.bench.contest import OURS, Problem, Verdict
from salience.bench.peers import UnsupportedError, by_blas_threads
from salience.bench.timing import Call
from salience.hybrid import HybridScorer
from salience.models import Float32

_USERS = 1024  # whose scores a library of arrays holds at once


@dataclass(frozen=True)
class Folded:
    """What the scorer says of users and items: see the formula above.

    Attributes
    ----------
    users, items : shape (users, width), (items, width)
    additions : CSR matrix of shape (users, items), or None
    gates, factors : shape (users, components), (items, components), or None
    seen : CSR matrix of shape (users, items)
        Their histories.
    """

    users: Float32
    items: Float32
    additions: Any
    gates: Float32 | None
    factors: Float32 | None
    seen: Any

    @classmethod
    def of(cls, model: HybridScorer, users: npt.NDArray[Any]) -> Folded:
        """Take it out of a fitted scorer."""
        serving, rows = model._serving, model.user_map.rows(users, argument="users")
        seen = model._histories(rows, None)
        queries, additions, gates = serving.queries(model._audience(rows, seen, given=False))
        items = serving.items if serving.place is None else np.ascontiguousarray(serving.items[serving.place])
        return cls(queries, items, additions, gates, None if gates is None else serving.factor, seen)

    def blocks(self) -> Iterator[Folded]:
        """Cut it by users."""
        for start in range(0, len(self.users), _USERS):
            part = slice(start, start + _USERS)
            additions, gates = (None if side is None else side[part] for side in (self.additions, self.gates))
            yield Folded(self.users[part], self.items, additions, gates, self.factors, self.seen[part])


@dataclass
class Hybrid(Problem):
    """The ``k`` best items that ``users`` have not had, by a fitted scorer."""

    model: HybridScorer
    users: npt.NDArray[Any]
    k: int
    threads: int
    data: str

    task = "hybrid"

    def __post_init__(self) -> None:
        self.folded = Folded.of(self.model, self.users)
        whole(self.k, argument="k", least=1, most=len(self.folded.items))

    def describe(self) -> dict[str, Any]:
        """Return the data's shape, the scorer's parts, and k."""
        return {
            "data": self.data,
            "users": len(self.users),
            "items": len(self.folded.items),
            "width": self.folded.items.shape[1],
            "sparse_scores": 0 if self.folded.additions is None else int(self.folded.additions.nnz),
            "components": self.model.component_names,
            "attention": self.model.attention_kind,
            "k": self.k,
        }

    def title(self) -> str:
        """Return users x items, width, sparse scores, attention, k (data)."""
        found = self.describe()
        shape = f"{found['users']:,} users x {found['items']:,} items, width {found['width']}"
        sparse = f"{found['sparse_scores']:,} sparse scores, " if found["sparse_scores"] else ""
        return f"{shape}, {sparse}{found['attention']} attention, k {self.k} ({self.data})"

    def ours(self) -> dict[str, Call]:
        """Recommend, from user ids on."""

        def recommend() -> topk.Answer:
            found = self.model.recommend(self.users, self.k)
            return found.rows, found.scores

        return {OURS: recommend}

    def judge(self, answers: dict[str, topk.Answer]) -> dict[str, Verdict]:
        """Compare scores place by place, up to the rounding of fp32 sums, and count the equal ids."""
        scores = answers[OURS][1]
        size = np.abs(np.where(np.isfinite(scores), scores, 0.0)).max(initial=0)
        return topk.compare(answers, answers[OURS], 1e-4 * size + 1e-6)

    def require_inner_product(self) -> None:
        """Raise UnsupportedError where a score is more than one."""
        if self.folded.additions is not None:
            raise UnsupportedError("searches inner products: needs a neighbourhood that is folded (--rank)")
        if self.folded.gates is not None:
            raise UnsupportedError("searches inner products: needs linear or fixed attention (--attention)")


def _places(matrix: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows and columns of the entries."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices.astype(np.int64)


def _scorer(block: Folded, array: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return what computes a block's scores by a library whose arrays ``array`` makes."""
    users, items, seen = array(block.users), array(block.items), tuple(map(array, _places(block.seen)))
    added = None if block.additions is None else tuple(map(array, _places(block.additions)))
    values = None if block.additions is None else array(np.asarray(block.additions.data, np.float32))
    gates, factors = (None if side is None else array(side) for side in (block.gates, block.factors))

    def scores() -> Any:
        found = users @ items.T
        if added is not None:
            found[added] += values
        if gates is not None and factors is not None:
            found /= gates @ factors.T
        found[seen] = -np.inf
        return found

    return scores


def _joined(parts: list[tuple[Any, Any]]) -> topk.Answer:
    """Put blocks together; slots that only seen items could fill are empty."""
    ids, scores = (np.concatenate(side) for side in zip(*parts, strict=True))
    return np.where(np.isneginf(scores), -1, ids), scores


def by_numpy(problem: Hybrid) -> dict[str, Call]:
    """Compute all scores, partition, and sort what is left."""
    blocks = [_scorer(block, np.ascontiguousarray) for block in problem.folded.blocks()]
    return {"numpy": lambda: _joined([topk.best_of(scores(), problem.k) for scores in blocks])}


def by_torch(problem: Hybrid) -> dict[str, Call]:
    """Compute all scores and select by torch.topk."""
    import torch

    torch.set_num_threads(problem.threads)
    blocks = [_scorer(block, torch.as_tensor) for block in problem.folded.blocks()]

    def search() -> topk.Answer:
        best = (torch.topk(scores(), problem.k) for scores in blocks)
        return _joined([(found.indices.numpy(), found.values.numpy()) for found in best])

    return {"torch": search}


def by_implicit(problem: Hybrid) -> dict[str, Call]:
    """Search with what is behind implicit's recommend, which leaves out a user's items itself."""
    from implicit.cpu.topk import topk as search

    problem.require_inner_product()
    folded, seen = problem.folded, sp.csr_matrix(problem.folded.seen)

    def run() -> topk.Answer:
        ids, scores = search(
            folded.items, folded.users, problem.k, filter_query_items=seen, num_threads=problem.threads
        )
        # What is left out stands last, under the smallest number.
        out = scores <= -np.finfo(np.float32).max
        return np.where(out, -1, ids), np.where(out, -np.inf, scores)

    return by_blas_threads("implicit", run)


def _by_search(adapter: Callable[[topk.TopK], dict[str, Call]]) -> Callable[[Hybrid], dict[str, Call]]:
    """Let a library that cannot leave out items search for so many more, and drop them afterwards."""

    def adapt(problem: Hybrid) -> dict[str, Call]:
        problem.require_inner_product()
        folded = problem.folded
        longest = int(np.diff(folded.seen.indptr).max(initial=0))
        reach = min(problem.k + longest, len(folded.items))
        wide = topk.TopK(folded.users, folded.items, reach, problem.threads, problem.data)
        places = _places(folded.seen)
        seen = places[0] * len(folded.items) + places[1]

        def unseen(search: Call) -> Call:
            def run() -> topk.Answer:
                found, scores = search()
                ids = np.asarray(found).astype(np.int64)  # usearch has unsigned ones
                rows = np.arange(len(ids))[:, None]
                out = np.isin(rows * len(folded.items) + ids, seen)
                kept = np.argsort(out, axis=1, kind="stable")[:, : problem.k]
                ids, scores = np.where(out, -1, ids), np.where(out, np.float32(-np.inf), scores)
                return np.take_along_axis(ids, kept, axis=1), np.take_along_axis(scores, kept, axis=1)

            return run

        return {name: unseen(search) for name, search in adapter(wide).items()}

    return adapt


ADAPTERS: dict[str, Callable[[Hybrid], dict[str, Call]]] = {
    "faiss": _by_search(topk.by_faiss),
    "implicit": by_implicit,
    "numpy": by_numpy,
    "torch": by_torch,
    "usearch": _by_search(topk.by_usearch),
}
Hybrid.adapters = ADAPTERS
