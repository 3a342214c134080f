"""The commands ``salience evaluate``, ``salience compare`` and ``salience report``."""

from __future__ import annotations

import ast
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from salience import _storage
from salience._terminal import (
    data_options,
    errors,
    options,
    progress_bar,
    read_ids,
    read_titles,
    take_columns,
    titles_option,
    write_csv,
    write_text,
)
from salience.als import ALS
from salience.evaluation import Report, compare, evaluate, evaluate_lists, parse_metric, read_run, splits
from salience.evaluation.document import write_html
from salience.evaluation.splits import Split
from salience.hybrid import HybridScorer
from salience.interactions import Interactions
from salience.models import Popularity
from salience.neighbors import EASE, ItemKNN
from salience.privacy import PrivateALS
from salience.second_stage import HistoryAttention

RATING = ("rmse", "mae")
RANKING = ("recall@10", "recall@20", "precision@10", "hit_rate@10", "map@10", "mrr@10", "ndcg@10", "ndcg@20")
_SAMPLED = ("hit_rate@10", "ndcg@10", "mrr@10")
_RATER = "explicit ALS"
_REPORT_BASES = ("recall", "ndcg", "precision", "map", "hit_rate", "mrr", "coverage", "novelty")
_REPORT_CUTOFFS = (5, 10, 20, 50)
_SAVED: tuple[Any, ...] = (ALS, Popularity, ItemKNN, EASE, HybridScorer, PrivateALS, HistoryAttention)


def _hybrid(**parameters: Any) -> HybridScorer:
    """Mix ALS, neighbourhoods and popularity; settings that are ALS's go to it."""
    of_als = {name: parameters.pop(name) for name in ("factors", "epochs") if name in parameters}
    shared = {name: parameters[name] for name in ("threads", "seed") if name in parameters}
    neighbors = ItemKNN(100, weighting="degree", threads=shared.get("threads"))
    return HybridScorer([ALS(**of_als, **shared), neighbors, Popularity()], **parameters)


_KINDS: dict[str, Callable[..., Any]] = {
    "als": ALS, "popularity": Popularity, "itemknn": ItemKNN, "ease": EASE, "hybrid": _hybrid,
}  # fmt: skip
_WITH_SETTINGS = ("als", "hybrid")  # that --factors, --epochs and --seed are for

split_options = options(
    click.option("--test", "test_path", type=click.Path(path_type=Path),
                 help="A file with the test part; DATA is then all training."),
    click.option("--split", "kind", type=click.Choice(["temporal", "random", "leave-last", "users"]), default="random",
                 show_default=True,
                 help="How to divide DATA where no test part is given; users: learn from some, test on others, who are "
                      "ranked for by four fifths of their history."),
    click.option("--test-fraction", default=0.2, show_default=True),
)  # fmt: skip

model_options = options(
    click.option("--factors", default=64, show_default=True, help="Of ALS, where its specification has none."),
    click.option("--epochs", default=10, show_default=True),
    click.option("--threads", type=int, help="Default: the cores this process may use."),
    click.option("--seed", default=0, show_default=True),
)

format_options = options(
    click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True),
    click.option("--output", type=click.Path(path_type=Path), help="A file instead of the terminal."),
)

subject_options = options(
    data_options,
    split_options,
    click.option("--model", "specs", multiple=True,
                 help="als, popularity, itemknn, ease, hybrid (als, itemknn and popularity), with parameters as in "
                      "als:factors=128,regularization=5; or the file of a saved model (with --test). NAME=... names "
                      "it. May be given several times."),
    click.option("--run", "runs", multiple=True,
                 help="Lists of another system, a trec or JSON run file such as ranx writes (with --test)."),
    model_options,
)  # fmt: skip


def _metrics_option(default: str) -> Callable[[Any], Any]:
    return click.option("--metrics", help=f"Comma-separated names, such as recall@20,ndcg@20:exponential ({default}).")


def within(metrics: Sequence[str], items: int) -> list[str]:
    """Lower the cut-offs of default metrics that exceed a small catalogue."""
    parts = [metric.split("@") for metric in metrics]
    return list(dict.fromkeys("@".join([base, *(str(min(int(k), items)) for k in cut)]) for base, *cut in parts))


@dataclass(frozen=True)
class Subject:
    """Something to evaluate: a fitted model, or the lists that another system has made."""

    name: str
    make: Callable[[Interactions], Any]
    lists: Mapping[str, Any] | None = None
    finished: bool = False  # made elsewhere: from what, is not known here


@dataclass
class Evaluated:
    """Reports and the models behind them, by name."""

    reports: dict[str, Report] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)


@click.command("evaluate")
@click.argument("data", type=click.Path(path_type=Path))
@subject_options
@_metrics_option("by default some at 10 and 20; RMSE and MAE too where DATA has values")
@format_options
@click.option("--save", type=click.Path(path_type=Path),
              help="Also keep the values of every user, for salience compare and report.")  # fmt: skip
@click.option(
    "--sampled",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also rank each held-out item among N random ones only, as some papers do. Not to choose models by.",
)
def evaluate_command(
    data: Path, specs: Sequence[str], runs: Sequence[str], metrics: str | None, form: str, output: Path | None,
    save: Path | None, sampled: int | None, **others: Any,
) -> None:  # fmt: skip
    """Split DATA, fit ALS (or what --model says), and measure rankings and, where there are values, ratings."""
    given = _Given.of(others)
    settings, subjects = given.settings, _subjects(specs, runs, given)
    if save is not None and len(subjects) > 1:
        raise click.UsageError("--save keeps one report: evaluate one model at a time, or use salience report.")
    found, split = Evaluated(), given.split(data)
    if not subjects:
        subjects = [Subject("implicit ALS", ALS(**settings).fit)]
        if given.columns["value"] is not None and metrics is None:
            rater = Subject(_RATER, ALS(feedback="explicit", **settings).fit)
            _measure(found, rater, split, RATING, settings["threads"])
    wanted = within(RANKING, split.test.shape[1]) if metrics is None else _names(metrics)
    for subject in subjects:
        _measure(found, subject, split, wanted, settings["threads"])
    against = {} if sampled is None else _measure_sampled(found, split, sampled, settings)
    _write_reports({**found.reports, **against}, given.words(split), form, output)
    if save is not None:
        Report.merged(found.reports.values()).save(save)
        errors.print(f"saved the values of every user: {save}")


@click.command("compare")
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Fit and compare the models of --model on this file.")
@subject_options
@_metrics_option("by default ndcg@20 and recall@20, of saved results all that they share")
@click.option("--baseline", help="Compare the others with this one only (default: each with each).")
@click.option("--level", default=0.95, show_default=True, help="Of intervals; tests are at 1 - level.")
@click.option("--margin", type=float, help="Also test whether models are equivalent within this difference.")
@format_options
def compare_command(
    results: Sequence[Path], data: Path | None, specs: Sequence[str], runs: Sequence[str], metrics: str | None,
    baseline: str | None, level: float, margin: float | None, form: str, output: Path | None, **others: Any,
) -> None:  # fmt: skip
    """Test whether models differ: RESULTS that salience evaluate --save has written, or --data and --model.

    Paired randomization tests over users with Holm's correction, bootstrap intervals, effect sizes.
    """
    wanted = None if metrics is None else _names(metrics)
    found, _ = _gather(results, data, specs, runs, wanted, ("ndcg@20", "recall@20"), _Given.of(others))
    compared = compare(found.reports, metric=wanted, baseline=baseline, level=level, margin=margin)
    if form == "json":
        write_text(json.dumps(compared.to_dict(), indent=1), output)
    elif form == "csv":
        pairs = compared.to_dict()["pairs"]
        write_text(_csv({name: [pair[name] for pair in pairs] for name in pairs[0]}), output)
    else:
        write_text(compared.table(), output)


@click.command("report")
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Fit and measure the models of --model on this file.")
@subject_options
@_metrics_option("by default the usual ones, coverage and novelty at 5, 10, 20 and 50")
@titles_option
@click.option("--users", help="Comma-separated ids of example users (default: four who show the range).")
@click.option("--title", default="How good are the recommendations?", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
def report_command(
    results: Sequence[Path], data: Path | None, specs: Sequence[str], runs: Sequence[str], metrics: str | None,
    titles: Path | None, users: str | None, title: str, output: Path, **others: Any,
) -> None:  # fmt: skip
    """Write one HTML document with figures: of RESULTS that salience evaluate --save has written, or of --data.

    With --data and without --model it is about ALS beside Popularity. Only models have example users.
    """
    usual = [f"{base}@{k}" for base in _REPORT_BASES for k in _REPORT_CUTOFFS]
    wanted = None if metrics is None else _names(metrics)
    chosen = specs if specs or runs or data is None else ("ALS=als", "Popularity=popularity")
    given = _Given.of(others)
    found, split = _gather(results, data, chosen, runs, wanted, usual, given)
    examples = None if users is None or split is None else read_ids(users, split.train.users)
    write_html(
        output,
        found.reports,
        models=found.models,
        train=None if split is None else split.train,
        fold_in=None if split is None else split.fold_in,
        titles=None if titles is None else read_titles(titles),
        users=examples,
        title=title,
        subtitle="" if data is None else data.name,
        notes=[] if split is None or data is None else [_sentence(data, split, given)],
    )
    errors.print(f"wrote {output}")


@dataclass(frozen=True)
class _Given:
    """What the shared options gave: columns of files, how to split them, settings of ALS."""

    columns: dict[str, Any]
    settings: dict[str, Any]
    test_path: Path | None
    kind: str
    test_fraction: float

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Given:
        columns = take_columns(options)
        settings = {name: options.pop(name) for name in ("factors", "epochs", "threads", "seed")}
        return cls(columns, settings, **options)

    def split(self, data: Path) -> Split:
        """Read DATA and divide it, or put a given test part beside it."""
        interactions = Interactions.read(data, **self.columns)
        if self.test_path is not None:
            return _joined(interactions, Interactions.read(self.test_path, **self.columns))
        if self.kind == "temporal":
            return splits.temporal(interactions, test_fraction=self.test_fraction)
        if self.kind == "leave-last":
            return splits.leave_last(interactions)
        if self.kind == "users":
            return splits.held_out_users(interactions, test_fraction=self.test_fraction, seed=self.settings["seed"])
        return splits.random(interactions, test_fraction=self.test_fraction, seed=self.settings["seed"])

    def words(self, split: Split) -> str:
        """Say what there is and how it was divided."""
        kind = self.kind if self.test_path is None else "given"
        users, items = split.train.shape
        parts = f"{len(split.train):,} interactions to train on, {len(split.test):,} to test"
        if split.fold_in is not None:
            parts += f", {len(split.fold_in):,} to tell the tested users by"
        return f"{users:,} users, {items:,} items; {kind} split: {parts}"


def _joined(train: Interactions, test: Interactions) -> Split:
    """Put two parts that were read separately on the same axes."""
    parts = [part.to_frame("pyarrow").to_pydict() for part in (train, test)]
    if (train.times is None) != (test.times is None):
        for part in parts:
            part.pop("time", None)
    columns = {name: np.array(parts[0][name] + parts[1][name]) for name in parts[0]}
    timed = {"time": "time"} if "time" in columns else {}
    try:
        import pyarrow

        table = pyarrow.table(columns)
        both = Interactions.from_frame(table, user="user", item="item", value="value", duplicates="error", **timed)
    except ValueError as error:
        raise ValueError(f"test: {error} (in DATA and the test part together)") from None
    tested = both.user_map.rows(test.users)[test.rows], both.item_map.rows(test.items)[test.matrix.indices]
    width = both.shape[1]
    mask = np.isin(both.rows * width + both.matrix.indices, tested[0] * width + tested[1])
    return Split(both.select(~mask), both.select(mask))


def _subjects(specs: Sequence[str], runs: Sequence[str], given: _Given) -> list[Subject]:
    subjects = [_subject(spec, given.settings) for spec in specs] + [_run(path) for path in runs]
    names = [subject.name for subject in subjects]
    for subject in subjects:
        if names.count(subject.name) > 1:
            raise ValueError(f"model: {subject.name!r} twice; expected different names (NAME=...)")
        if subject.finished and given.test_path is None:
            raise ValueError(
                f"model: {subject.name!r} was made elsewhere and may know a test part split off here; "
                "expected the file of its own test part (--test)"
            )
    return subjects


def _subject(spec: str, settings: dict[str, Any]) -> Subject:
    """Read NAME=KIND:parameter=value,... or the path of a saved model."""
    head, equals, rest = spec.partition("=")
    named = bool(equals) and ":" not in head
    name, body = (head, rest) if named else (spec, spec)
    kind, _, text = body.partition(":")
    if kind in _KINDS:
        return Subject(name, lambda train: _make(kind, spec, text, settings).fit(train))
    path = Path(body)
    if not path.is_file():
        raise ValueError(
            f"model: {spec!r}; expected {', '.join(_KINDS)} (als:factors=128,...) or the file of a saved model"
        )
    return Subject(name if named else path.stem, lambda _: _load(path), finished=True)


def _load(path: Path) -> Any:
    """Read a saved model of any kind."""
    kind = _storage.kind_of(path)
    for model in _SAVED:
        if model.__name__ == kind:
            return model.load(path)
    raise ValueError(f"model: {path} holds a {kind}; expected one of {', '.join(model.__name__ for model in _SAVED)}")


def _make(kind: str, spec: str, text: str, settings: dict[str, Any]) -> Any:
    parameters = dict(settings) if kind in _WITH_SETTINGS else {"threads": settings["threads"]}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"model: {part!r} in {spec!r}; expected parameter=value")
        parameters[name.strip()] = _value(value.strip())
    try:
        return _KINDS[kind](**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model: {spec!r}: {error}") from None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _run(path: str) -> Subject:
    return Subject(Path(path).stem, lambda _: None, read_run(path), finished=True)


def _measure(
    found: Evaluated, subject: Subject, split: Split, metrics: Sequence[str], threads: int | None, *,
    keep_lists: bool = False,
) -> None:  # fmt: skip
    if subject.lists is not None:
        lists = _with_ids_of(subject.lists, split.test)
        found.reports[subject.name] = evaluate_lists(
            lists, split.test, metrics=metrics, train=split.train, keep_lists=keep_lists, threads=threads
        )
        return
    with progress_bar(f"Fitting {subject.name}"):
        model = subject.make(split.train)
    with progress_bar(f"Evaluating {subject.name}") as update:
        report = evaluate(
            model, split.train, split.test, metrics=metrics, fold_in=split.fold_in, keep_lists=keep_lists,
            threads=threads, progress=update,
        )  # fmt: skip
    found.reports[subject.name], found.models[subject.name] = report, model


def _with_ids_of(lists: Mapping[str, Any], test: Interactions) -> Mapping[Any, Any]:
    """Turn the text ids of a run file into numbers where those of the data are numbers."""
    users, items = test.users.dtype != object, test.items.dtype != object
    try:
        return {
            int(user) if users else user: [int(item) for item in found] if items else found
            for user, found in lists.items()
        }
    except ValueError as error:
        raise ValueError(f"run: {error}; expected ids as in the data, which are numbers") from None


def _gather(
    results: Sequence[Path], data: Path | None, specs: Sequence[str], runs: Sequence[str], wanted: Sequence[str] | None,
    usual: Sequence[str],
    given: _Given,
) -> tuple[Evaluated, Split | None]:  # fmt: skip
    """Load saved reports, or fit and measure models."""
    if bool(results) == (data is not None):
        raise click.UsageError("Give saved results, or --data with --model.")
    found = Evaluated()
    if data is None:
        if specs or runs:
            raise click.UsageError("--model and --run go with --data.")
        for path in results:
            if path.stem in found.reports:
                raise ValueError(f"results: {path.stem!r} twice; expected files of different names")
            found.reports[path.stem] = Report.load(path)
        return found, None
    subjects = _subjects(specs, runs, given)
    if not subjects:
        raise click.UsageError("Nothing to fit: give --model or --run.")
    split = given.split(data)
    metrics = within(usual, split.test.shape[1]) if wanted is None else wanted
    for subject in subjects:
        # Only of users who were not trained on, a report cannot ask the model for lists again.
        _measure(found, subject, split, metrics, given.settings["threads"], keep_lists=split.fold_in is not None)
    return found, split


def _measure_sampled(found: Evaluated, split: Split, negatives: int, settings: Mapping[str, Any]) -> dict[str, Report]:
    """Measure again among sampled candidates, and say on standard error what that is worth."""
    metrics = within(_SAMPLED, split.test.shape[1])
    reports = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        for name, model in found.models.items():
            if name != _RATER:
                reports[f"{name}, among {negatives} sampled candidates"] = evaluate(
                    model,
                    split.train,
                    split.test,
                    metrics=metrics,
                    fold_in=split.fold_in,
                    sampled=negatives,
                    seed=settings["seed"],
                )
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        errors.print(f"[yellow]warning:[/yellow] {message}", highlight=False)
    return reports


def _write_reports(reports: Mapping[str, Report], words: str, form: str, output: Path | None) -> None:
    if form == "json":
        held = {name: report.to_dict() for name, report in reports.items()}
        write_text(json.dumps({"split": words, "reports": held}, indent=1), output)
    elif form == "csv":
        write_text(_csv(_columns(reports)), output)
    else:
        parts = [words]
        for name, report in reports.items():
            parts += ["", f"{_heading(report)}{name}", report.table()]
        write_text("\n".join(parts), output)


def _heading(report: Report) -> str:
    ratings = all(parse_metric(name).kind == "rating" for name in report.values)
    return "Ratings, " if ratings else "Ranking, "


def _columns(reports: Mapping[str, Report]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in ("model", "metric", "value", "standard_error", "count")}
    for model, report in reports.items():
        for name, value in report.values.items():
            error = report.standard_errors[name]
            row = (model, name, value, "" if math.isnan(error) else error, report.counts[name])
            for column, cell in zip(columns.values(), row, strict=True):
                column.append(cell)
    return columns


def _csv(columns: Mapping[str, Sequence[Any]]) -> str:
    text = io.StringIO()
    write_csv(columns, text)
    return text.getvalue().rstrip("\n")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sentence(data: Path, split: Split, given: _Given) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in given.settings.items() if value is not None)
    return f"{data.name}: {given.words(split)}. Settings of ALS: {settings}."
