"""Who listens to which component: weights that depend on the state of users and items, learned on held-out data.

With the components' standardized scores z_c(u, i), a score is sum_c w_c z_c:

    fixed     w_c given
    linear    w_c = theta_c . s(u)                                   feature-weighted stacking
    softmax   w_c = scale * softmax_c(theta_c . s(u) + phi_c . t(i))  over the components that are available

s(u) and t(i) are standardized descriptions with a leading 1 (``user_state`` and ``item_state``). Both are trained on
lists of a user's held-out items among items that compete with them. Cross-entropy, which is convex, finds weights that
are the same for everybody, and their scale; at that scale, what depends on states is trained to put held-out items
among the first (:class:`~salience.hybrid.losses.MissedAtTheTop`). For ratings all is by squared error. See
Sill et al., "Feature-weighted linear stacking" (2009), and
Jacobs et al., "Adaptive mixtures of local experts" (1991).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from salience import _backends
from salience.hybrid.losses import CrossEntropy, Lists, MissedAtTheTop, SquaredError
from salience.models import Float32

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

USER_STATE = ("1", "log interactions", "interactions^-1/2", "coherence", "mean log popularity")
ITEM_STATE = ("1", "log interactions", "interactions^-1/2", "unseen")
_LARGEST_LOGIT = 20.0
_SLIGHT = 1e-6  # ridge on what is the same for everybody, which has to be finite
_LEAST_WEIGHT = 0.02  # relative to all of them, where a gate starts
_PART_ENTRIES = 1 << 14  # of lists that are worked on together: their scores fit in a core's cache
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


class _Part:
    """Some of the lists, small enough for a core's cache, with a line for each component and each column of states."""

    def __init__(self, lists: Lists, whole: Lists, cutoff: int) -> None:
        self.convex: SquaredError | CrossEntropy
        self.loss: SquaredError | MissedAtTheTop
        if lists.targets is not None:
            self.convex = self.loss = SquaredError(lists, whole)
        else:
            self.convex, self.loss = CrossEntropy(lists, whole), MissedAtTheTop(lists, cutoff, whole)
        self.starts, self.sizes = lists.ends[:-1], np.diff(lists.ends)
        self.scores = np.ascontiguousarray(lists.scores.T)
        self.users, self.items = lists.users, np.ascontiguousarray(lists.items.T, np.float32)
        self.closed = None
        if not lists.available.all():
            self.closed = np.where(lists.available.T, np.float32(0.0), np.float32(-np.inf))

    def for_everybody(self, weights: Float64) -> tuple[float, Float64]:
        """Return the convex loss of weights that are the same for everybody, and its gradient."""
        value, gradient = self.convex(weights.astype(np.float32) @ self.scores)
        return value, (self.scores @ gradient).astype(np.float64)

    def linear(self, theta: Float64) -> tuple[float, Float64]:
        """Return the loss of weights that are linear in the user's state, and its gradient."""
        value, gradient = self.loss((self._of_users(theta) * self.scores).sum(axis=0))
        return value, self._to_users(self.scores * gradient)

    def softmax(self, theta: Float64, phi: Float64, scale: float) -> tuple[float, Float64, Float64]:
        """Return the loss of a gate and its gradients."""
        gate = self._of_users(theta)
        gate += phi.astype(np.float32) @ self.items
        if self.closed is not None:
            gate += self.closed
        gate -= gate.max(axis=0)
        np.exp(gate, out=gate)
        gate /= gate.sum(axis=0)
        mixed = (gate * self.scores).sum(axis=0)
        value, gradient = self.loss(np.float32(scale) * mixed)
        gradient = gradient * np.float32(scale)
        to_logits = self.scores - mixed
        to_logits *= gate
        to_logits *= gradient
        return value, self._to_users(to_logits), to_logits @ self.items.T

    def _of_users(self, theta: Float64) -> Float32:
        """Return weights or logits for every entry, by its user's state."""
        return np.repeat((theta @ self.users.T).astype(np.float32), self.sizes, axis=1)

    def _to_users(self, gradient: Any) -> Float64:
        """Return the gradient for theta from that for every entry."""
        return np.asarray(np.add.reduceat(gradient, self.starts, axis=1) @ self.users)


class _Trainer:
    """Lists of scaled states in parts, and minimization of a loss that is summed over them."""

    def __init__(self, lists: Lists, cutoff: int, threads: int | None) -> None:
        self.parts = [
            _Part(lists.part(first, last), lists, cutoff) for first, last in pairwise(lists.bounds(_PART_ENTRIES))
        ]
        self.ranking = lists.targets is None
        self.threads = int(_backends.show_config()["threads"]) if threads is None else threads

    def minimize(self, evaluate: Callable[[Float64, Callable[..., Any]], tuple[float, Float64]], start: Float64) -> Any:
        """Return what L-BFGS finds; ``evaluate`` is given a function that sums a method's answers over all parts."""
        with ThreadPoolExecutor(self.threads) as pool:

            def total(method: Callable[..., tuple[Any, ...]], *arguments: Any) -> list[Any]:
                # In the order of the parts, so that the sum does not depend on the threads.
                answers = pool.map(lambda part: method(part, *arguments), self.parts)
                return [sum(column) for column in zip(*answers, strict=True)]

            found = scipy.optimize.minimize(
                lambda x: evaluate(x.reshape(start.shape), total),
                start.ravel(), jac=True, method="L-BFGS-B", options=_UNTIL,
            )  # fmt: skip
        return found.x.reshape(start.shape)

    def initial_weights(self) -> Float64:
        """Return weights that are the same for everybody: the start, and the scale."""

        def evaluate(weights: Float64, total: Callable[..., Any]) -> tuple[float, Float64]:
            value, gradient = total(_Part.for_everybody, weights)
            return value + _SLIGHT * float(weights @ weights), gradient + 2 * _SLIGHT * weights

        return np.asarray(self.minimize(evaluate, np.full(len(self.parts[0].scores), 0.3)))

    def linear(self, penalty: Float64) -> Float64:
        """Return weights that are linear in the states; infinite penalties, shape (components, state), rule out."""
        weights = self.initial_weights()
        length = float(np.linalg.norm(weights)) if self.ranking else 0.0
        start, free = np.zeros(penalty.shape), np.isfinite(penalty)
        start[:, 0] = weights
        penalty = np.where(free, penalty, 0.0)

        def evaluate(theta: Float64, total: Callable[..., Any]) -> tuple[float, Float64]:
            at = _of_length(theta, length)
            value, gradient = total(_Part.linear, at)
            gradient = np.where(free, gradient + 2 * penalty * at, 0.0)
            return value + float((penalty * at**2).sum()), _along(gradient, theta, length).ravel()

        return _of_length(self.minimize(evaluate, start), length)


def _of_length(theta: Float64, length: float) -> Float64:
    """Scale weights so that those for everybody, the first column, have this length; 0 leaves them as they are.

    Lists have an order at any scale. What makes them orderly is a loss that would rather have an endless one.
    """
    return theta * (length / np.linalg.norm(theta[:, 0])) if length > 0 else theta


def _along(gradient: Float64, theta: Float64, length: float) -> Float64:
    """Return the gradient with respect to ``theta`` from that with respect to ``_of_length(theta, length)``."""
    if length <= 0:
        return gradient
    norm = np.linalg.norm(theta[:, 0])
    back = gradient * (length / norm)
    back[:, 0] -= theta[:, 0] * ((back * theta).sum() / norm**2)
    return np.asarray(back)


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


def train_linear(
    lists: Lists, *, strength: float, cutoff: int = 20, state: bool = True, threads: int | None = None
) -> Attention:
    """Learn weights that are linear in the user's state (without ``state``, the same for everybody).

    ``strength`` times the squares of what departs from the same for everybody is added to the loss.
    """
    components, width, depth = lists.scores.shape[1], lists.users.shape[1], lists.items.shape[1]
    users = Scaling.of(lists.users)
    trainer = _Trainer(replace(lists, users=users.apply(lists.users)), cutoff, threads)
    theta = trainer.linear(_penalty(components, width, strength if state else np.inf))
    return Attention("linear", theta, np.zeros((components, depth)), users=users)


def _penalty(components: int, width: int, strength: float) -> Float64:
    """Return a ridge for each weight, slight for what is the same for everybody."""
    penalty = np.full((components, width), strength)
    penalty[:, 0] = _SLIGHT
    return penalty


def train_softmax(lists: Lists, *, strength: float, cutoff: int = 20, threads: int | None = None) -> Attention:
    """Learn a softmax gate on the states of user and item, from the weights that are best for everybody."""
    components, width, depth = lists.scores.shape[1], lists.users.shape[1], lists.items.shape[1]
    users, items = Scaling.of(lists.users), Scaling.of(lists.items)
    scaled_items = items.apply(lists.items)
    scaled_items[:, 0] = 0.0  # the user's 1 is enough
    trainer = _Trainer(replace(lists, users=users.apply(lists.users), items=scaled_items), cutoff, threads)
    weights = trainer.linear(_penalty(components, width, np.inf))[:, 0]
    length = max(float(np.linalg.norm(weights)), 1e-3)
    weights = np.maximum(weights, _LEAST_WEIGHT * length)
    scale = max(float(weights.sum()), length)
    start = np.zeros(components * (width + depth))
    start[: components * width : width] = np.log(weights / weights.sum())
    penalty = np.concatenate([_penalty(components, width, strength).ravel(), np.full(components * depth, strength)])

    def split(flat: Float64) -> tuple[Float64, Float64]:
        theta, phi = flat[: components * width], flat[components * width :]
        return theta.reshape(components, width), phi.reshape(components, depth)

    def evaluate(flat: Float64, total: Callable[..., Any]) -> tuple[float, Float64]:
        value, *gradients = total(_Part.softmax, *split(flat), scale)
        gradient = np.concatenate([np.ravel(part) for part in gradients])
        return value + float(penalty @ flat**2), gradient + 2 * penalty * flat

    theta, phi = split(trainer.minimize(evaluate, start))
    phi[:, 0] = 0.0
    return Attention("softmax", theta, phi, scale, users, items)


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
