"""Tests and intervals for the values of users, the unit that is sampled.

All randomness is NumPy's PCG64 from a seed, so results repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from salience._arrays import real, whole
from salience.evaluation import _checks

FloatArray = npt.NDArray[np.float64]

_CHUNK = 1 << 22  # random numbers held at once
_EXACT = 12  # up to so many differences, all sign flips are tried


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0, method: str = "bca"
) -> tuple[float, float]:
    """Return a bootstrap interval of the mean.

    Parameters
    ----------
    values : float array of shape (n,)
        One a user; NaN is left out.
    level : float
        Nominal coverage, between 0 and 1.
    resamples : int
        At least 100.
    seed : int
    method : {"bca", "percentile"}
        "bca" corrects the percentiles for bias and skewness (Efron, JASA 82, 1987).

    Returns
    -------
    low, high : float
        NaN for fewer than two values; the value itself twice where all are equal.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    O(n resamples).
    """
    if method not in ("bca", "percentile"):
        raise ValueError(f"method: {method!r}; expected 'bca' or 'percentile'")
    sample, share = _sample(values), _checks.fraction(level, argument="level")
    count = whole(resamples, argument="resamples", least=100)
    if sample.size < 2:
        return math.nan, math.nan
    if np.all(sample == sample[0]):
        return float(sample[0]), float(sample[0])
    means = _resampled_means(sample, count, seed)
    tails = np.array([(1 - share) / 2, (1 + share) / 2])
    low, high = np.quantile(means, tails if method == "percentile" else _corrected(tails, sample, means))
    return float(low), float(high)


def _corrected(tails: FloatArray, sample: FloatArray, means: FloatArray) -> FloatArray:
    below = (np.count_nonzero(means < sample.mean()) + 0.5 * np.count_nonzero(means == sample.mean())) / means.size
    below = min(max(below, 0.5 / means.size), 1 - 0.5 / means.size)
    bias = stats.norm.ppf(below)
    centred = sample - sample.mean()
    # For a mean the jackknife's acceleration is a sixth of the skewness over sqrt(n).
    acceleration = (centred**3).sum() / (6.0 * (centred**2).sum() ** 1.5)
    shifted = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + shifted / (1.0 - acceleration * shifted)))


def _resampled_means(sample: FloatArray, count: int, seed: int) -> FloatArray:
    random, means = _generator(seed), np.empty(count)
    rows = max(1, _CHUNK // sample.size)
    for start in range(0, count, rows):
        part = means[start : start + rows]
        picked = random.integers(0, sample.size, (part.size, sample.size), dtype=np.uint32)
        np.mean(sample[picked], axis=1, out=part)
    return means


def sign_flip_test(differences: npt.ArrayLike, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of the paired randomization test of a mean difference of zero.

    Under the hypothesis that two models are exchangeable, each difference is as likely as its negative
    (Fisher, The Design of Experiments, 1935; Smucker, Allan and Carterette, CIKM 2007).

    Parameters
    ----------
    differences : float array of shape (n,)
        One a user. Zeros do not matter.
    permutations : int
        Random sign flips, at least 100; up to 12 differences all are tried instead.
    seed : int

    Returns
    -------
    float
        (1 + flips at least as extreme) / (1 + permutations): never 0, and at most the level with at most that
        chance. 1 where no difference is left.

    Notes
    -----
    O(n permutations).
    """
    count = whole(permutations, argument="permutations", least=100)
    values = _sample(differences)
    values = values[values != 0]
    if not values.size:
        return 1.0
    # Sums in another order round differently: what ties must count as extreme.
    bound = abs(values.sum()) * (1 - 1e-12)
    if values.size <= _EXACT:
        flips = np.arange(1 << values.size)[:, None] >> np.arange(values.size) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * flips) @ values) >= bound))
    random, extreme = _generator(seed), 0
    width = -(-values.size // 8)
    rows = max(1, _CHUNK // values.size)
    for start in range(0, count, rows):
        part = min(rows, count - start)
        drawn = np.frombuffer(random.bytes(part * width), np.uint8).reshape(part, width)
        bits = np.unpackbits(drawn, axis=1, count=values.size)
        extreme += int(np.count_nonzero(np.abs(values.sum() - 2.0 * (bits @ values)) >= bound))
    return (1 + extreme) / (1 + count)


def paired_t_test(differences: npt.ArrayLike) -> float:
    """Return the two-sided p-value of Student's paired t test of a mean difference of zero.

    1 where all differences are zero, NaN for fewer than two.
    """
    values = _sample(differences)
    if values.size < 2:
        return math.nan
    error = _standard_error(values)
    if error == 0:
        return 1.0 if values[0] == 0 else 0.0
    return float(2.0 * stats.t.sf(abs(values.mean()) / error, values.size - 1))


def equivalence_test(differences: npt.ArrayLike, margin: float) -> float:
    """Return the p-value of two one-sided t tests that the mean difference lies beyond ``margin``.

    A small one says that the models are equivalent: the mean difference is within ± ``margin`` (Schuirmann,
    Journal of Pharmacokinetics and Biopharmaceutics 15, 1987). NaN for fewer than two differences.

    Parameters
    ----------
    differences : float array of shape (n,)
    margin : float
        Positive, in the unit of the metric.
    """
    reach, values = real(margin, argument="margin", positive=True), _sample(differences)
    if values.size < 2:
        return math.nan
    error, mean = _standard_error(values), float(values.mean())
    if error == 0:
        return 0.0 if abs(mean) < reach else 1.0
    return float(stats.t.sf((reach - abs(mean)) / error, values.size - 1))


def effect_size(differences: npt.ArrayLike) -> float:
    """Return Cohen's d of paired values: the mean difference over its standard deviation between users.

    0 where all differences are zero; infinite where they are all the same otherwise.
    """
    values = _sample(differences)
    if values.size < 2:
        return math.nan
    spread, mean = float(np.std(values, ddof=1)), float(values.mean())
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that any false positive at all has the nominal chance.

    Holm, Scandinavian Journal of Statistics 6, 1979: the smallest is multiplied by the number of tests, the
    next by one less, and so on, never falling. NaN stays, and counts as no test.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(values.size, np.nan)
    order = np.argsort(values, kind="stable")
    tests = np.count_nonzero(~np.isnan(values))
    reached = 0.0
    for place, index in enumerate(order[:tests]):
        reached = max(reached, min(1.0, (tests - place) * float(values[index])))
        adjusted[index] = reached
    return [float(value) for value in adjusted]


def _standard_error(values: FloatArray) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(values.size)


def _sample(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values: shape {array.shape}; expected one dimension")
    if np.isinf(array).any():
        raise ValueError("values: an infinite one; expected finite values (or NaN, which is left out)")
    return array[~np.isnan(array)]


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(whole(seed, argument="seed")))
