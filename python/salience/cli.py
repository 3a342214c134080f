"""The ``salience`` command: demo, fit, recommend, explain, evaluate, doctor."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from salience import ALS, Interactions, Popularity, Recommendations, _storage, datasets, show_config
from salience.evaluation import Report, evaluate, splits

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError as missing:  # pragma: no cover - exercised by hand in an environment without them
    sys.exit(f"salience needs {missing.name} for its command: pip install 'salience[cli]'")

RANKING = (
    "recall@10",
    "recall@20",
    "precision@10",
    "hit_rate@10",
    "map@10",
    "mrr@10",
    "ndcg@10",
    "ndcg@20",
)
DEMO = ("recall@20", "hit_rate@10", "map@10", "ndcg@20")
RATING = ("rmse", "mae")
_BATCH = 4096

output = Console()
errors = Console(stderr=True)


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error while the block runs; yields ``update(done, total)``."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def data_options(command: Any) -> Any:
    """Name the columns of a file of interactions."""
    for option in (
        click.option("--duplicates", default="last", show_default=True,
                     type=click.Choice(["sum", "last", "first", "max", "mean", "error"]),
                     help="How rows with the same user and item become one."),
        click.option("--time", help="Column of times."),
        click.option("--value", help="Column of ratings or counts (default: 1 everywhere)."),
        click.option("--item", default="item", show_default=True, help="Column of item ids."),
        click.option("--user", default="user", show_default=True, help="Column of user ids."),
    ):  # fmt: skip
        command = option(command)
    return command


def model_options(command: Any) -> Any:
    """Set up ALS."""
    for option in (
        click.option("--seed", default=0, show_default=True),
        click.option("--threads", type=int, help="Default: the cores this process may use."),
        click.option("--epochs", default=10, show_default=True),
        click.option("--factors", default=64, show_default=True),
    ):
        command = option(command)
    return command


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
    metrics = _within(DEMO, interactions.shape[1])
    table = Table("model", *metrics, title="Higher is better")
    # A small, dense catalogue wants a stronger pull towards zero than the default.
    models: dict[str, Any] = {"Popularity": Popularity(), "ALS": ALS(32, regularization=12.0)}
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


def _within(metrics: tuple[str, ...], items: int) -> list[str]:
    """Lower cut-offs that exceed a small catalogue."""
    parts = [metric.split("@") for metric in metrics]
    return list(dict.fromkeys("@".join([base, *(str(min(int(k), items)) for k in cut)]) for base, *cut in parts))


def _fit_and_evaluate(model: Any, split: Any, metrics: tuple[str, ...], name: str) -> Report:
    with progress_bar(f"Fitting {name}") as update:
        model.fit(split.train, progress=update)
    with progress_bar(f"Evaluating {name}") as update:
        wanted = _within(metrics, split.test.shape[1])
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
@click.option(
    "--titles",
    type=click.Path(path_type=Path),
    help="CSV whose first two columns are item id and title.",
)
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
    wanted = model.user_map.ids if users is None else _ids(users, model.user_map.ids)
    names = {} if titles is None else _read_titles(titles)
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


def _ids(text: str, known: Any) -> Any:
    names = [name.strip() for name in text.split(",")]
    if known.dtype == object:
        return np.array(names, dtype=object)
    try:
        return np.array(names, dtype=np.int64)
    except ValueError:
        raise ValueError(f"users: {text!r}; expected whole numbers, as in the data") from None


def _read_titles(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row[0]: row[1] for row in list(csv.reader(file))[1:] if len(row) > 1}


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
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


@cli.command()
@click.argument("path", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("user")
@click.argument("item")
@click.option("-n", "count", default=5, show_default=True, help="Past items to show.")
@click.option("--titles", type=click.Path(path_type=Path), help="CSV whose first two columns are item id and title.")
def explain(path: Path, user: str, item: str, count: int, titles: Path | None) -> None:
    """Name the past items behind the score of ITEM for USER."""
    model = ALS.load(path)
    reason = model.explain(_ids(user, model.user_map.ids)[0], _ids(item, model.item_map.ids)[0])
    output.print(f"score {reason.score:.4f} = {reason.base:.4f} + {reason.contributions.sum():.4f} from past items")
    names: dict[Any, str] = {} if titles is None else _read_titles(titles)
    table = Table("past item", "adds")
    for past, share in zip(reason.items[:count], reason.contributions[:count], strict=True):
        table.add_row(_name(str(past), names), f"{share:+.4f}")
    output.print(table)


@cli.command("evaluate")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--split",
    "kind",
    type=click.Choice(["temporal", "random", "leave-last"]),
    default="random",
    show_default=True,
)
@click.option("--test-fraction", default=0.2, show_default=True)
@data_options
@model_options
def evaluate_command(
    data: Path,
    kind: str,
    test_fraction: float,
    factors: int,
    epochs: int,
    threads: int | None,
    seed: int,
    **columns: Any,
) -> None:
    """Split DATA, fit ALS, and print ranking metrics and, where there are values, RMSE and MAE."""
    interactions = Interactions.read(data, **columns)
    if kind == "temporal":
        split = splits.temporal(interactions, test_fraction=test_fraction)
    elif kind == "leave-last":
        split = splits.leave_last(interactions)
    else:
        split = splits.random(interactions, test_fraction=test_fraction, seed=seed)
    output.print(f"{interactions!r}\n{kind} split: {len(split.train)} to train on, {len(split.test)} to test")
    settings: dict[str, Any] = {
        "factors": factors,
        "epochs": epochs,
        "threads": threads,
        "seed": seed,
    }
    if columns["value"] is not None:
        report = _fit_and_evaluate(ALS(feedback="explicit", **settings), split, RATING, "explicit ALS")
        output.print("\nRatings, explicit ALS", report.table(), sep="\n", highlight=False)
    report = _fit_and_evaluate(ALS(**settings), split, RANKING, "implicit ALS")
    output.print("\nRanking, implicit ALS", report.table(), sep="\n", highlight=False)


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


def main() -> None:
    """Run the command; a bad argument ends it with one line and exit status 1."""
    try:
        cli()
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        errors.print(f"[red]salience:[/red] {error}", highlight=False)
        sys.exit(1)
