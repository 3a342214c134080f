"""A run of training: epochs, validation with early stopping, checkpoints."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from salience import _storage
from salience._als import Factorization, fingerprint
from salience._als_backends import DeviceFailureError
from salience.interactions import Interactions

if TYPE_CHECKING:
    from salience.als import ALS

Judge = Callable[["ALS"], float]


@dataclass
class Best:
    """The best epoch so far, by validation, with its finished factors."""

    epoch: int
    score: float
    state: Factorization


class Run:
    """Epochs of one fit."""

    def __init__(
        self, model: ALS, state: Factorization, judge: Judge | None, patience: int, keep: Callable[[], None]
    ) -> None:
        self.model = model
        self.keep = keep
        self.state = state
        self.judge = judge
        self.patience = patience
        self.epoch = 0
        self.stopped = False
        self.best: Best | None = None
        self.losses: list[float] = []
        self.residuals: list[float] = []
        self.scores: list[float] = []

    def advance(self, callback: Callable[[int, ALS], Any] | None) -> None:
        """Train one epoch, judge it, and ask the callback."""
        report = self.state.epoch(self.epoch + 1)
        self.epoch += 1
        if not np.isfinite(report.loss):
            raise FloatingPointError(f"epoch {self.epoch}: the loss is {report.loss}; expected a finite number")
        self.losses.append(report.loss)
        self.residuals.append(report.residual)
        self._record(self.epoch)
        if callback is None and self.judge is None:
            return
        finished = self.state.copy()
        finished.finish()
        self._publish(finished, self.epoch)
        if self.judge is not None:
            self._judge(self.judge, finished)
        if callback is not None and callback(self.epoch, self.model) is True:
            self.stopped = True

    def _judge(self, judge: Judge, finished: Factorization) -> None:
        score = float(judge(self.model))
        if np.isnan(score):
            raise ValueError(f"validation: nan after epoch {self.epoch}; expected a number")
        self.scores.append(score)
        if self.best is None or score > self.best.score:
            self.best = Best(self.epoch, score, finished)
        elif self.epoch - self.best.epoch >= self.patience:
            self.stopped = True

    def finish(self) -> None:
        """Hand the model the best epoch's factors, or the last's."""
        if self.best is None:
            self.state.finish()
            self._publish(self.state, self.epoch)
        else:
            self._publish(self.best.state, self.best.epoch)

    def release(self, error: BaseException) -> None:
        """Give a GPU's memory back: a traceback that somebody keeps must not keep it too."""
        traceback.clear_frames(error.__traceback__)
        self.best = None
        for side in (self.state.users, self.state.items):
            side.factors = side.held = side.prior = None

    def _publish(self, finished: Factorization, epoch: int) -> None:
        self._record(epoch)
        self.model._adopt(finished)
        self.keep()

    def _record(self, epoch: int) -> None:
        model = self.model
        model.loss_history_, model.residual_history_ = list(self.losses), list(self.residuals)
        model.validation_history_, model.best_epoch_ = list(self.scores), epoch


def make_judge(
    validation: Interactions | Callable[[ALS], float] | None, metric: str | None, *, explicit: bool
) -> Judge | None:
    """Return what measures a model, larger is better."""
    if validation is None:
        if metric is not None:
            raise ValueError(f"validation_metric: {metric!r} without validation; expected validation interactions")
        return None
    if not isinstance(validation, Interactions):
        if not callable(validation):
            raise TypeError(f"validation: {validation!r}; expected Interactions or a function of the model")
        return validation
    held_out = validation
    name = metric if metric is not None else "rmse" if explicit else "ndcg@10"

    def judge(model: ALS) -> float:
        # Evaluation stands above the models, and is wanted here only when it runs.
        from salience.evaluation import evaluate

        value = evaluate(model, model._seen, held_out, metrics=(name,)).values[name]
        return -value if name in ("rmse", "mae") else value

    return judge


class Checkpoint:
    """A file that training can go on from, to the same bits."""

    def __init__(self, path: str | Path, model: ALS, state: Factorization) -> None:
        self.path = Path(path)
        self.written: int | None = None  # the epoch that the file holds
        settings = model._settings()
        settings.pop("epochs")
        self.origin = {
            "settings": settings,
            "data": fingerprint(state.users.rows),
            "features": [
                side.prior is not None and list(side.prior.features.shape) for side in (state.users, state.items)
            ],
        }

    def write(self, run: Run) -> None:
        """Write the run as it is, whole or not at all."""
        tensors = {f"now.{name}": array for name, array in run.state.state().items()}
        best = None
        if run.best is not None:
            best = {"epoch": run.best.epoch, "score": run.best.score}
            tensors.update({f"best.{name}": array for name, array in run.best.state.state().items()})
            if run.best.state.spectrum is not None:
                tensors["best.spectrum"] = run.best.state.spectrum
        progress = {
            "epoch": run.epoch, "losses": run.losses, "residuals": run.residuals, "scores": run.scores,
            "stopped": run.stopped, "best": best,
        }  # fmt: skip
        metadata = {"origin": self.origin, "progress": progress}
        _storage.save_tensors(self.path, tensors, kind="checkpoint", metadata=metadata)
        self.written = run.epoch

    def resume(self, run: Run) -> None:
        """Take the run to where the file was written, if there is one."""
        if not self.path.exists():
            return
        tensors, metadata = _storage.load_tensors(self.path, kind="checkpoint")
        expected = json.loads(json.dumps(self.origin))
        for name, what in expected.items():
            if metadata["origin"][name] != what:
                raise ValueError(
                    f"checkpoint: {self.path} was written with other {name}; expected the same, or another path"
                )
        progress = metadata["progress"]
        run.state.restore(_named(tensors, "now."))
        run.epoch, run.stopped = progress["epoch"], progress["stopped"]
        self.written = run.epoch
        run.losses, run.residuals, run.scores = (progress[name] for name in ("losses", "residuals", "scores"))
        if progress["best"] is not None:
            state = run.state.copy()
            state.restore(_named(tensors, "best."))
            state.spectrum = tensors.get("best.spectrum")
            run.best = Best(progress["best"]["epoch"], progress["best"]["score"], state)


@contextlib.contextmanager
def recovery(run: Run, store: Checkpoint | None) -> Iterator[None]:
    """Say, where a GPU fails in the middle of training, what is left."""
    try:
        yield
    except DeviceFailureError as error:
        run.release(error)
        words = f"{error}; training stopped after epoch {run.epoch}"
        if store is not None and store.written is not None:
            words += f", and {store.path} holds epoch {store.written}: fit again with it, on any device, to go on"
        raise type(error)(words) from error


@contextlib.contextmanager
def unbroken(model: ALS) -> Iterator[Callable[[], None]]:
    """Undo, where a fit fails, what it did to a model since ``keep`` was last called: factors and data belong together.

    Yields ``keep``.
    """
    kept = dict(model.__dict__)

    def keep() -> None:
        kept.clear()
        kept.update(model.__dict__)

    try:
        yield keep
    except BaseException:
        model.__dict__.clear()
        model.__dict__.update(kept)
        raise


def _named(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def progress_line(done: int, total: int) -> None:
    """Keep one line on standard error."""
    end = "\n" if done == total else ""
    sys.stderr.write(f"\rALS: epoch {done} of {total}{end}")
    sys.stderr.flush()
