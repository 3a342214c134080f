"""Training by alternating least squares: everyone minimizes one objective, or, on ratings, is tested on one part.

Implicit feedback. The objective is that of :class:`salience.ALS` for pairs of value 1:

    sum_S (1 - x.y)^2 + w sum_all (x.y)^2 + sum_u l_u |x_u|^2 + sum_i l_i |y_i|^2,
    l_u = r (|S_u| + w items)^e, l_i the same for items.

implicit, LensKit and RecTools weigh observed pairs by 1 + a and all others by 1, with a ridge r' on every row.
Theirs is the same objective, times a constant and plus one, with a = 1 / w, r' = (r / w) (1 + a) / a, e = 0, and
factors sqrt((1 + a) / a) times ours (complete the square over the observed pairs). irspack states ours.
Every contestant's factors are put into this objective, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience.als import ALS
from salience.bench.contest import OURS, Problem, Verdict
from salience.bench.peers import UnsupportedError, thread_limit
from salience.bench.timing import Call
from salience.evaluation.splits import Split
from salience.interactions import Interactions

Factors = tuple[npt.NDArray[Any], npt.NDArray[Any]]

# After as many epochs from other starting points; the mapping of settings has a test of its own.
_LOSS_SLACK = 0.01


def objective(
    matrix: Any, users: npt.NDArray[Any], items: npt.NDArray[Any], *, unobserved_weight: float, regularization: float,
    regularization_exponent: float,
) -> float:  # fmt: skip
    """Compute the objective above from factors, in float64.

    Parameters
    ----------
    matrix : scipy.sparse matrix of users by items
        Its pattern is S.
    users, items : arrays, shape (users or items, factors)

    Notes
    -----
    O(entries * factors + (users + items) * factors^2): the sum over all pairs is a product of Gramians.
    """
    pairs = sp.csr_matrix(matrix)
    x, y = users.astype(np.float64), items.astype(np.float64)
    rows = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    observed = 0.0
    for start in range(0, pairs.nnz, 1 << 18):
        part = slice(start, start + (1 << 18))
        scores = np.einsum("ij,ij->i", x[rows[part]], y[pairs.indices[part]])
        observed += float(((1.0 - scores) ** 2).sum())
    everything = unobserved_weight * float(((x.T @ x) * (y.T @ y)).sum())
    ridge = 0.0
    counts = np.diff(pairs.indptr), np.bincount(pairs.indices, minlength=pairs.shape[1])
    for factors, count, others in zip((x, y), counts, (len(y), len(x)), strict=True):
        weights = regularization * (count + unobserved_weight * others) ** regularization_exponent
        ridge += float(weights @ (factors**2).sum(axis=1))
    return observed + everything + ridge


@dataclass
class ImplicitALS(Problem):
    """A number of epochs on observed pairs; what counts is the time they take and the loss they reach."""

    interactions: Interactions
    factors: int
    epochs: int
    unobserved_weight: float
    regularization: float
    regularization_exponent: float
    threads: int
    data: str

    task = "als"

    def __post_init__(self) -> None:
        matrix = self.interactions.matrix
        self.matrix = sp.csr_matrix((np.ones(matrix.nnz, np.float32), matrix.indices, matrix.indptr), matrix.shape)

    def describe(self) -> dict[str, Any]:
        """Return the data's shape and the settings."""
        return {
            "data": self.data,
            "feedback": "implicit",
            "users": self.matrix.shape[0],
            "items": self.matrix.shape[1],
            "entries": int(self.matrix.nnz),
            "factors": self.factors,
            "epochs": self.epochs,
            **self._settings,
        }

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "unobserved_weight": self.unobserved_weight,
            "regularization": self.regularization,
            "regularization_exponent": self.regularization_exponent,
        }

    def title(self) -> str:
        """Return users x items, entries, factors, epochs (data)."""
        return _title(self.data, self.matrix, self.factors, self.epochs)

    def ours(self) -> dict[str, Call]:
        """Fit ALS on a matrix of ones."""
        data = Interactions.from_csr(self.matrix)

        def fit() -> Factors:
            model = ALS(self.factors, alpha=1.0, epochs=self.epochs, threads=self.threads, **self._settings).fit(data)
            return model.user_factors_, model.item_factors_

        return {OURS: fit}

    def judge(self, answers: dict[str, Factors]) -> dict[str, Verdict]:
        """Put everyone's factors into the objective.

        Solvers come down at different speeds: who ends more than 1 % above the best is behind, and wrong only where
        another scale of the factors would save as much, as of factors that minimize something else.
        """
        losses = {name: self._loss(*factors) for name, factors in answers.items()}
        best = min(losses.values())
        return {name: self._verdict(loss, best, *answers[name]) for name, loss in losses.items()}

    def _loss(self, users: npt.NDArray[Any], items: npt.NDArray[Any]) -> float:
        return objective(self.matrix, users, items, **self._settings)

    def _verdict(self, loss: float, best: float, users: npt.NDArray[Any], items: npt.NDArray[Any]) -> Verdict:
        above = loss / best - 1
        words = "the lowest loss" if loss == best else f"loss {above:+.2%} above the lowest"
        figures = {"loss": loss, "loss_per_pair": loss / self.matrix.nnz}
        if above <= _LOSS_SLACK:
            return Verdict(words, agrees=True, figures=figures)
        if self._saved_by_scale(loss, users, items) <= _LOSS_SLACK:
            return Verdict(f"{words}: behind after as many epochs", figures=figures)
        return Verdict(f"differs: {words}", agrees=False, figures=figures)

    def _saved_by_scale(self, loss: float, users: npt.NDArray[Any], items: npt.NDArray[Any]) -> float:
        """Return the share of the loss that the best scale of one side saves: nothing of the side solved last."""
        nothing = self._loss(users * 0.0, items), self._loss(users, items * 0.0)
        double = self._loss(users * 2.0, items), self._loss(users, items * 2.0)
        savings = []
        for at_0, at_2 in zip(nothing, double, strict=True):  # a parabola, known at 0, 1 and 2
            curvature = (at_2 - 2 * loss + at_0) / 2
            slope = loss - at_0 - curvature
            savings.append((loss - at_0 + slope**2 / (4 * curvature)) / loss if curvature > 0 else 0.0)
        return min(savings)

    def confidence(self) -> tuple[float, float]:
        """Map the settings to extra confidence in observed pairs and a ridge, as implicit states them.

        Raises
        ------
        UnsupportedError
            Where the ridge depends on the row, or nothing pulls unobserved pairs to 0.
        """
        if self.regularization_exponent != 0:
            raise UnsupportedError("has one ridge for all rows: needs a regularization exponent of 0")
        if self.unobserved_weight == 0:
            raise UnsupportedError("weighs unobserved pairs by 1: needs an unobserved weight above 0")
        extra = 1 / self.unobserved_weight
        return extra, self.regularization * extra * (1 + extra) / extra

    def from_confidence(self, users: npt.NDArray[Any], items: npt.NDArray[Any]) -> Factors:
        """Scale factors from implicit's objective to ours."""
        extra, _ = self.confidence()
        scale = np.sqrt(extra / (1 + extra))
        return users * scale, items * scale


def _title(data: str, matrix: Any, factors: int, epochs: int) -> str:
    users, items = matrix.shape
    return f"{users:,} x {items:,}, {matrix.nnz:,} entries, {factors} factors, {epochs} epochs ({data})"


@contextmanager
def _implicit_model(problem: ImplicitALS, *, use_cg: bool) -> Iterator[Any]:
    """Set up implicit's ALS; while it is used BLAS has one thread, as it asks for."""
    from implicit.cpu.als import AlternatingLeastSquares

    extra, ridge = problem.confidence()
    with thread_limit(1, blas_only=True):
        yield AlternatingLeastSquares(
            factors=problem.factors, regularization=ridge, alpha=1 + extra, iterations=problem.epochs,
            use_cg=use_cg, num_threads=problem.threads, random_state=0,
        )  # fmt: skip


def by_implicit(problem: ImplicitALS) -> dict[str, Call]:
    """Both of its solvers."""
    import implicit  # noqa: F401 - fails here, not in its turn, where it cannot be imported

    problem.confidence()

    def fit(*, use_cg: bool) -> Factors:
        with _implicit_model(problem, use_cg=use_cg) as model:
            model.fit(problem.matrix, show_progress=False)
        return problem.from_confidence(model.user_factors, model.item_factors)

    return {
        "implicit, conjugate gradients": lambda: fit(use_cg=True),
        "implicit, Cholesky": lambda: fit(use_cg=False),
    }


def by_irspack(problem: ImplicitALS) -> dict[str, Call]:
    """Each of its solvers."""
    from irspack import IALSRecommender

    def fit(solver: Any) -> Factors:
        model = IALSRecommender(
            problem.matrix, n_components=problem.factors, alpha0=problem.unobserved_weight,
            reg=problem.regularization, nu=problem.regularization_exponent, solver_type=solver,
            loss_type="IALSPP", train_epochs=problem.epochs, n_threads=problem.threads,
        ).learn()  # fmt: skip
        return model.get_user_embedding(), model.get_item_embedding()

    return {
        "irspack, conjugate gradients": lambda: fit("CG"),
        "irspack, iALS++": lambda: fit("IALSPP"),
        "irspack, Cholesky": lambda: fit("CHOLESKY"),
    }


def _lenskit_data(frame: Any) -> Any:
    from lenskit.data import from_interactions_df

    return from_interactions_df(frame)


def _lenskit_frame(matrix: Any, values: npt.NDArray[Any] | None = None) -> Any:
    import pandas as pd

    coo = sp.coo_matrix(matrix)
    columns = {"user_id": coo.row, "item_id": coo.col}
    return pd.DataFrame(columns if values is None else columns | {"rating": values})


def _in_order(factors: npt.NDArray[Any], numbers: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Put rows of factors where the vocabulary of a peer says; who is unknown to it stays at zero."""
    out = np.zeros((rows, factors.shape[1]), factors.dtype)
    out[numbers] = factors
    return out


def by_lenskit(problem: ImplicitALS) -> dict[str, Call]:
    """ImplicitMFScorer, whose solver is Cholesky's."""
    from lenskit.als import ImplicitMFScorer

    extra, ridge = problem.confidence()
    dataset = _lenskit_data(_lenskit_frame(problem.matrix))

    def fit() -> Factors:
        model = ImplicitMFScorer(
            embedding_size=problem.factors, epochs=problem.epochs, weight=extra, regularization=ridge
        )
        model.train(dataset)
        users = _in_order(model.user_embeddings, model.users.ids(), problem.matrix.shape[0])
        items = _in_order(model.item_embeddings, model.items.ids(), problem.matrix.shape[1])
        return problem.from_confidence(users, items)

    return {"lenskit, Cholesky": fit}


def by_rectools(problem: ImplicitALS) -> dict[str, Call]:
    """Its wrapper around implicit, conjugate gradients."""
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import ImplicitALSWrapperModel

    problem.confidence()
    coo = sp.coo_matrix(problem.matrix)
    frame = pd.DataFrame(
        {"user_id": coo.row, "item_id": coo.col, "weight": 1.0, "datetime": pd.Timestamp("2020-01-01")}
    )
    dataset = Dataset.construct(frame)

    def fit() -> Factors:
        with _implicit_model(problem, use_cg=True) as inner:
            model = ImplicitALSWrapperModel(inner).fit(dataset)
        users, items = model.get_vectors()
        users = _in_order(users, dataset.user_id_map.external_ids.astype(np.int64), problem.matrix.shape[0])
        items = _in_order(items, dataset.item_id_map.external_ids.astype(np.int64), problem.matrix.shape[1])
        return problem.from_confidence(users, items)

    return {"rectools, conjugate gradients": fit}


IMPLICIT: dict[str, Callable[[ImplicitALS], dict[str, Call]]] = {
    "implicit": by_implicit,
    "irspack": by_irspack,
    "lenskit": by_lenskit,
    "rectools": by_rectools,
}
ImplicitALS.adapters = IMPLICIT


@dataclass
class ExplicitALS(Problem):
    """A number of epochs on ratings; the peers fit other models, so what counts is the time and the test RMSE."""

    split: Split
    factors: int
    epochs: int
    threads: int
    data: str

    task = "als"

    def describe(self) -> dict[str, Any]:
        """Return the data's shape and the settings."""
        users, items = self.split.train.shape
        return {
            "data": self.data,
            "feedback": "explicit",
            "users": users,
            "items": items,
            "entries": len(self.split.train),
            "tested": len(self.split.test),
            "factors": self.factors,
            "epochs": self.epochs,
        }

    def title(self) -> str:
        """Return users x items, ratings, factors, epochs (data)."""
        return "ratings, " + _title(self.data, self.split.train.matrix, self.factors, self.epochs)

    def tested(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the rows of users and of items of the test ratings that training knows something about."""
        known_users = np.diff(self.split.train.matrix.indptr) > 0
        known_items = np.bincount(self.split.train.matrix.indices, minlength=self.split.train.shape[1]) > 0
        users, items = self.split.test.rows, self.split.test.matrix.indices
        known = known_users[users] & known_items[items]
        self._truth = self.split.test.matrix.data[known]
        return users[known], items[known].astype(np.int64)

    def ours(self) -> dict[str, Call]:
        """Fit explicit ALS."""
        self._pairs = self.tested()
        train = Interactions.from_csr(self.split.train.matrix)

        def fit() -> Any:
            model = ALS(self.factors, feedback="explicit", epochs=self.epochs, threads=self.threads).fit(train)
            return lambda: model.score(*self._pairs)

        return {OURS: fit}

    def judge(self, answers: dict[str, Callable[[], npt.NDArray[Any]]]) -> dict[str, Verdict]:
        """Compute everyone's RMSE on the test ratings (predicting is not timed)."""
        bounds = self.split.train.matrix.data.min(), self.split.train.matrix.data.max()
        verdicts = {}
        for name, predict in answers.items():
            predicted = np.clip(predict(), *bounds)
            rmse = float(np.sqrt(np.mean((predicted - self._truth) ** 2.0)))
            words = "" if name == OURS else "another model: "
            verdicts[name] = Verdict(f"{words}test RMSE {rmse:.4f}", figures={"rmse": rmse})
        return verdicts


def rate_with_lenskit(problem: ExplicitALS) -> dict[str, Call]:
    """BiasedMFScorer: ALS on what biases leave."""
    from lenskit.als import BiasedMFScorer
    from lenskit.data import ItemList

    train = problem.split.train.matrix
    dataset = _lenskit_data(_lenskit_frame(train, train.data))
    users, items = problem.tested()

    def predict(model: Any) -> npt.NDArray[Any]:
        out = np.empty(len(users), np.float64)
        starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1], True])
        for start, stop in pairwise(starts):
            found = model(int(users[start]), ItemList(item_ids=items[start:stop]))
            out[start:stop] = found.scores()
        return out

    def fit() -> Any:
        model = BiasedMFScorer(embedding_size=problem.factors, epochs=problem.epochs)
        model.train(dataset)
        return lambda: predict(model)

    return {"lenskit, biased ALS": fit}


def rate_with_surprise(problem: ExplicitALS) -> dict[str, Call]:
    """SVD with its default learning rate and ridge: stochastic gradient descent, one thread."""
    import pandas as pd
    from surprise import SVD, Dataset, Reader

    coo = sp.coo_matrix(problem.split.train.matrix)
    frame = pd.DataFrame({"user": coo.row, "item": coo.col, "value": coo.data.astype(np.float64)})
    reader = Reader(rating_scale=(float(coo.data.min()), float(coo.data.max())))
    dataset = Dataset.load_from_df(frame, reader).build_full_trainset()
    users, items = (rows.tolist() for rows in problem.tested())

    def fit() -> Any:
        model = SVD(n_factors=problem.factors, n_epochs=problem.epochs, random_state=0).fit(dataset)
        return lambda: np.array([model.predict(u, i).est for u, i in zip(users, items, strict=True)])

    return {"surprise, SGD on one thread": fit}


EXPLICIT: dict[str, Callable[[ExplicitALS], dict[str, Call]]] = {
    "lenskit": rate_with_lenskit,
    "surprise": rate_with_surprise,
}
ExplicitALS.adapters = EXPLICIT
