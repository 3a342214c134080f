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
