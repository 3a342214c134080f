"""The command behind ``salience bench`` and ``benchmarks/compare.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from salience import datasets
from salience._terminal import data_options, options, take_columns
from salience.als import ALS
from salience.bench import results
from salience.bench.als import ExplicitALS, ImplicitALS
from salience.bench.contest import Outcome, Problem, choose_peers, hold
from salience.bench.environment import cores, record_environment
from salience.bench.evaluation import Evaluation
from salience.bench.evaluation import draw as draw_evaluation
from salience.bench.hybrid import Hybrid
from salience.bench.topk import SYNTHETIC, TopK
from salience.bench.topk import draw as draw_vectors
from salience.evaluation import splits
from salience.hybrid import Collaborative, History, HybridScorer, Prior
from salience.interactions import Interactions
from salience.neighbors import ItemKNN

PUBLISHED = ("gowalla", "citeulike-t", "ml-latest-small")
_FACTORS_EPOCHS = 5
_NEIGHBORS = 50


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with something between them: "64,128", or "256x50000x64" with ``names`` of the parts."""

    name = "numbers"

    def __init__(self, separator: str, parts: Sequence[str] = ()) -> None:
        self.separator, self.parts = separator, parts

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Read the numbers."""
        if not isinstance(value, str):
            return tuple(value)
        texts = value.replace("_", "").split(self.separator)
        if not all(text.strip().isdigit() and int(text) > 0 for text in texts):
            self.fail(f"{value!r}; expected whole numbers above 0, such as {self._example()}", param, ctx)
        if self.parts and len(texts) != len(self.parts):
            self.fail(f"{value!r}; expected {self.separator.join(part.upper() for part in self.parts)}", param, ctx)
        return tuple(int(text) for text in texts)

    def _example(self) -> str:
        return self.separator.join(["1000"] * max(len(self.parts), 2))


class Shapes(click.ParamType[list[tuple[int, ...]]]):
    """Several shapes with commas between them."""

    name = "shapes"

    def __init__(self, *parts: str) -> None:
        self.one = Numbers("x", parts)

    def convert(self, value: Any, param: Any, ctx: Any) -> list[tuple[int, ...]]:
        """Read the shapes."""
        if not isinstance(value, str):
            return list(value)
        return [self.one.convert(text, param, ctx) for text in value.split(",")]


shared_options = options(
    click.option("--peers", help="Comma-separated libraries (default: all that can do it)."),
    click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True,
                 help="Counted runs of everyone, in turn, after one that warms up."),
    click.option("--patience", type=click.FloatRange(min=0), default=60.0, show_default=True,
                 help="Seconds a contestant may take for a turn before it runs no more."),
    click.option("--threads", type=click.IntRange(min=1), help="For everyone (default: all cores of this process)."),
    click.option("--json", "json_path", type=click.Path(path_type=Path),
                 help="Also write everything, with every single time, to this file."),
    click.option("--png", type=click.Path(path_type=Path), help="Also draw the ratios to this file."),
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure speed beside other libraries: interleaved runs, medians, answers checked.

    DATA is a CSV, TSV or Parquet file of your own, or a published set in the folder that SALIENCE_DATA names:
    gowalla, citeulike-t or ml-latest-small. The exit status is 1 where an answer differs.
    """


@bench.command("topk")
@click.argument("data", required=False)
@data_options
@click.option(
    "--queries",
    "queries_path",
    type=click.Path(path_type=Path),
    help=".npy file of query vectors (measured in float32).",
)
@click.option(
    "--items", "items_path", type=click.Path(path_type=Path), help=".npy file of item vectors (measured in float32)."
)
@click.option(
    "--shapes", type=Shapes("queries", "items", "dims", "k"), help="Of random vectors: QUERIESxITEMSxDIMSxK,..."
)
@click.option("--kind", type=click.Choice(SYNTHETIC), default="gaussian", show_default=True, help="Of random vectors.")
@click.option("--factors", type=Numbers(","), default="64", show_default=True, help="Of ALS on DATA.")
@click.option("-k", "cutoffs", type=Numbers(","), default="10", show_default=True)
@click.option("--users", type=click.IntRange(min=1), default=1024, show_default=True, help="Users of DATA that ask.")
@shared_options
def topk_command(
    data: str | None, queries_path: Path | None, items_path: Path | None,
    shapes: list[tuple[int, ...]] | None, kind: str, factors: tuple[int, ...], cutoffs: tuple[int, ...], users: int,
    threads: int | None, **others: Any,
) -> None:  # fmt: skip
    """Exact top-k: of random vectors, of your own (--queries, --items), or of ALS factors of DATA."""
    columns, count = take_columns(others), threads or cores()
    _one_source(data=data, shapes=shapes, items=items_path)
    if (queries_path is None) != (items_path is None):
        raise click.UsageError("--queries and --items belong together.")

    def problems() -> Any:
        if shapes:
            for queries, items, dims, k in shapes:
                yield TopK(*draw_vectors(kind, queries, items, dims), k, count, kind)
        elif items_path is not None and queries_path is not None:
            q, x = _vectors(queries_path, "queries"), _vectors(items_path, "items")
            _same_dims(q, x)
            for k in cutoffs:
                yield TopK(q, x, k, count, items_path.name)
        else:
            interactions, name = _read(data, columns)
            for dims in factors:
                model = _factorize(interactions, dims, count)
                chosen = np.random.default_rng(0).permutation(len(model.user_factors_))[:users]
                for k in cutoffs:
                    yield TopK(model.user_factors_[chosen], model.item_factors_, k, count, f"{name}, ALS factors")

    _run(TopK, problems, count, **others)


@bench.command("als")
@click.argument("data", required=False)
@data_options
@click.option(
    "--shapes", type=Shapes("users", "items", "factors"), help="Of a random catalogue: USERSxITEMSxFACTORS,..."
)
@click.option("--feedback", type=click.Choice(["implicit", "explicit"]), default="implicit", show_default=True)
@click.option("--factors", type=Numbers(","), default="64", show_default=True, help="With DATA.")
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--unobserved-weight", type=float, default=0.05, show_default=True)
@click.option("--regularization", type=float, default=0.5, show_default=True)
@click.option("--regularization-exponent", type=float, default=0.0, show_default=True,
              help="Other than 0 only irspack can do.")  # fmt: skip
@shared_options
def als_command(
    data: str | None, shapes: list[tuple[int, ...]] | None, feedback: str,
    factors: tuple[int, ...], epochs: int, unobserved_weight: float, regularization: float,
    regularization_exponent: float, threads: int | None, **others: Any,
) -> None:  # fmt: skip
    """Training: the same number of epochs, everyone's factors put into one objective; or ratings and test RMSE."""
    columns, count = take_columns(others), threads or cores()
    _one_source(data=data, shapes=shapes)
    explicit = feedback == "explicit"

    def problems() -> Any:
        for interactions, dims, name in _sources(data, columns, shapes, factors):
            if explicit:
                yield ExplicitALS(splits.random(interactions), dims, epochs, count, name)
            else:
                yield ImplicitALS(interactions, dims, epochs, unobserved_weight, regularization,
                                  regularization_exponent, count, name)  # fmt: skip

    _run(ExplicitALS if explicit else ImplicitALS, problems, count, **others)


@bench.command("evaluate")
@click.argument("data", required=False)
@data_options
@click.option("--shapes", type=Shapes("users", "items", "dims"), help="Of random factors: USERSxITEMSxDIMS,...")
@click.option("--from", "source", type=click.Choice(["lists", "factors", "both"]), default="both", show_default=True,
              help="Finished lists (ranking time counted for nobody) or factors (for everybody).")  # fmt: skip
@click.option("--factors", type=Numbers(","), default="64", show_default=True, help="Of ALS on DATA.")
@click.option("-k", "cutoffs", type=Numbers(","), default="5,10,20", show_default=True)
@shared_options
def evaluate_command(
    data: str | None, shapes: list[tuple[int, ...]] | None, source: str,
    factors: tuple[int, ...], cutoffs: tuple[int, ...], threads: int | None, **others: Any,
) -> None:  # fmt: skip
    """Ranking metrics at several cut-offs, from the same recommendations or from factors."""
    columns, count = take_columns(others), threads or cores()
    _one_source(data=data, shapes=shapes)
    chosen: Any = ("lists", "factors") if source == "both" else (source,)

    def sources() -> Iterator[tuple[Any, str]]:
        if shapes:
            for shape in shapes:
                yield draw_evaluation(*shape), "random factors"
        else:
            interactions, name = _read(data, columns)
            split = splits.random(interactions)
            for dims in factors:
                model = _factorize(split.train, dims, count)
                parts = (Interactions.from_csr(part.matrix) for part in (split.train, split.test))
                found: Any = (model.user_factors_, model.item_factors_, *parts)
                yield found, f"{name}, ALS factors"

    def problems() -> Any:
        for (users, items, train, test), name in sources():
            for kind in chosen:
                yield Evaluation(users, items, train, test, cutoffs, kind, count, name)

    _run(Evaluation, problems, count, **others)


@bench.command("hybrid")
@click.argument("data", required=False)
@data_options
@click.option(
    "--shapes", type=Shapes("users", "items", "factors"), help="Of a random catalogue: USERSxITEMSxFACTORS,..."
)
@click.option("--factors", type=Numbers(","), default="64", show_default=True, help="Of ALS on DATA.")
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="Fold the neighbourhood into so many dimensions (default: its sparse scores are added).",
)
@click.option("--attention", type=click.Choice(["softmax", "linear", "fixed"]), default="softmax", show_default=True)
@click.option("-k", "cutoffs", type=Numbers(","), default="10", show_default=True)
@click.option("--users", type=click.IntRange(min=1), default=1024, show_default=True, help="Users who ask.")
@shared_options
def hybrid_command(
    data: str | None, shapes: list[tuple[int, ...]] | None, factors: tuple[int, ...], rank: int | None,
    attention: Any, cutoffs: tuple[int, ...], users: int, threads: int | None, **others: Any,
) -> None:  # fmt: skip
    """Recommending from a hybrid of ALS, a neighbourhood and popularity: attention, sparse scores, seen items left out.

    Peers get what the scorer has learned. Those that search vectors can do inner products only: --rank 64 with
    --attention linear or fixed.
    """
    columns, count = take_columns(others), threads or cores()
    _one_source(data=data, shapes=shapes)

    def problems() -> Iterator[Hybrid]:
        for interactions, dims, name in _sources(data, columns, shapes, factors):
            model = _mix(interactions, dims, rank, attention, count)
            chosen = np.random.default_rng(0).permutation(interactions.shape[0])[:users]
            for k in cutoffs:
                yield Hybrid(model, interactions.user_map.ids_of(chosen), k, count, name)

    _run(Hybrid, problems, count, **others)


def _one_source(**sources: Any) -> None:
    given = [name for name, value in sources.items() if value]
    if len(given) != 1:
        names = ", ".join("DATA" if name == "data" else f"--{name}" for name in sources)
        raise click.UsageError(f"{'Nothing' if not given else 'Too much'} to measure: give one of {names}.")


def _read(data: str | None, columns: dict[str, Any]) -> tuple[Interactions, str]:
    """Read a file, or a published set where there is no file of its name."""
    assert data is not None
    path = Path(data)
    if path.exists() or data not in PUBLISHED:
        return Interactions.read(path, **columns), path.name
    if data == "gowalla":
        train, valid, _ = datasets.load_gowalla()
        return Interactions.from_csr(train.matrix + valid.matrix), data
    return (datasets.load_citeulike()[0] if data == "citeulike-t" else datasets.load_movielens()), data


def _sources(
    data: str | None, columns: dict[str, Any], shapes: list[tuple[int, ...]] | None, factors: tuple[int, ...]
) -> Iterator[tuple[Interactions, int, str]]:
    """Return interactions, factors and the name of each shape, or of DATA for each number of factors."""
    if shapes:
        for users, items, dims in shapes:
            yield datasets.synthetic(users, items).interactions, dims, "synthetic catalogue"
    else:
        interactions, name = _read(data, columns)
        for dims in factors:
            yield interactions, dims, name


def _vectors(path: Path, argument: str) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{argument}: {path} is no .npy file of numbers ({error})") from None
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise ValueError(f"{argument}: {path} holds {found.dtype} of shape {found.shape}; expected a matrix of numbers")
    return np.ascontiguousarray(found, np.float32)


def _same_dims(queries: Any, items: Any) -> None:
    if queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries: shape {queries.shape}, items {items.shape}; expected the same number of columns")


def _factorize(interactions: Interactions, factors: int, threads: int) -> ALS:
    # How well they fit does not matter here: factors of real data have the spectrum of real data.
    return ALS(factors, epochs=_FACTORS_EPOCHS, threads=threads).fit(interactions)


def _mix(interactions: Interactions, factors: int, rank: int | None, attention: Any, threads: int) -> HybridScorer:
    parts = [
        Collaborative(ALS(factors, epochs=_FACTORS_EPOCHS, threads=threads)),
        History(ItemKNN(_NEIGHBORS, threads=threads), rank=rank),
        Prior(),
    ]
    weights = None if attention != "fixed" else [1.0, 0.5, 0.1]
    return HybridScorer(
        parts, attention=attention, weights=weights, rounds=1, most_users=500, threads=threads
    ).fit(interactions)  # fmt: skip


def _run(
    task: type[Problem], problems: Callable[[], Any], threads: int, *, peers: str | None, rounds: int,
    patience: float, json_path: Path | None, png: Path | None,
) -> None:  # fmt: skip
    wanted = choose_peers(task, None if peers is None else [name.strip() for name in peers.split(",")])
    recorded = record_environment(threads)
    outcomes: list[Outcome] = []
    for problem in problems():
        click.echo(f"{problem.task}: {problem.title()} ...", err=True)
        outcomes.append(hold(problem, wanted, rounds=rounds, patience=patience))
    click.echo(results.table(outcomes, recorded))
    if json_path is not None:
        results.write_json(json_path, outcomes, recorded)
    if png is not None:
        results.write_png(png, outcomes, recorded)
    differing = [f"{name} ({outcome.title})" for outcome in outcomes for name in outcome.disagreeing]
    if differing:
        click.echo(f"Answers differ: {'; '.join(differing)}", err=True)
        sys.exit(1)
