"""Who listens to which component: weights that depend on the state of users and items, learned on held-out data.

With the components' standardized scores z_c(u, i), a score is sum_c w_c z_c:

    fixed     w_c given
    linear    w_c = theta_c . s(u)                                   feature-weighted stacking
    softmax   w_c = scale * softmax_c(theta_c . s(u) + phi_c . t(i))  over the components that are available

s(u) and t(i) are standardized descriptions with a leading 1 (``user_state`` and ``item_state``). Both are trained on
lists of a user's held-out items among items that compete with them, by a listwise loss (:class:`Loss`), or for ratings
by squared error. See Sill et al., "Feature-weighted linear stacking" (2009), and
Jacobs et al., "Adaptive mixtures of local experts" (1991).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from salience.models import Float32

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

USER_STATE = ("1", "log interactions", "interactions^-1/2", "coherence", "mean log popularity")
ITEM_STATE = ("1", "log interactions", "interactions^-1/2", "unseen")
_LARGEST_LOGIT = 20.0
_UNTIL = {"maxiter": 100, "ftol": 1e-6}  # the loss is an average of noisy lists: more would be idle


@dataclass
class Scaling:
    """Brings columns (all but the first, which is 1) to mean 0 and deviation 1, within the range seen in training."""

    mean: Float64
    deviation: Float64
    low: Float64
    high: Float64

    @classmethod
    def of(cls, state: Float64) -> Scaling:
        """Learn from rows."""
        mean, deviation = state.mean(axis=0), state.std(axis=0)
        deviation[deviation < 1e-9] = np.inf  # what never varies says nothing
        mean[0], deviation[0] = 0.0, 1.0
        scaled = (state - mean) / deviation
        return cls(mean, deviation, scaled.min(axis=0), scaled.max(axis=0))

    @classmethod
    def still(cls, width: int) -> Scaling:
        """Keep the 1 and nothing else."""
        one = np.zeros(width)
        one[0] = 1.0
        return cls(np.zeros(width), np.where(one == 1.0, 1.0, np.inf), one, one)

    def apply(self, state: Float64) -> Float64:
        """Scale rows."""
        return np.clip((state - self.mean) / self.deviation, self.low, self.high)


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


class Loss:
    """Loss and gradient with respect to the entries' scores.

    Ranking: the mean over users of the mean over their held-out items of (1 - p^focus) / focus, where p is the share
    of the held-out item in the softmax of its list. As ``focus`` goes to 0 this becomes the cross-entropy -log p; else
    an item counts by p^focus, so that those within reach of the top matter more than those far down (the generalized
    cross-entropy of Zhang and Sabuncu, 2018). Ratings: the mean squared error.
    """

    def __init__(self, lists: Lists, focus: float = 0.0) -> None:
        self.lists, self.focus = lists, focus
        self.rows = lists.rows
        position = np.arange(lists.ends[-1]) - lists.ends[self.rows]
        self.held_out = np.flatnonzero(position < lists.held_out[self.rows])
        counts = np.maximum(lists.held_out, 1) * max(len(lists.held_out), 1)
        self.shares = 1.0 / counts[self.rows[self.held_out]]

    def __call__(self, scores: Any) -> tuple[float, Any]:
        """Return the loss and its gradient."""
        if self.lists.targets is not None:
            difference = scores - self.lists.targets
            return float(np.mean(difference**2, dtype=np.float64)), 2.0 * difference / max(len(difference), 1)
        logits = scores + self.lists.log_weights
        starts, mine = self.lists.ends[:-1], self.rows[self.held_out]
        peak = np.maximum.reduceat(logits, starts)
        weights = np.exp(logits - peak[self.rows])
        sums = np.add.reduceat(weights, starts)
        log_share = (scores[self.held_out] - (np.log(sums) + peak)[mine]).astype(np.float64)
        if self.focus > 0:
            pull = self.shares * np.exp(self.focus * log_share)
            loss = float((self.shares - pull).sum() / self.focus)
        else:
            pull, loss = self.shares, -float(self.shares @ log_share)
        together = np.bincount(mine, pull, len(starts))
        gradient = weights * (together / sums).astype(np.float32)[self.rows]
        gradient[self.held_out] -= pull.astype(np.float32)
        return loss, gradient


@dataclass
class Attention:
    """Weights of components, by the state of users and items.

    Attributes
    ----------
    kind : {"fixed", "linear", "softmax"}
    theta : shape (components, user state)
    phi : shape (components, item state)
        Softmax only; else zeros.
    scale : float
        Softmax only; else 1.
    """

    kind: str
    theta: Float64
    phi: Float64
    scale: float = 1.0
    users: Scaling = field(default_factory=lambda: Scaling.still(len(USER_STATE)))
    items: Scaling = field(default_factory=lambda: Scaling.still(len(ITEM_STATE)))

    @classmethod
    def fixed(cls, weights: Float64) -> Attention:
        """Give everybody the same weights."""
        theta = np.zeros((len(weights), len(USER_STATE)))
        theta[:, 0] = weights
        return cls("fixed", theta, np.zeros((len(weights), len(ITEM_STATE))))

    def user_weights(self, state: Float64, available: BoolArray, offsets: Float64 | None = None) -> Float64:
        """Return the users' weights, softmax: the numerators, without the items' part; shape (n, components).

        0 where a component is not available. ``offsets``, of the same shape, are added (softmax: to the logits).
        """
        weights = self.users.apply(state) @ self.theta.T
        if offsets is not None:
            weights += offsets
        if self.kind == "softmax":
            weights -= weights.max(axis=1, keepdims=True)
            weights = np.exp(np.maximum(weights, -_LARGEST_LOGIT))
        return np.where(available, weights, 0.0)

    def item_logits(self, state: Float64, available: BoolArray) -> Float64:
        """Return the items' part of the logits, shape (n, components); -inf where not available."""
        logits = self.items.apply(state) @ self.phi.T
        logits -= logits.max(axis=1, keepdims=True)
        return np.where(available, np.maximum(logits, -_LARGEST_LOGIT), -np.inf)


def _initial_weights(loss: Loss, strength: float) -> Float64:
    """Weights that are the same for everybody: the start, and what the others are drawn to."""
    lists = loss.lists
    components = lists.scores.shape[1]

    def evaluate(weights: Float64) -> tuple[float, Float64]:
        value, gradient = loss(lists.scores @ weights.astype(np.float32))
        return value + strength * float(weights @ weights), lists.scores.T @ gradient + 2 * strength * weights

    start = np.full(components, 0.3)
    return np.asarray(scipy.optimize.minimize(evaluate, start, jac=True, method="L-BFGS-B", options=_UNTIL).x)


def train_linear(lists: Lists, *, strength: float, focus: float = 0.0, state: bool = True) -> Attention:
    """Learn weights that are linear in the user's state (without ``state``, the same for everybody).

    ``strength`` times the squares of what departs from the same for everybody is added to the loss, which is convex
    where ``focus`` is 0.
    """
    loss = Loss(lists, focus)
    components, width = lists.scores.shape[1], lists.users.shape[1]
    users = Scaling.of(lists.users)
    scaled = users.apply(lists.users)
    theta = np.zeros((components, width))
    theta[:, 0] = _initial_weights(loss, 1e-6)
    penalty = np.full((components, width), strength)
    penalty[:, 0] = 1e-6

    def evaluate(flat: Float64) -> tuple[float, Float64]:
        found = flat.reshape(theta.shape)
        weights = (scaled @ found.T).astype(np.float32)[loss.rows]
        value, gradient = loss(np.einsum("ec,ec->e", lists.scores, weights))
        by_list = np.add.reduceat(lists.scores * gradient[:, None], lists.ends[:-1], axis=0)
        total = by_list.T @ scaled + 2 * penalty * found
        return value + float((penalty * found**2).sum()), total.ravel()

    if state:
        result = scipy.optimize.minimize(evaluate, theta.ravel(), jac=True, method="L-BFGS-B", options=_UNTIL)
        theta = result.x.reshape(theta.shape)
    return Attention("linear", theta, np.zeros((components, lists.items.shape[1])), users=users)


def train_softmax(lists: Lists, *, strength: float, focus: float = 0.0) -> Attention:
    """Learn a softmax gate on the states of user and item, from the weights that are best for everybody."""
    loss = Loss(lists, focus)
    components, width, depth = lists.scores.shape[1], lists.users.shape[1], lists.items.shape[1]
    users, items = Scaling.of(lists.users), Scaling.of(lists.items)
    scaled_users, scaled_items = users.apply(lists.users), items.apply(lists.items)
    scaled_items[:, 0] = 0.0  # the user's 1 is enough
    scaled_items = scaled_items.astype(np.float32)
    weights = np.maximum(_initial_weights(loss, 1e-6), 0.02)
    start = np.zeros(components * (width + depth) + 1)
    start[: components * width : width] = np.log(weights / weights.sum())
    start[-1] = np.log(weights.sum())
    penalty = np.full(len(start), strength)
    penalty[: components * width : width] = penalty[-1] = 1e-6
    closed = np.where(lists.available, 0.0, -np.inf).astype(np.float32)

    def evaluate(flat: Float64) -> tuple[float, Float64]:
        theta = flat[: components * width].reshape(components, width)
        phi = flat[components * width : -1].reshape(components, depth)
        logits = (
            (scaled_users @ theta.T).astype(np.float32)[loss.rows] + scaled_items @ phi.T.astype(np.float32) + closed
        )
        logits -= logits.max(axis=1, keepdims=True)
        gate = np.exp(logits)
        gate /= gate.sum(axis=1, keepdims=True)
        mixed = np.einsum("ec,ec->e", gate, lists.scores)
        scale = np.float32(np.exp(flat[-1]))
        value, gradient = loss(scale * mixed)
        gradient = gradient * scale
        to_logits = gate * (lists.scores - mixed[:, None]) * gradient[:, None]
        by_list = np.add.reduceat(to_logits, lists.ends[:-1], axis=0)
        total = np.concatenate(
            [(by_list.T @ scaled_users).ravel(), (to_logits.T @ scaled_items).ravel(), [gradient @ mixed]]
        )
        return value + float(penalty @ flat**2), total + 2 * penalty * flat

    result = scipy.optimize.minimize(evaluate, start, jac=True, method="L-BFGS-B", options=_UNTIL)
    theta = result.x[: components * width].reshape(components, width)
    phi = result.x[components * width : -1].reshape(components, depth)
    phi[:, 0] = 0.0
    return Attention("softmax", theta, phi, float(np.exp(result.x[-1])), users, items)


def user_state(histories: Any, log_popularity: Float64, coherence: Float64) -> Float64:
    """Describe users by their histories, columns as in USER_STATE.

    Parameters
    ----------
    histories : CSR matrix, shape (n, items)
    log_popularity : shape (items,)
        log(1 + training interactions).
    coherence : shape (n,)
        How alike the items of a history are.
    """
    counts = np.diff(histories.indptr).astype(np.float64)
    rows = np.repeat(np.arange(len(counts)), np.diff(histories.indptr))
    popularity = np.bincount(rows, log_popularity[histories.indices], len(counts)) / np.maximum(counts, 1.0)
    return np.column_stack([
        np.ones(len(counts)), np.log1p(counts), 1.0 / np.sqrt(np.maximum(counts, 1.0)), coherence, popularity
    ])  # fmt: skip


def item_state(counts: IntArray) -> Float64:
    """Describe items by their numbers of training interactions, columns as in ITEM_STATE."""
    wide = counts.astype(np.float64)
    return np.column_stack([np.ones(len(wide)), np.log1p(wide), 1.0 / np.sqrt(np.maximum(wide, 1.0)), wide == 0])
