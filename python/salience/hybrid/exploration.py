"""Lists with chance in them, so that a recommender also learns about what it would not have shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salience import _arrays
from salience.models import Recommendations


@dataclass(frozen=True, eq=False)
class Exploration:
    """Lists with chance in them.

    Attributes
    ----------
    recommendations : Recommendations
        Of k items; scores are those of the items, no longer in order.
    propensities : array of float64, shape (n, k)
        Probability with which each item got its place, given the items before it; 1 in padding. To be logged with the
        events that come of it: :class:`Events` takes it.
    """

    recommendations: Recommendations
    propensities: npt.NDArray[np.float64]


def explore(candidates: Recommendations, k: int = 10, *, seed: int, epsilon: float = 0.1) -> Exploration:
    """Give each place of a list, with probability ``epsilon``, to any of the candidates that are left.

    The other places go to the best candidate that is left (epsilon-greedy, place by place).

    Parameters
    ----------
    candidates : Recommendations
        Several times ``k`` long: what may be shown at all.
    k : int
    seed : int
        Another one each time: the same seed gives the same lists, and propensities that hold for none of them.
    epsilon : float
        0 to 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    if not isinstance(candidates, Recommendations):
        raise TypeError(f"candidates: {_arrays.describe(candidates)}; expected Recommendations")
    width = candidates.rows.shape[1]
    size, chance = _arrays.whole(k, argument="k", least=1, most=width), _arrays.share(epsilon, argument="epsilon")
    random = np.random.default_rng([_arrays.whole(seed, argument="seed", most=2**63 - 1), 4])
    lists = len(candidates)
    draws, tosses = random.random((lists, size)), random.random((lists, size)) < chance
    order = np.tile(np.arange(width), (lists, 1))  # what is left, the best first
    taken = np.empty((lists, size), np.int64)
    propensities = np.ones((lists, size))
    every, counts = np.arange(lists), candidates.counts
    for place in range(size):
        left = np.maximum(counts - place, 1)
        choice = np.where(tosses[:, place], (draws[:, place] * left).astype(np.int64), 0)
        taken[:, place] = order[every, choice]
        filled = counts > place
        propensities[filled, place] = (np.where(choice == 0, 1.0 - chance, 0.0) + chance / left)[filled]
        kept = np.ones(order.shape, bool)
        kept[every, choice] = False
        order = order[kept].reshape(lists, -1)
    ids, rows, scores = (
        np.take_along_axis(part, taken, axis=1) for part in (candidates.ids, candidates.rows, candidates.scores)
    )
    shown = Recommendations(ids, rows, scores, candidates.queries, candidates.query_name)
    return Exploration(shown, propensities)


__all__ = ["Exploration", "explore"]
