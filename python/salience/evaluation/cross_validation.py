"""Cross-validation: fit and evaluate once per fold, in parallel and with resumption."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from salience import _storage
from salience._arrays import describe, whole
from salience.evaluation import _checks, splits
from salience.evaluation.metrics import Metric, parse_metrics
from salience.evaluation.report import Report, decode_report, encode_report
from salience.evaluation.runner import DEFAULT_METRICS, Progress, evaluate
from salience.evaluation.splits import Split
from salience.interactions import Interactions, as_interactions


def cross_validate(
    make_model: Callable[[], Any],
    interactions: Any,
    *,
    folds: int | Iterable[Split] = 5,
    seed: int = 0,
    metrics: Sequence[str | Metric] = DEFAULT_METRICS,
    exclude_seen: bool = True,
    batch: int = 4096,
    clip: tuple[float, float] | None = None,
    jobs: int = 1,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Fit and evaluate a model once per fold, each time on the other folds.

    Parameters
    ----------
    make_model : callable
        Makes a fresh, unfitted model with ``fit(interactions)``, and what :func:`evaluate` needs.
    interactions : Interactions or scipy sparse matrix
        What to split by :func:`salience.evaluation.splits.kfold`.
    folds : int or iterable of Split
        Number of folds, or splits made otherwise (``splits.rolling``, ``splits.kfold(by="users")``).
    seed : int
        As in ``kfold``.
    metrics, exclude_seen, batch, clip, **options
        As in :func:`evaluate`.
    jobs : int
        Folds at a time, in processes of joblib (``pip install 'salience[search]'``) where more than 1;
        ``make_model`` must then be picklable (joblib's loky takes functions and lambdas). Does not change the
        result.
    resume : str or Path, optional
        File that keeps the folds that are done: a call that was cut off goes on from there. It belongs to this
        data, these folds and these metrics; a file of others is an error. Models are not part of it: use another
        file for another model.
    progress : callable, optional
        Called as ``progress(done, total)`` after each fold.

    Returns
    -------
    Report
        ``values`` are means over the folds and ``fold_deviations`` the standard deviations between
        them. ``standard_errors`` are sqrt((1/K + q) s^2) for K folds with variance s^2, q the mean ratio of
        tested to learned interactions (1 / (K - 1) for K folds of equal size):
        folds share training data, and s / sqrt(K) would be too small (Nadeau and Bengio, Inference
        for the generalization error, Machine Learning 52, 2003). ``per_user`` is each user's mean
        over the folds that tested on the user. ``counts`` are all users, or pairs, ever tested on;
        ``cold_users``, ``short_lists``, ``tied_users`` and ``unscored_pairs`` add up over folds.

    Raises
    ------
    TypeError, ValueError
        As :func:`evaluate` and :func:`salience.evaluation.splits.kfold`, or if ``make_model`` is
        not callable or makes something that cannot be fitted, or ``resume`` is of something else.
    ImportError
        If ``jobs`` is more than 1 and joblib is missing.
    """
    data = as_interactions(interactions)
    parsed = parse_metrics(metrics)
    _checks.clip_bounds(clip)
    whole(batch, argument="batch", least=1)
    for argument, value in (("make_model", make_model), ("progress", progress)):
        if value is not None and not callable(value):
            raise TypeError(f"{argument}: {describe(value)}; expected a callable")
    parts = _parts(data, folds, seed)
    options = {"metrics": parsed, "exclude_seen": exclude_seen, "batch": batch, "clip": clip, **options}
    done = Done(resume, fingerprint(parts, options), progress, len(parts))
    pending = [number for number in range(len(parts)) if str(number) not in done.kept]
    tasks = [(number, (make_model, parts[number], options)) for number in pending]
    run_all(fit_and_evaluate, tasks, jobs, lambda number, report: done.add(str(number), encode_report(report)))
    reports = [decode_report(done.kept[str(number)]) for number in range(len(parts))]
    shares = [len(part.test) / max(len(part.train), 1) for part in parts]
    return _join(reports, parsed, data.shape[0], float(np.mean(shares)))


def fit_and_evaluate(make_model: Callable[[], Any], part: Split, options: Mapping[str, Any]) -> Report:
    """Fit a fresh model on a split's train part and measure it on its test part."""
    model = make_model()
    if not callable(getattr(model, "fit", None)):
        raise TypeError(f"make_model: made {describe(model)}; expected a model with fit()")
    model.fit(part.train)
    return evaluate(model, part.train, part.test, fold_in=part.fold_in, **options)


def _parts(data: Interactions, folds: int | Iterable[Split], seed: int) -> list[Split]:
    if not isinstance(folds, Iterable):
        return splits.kfold(data, folds=folds, seed=seed)
    parts = list(folds)
    for part in parts:
        if not isinstance(part, Split):
            raise TypeError(f"folds: holds {describe(part)}; expected Splits")
        _checks.same_axes(data, part.test, "interactions", "folds")
    if len(parts) < 2:
        raise ValueError(f"folds: {len(parts)} splits; expected at least 2")
    return parts


def run_all(
    work: Callable[..., Any],
    tasks: Sequence[tuple[int, tuple[Any, ...]]],
    jobs: int,
    finish: Callable[[int, Any], None],
) -> None:
    """Call ``work(*arguments)`` for every (number, arguments) and ``finish(number, result)`` as results come."""
    workers = whole(jobs, argument="jobs", least=1)
    if workers == 1 or len(tasks) < 2:
        for number, arguments in tasks:
            finish(number, work(*arguments))
        return
    try:
        from joblib import Parallel, delayed
    except ImportError:
        raise ImportError("jobs: more than 1 needs joblib; expected pip install 'salience[search]'") from None
    found = Parallel(n_jobs=workers, return_as="generator")(delayed(work)(*arguments) for _, arguments in tasks)
    for (number, _), result in zip(tasks, found, strict=True):
        finish(number, result)


class Done:
    """Results by key, kept in a file (if any) as they come."""

    def __init__(self, path: str | Path | None, digest: str, progress: Progress | None, total: int) -> None:
        self.path, self.digest, self.progress, self.total = path, digest, progress, total
        self.kept: dict[str, Any] = {}
        if path is not None and Path(path).exists():
            self.kept = _read(Path(path), digest)

    def add(self, key: str, result: Any) -> None:
        """Keep a result, write all of them, and say so."""
        self.kept[key] = result
        if self.path is not None:
            held = {"format": _FORMAT, "of": self.digest, "done": self.kept}
            with _storage.replace_file(self.path) as temporary:
                temporary.write_text(json.dumps(held), encoding="utf-8")
        if self.progress is not None:
            self.progress(len(self.kept), self.total)


_FORMAT = "salience progress 1"


def _read(path: Path, digest: str) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != _FORMAT:
            raise ValueError(f"format {held['format']!r}")
        kept: dict[str, Any] = held["done"]
        of = held["of"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"resume: {path} is damaged or no file of this kind ({error})") from None
    if of != digest:
        raise ValueError(f"resume: {path} is of other data, folds or settings; expected another file for these")
    return kept


def fingerprint(parts: Sequence[Split], options: Mapping[str, Any]) -> str:
    """Return a digest of what is fitted on, tested on and measured."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update("\n".join(map(str, part.test.users.tolist())).encode())
        for data in (part.train, part.test, part.fold_in):
            if data is not None:
                _add_matrix(digest, data.matrix)
    for name, value in sorted(options.items()):
        digest.update(name.encode())
        if isinstance(value, np.ndarray) or sp.issparse(value):
            _add_matrix(digest, sp.csr_array(value))
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _add_matrix(digest: Any, matrix: Any) -> None:
    for array in (matrix.indptr, matrix.indices, matrix.data):
        digest.update(np.ascontiguousarray(array).tobytes())


def _join(reports: Sequence[Report], metrics: Sequence[Metric], users: int, share: float) -> Report:
    names = [metric.name for metric in metrics]
    fold_values = {n: np.array([report.values[n] for report in reports]) for n in names}
    inflation = math.sqrt(1 / len(reports) + share)
    per_user, ids = {}, {}
    for name in names:
        if name not in reports[0].per_user:
            continue
        tested = np.concatenate([report.users[name] for report in reports])
        values = np.concatenate([report.per_user[name] for report in reports])
        valued = ~np.isnan(values)
        ids[name], where = np.unique(tested[valued], return_inverse=True)
        per_user[name] = np.bincount(where, weights=values[valued]) / np.bincount(where)
    tested_users = max((array.size for array in ids.values()), default=0)
    return Report(
        values={n: float(np.mean(fold_values[n])) for n in names},
        per_user=per_user,
        users=ids,
        counts={
            m.name: ids[m.name].size if m.name in ids and not m.pooled else sum(r.counts[m.name] for r in reports)
            for m in metrics
        },
        standard_errors={n: inflation * float(np.std(fold_values[n], ddof=1)) for n in names},
        cold_users=sum(report.cold_users for report in reports),
        users_without_test=users - tested_users,
        short_lists=sum(report.short_lists for report in reports),
        unscored_pairs=sum(report.unscored_pairs for report in reports),
        tied_users=sum(report.tied_users for report in reports),
        fold_values=fold_values,
    )
