"""The plain NumPy oracle of every kernel: contracts of csrc/core/operations.h, written from their words."""

from __future__ import annotations

import numpy as np


def _lane_total(terms):
    """Sum float64 terms (..., d) in the canonical order: eight lanes, then a tree."""
    *lead, d = terms.shape
    padded = np.zeros((*lead, -(-d // 8) * 8))
    padded[..., :d] = terms
    lanes = np.zeros((*lead, 8))
    for start in range(0, d, 8):
        lanes = lanes + padded[..., start : start + 8]
    a = lanes[..., :4] + lanes[..., 4:]
    b = a[..., :2] + a[..., 2:]
    return b[..., 0] + b[..., 1]


def similarity(a, b, metric="dot"):
    """Canonical scores, shape (m, n)."""
    q, x = np.asarray(a, np.float64)[:, None, :], np.asarray(b, np.float64)[None, :, :]
    with np.errstate(all="ignore"):
        if metric == "euclidean":
            scores = np.sqrt(_lane_total((q - x) ** 2))
        else:
            scores = _lane_total(q * x)
        if metric == "cosine":
            norms = _lane_total(q * q) * _lane_total(x * x)
            scores = np.where(norms == 0, 0.0, scores / np.sqrt(norms))
        out = scores.astype(np.float32) + np.float32(0)
    out[np.isnan(out)] = np.float32(np.nan)
    return out


def select(scores, k):
    """The k best columns of each row: larger first, ties by lower column, NaN last."""
    scores = np.asarray(scores) + scores.dtype.type(0)
    ids = np.empty((len(scores), k), np.int64)
    for row, values in enumerate(scores):
        missing = np.isnan(values)
        ids[row] = np.lexsort((np.arange(len(values)), -np.where(missing, 0, values), missing))[:k]
    return ids, np.take_along_axis(scores, ids, axis=1)


def topk(queries, items, k, metric="dot", excluded=None):
    """Top-k with excluded[m, n] items left out; slots beyond them are -1 and -inf (euclidean inf)."""
    sign = np.float32(-1 if metric == "euclidean" else 1)
    scores = sign * similarity(queries, items, metric)
    ids = np.full((len(scores), k), -1)
    best = np.full((len(scores), k), -np.inf, np.float32)
    for row, values in enumerate(scores):
        kept = np.arange(len(values)) if excluded is None else np.flatnonzero(~excluded[row])
        found, found_scores = select(values[None, kept], min(k, len(kept)))
        ids[row, : found.shape[1]] = kept[found[0]]
        best[row, : found.shape[1]] = found_scores[0]
    best = sign * best + np.float32(0)
    best[np.isnan(best)] = np.float32(np.nan)
    return ids, best


def blended_topk(queries, items, k, additions=None, gates=None, labels=None, excluded=None):
    """Top-k of (dot + additions) / (gates' dot), each step rounded to float32, ties by label."""
    with np.errstate(all="ignore"):
        scores = similarity(queries, items)
        if additions is not None:
            scores = scores + additions.toarray()
        if gates is not None:
            scores = scores / similarity(*gates)
        scores = scores + np.float32(0)
    labels = np.arange(len(items)) if labels is None else np.asarray(labels)
    by_label = np.argsort(labels)
    kept = np.ones(scores.shape, bool) if excluded is None else ~excluded
    ids, best = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf, np.float32)
    for row in range(len(scores)):
        here = by_label[kept[row, by_label]]
        found, values = select(scores[row : row + 1, here], min(k, len(here)))
        ids[row, : found.shape[1]], best[row, : found.shape[1]] = labels[here[found[0]]], values[0]
    best[np.isnan(best)] = np.float32(np.nan)
    return ids, best


_LN2 = (float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45"))


def fixed_log(x):
    """The logarithm of core/elementary.h, to the bit."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    small = mantissa < np.sqrt(0.5)
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), np.where(small, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z, total = s * s, 1.0 / 23.0
    for odd in range(21, 1, -2):
        total = total * z + 1.0 / odd
    return exponent * _LN2[0] + (2.0 * s + ((2.0 * s) * (total * z) + exponent * _LN2[1]))


def _relevance(scores):
    wide = np.asarray(scores, np.float64)
    spread = wide.max() - wide.min()
    return (wide - wide.min()) / spread if spread > 0 else np.zeros(len(wide))


def _greedy(rows, scores, k, gains):
    """Choose slots one by one: ``gains(filled, relevance, chosen)`` gives one number for each filled slot."""
    out = np.full((len(rows), k), -1)
    for line, (items, values) in enumerate(zip(rows, scores, strict=True)):
        filled = np.flatnonzero(items >= 0)
        if not filled.size:
            continue
        relevance, chosen = _relevance(values[filled]), []
        for step in range(min(k, len(filled))):
            found = gains(line, items[filled], relevance, chosen).copy()
            found[chosen] = -np.inf
            chosen.append(int(np.argmax(found)))
            out[line, step] = filled[chosen[-1]]
    return out


def unit_rows(vectors):
    """Rows of length 1: a float32 product with the rounded inverse of the norm."""
    x = np.asarray(vectors, np.float32)
    squares = _lane_total(x.astype(np.float64) ** 2)
    with np.errstate(divide="ignore"):
        scale = np.where(squares > 0, 1.0 / np.sqrt(squares), 0.0).astype(np.float32)
    return x * scale[:, None]


def unit_products(a, b):
    """Products of unit rows, sixteen float32 lanes and a tree; shape (m, n)."""
    terms = np.asarray(a, np.float32)[:, None, :] * np.asarray(b, np.float32)[None, :, :]
    lanes = np.zeros((*terms.shape[:2], 16), np.float32)
    for start in range(0, terms.shape[2], 16):
        part = terms[..., start : start + 16]
        lanes[..., : part.shape[-1]] += part
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def mmr(rows, scores, vectors, k, trade_off):
    """Positions chosen by maximal marginal relevance, comparing everything with everything."""

    def gains(line, items, relevance, chosen):
        if not chosen:
            return (1.0 - trade_off) * relevance
        units = unit_rows(vectors[items])
        near = unit_products(units, units[chosen]).astype(np.float64).max(axis=1)
        return (1.0 - trade_off) * relevance - trade_off * near

    return _greedy(rows, scores, k, gains)


def dpp(rows, scores, vectors, k, trade_off, ridge=1e-3):
    """Positions chosen by the greedy mode of a determinantal point process, by Cholesky's method."""

    def gains(line, items, relevance, chosen):
        left, parts = np.ones(len(items)), np.zeros((len(items), len(chosen)))
        units = unit_rows(vectors[items])
        products = unit_products(units, units[chosen]).astype(np.float64)
        for step, j in enumerate(chosen):
            shared = np.zeros(len(items))
            for s in range(step):
                shared = shared + parts[j, s] * parts[:, s]
            parts[:, step] = ((1.0 - ridge) * products[:, step] - shared) / np.sqrt(left[j])
            left = np.maximum(left - parts[:, step] ** 2, ridge)
        return (1.0 - trade_off) * relevance + trade_off * fixed_log(left.astype(np.float32).astype(np.float64))

    return _greedy(rows, scores, k, gains)


def calibrated(rows, scores, categories, targets, k, trade_off, smoothing=0.01):
    """Positions chosen for relevance and a small divergence of categories from the targets, in the order of sums
    that csrc/cpu/rerank.cpp states."""

    def gains(line, items, relevance, chosen):
        target = targets[line]
        places = np.flatnonzero(target > 0)

        def terms(sums, divisor):
            share = (1.0 - smoothing) * (sums / divisor) + smoothing * target[places]
            return target[places] * fixed_log(share)

        sums, counted = np.zeros(len(target)), 0.0
        for j in chosen:
            sums += categories[items[j]]
            counted += float(categories[items[j]].any())
        out = np.empty(len(items))
        for i, item in enumerate(items):
            has = categories[item].any()
            base = terms(sums[places], counted + 1.0 if has else max(counted, 1.0))
            fit = 0.0
            for term in base:
                fit += term
            if has:
                extra = 0.0
                moved = terms(sums[places] + categories[item][places], counted + 1.0)
                for place, (new, old) in enumerate(zip(moved, base, strict=True)):
                    if categories[item][places[place]] > 0:
                        extra += new - old
                fit = fit + extra
            out[i] = (1.0 - trade_off) * relevance[i] + trade_off * fit
        return out

    return _greedy(rows, scores, k, gains)


def fixed_exp(x):
    """The exponential of core/elementary.h, to the bit."""
    x = np.asarray(x, np.float64)
    n = (x * float.fromhex("0x1.71547652b82fep0") + 1.5 * 2.0**52) - 1.5 * 2.0**52
    r = (x - n * _LN2[0]) - n * _LN2[1]
    total, factorial = np.full(x.shape, 1.0 / 6227020800.0), 479001600
    for order in range(12, 1, -1):
        total = total * r + 1.0 / factorial
        factorial //= order
    total = (total * r + 1.0) * r + 1.0
    return np.ldexp(total, n.astype(np.int64))


def attend(units, histories, candidates, temperature, smoothing, log_weights=None):
    """Attention of candidates over histories; ``histories`` and ``log_weights`` hold an array for each user."""
    out = np.full(candidates.shape, -np.inf, np.float32)
    for user, (past, items) in enumerate(zip(histories, candidates, strict=True)):
        for slot, item in enumerate(items):
            if item < 0:
                continue
            total = weights = 0.0
            for j, other in enumerate(past):
                if other == item:
                    continue
                product = float(unit_products(units[[other]], units[[item]])[0, 0])
                exponent = (product - 1.0) / temperature + (0.0 if log_weights is None else log_weights[user][j])
                weight = float(fixed_exp(max(exponent, -700.0)))
                total += weight * product
                weights += weight
            scale = fixed_exp(-smoothing * fixed_log(weights if weights > 0 else 1.0))
            out[user, slot] = np.float32(total * scale)
    return out
