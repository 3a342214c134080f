"""What attention is trained on, and what it is to make small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.models import Float32

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_SHARPNESS = (
    8.0  # of comparisons: cross-entropy spreads probability over thousands of items, a short list is of the top
)


@dataclass(frozen=True)
class Lists:
    """Competing items of some users, the held-out ones first: what attention is trained on.

    Attributes
    ----------
    scores : shape (entries, components)
        Standardized; 0 where a component is not available.
    available : shape (entries, components)
    users : shape (lists, user state)
    items : shape (entries, item state)
    ends : shape (lists + 1,)
        The entries of each list.
    held_out : shape (lists,)
        How many of a list's first entries are held out.
    log_weights : shape (entries,)
        Log of how many items an entry stands for.
    targets : shape (entries,) or None
        Ratings.
    """

    scores: Float32
    available: BoolArray
    users: Float64
    items: Float64
    ends: IntArray
    held_out: IntArray
    log_weights: Float32
    targets: Float32 | None = None

    @property
    def rows(self) -> IntArray:
        """The list of every entry."""
        return np.repeat(np.arange(len(self.held_out)), np.diff(self.ends))

    def bounds(self, entries: int) -> list[int]:
        """Cut the lists into runs of about so many entries; return where the runs begin, and the end."""
        cuts = np.searchsorted(self.ends, np.arange(0, self.ends[-1], entries))
        return sorted({*cuts.tolist(), len(self.held_out)})

    def part(self, first: int, last: int) -> Lists:
        """Return some of the lists."""
        entries = slice(*self.ends[[first, last]])
        return Lists(
            self.scores[entries], self.available[entries], self.users[first:last], self.items[entries],
            self.ends[first : last + 1] - self.ends[first], self.held_out[first:last], self.log_weights[entries],
            None if self.targets is None else self.targets[entries],
        )  # fmt: skip

    @staticmethod
    def joined(parts: list[Lists]) -> Lists:
        """Put the lists of several parts one after another."""
        starts = np.cumsum([0, *(part.ends[-1] for part in parts)])
        ends = np.concatenate([[0], *(part.ends[1:] + start for part, start in zip(parts, starts[:-1], strict=True))])
        together = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("scores", "available", "users", "items", "held_out", "log_weights")
        }
        targets = None if parts[0].targets is None else np.concatenate([part.targets for part in parts])
        return Lists(ends=ends.astype(np.int64), targets=targets, **together)


class _Loss:
    """A loss of lists, or of lists that are a part of ``whole``: those of all parts add up to that of the whole.

    Called with the scores of all entries, it returns its value and its gradient with respect to them.
    """

    def __init__(self, lists: Lists, whole: Lists | None = None) -> None:
        self.lists, self.whole = lists, lists if whole is None else whole


class SquaredError(_Loss):
    """The mean squared error of ratings."""

    def __call__(self, scores: Any) -> tuple[float, Any]:
        """Return the loss and its gradient."""
        difference, count = scores - self.lists.targets, max(len(self.whole.scores), 1)
        return float(np.sum(difference**2, dtype=np.float64)) / count, 2.0 * difference / count


class CrossEntropy(_Loss):
    """The mean over users of the mean over their held-out items of -log p, p an item's share in its list's softmax."""

    def __init__(self, lists: Lists, whole: Lists | None = None) -> None:
        super().__init__(lists, whole)
        self.rows = lists.rows
        position = np.arange(lists.ends[-1]) - lists.ends[self.rows]
        self.held_out = np.flatnonzero(position < lists.held_out[self.rows])
        counts = np.maximum(lists.held_out, 1) * max(len(self.whole.held_out), 1)
        self.shares = 1.0 / counts[self.rows[self.held_out]]

    def __call__(self, scores: Any) -> tuple[float, Any]:
        """Return the loss and its gradient."""
        logits = scores + self.lists.log_weights
        starts, mine = self.lists.ends[:-1], self.rows[self.held_out]
        peak = np.maximum.reduceat(logits, starts)
        weights = np.exp(logits - peak[self.rows])
        sums = np.add.reduceat(weights, starts)
        log_share = (scores[self.held_out] - (np.log(sums) + peak)[mine]).astype(np.float64)
        together = np.bincount(mine, self.shares, len(starts))
        gradient = weights * (together / sums).astype(np.float32)[self.rows]
        gradient[self.held_out] -= self.shares.astype(np.float32)
        return -float(self.shares @ log_share), gradient


class MissedAtTheTop(_Loss):
    """One minus the mean over users of a smooth recall of their held-out items among the first ``cutoff``.

    A held-out item i counts 1 / (1 + (rank / cutoff)^2). Its rank is 1 plus, over the other entries j of its list, how
    many items j stands for times the logistic function of the sharpened difference s_j - s_i. A differentiable rank is
    the idea of Qin, Liu and Li, "A general approximation framework for direct optimization of information retrieval
    measures" (2010).

    Cost: one hyperbolic tangent for each held-out item and entry of its list.
    """

    def __init__(self, lists: Lists, cutoff: int, whole: Lists | None = None) -> None:
        super().__init__(lists, whole)
        self.cutoff, self.multiples = cutoff, np.exp(lists.log_weights)

    def __call__(self, scores: Any) -> tuple[float, Any]:
        """Return the loss and its gradient."""
        total, gradient = 0.0, np.zeros(len(scores), np.float32)
        users = max(len(self.whole.held_out), 1)
        for begin, end, count in zip(self.lists.ends[:-1], self.lists.ends[1:], self.lists.held_out, strict=True):
            found, slopes = self._of_list(scores[begin:end], self.multiples[begin:end], int(count))
            total += (1.0 - found) / users
            gradient[begin:end] = slopes / users
        return total, gradient

    def _of_list(self, scores: Any, multiples: Any, count: int) -> tuple[float, Any]:
        """Return the mean of what a list's held-out items count, and the gradient of minus that."""
        # The logistic function of x is (1 + tanh(x / 2)) / 2, and its slope (1 - tanh(x / 2)^2) / 4.
        compared = np.tanh(np.float32(_SHARPNESS / 2) * (scores - scores[:count, None]))
        ranks = 0.5 * (compared @ multiples + multiples.sum() + 1.0)
        depth = ranks / self.cutoff
        counts = 1.0 / (1.0 + depth**2)
        pull = counts**2 * depth * np.float32(0.5 * _SHARPNESS / (self.cutoff * max(count, 1)))
        np.multiply(compared, compared, out=compared)
        np.subtract(np.float32(1.0), compared, out=compared)
        slopes = multiples * (pull @ compared)
        slopes[:count] -= pull * (compared @ multiples)
        return float(counts.sum(dtype=np.float64)) / max(count, 1), slopes
