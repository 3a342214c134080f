"""Metrics against sampled negatives: for comparison with published figures, not to choose models by.

Many papers rank each held-out item among a hundred or so random items instead of all. Such figures are not
consistent with those of the full ranking: they can order models differently, whatever the metric but AUC
(Krichene and Rendle, On sampled metrics for item recommendation, KDD 2020). They are offered only here, with a
warning.

Nothing is sampled. With r of n candidates better than a held-out item, the number of better ones among m drawn
without replacement is hypergeometric, and the expectation of each metric over all draws is a finite sum: the
figure that repeated sampling would converge to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from salience._arrays import whole
from salience.evaluation.runner import evaluate
from salience.interactions import as_interactions

FloatArray = npt.NDArray[np.float64]

WARNING = (
    "sampled metrics are not consistent with the ranking of all items and can order models differently "
    "(Krichene and Rendle, KDD 2020): use them to compare with published figures only"
)


class SampledMetricsWarning(UserWarning):
    """A sampled metric was asked for."""


def sampled_metrics(
    model: Any, train: Any, test: Any, *, negatives: int = 100, cutoffs: Sequence[int] = (10,), **options: Any
) -> dict[str, float]:
    """Compute what metrics against sampled negatives are in expectation; warns whenever it is called.

    Each held-out item is ranked among ``negatives`` items drawn without replacement from those that are neither
    in the user's training nor test part. Users are averaged, and within users their held-out items.

    Parameters
    ----------
    model, train, test
        As in :func:`salience.evaluation.evaluate`; the model must be one whose ranks are all known (factors, or
        scores of blocks of users).
    negatives : int
        Items drawn for each held-out one; 100 in the protocol of He et al., Neural collaborative filtering (2017).
    cutoffs : sequence of int
    **options
        Passed on to :func:`salience.evaluation.evaluate`.

    Returns
    -------
    dict of str to float
        ``hit_rate@k``, ``ndcg@k`` and ``mrr@k``, each with ``:sampled`` and the number of negatives, such as
        ``hit_rate@10:sampled100``.

    Raises
    ------
    TypeError, ValueError
        As evaluate does, or if a user has fewer other candidates than ``negatives``.
    """
    warnings.warn(WARNING, SampledMetricsWarning, stacklevel=2)
    count = whole(negatives, argument="negatives", least=1)
    wanted = [whole(k, argument="cutoffs", least=1) for k in cutoffs]
    held_out = evaluate(model, train, test, metrics=("auc",), **options).held_out
    assert held_out is not None
    learned, tested = as_interactions(train, argument="train"), as_interactions(test, argument="test")
    rows = np.flatnonzero(np.diff(tested.matrix.indptr))
    relevant = np.diff(tested.matrix.indptr)[rows]
    others = tested.shape[1] - np.diff(learned.matrix.indptr)[rows] - relevant
    if others.min() < count:
        raise ValueError(f"negatives: {count}; expected at most {others.min()}, the candidates of some user")
    # Of the items before a held-out one, the user's other held-out items are no negatives.
    order = np.lexsort((held_out.ranks, held_out.users))
    before = np.empty(order.size, np.int64)
    before[order] = np.arange(order.size) - np.repeat(np.cumsum(relevant) - relevant, relevant)
    better = np.where(held_out.ranks > 0, held_out.ranks - 1 - before, others[held_out.users])
    slots = _slot_chances(better, others[held_out.users], count, max(wanted))
    values = {}
    for k in wanted:
        for base, gains in _GAINS.items():
            per_item = slots[:, :k] @ gains(np.arange(1.0, min(k, slots.shape[1]) + 1))
            per_user = np.bincount(held_out.users, weights=per_item) / relevant
            values[f"{base}@{k}:sampled{count}"] = float(per_user.mean())
    return values


_GAINS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "hit_rate": lambda slot: np.ones_like(slot),
    "ndcg": lambda slot: 1 / np.log2(slot + 1),
    "mrr": lambda slot: 1 / slot,
}


def _slot_chances(
    better: npt.NDArray[np.int64], others: npt.NDArray[np.int64], negatives: int, slots: int
) -> FloatArray:
    """Return the chance of each held-out item to stand in each of the first slots."""
    places = np.arange(min(slots, negatives + 1))
    return np.asarray(stats.hypergeom.pmf(places[None, :], others[:, None], better[:, None], negatives))
