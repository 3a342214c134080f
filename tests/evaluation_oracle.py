"""Metrics written out from their definitions in plain Python, one user at a time: slow, and in no one's debt.

``ranked`` is a list of items, best first, without padding; ``relevant`` maps the relevant items to their values.
"""

from __future__ import annotations

import itertools
import math


def _gain_sum(gains):
    return sum(gain / math.log2(slot + 1) for slot, gain in enumerate(gains, 1))


def ranking(name, ranked, relevant):
    """Value of a ranking metric for a list that holds whatever counts as recommended."""
    base, _, rest = name.partition("@") if "@" in name else (*name.partition(":")[:1], "", "")
    k, _, convention = rest.partition(":") if rest else ("", "", name.partition(":")[2])
    whole = not k
    k = int(k) if k else max(len(ranked), len(relevant))
    top = ranked[:k]
    hits = [item in relevant for item in top]
    found, size = sum(hits), len(relevant)
    if base == "precision":
        return found / (k if not convention else min(k, len(ranked))) if top else 0.0
    if base == "recall":
        return found / (min(k, size) if convention == "capped" else size)
    if base == "hit_rate":
        return float(found > 0)
    if base == "f1":
        p, r = found / k, found / size
        return 2 * p * r / (p + r) if found else 0.0
    if base == "map":
        total = sum(sum(hits[:slot]) / slot for slot, hit in enumerate(hits, 1) if hit)
        if convention == "returned" and not top:
            return 0.0
        if whole:
            return total / size
        return total / {
            "": min(k, size), "relevant": size, "cutoff": k, "returned": min(k, size, len(ranked)),
        }[convention]  # fmt: skip
    if base == "mrr":
        return next((1 / slot for slot, hit in enumerate(hits, 1) if hit), 0.0)
    if base == "arhr":
        return sum(1 / slot for slot, hit in enumerate(hits, 1) if hit)
    if base == "rbp":
        p = float(convention or 0.8)
        return (1 - p) * sum(p ** (slot - 1) for slot, hit in enumerate(hits, 1) if hit)
    if base == "r_precision":
        return sum(item in relevant for item in ranked[:size]) / size
    assert base == "ndcg", name
    if convention in ("linear", "exponential"):
        gain = (lambda v: v) if convention == "linear" else (lambda v: 2.0**v - 1)
        ideal = _gain_sum(sorted((gain(v) for v in relevant.values()), reverse=True)[:k])
        return _gain_sum([gain(relevant[item]) if item in relevant else 0.0 for item in top]) / ideal if ideal else 0.0
    if convention == "returned" and not top:
        return 0.0
    ideal = {
        "": min(k, size), "relevant": size, "cutoff": k, "returned": min(k, size, len(ranked)),
    }[convention]  # fmt: skip
    return _gain_sum(hits) / _gain_sum([1] * ideal)


def order(scores, candidates):
    """Candidates by score, ties by item."""
    return sorted(candidates, key=lambda item: (-scores[item], item))


def area(scores, candidates, relevant, *, ties):
    """AUC by comparing every pair."""
    inside = [item for item in candidates if item in relevant]
    outside = [item for item in candidates if item not in relevant]
    won = 0.0
    for i, j in itertools.product(inside, outside):
        if scores[i] == scores[j]:
            won += 0.5 if ties else float(i < j)
        else:
            won += scores[i] > scores[j]
    return won / (len(inside) * len(outside)) if inside and outside else math.nan


def expected(name, scores, candidates, relevant):
    """Mean of a metric over every order of the tied candidates; for a handful of candidates."""
    groups = [list(group) for _, group in itertools.groupby(order(scores, candidates), key=lambda item: scores[item])]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    values = [ranking(name, [item for group in picked for item in group], relevant) for picked in orders]
    return sum(values) / len(values)


def gini(counts):
    """Half the mean absolute difference of all pairs over the mean."""
    n, total = len(counts), sum(counts)
    return sum(abs(a - b) for a in counts for b in counts) / (2 * n * total)


def entropy(counts):
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts if c)


def diversity(items, features):
    def cosine(a, b):
        norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0

    pairs = list(itertools.combinations(items, 2))
    return sum(1 - cosine(features[i], features[j]) for i, j in pairs) / len(pairs) if pairs else math.nan


def categories(items, features):
    """Distribution over categories of some items, each item counting once."""
    sums = [0.0] * len(features[0])
    for item in items:
        total = sum(features[item])
        for c, weight in enumerate(features[item]):
            sums[c] += weight / total if total else 0.0
    total = sum(sums)
    return [x / total for x in sums] if total else None


def calibration(history, items, features):
    p, q = categories(history, features), categories(items, features)
    if p is None or q is None:
        return math.nan
    return sum(a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in zip(p, q, strict=True) if a)


def jensen_shannon(history, items, features):
    p, q = categories(history, features), categories(items, features)
    if p is None or q is None:
        return math.nan
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(sum(x * math.log2(x / m) for x, m in zip(side, middle, strict=True) if x) / 2 for side in (p, q))
