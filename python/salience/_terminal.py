"""What the commands share: consoles, progress bars, options that name columns, tables as text files."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience import _storage

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ImportError as missing:  # pragma: no cover - exercised by hand in an environment without them
    sys.exit(f"salience needs {missing.name} for its command: pip install 'salience[cli]'")

errors = Console(stderr=True, soft_wrap=True)


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error while the block runs; yields ``update(done, total)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def options(*some: Any) -> Callable[[Any], Any]:
    """Put several click options, in the order of the help text, into one decorator."""

    def decorate(command: Any) -> Any:
        for option in reversed(some):
            command = option(command)
        return command

    return decorate


data_options = options(
    click.option("--user", default="user", show_default=True, help="Column of user ids."),
    click.option("--item", default="item", show_default=True, help="Column of item ids."),
    click.option("--value", help="Column of ratings or counts (default: 1 everywhere)."),
    click.option("--time", help="Column of times."),
    click.option("--duplicates", default="last", show_default=True,
                 type=click.Choice(["sum", "last", "first", "max", "mean", "error"]),
                 help="How rows with the same user and item become one."),
)  # fmt: skip


def take_columns(given: dict[str, Any]) -> dict[str, Any]:
    """Take what ``data_options`` gave out of the options of a command, for ``Interactions.read``."""
    return {name: given.pop(name) for name in ("user", "item", "value", "time", "duplicates")}


titles_option = click.option(
    "--titles", type=click.Path(path_type=Path), help="CSV whose first two columns are item id and title."
)


def read_titles(path: Path) -> dict[str, str]:
    """Read item titles by the item's id as text, below a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row[0]: row[1] for row in list(csv.reader(file))[1:] if len(row) > 1}


def read_ids(text: str, known: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Read comma-separated ids: text or whole numbers, as the ``known`` ones are."""
    names = [name.strip() for name in text.split(",")]
    if known.dtype == object:
        return np.array(names, dtype=object)
    try:
        return np.array(names, dtype=np.int64)
    except ValueError:
        raise ValueError(f"users: {text!r}; expected whole numbers, as in the data") from None


def write_csv(columns: Mapping[str, Sequence[Any]], file: Any) -> None:
    """Write columns with a header."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))


def write_text(text: str, target: Path | None) -> None:
    """Print text, or put it into a file that is whole or not there."""
    if target is None:
        click.echo(text)
        return
    with _storage.replace_file(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    errors.print(f"wrote {target}")
