"""The ``salience`` command: demo, fit, recommend, explain, evaluate, compare, report, bench, doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# First: it says what to install where click or rich is missing.
from salience._terminal import data_options, errors, progress_bar, read_ids, read_titles, titles_option, write_csv  # isort: split

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from salience import ALS, Interactions, Popularity, Recommendations, _storage, datasets, show_config
from salience.bench.command import bench
from salience.evaluation import Report, evaluate, splits
from salience.evaluation.command import compare_command, evaluate_command, model_options, report_command, within

DEMO = ("recall@20", "hit_rate@10", "map@10", "ndcg@20")
_BATCH = 4096

output = Console()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="salience")
def cli() -> None:
    """Decide what deserves a person's attention, and prove how good the choice is."""


@cli.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A file of your own instead of the built-in catalogue.",
)
@data_options
def demo(data: Path | None, **columns: Any) -> None:
    """Fit, evaluate, recommend and explain, on a built-in synthetic catalogue or on FILE."""
    if data is None:
        catalogue = datasets.synthetic()
        interactions, titles = catalogue.interactions, dict(catalogue.titles)
    else:
        interactions, titles = Interactions.read(data, **columns), {}
    output.print(f"[bold]{interactions!r}[/bold]")
    timed = interactions.times is not None
    split = splits.temporal(interactions) if timed else splits.random(interactions)
    order = "the entries after them" if timed else "entries held out at random"
    output.print(f"Trained on {len(split.train)} entries, tested on {len(split.test)}: {order}.\n")
    metrics = within(DEMO, interactions.shape[1])
    table = Table("model", *metrics, title="Higher is better")
    # A small, dense catalogue wants a stronger pull towards zero than the default.
    models: dict[str, Any] = {"Popularity": Popularity(), "ALS": ALS(32, regularization=0.03)}
    for name, model in models.items():
        report = _fit_and_evaluate(model, split, DEMO, name)
        table.add_row(name, *(f"{report.values[metric]:.4f}" for metric in metrics))
    output.print(table)
    _show_one_user(models["ALS"], titles)


def _show_one_user(model: ALS, titles: dict[Any, str]) -> None:
    user = model.user_map.ids[int(np.argmax(np.diff(model._seen.matrix.indptr) == 20))]
    found = model.recommend([user], 5)
    table = Table("item", "score", "because of", title=f"For user {user}")
    for item, score in zip(found.ids[0][: found.counts[0]], found.scores[0], strict=False):
        reasons = model.explain(user, item).items[:2]
        table.add_row(
            _name(item, titles),
            f"{score:.3f}",
            ", ".join(_name(reason, titles) for reason in reasons),
        )
    output.print(table)


def _name(item: Any, titles: dict[Any, str]) -> str:
    return titles.get(item, str(item))


def _fit_and_evaluate(model: Any, split: Any, metrics: tuple[str, ...], name: str) -> Report:
    with progress_bar(f"Fitting {name}") as update:
        model.fit(split.train, progress=update)
    with progress_bar(f"Evaluating {name}") as update:
        wanted = within(metrics, split.test.shape[1])
        return evaluate(model, split.train, split.test, metrics=wanted, progress=update)


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", "path", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--feedback", type=click.Choice(["implicit", "explicit"]), default="implicit", show_default=True)
@data_options
@model_options
def fit(
    data: Path,
    path: Path,
    feedback: Any,
    factors: int,
    epochs: int,
    threads: int | None,
    seed: int,
    **columns: Any,
) -> None:
    """Fit ALS on DATA (CSV, TSV or Parquet) and save the model."""
    interactions = Interactions.read(data, **columns)
    model = ALS(factors, feedback=feedback, epochs=epochs, threads=threads, seed=seed)
    with progress_bar("Fitting") as update:
        model.fit(interactions, progress=update)
    model.save(path)
    errors.print(f"{interactions!r}: loss {model.loss_history_[-1]:.6g} after {epochs} epochs; saved {path}")


@cli.command()
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("-k", default=10, show_default=True, help="Items a user.")
@click.option("--users", help="Comma-separated user ids (default: all).")
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="A .csv or .parquet file (default: a table).",
)
@click.option("--include-seen", is_flag=True, help="Also recommend what a user had in training.")
@titles_option
def recommend(
    path: Path,
    k: int,
    users: str | None,
    target: Path | None,
    include_seen: bool,
    titles: Path | None,
) -> None:
    """Recommend items to users with a saved MODEL."""
    if target is not None and target.suffix not in (".csv", ".parquet"):
        raise ValueError(f"output: {target.name}; expected a file that ends in .csv or .parquet")
    model = ALS.load(path)
    wanted = model.user_map.ids if users is None else read_ids(users, model.user_map.ids)
    names = {} if titles is None else read_titles(titles)
    parts = []
    with progress_bar("Recommending") as update:
        for start in range(0, len(wanted), _BATCH):
            parts.append(model.recommend(wanted[start : start + _BATCH], k, exclude_seen=not include_seen))
            update(min(start + _BATCH, len(wanted)), len(wanted))
    columns = _columns(parts, names)
    if target is None:
        _print_columns(columns)
    else:
        _write_columns(columns, target)
        errors.print(f"{len(columns['user'])} recommendations for {len(wanted)} users: {target}")


def _columns(parts: list[Recommendations], titles: dict[str, str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"user": [], "item": [], "rank": [], "score": []}
    for part in parts:
        filled = part.rows >= 0
        columns["user"] += np.repeat(part.queries, part.counts).tolist()
        columns["item"] += part.ids[filled].tolist()
        columns["rank"] += (np.nonzero(filled)[1] + 1).tolist()
        columns["score"] += part.scores[filled].tolist()
    if titles:
        columns["title"] = [titles.get(str(item), "") for item in columns["item"]]
    return columns


def _print_columns(columns: dict[str, list[Any]]) -> None:
    table = Table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    output.print(table)


def _write_columns(columns: dict[str, list[Any]], target: Path) -> None:
    with _storage.replace_file(target) as temporary:
        if target.suffix == ".parquet":
            import pyarrow
            from pyarrow.parquet import write_table

            write_table(pyarrow.table(columns), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            write_csv(columns, file)


@cli.command()
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("user")
@click.argument("item")
@click.option("-n", "count", default=5, show_default=True, help="Past items to show.")
@titles_option
def explain(path: Path, user: str, item: str, count: int, titles: Path | None) -> None:
    """Name the past items behind the score of ITEM for USER."""
    model = ALS.load(path)
    reason = model.explain(read_ids(user, model.user_map.ids)[0], read_ids(item, model.item_map.ids)[0])
    output.print(f"score {reason.score:.4f} = {reason.base:.4f} + {reason.contributions.sum():.4f} from past items")
    names: dict[Any, str] = {} if titles is None else read_titles(titles)
    table = Table("past item", "adds")
    for past, share in zip(reason.items[:count], reason.contributions[:count], strict=True):
        table.add_row(_name(str(past), names), f"{share:+.4f}")
    output.print(table)


for command in (evaluate_command, compare_command, report_command, bench):
    cli.add_command(command)


@cli.command()
def doctor() -> None:
    """Say what was built, what this machine offers, what is used, and why not more."""
    config = show_config()
    machine = f"{config['machine']}, {config['threads']} cores to use"
    output.print(f"salience {config['version']}, Python {config['python']}, {machine}")
    table = Table("instruction set", "built", "offered", "note")
    for row in config["instruction_sets"]:
        note = row["why_not"]
        if row["name"] == config["kernels"]:
            note = "in use"
        elif row["name"] == config["chosen"]:
            note = f"chosen, served by the kernels of {config['kernels']}"
        elif not row["built"] and not note:
            note = "the compiler that built this does not know it"
        table.add_row(row["name"], *("yes" if row[key] else "no" for key in ("built", "offered")), note)
    output.print(table)
    if config["forced"]:
        output.print(f"SALIENCE_ISA={config['forced']} forces the choice.")
    output.print(f"CUDA module: {config['cuda']}")
    if config["cuda"].startswith("built"):
        output.print(f"GPU: {config['gpu']['name'] if config['gpu'] else 'none in use, as ' + config['cuda_why_not']}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a bad argument ends it with one line and exit status 1."""
    try:
        cli(arguments)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        errors.print(f"[red]salience:[/red] {escape(_words(error))}", highlight=False)
        sys.exit(1)


def _words(error: Exception) -> str:
    """Say what failed; of an error of the system the file first, as in our own."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
