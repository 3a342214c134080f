"""Alternating least squares for implicit and explicit feedback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from salience import _als_backends, _arrays, _core, _storage
from salience._als import (
    Factorization,
    FeaturePrior,
    Float32,
    HalfStep,
    Objective,
    Observations,
    Side,
    as_features,
    copy_padded,
    eigenbasis,
    padded,
)
from salience._explain import Explanation
from salience._training import Checkpoint, Run, make_judge, progress_line, recovery, unbroken
from salience.interactions import Interactions, as_interactions
from salience.models import VectorModel

if TYPE_CHECKING:
    from typing_extensions import Self

    from salience._backends import Device

_INITIAL_SCALE = 0.1
_DEFAULTS = {  # by feedback; chosen by benchmarks/quality/als_defaults.py on validation data
    "implicit": {"regularization": 0.011, "regularization_exponent": 1.0, "epochs": 8},
    "explicit": {"regularization": 1.0, "regularization_exponent": 0.5, "epochs": 10},
}
_UNOBSERVED_SHARE = 14.0  # by default all pairs together weigh so many times what the observed weigh


class ALS(VectorModel):
    """Matrix factorization by alternating least squares in the Gramian's eigenbasis.

    With S the observed pairs, x users, y items, minimizes

        sum_S c (p - x.y)^2 + unobserved_weight * sum_all (x.y)^2 + sum_u l_u |x_u|^2 + sum_i l_i |y_i|^2.

    Implicit: c = alpha * |value|, p = 1, or 0 where the value is negative (a dislike); "all" are the pairs of users and
    items with observations. Explicit: c = 1, p = value - mean - biases (solved jointly with the factors) and
    unobserved_weight = 0. The ridge is
    l_u = regularization * (|S_u| + unobserved_weight * items) ** regularization_exponent, explicit
    regularization * max(|S_u|, 1) ** regularization_exponent, and the same for items. With features the ridge
    pulls to W f_i in place of 0, and feature_regularization * |W|^2 is added.

    Parameters
    ----------
    factors : int
    feedback : {"implicit", "explicit"}
    alpha : float, optional
        Weight of an observation of value 1 (implicit). Default: the reciprocal of the mean magnitude of the values.
    unobserved_weight : float, optional
        Weight of the pull of every pair towards 0 (implicit). Default: that with which all pairs together weigh 14
        times what the observed ones do, so that neither the unit of the values nor the sparsity of the data matters.
    regularization, regularization_exponent : float, optional
    epochs : int, optional
        One epoch updates all users, then all items.
    solver : {"auto", "cg", "cholesky", "subspace"}
        "cg": conjugate gradients, preconditioned, started from the last epoch's solution. "cholesky": every row
        exactly, in float64; a row of n < factors observations by its n x n system (Woodbury). "subspace":
        ``block`` factors at a time (iALS++). "auto": the shortest rows exactly, others by conjugate gradients, and
        exactly where those fail.
    steps : int
        Most conjugate gradient steps that a row takes in a half-step.
    tolerance : float
        Relative residual at which a row takes no further step.
    block : int
        A multiple of 16.
    relaxation : float
        Between 0 and 2. From the second epoch on a row moves by this multiple of the way to its solution. Above 1
        (over-relaxation) that halves the number of epochs to a given loss, and never raises the loss.
    nonnegative : bool
        Hold all factors at 0 or above (biases are free); coordinate descent in float64.
    feature_regularization : float
    seed : int
        Same seed, same result to the bit, for any number of threads.
    threads : int, optional
        Default: the cores this process may run on.
    device : {"auto", "cpu", "cuda"}
        Where factors are computed: in training, :meth:`fold_in`, :meth:`fold_in_items` and :meth:`explain`
        (:meth:`partial_fit` is the CPU's). A GPU offers the solvers "auto", "cg" and "cholesky", without
        ``nonnegative``; "auto" goes there where it pays, it can serve the model and its memory suffices. The losses are
        the CPU's to 1e-4; the bits are the same in every run on the same kind of GPU.

    Attributes
    ----------
    user_factors_, item_factors_ : array of float32, shape (users or items, factors)
        Implicit: in the eigenbasis of the items' Gramian, the largest eigenvalue first.
    user_biases_, item_biases_, mean_ : arrays of float32 and float (explicit)
    user_feature_weights_, item_feature_weights_ : array of float32, shape (features, factors), or None
        With explicit feedback the biases' weights are a last column.
    loss_history_ : list of float
        The objective after each epoch.
    residual_history_ : list of float
        The worst relative residual of any row in each epoch.
    validation_history_ : list of float
    best_epoch_ : int
        The epoch whose factors the model holds.

    Notes
    -----
    Other parameterizations. Rendle et al.: their alpha0, lambda and nu are unobserved_weight, regularization and
    regularization_exponent with alpha = 1 (see :meth:`from_rendle`). implicit, and Hu, Koren and Volinsky:
    confidence 1 + a on observed pairs, 1 elsewhere and ridge r are alpha = a, unobserved_weight = 1,
    regularization = r a / (1 + a), exponent 0, and their factors are ours times sqrt((1 + a) / a); see
    :meth:`from_implicit`.

    Cost of an epoch: 4 (2 steps + 4) * entries * factors operations, plus 10 (users + items) * factors ** 2
    for the Gramians and rotations. At the end the users are solved exactly once more.

    References: Hu, Koren and Volinsky (ICDM 2008); Rendle et al., "Revisiting the performance of iALS on item
    recommendation benchmarks" (RecSys 2022), for objective and ridge; Rendle et al., "iALS++" (2021), for the
    subspace solver; Wen, Yin and Zhang (2012) for over-relaxation of alternating least squares.
    """

    loss_history_: list[float]
    residual_history_: list[float]
    validation_history_: list[float]
    best_epoch_: int

    def __init__(
        self,
        factors: int = 64,
        *,
        feedback: Literal["implicit", "explicit"] = "implicit",
        alpha: float | None = None,
        unobserved_weight: float | None = None,
        regularization: float | None = None,
        regularization_exponent: float | None = None,
        epochs: int | None = None,
        solver: Literal["auto", "cg", "cholesky", "subspace"] = "auto",
        steps: int = 2,
        tolerance: float = 1e-5,
        block: int = 64,
        relaxation: float = 1.5,
        nonnegative: bool = False,
        feature_regularization: float = 1.0,
        seed: int = 0,
        threads: int | None = None,
        device: Device = "auto",
    ) -> None:
        for argument, value, known in (
            ("feedback", feedback, ("implicit", "explicit")),
            ("solver", solver, ("auto", "cg", "cholesky", "subspace")),
            ("nonnegative", nonnegative, (False, True)),
        ):
            if value not in known:
                raise ValueError(f"{argument}: {value!r}; expected {' or '.join(map(repr, known))}")
        given = {
            "regularization": regularization,
            "regularization_exponent": regularization_exponent,
            "epochs": epochs,
        }
        chosen = {name: _DEFAULTS[feedback][name] if value is None else value for name, value in given.items()}
        self.factors = _arrays.whole(factors, argument="factors", least=1, most=4096)
        self.feedback = feedback
        # What is not given follows from the data, in fit.
        self._given_alpha = None if alpha is None else _arrays.real(alpha, argument="alpha", positive=True)
        self._given_weight = 0.0 if feedback == "explicit" else unobserved_weight
        if self._given_weight is not None:
            self._given_weight = _arrays.real(self._given_weight, argument="unobserved_weight")
        self.alpha, self.unobserved_weight = self._given_alpha or 1.0, self._given_weight or 0.0
        self.regularization = _arrays.real(chosen["regularization"], argument="regularization")
        self.regularization_exponent = _arrays.real(
            chosen["regularization_exponent"], argument="regularization_exponent"
        )
        self.epochs = _arrays.whole(chosen["epochs"], argument="epochs", least=1)
        self.solver = solver
        self.steps = _arrays.whole(steps, argument="steps", least=1)
        self.tolerance = _arrays.real(tolerance, argument="tolerance")
        self.block = _arrays.whole(block, argument="block", least=16)
        self.relaxation = _arrays.real(relaxation, argument="relaxation", positive=True)
        if self.block % 16 or self.relaxation >= 2:
            name, wanted = ("block", "a multiple of 16") if self.block % 16 else ("relaxation", "less than 2")
            raise ValueError(f"{name}: {getattr(self, name)}; expected {wanted}")
        self.nonnegative = bool(nonnegative)
        self.feature_regularization = _arrays.real(feature_regularization, argument="feature_regularization")
        self.seed = _arrays.whole(seed, argument="seed", most=2**64 - 1)
        _arrays.thread_count(threads)
        self.threads = threads
        self.device = _als_backends.check_device(device, solver=solver, nonnegative=self.nonnegative)

    @classmethod
    def from_rendle(
        cls, *, dimension: int, alpha0: float, regularization: float, nu: float, epochs: int = 16, **settings: Any
    ) -> Self:
        """Set up the model of "Revisiting the performance of iALS" by the names used there."""
        return cls(
            dimension, alpha=1.0, unobserved_weight=alpha0, regularization=regularization, regularization_exponent=nu,
            epochs=epochs, **settings,
        )  # fmt: skip

    @classmethod
    def from_implicit(
        cls,
        *,
        factors: int = 100,
        regularization: float = 0.01,
        confidence: float,
        iterations: int = 15,
        **settings: Any,
    ) -> Self:
        """Set up the model that implicit trains with ``confidence`` (its alpha times the value) on observed pairs.

        ``confidence`` is above 1. The same objective up to a constant; factors there are those here times
        sqrt(confidence / (confidence - 1)).
        """
        excess = _arrays.real(confidence, argument="confidence") - 1.0
        if excess <= 0:
            raise ValueError(f"confidence: {confidence}; expected more than the 1 of pairs that were not observed")
        return cls(
            factors, alpha=excess, unobserved_weight=1.0, regularization=regularization * excess / (1.0 + excess),
            regularization_exponent=0.0, epochs=iterations, **settings,
        )  # fmt: skip

    @property
    def _explicit(self) -> bool:
        return self.feedback == "explicit"

    @property
    def _objective(self) -> Objective:
        return Objective(
            factors=self.factors, explicit=self._explicit, alpha=self.alpha, unobserved_weight=self.unobserved_weight,
            regularization=self.regularization, exponent=self.regularization_exponent,
            feature_regularization=self.feature_regularization, nonnegative=self.nonnegative, solver=self.solver,
            steps=self.steps, tolerance=self.tolerance, block=self.block, relaxation=self.relaxation,
            threads=_arrays.thread_count(self.threads),
        )  # fmt: skip

    def fit(
        self,
        interactions: Any,
        *,
        item_features: Any = None,
        user_features: Any = None,
        validation: Interactions | Callable[[ALS], float] | None = None,
        validation_metric: str | None = None,
        patience: int = 3,
        warm_start: bool = False,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1,
        callback: Callable[[int, ALS], Any] | None = None,
        progress: Callable[[int, int], None] | bool = False,
    ) -> Self:
        """Learn factors from interactions.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
            Implicit values are confidences; a negative one is a dislike.
        item_features, user_features : dense array or scipy.sparse matrix, optional
            One row for each item (user), in row order. Factors are drawn to a linear map of these, learned along;
            items (users) without interactions get the map's value as factors.
        validation : Interactions, or a function of the model, optional
            Held-out interactions, or what to maximize. Measured after each epoch; training stops when ``patience``
            epochs in a row bring nothing better, and the best epoch's factors are kept.
        validation_metric : str, optional
            For Interactions; default "ndcg@10", explicit "rmse".
        warm_start : bool
            Start from the factors of the last fit, for the users and items known from it.
        checkpoint : path, optional
            Written after every ``checkpoint_every`` epochs. If it is there at the start, training goes on from
            it, to the same bits as without the interruption; it must come from the same settings and data.
        callback : callable, optional
            Called as ``callback(epoch, model)`` after each epoch, from 1; by then the model can
            recommend. Training stops where it returns True.
        progress : callable or bool
            Called as ``progress(done, total)`` after each epoch; True writes a line to standard error, and before
            it how a GPU's memory is divided.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        FloatingPointError
            Naming the first row whose system could not be solved, and why.
        RuntimeError, MemoryError
            A GPU is asked for and there is none that can be used, it has too little memory (with the bytes that are
            needed), or it failed in the middle; then a checkpoint holds what was reached, for any device.

        A fit that fails leaves the model as it was, or as the last callback or validation saw it.
        """
        data = as_interactions(interactions)
        if len(data) == 0:
            raise ValueError(f"interactions: {data!r}; expected at least one entry")
        features = [as_features(item_features, data.shape[1], "item_features"),
                    as_features(user_features, data.shape[0], "user_features")]  # fmt: skip
        patience = _arrays.whole(patience, argument="patience", least=1)
        every = _arrays.whole(checkpoint_every, argument="checkpoint_every", least=1)
        previous = self._previous() if warm_start else None
        judge = make_judge(validation, validation_metric, explicit=self._explicit)
        with unbroken(self) as keep:
            self._settle_weights(data)
            self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
            self.mean_ = float(data.matrix.data.mean(dtype=np.float64)) if self._explicit else 0.0
            copies = 1 + (judge is not None or callback is not None) + (judge is not None)
            state = self._start(data, features, previous, copies)
            run = Run(self, state, judge, patience, keep)
            store = None if checkpoint is None else Checkpoint(checkpoint, self, state)
            if store is not None:
                store.resume(run)
            report = progress_line if progress is True else progress or None
            if report is progress_line and state.backend.plan is not None:
                sys.stderr.write(f"{state.backend.plan}\n")
            with recovery(run, store):
                while run.epoch < self.epochs and not run.stopped:
                    run.advance(callback)
                    if store is not None and (run.epoch % every == 0 or run.epoch == self.epochs or run.stopped):
                        store.write(run)
                    if report is not None:
                        report(run.epoch, self.epochs)
                run.finish()
        return self

    def _settle_weights(self, data: Interactions) -> None:
        """Derive the weights that were not given from the data."""
        if self._explicit:
            return
        size = float(np.abs(data.matrix.data).mean(dtype=np.float64)) or 1.0
        self.alpha = 1.0 / size if self._given_alpha is None else self._given_alpha
        if self._given_weight is not None:
            return
        pairs = float(np.count_nonzero(np.diff(data.matrix.indptr))) * len(np.unique(data.matrix.indices))
        self.unobserved_weight = _UNOBSERVED_SHARE * self.alpha * size * len(data) / pairs

    def _previous(self) -> tuple[Any, Any, Float32, Float32]:
        self._require_fitted()
        return self.user_map, self.item_map, self._users, self._items

    def _start(self, data: Interactions, features: list[Any], previous: Any, copies: int = 0) -> Factorization:
        """Lay out both sides: items at random, users at 0, and what is known from before as it was.

        ``copies`` of the factors are wanted at a time, 0: on the CPU.
        """
        objective = self._objective
        users, items = (padded(count, objective.columns) for count in data.shape)
        scale = np.float32(_INITIAL_SCALE / np.sqrt(self.factors))
        items[:, : self.factors] = scale * _core.random_normal(
            self.seed, 0, len(items), self.factors, objective.threads
        )
        if self.nonnegative:
            np.abs(items, out=items)
        if previous is not None:
            for ids, old_ids, new, old in (
                (data.user_map, previous[0], users, previous[2]),
                (data.item_map, previous[1], items, previous[3]),
            ):
                if new.shape[1] != old.shape[1]:
                    raise ValueError(f"warm_start: {old.shape[1]} factors were fitted; expected {new.shape[1]}")
                found = old_ids.find(ids.ids, argument="interactions")
                new[found >= 0] = old[found[found >= 0]]
        observed = [Observations.of(matrix) for matrix in (data.matrix, data.matrix.T.tocsr())]
        sizes = _als_backends.Sizes.of(observed, features, copies)
        backend = _als_backends.for_training(self.device if copies else "cpu", objective, sizes)
        sides = []
        for name, rows, factors, others, given in (
            ("users", observed[0], users, len(items), features[1]),
            ("items", observed[1], items, len(users), features[0]),
        ):
            ridge = objective.ridge(rows.counts, others)
            prior = None if given is None else FeaturePrior(given, rows.counts > 0, ridge, objective, backend)
            sides.append(Side(name, rows, ridge, factors, prior))
        return Factorization.start(objective, sides[0], sides[1], self.mean_, backend)

    def _adopt(self, state: Factorization) -> None:
        """Take over a finished factorization."""
        self._users, self._items = state.host(state.users.factors), state.host(state.items.factors)
        self._spectrum = state.spectrum
        weights = (
            None if side.prior is None else np.ascontiguousarray(side.prior.weights)
            for side in (state.users, state.items)
        )
        self.user_feature_weights_, self.item_feature_weights_ = weights
        self._user_prior = None
        if state.users.prior is not None:
            self._user_prior = np.ascontiguousarray(state.host(state.users.prior.rows()))
        self._present()

    def _present(self) -> None:
        """Derive what the rest of the package reads from the padded factors."""
        f = self.factors
        self.user_factors_ = np.ascontiguousarray(self._users[:, :f])
        self.item_factors_ = np.ascontiguousarray(self._items[:, :f])
        self._serving = self.item_factors_
        if self._explicit:
            self.user_biases_, self.item_biases_ = self._users[:, f].copy(), self._items[:, f].copy()
            ones = np.ones((len(self._items), 1), np.float32)
            self._serving = np.hstack([self.item_factors_, ones, self.item_biases_[:, None]])
        # A change in place would go unnoticed by the packed copies that serve recommendations.
        for factors in (self.user_factors_, self.item_factors_, self._serving):
            factors.flags.writeable = False
        self._forget_indexes()

    def fold_in(self, interactions: Any, *, user_features: Any = None) -> Float32:
        """Compute factors of new users from their interactions with the known items.

        The exact solution of each row: a user's training history gives the factors that training left, to the bit.

        Parameters
        ----------
        interactions : scipy.sparse matrix or Interactions, shape (n, items)
            Columns are the model's item rows.
        user_features : array or sparse matrix, shape (n, features), optional
            Where the model was fitted with user features.

        Returns
        -------
        array of float32, shape (n, factors), or (n, factors + 1) with the bias last if explicit
        """
        self._require_fitted()
        csr = as_interactions(interactions).matrix
        self._expect_columns(csr, len(self.item_map))
        prior = self._prior_of(user_features, self.user_feature_weights_, csr.shape[0], "user_features")
        return self._fold(csr, self._items, len(self.item_map), self._spectrum, prior)

    def fold_in_items(self, interactions: Any, *, item_features: Any = None) -> Float32:
        """Compute factors of new items from the known users' interactions with them.

        Parameters
        ----------
        interactions : scipy.sparse matrix or Interactions, shape (users, n)
            Rows are the model's user rows.
        item_features : array or sparse matrix, shape (n, features), optional
            Where the model was fitted with item features; an item without interactions gets their map's value.

        Returns
        -------
        array of float32, shape (n, factors), or (n, factors + 1) with the bias last if explicit
        """
        self._require_fitted()
        matrix = as_interactions(interactions).matrix
        if matrix.shape[0] != len(self.user_map):
            raise ValueError(f"interactions: shape {matrix.shape}; expected {len(self.user_map)} rows")
        csr = matrix.T.tocsr()
        prior = self._prior_of(item_features, self.item_feature_weights_, csr.shape[0], "item_features")
        rotation = None
        backend, design = self._backend_of(csr), copy_padded(self._users)
        spectrum = None
        if self.unobserved_weight > 0 and not self.nonnegative:
            users = backend.matrix(design)
            spectrum, rotation = eigenbasis(backend.gramian(users, self.factors))
            backend.rotate(users, rotation)
            design = backend.host(users)
            if prior is not None:
                _core.rotate(prior[:, : self.factors], rotation, _arrays.thread_count(self.threads))
        found = self._fold(csr, design, len(self.user_map), spectrum, prior)
        if rotation is not None:
            turned = copy_padded(found)
            back = np.ascontiguousarray(rotation.T)
            _core.rotate(turned[:, : self.factors], back, _arrays.thread_count(self.threads))
            found = np.ascontiguousarray(turned)
        return found

    def _backend_of(self, csr: Any) -> _als_backends.Backend:
        """Choose where rows are solved exactly."""
        operations = _als_backends.operations_of_exact(np.diff(csr.indptr), self.factors)
        return _als_backends.for_solving(self.device, self._objective, operations)

    def _expect_columns(self, csr: Any, columns: int) -> None:
        if csr.shape[1] != columns:
            raise ValueError(f"interactions: shape {csr.shape}; expected {columns} columns")

    def _prior_of(self, features: Any, weights: Float32 | None, rows: int, argument: str) -> Float32 | None:
        if (features is None) != (weights is None):
            wanted = "none: the model was fitted without" if weights is None else "those that the model was fitted with"
            raise ValueError(f"{argument}: {_arrays.describe(features)}; expected {wanted}")
        if weights is None:
            return None
        matrix = as_features(features, rows, argument)
        if matrix.shape[1] != len(weights):
            raise ValueError(f"{argument}: shape {matrix.shape}; expected {len(weights)} columns")
        return copy_padded(np.asarray(matrix @ weights, np.float32))

    def _fold(
        self, csr: Any, design: Float32, others: int, spectrum: npt.NDArray[np.float64] | None, prior: Float32 | None
    ) -> Float32:
        if csr.shape[0] == 0:
            return np.zeros((0, self._objective.columns), np.float32)
        objective, rows, backend = self._objective, Observations.of(csr), self._backend_of(csr)
        dense = None
        if self.nonnegative and not self._explicit:
            dense = backend.gramian(backend.matrix(design), self.factors)
        ridge = objective.ridge(rows.counts, others)
        solution = backend.matrix(padded(csr.shape[0], objective.columns))
        backend.solve(
            objective, backend.rows(rows, len(design)), backend.matrix(design), solution,
            None if prior is None else backend.matrix(prior),
            HalfStep(ridge, spectrum=spectrum, dense=dense, mean=self.mean_, exact=True),
        )  # fmt: skip
        return np.ascontiguousarray(backend.host(solution))

    def partial_fit(
        self,
        interactions: Any,
        *,
        duplicates: Literal["sum", "last", "max"] = "sum",
        item_features: Any = None,
        user_features: Any = None,
    ) -> Self:
        """Learn from new interactions, new users and new items, without training anew.

        The factors grow; users and items in ``interactions`` are solved exactly (users, items, users again), all
        others stay as they are. What drifts this way, the next ``fit(..., warm_start=True)`` puts right.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
            With ids as in ``fit``; unknown ones are added after the known. A matrix (for a model without ids) may have
            more rows and columns than the model.
        duplicates : {"sum", "last", "max"}
            How a value joins the one that the pair has already.
        item_features, user_features : array or sparse matrix, optional
            Where the model was fitted with them: those of all items (users), new ones last.

        Notes
        -----
        Cost: two Gramians and rotations, 6 (users + items) * factors ** 2 operations, and the exact solution of what
        changed; an epoch costs far more.
        """
        self._require_fitted()
        new = as_interactions(interactions)
        if len(new) == 0:
            raise ValueError(f"interactions: {new!r}; expected at least one entry")
        data = self._seen.joined(new, duplicates=duplicates)
        features = [
            None if weights is None and given is None else self._features_of(given, weights, size, argument)
            for given, weights, size, argument in (
                (user_features, self.user_feature_weights_, data.shape[0], "user_features"),
                (item_features, self.item_feature_weights_, data.shape[1], "item_features"),
            )
        ]
        state = self._start(data, features[::-1], None)
        for side, old in ((state.users, self._users), (state.items, self._items)):
            side.factors[:] = 0
            side.factors[: len(old)] = old
        for side, weights in ((state.users, self.user_feature_weights_), (state.items, self.item_feature_weights_)):
            if side.prior is not None:
                side.prior.weights[:] = weights
        touched_users = np.unique(data.user_map.find(new.users[np.unique(new.rows)]))
        touched_items = np.unique(data.item_map.find(new.items[np.unique(new.matrix.indices)]))
        state.refine(touched_users, touched_items)
        self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
        self._adopt(state)
        return self

    def _features_of(self, features: Any, weights: Float32 | None, rows: int, argument: str) -> Any:
        self._prior_of(features, weights, rows, argument)
        return as_features(features, rows, argument)

    def explain(self, user: Any, item: Any, *, interactions: Any = None, user_features: Any = None) -> Any:
        """Split scores into what each of the user's past items adds to them, exactly.

        Parameters
        ----------
        user, item : ids, or arrays of ids of the same length
        interactions : scipy.sparse matrix or Interactions, shape (n, items), optional
            Histories to explain from in place of those that the model was fitted on, one row for each of ``user``,
            which then are only labels: for users that were folded in.
        user_features : array or sparse matrix, shape (n, features), optional
            With ``interactions``, where the model was fitted with user features.

        Returns
        -------
        Explanation, or a list of them for arrays

        Notes
        -----
        The user's factors are linear in the targets of the past items (Hu, Koren and Volinsky 2008, section 5).
        Cost: factors ** 3 in float64 for each distinct user.
        """
        self._require_fitted()
        single = np.ndim(user) == 0 and np.ndim(item) == 0
        users, items = np.atleast_1d(np.asarray(user)), np.atleast_1d(np.asarray(item))
        if users.ndim != 1 or users.shape != items.shape:
            raise ValueError(f"item: shape {items.shape}; expected one for each of the {len(users)} users")
        wanted = self.item_map.rows(items, argument="item")
        if interactions is None:
            matrix, rows = self._seen.matrix, self.user_map.rows(users, argument="user")
            prior = None if self._user_prior is None else self._user_prior[rows]
        else:
            matrix, rows = as_interactions(interactions).matrix, np.arange(len(users))
            self._expect_columns(matrix, len(self.item_map))
            if matrix.shape[0] != len(users):
                raise ValueError(f"interactions: shape {matrix.shape}; expected {len(users)} rows, one for each user")
            prior = self._prior_of(user_features, self.user_feature_weights_, len(users), "user_features")
        distinct, first, history = np.unique(rows, return_index=True, return_inverse=True)
        objective, past = self._objective, Observations.of(matrix[distinct])
        histories = _als_backends.Histories(
            past, objective.ridge(past.counts, len(self._items)), None if prior is None else prior[first],
            self._spectrum, self._dense_part(), self.mean_,
        )  # fmt: skip
        operations = len(wanted) * float(self.factors) ** 3
        backend = _als_backends.for_solving(self.device, objective, operations)
        parts, rest = backend.explain(objective, self._items, histories, wanted, history)
        base = self.mean_ + self._items[wanted, -1].astype(np.float64) if self._explicit else np.zeros(len(wanted))
        found = []
        for place, (part, whole) in enumerate(zip(parts, rest + base, strict=True)):
            begin, end = past.indptr[history[place] : history[place] + 2]
            order = np.argsort(-part, kind="stable")
            found.append(
                Explanation(
                    user if single else users[place], item if single else items[place], float(whole + part.sum()),
                    float(whole), self.item_map.ids[past.indices[begin:end][order]], part[order],
                )
            )  # fmt: skip
        return found[0] if single else found

    def _dense_part(self) -> npt.NDArray[np.float64]:
        if self._spectrum is not None:
            return self.unobserved_weight * np.diag(self._spectrum)
        dense = np.zeros((self._items.shape[1],) * 2)
        if not self._explicit and self.unobserved_weight > 0:
            dense += self.unobserved_weight * _core.gramian(self._items, _arrays.thread_count(self.threads))
        return dense

    def _query_vectors(self, rows: npt.NDArray[np.int64]) -> Float32:
        return self._queries_of(self._users[rows] if self._explicit else self.user_factors_[rows])

    def _queries_of(self, users: Float32) -> Float32:
        """Return the vectors that are searched with, for users solved as :meth:`fold_in` gives them."""
        if not self._explicit:
            return users
        offset = users[:, -1:] + np.float32(self.mean_)
        return np.hstack([users[:, :-1], offset, np.ones((len(users), 1), np.float32)])

    def _vectors_of(self, histories: Any) -> Float32:
        return self._queries_of(self.fold_in(histories))

    def _item_vectors(self) -> Float32:
        return self._serving

    def _similarity_vectors(self, vectors: Float32) -> Float32:
        return np.ascontiguousarray(vectors[:, : self.factors])

    def _settings(self) -> dict[str, Any]:
        names = ("factors", "feedback", "regularization", "regularization_exponent", "epochs", "solver", "steps",
                 "tolerance", "block", "relaxation", "nonnegative", "feature_regularization", "seed")  # fmt: skip
        given = {"alpha": self._given_alpha, "unobserved_weight": self._given_weight}
        return {**given, **{name: getattr(self, name) for name in names}}

    def save(self, path: str | Path) -> None:
        """Write the model, its ids and what users have seen; see :meth:`load`."""
        self._require_fitted()
        tensors, metadata = self._packed()
        tensors.update(_storage.pack_interactions("seen", self._seen))
        _storage.save_tensors(path, tensors, kind="ALS", metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; ValueError where the file is damaged or another model's."""
        tensors, metadata = _storage.load_tensors(path, kind="ALS")
        return cls._unpacked(tensors, metadata, _storage.unpack_interactions("seen", tensors))

    def _packed(self) -> tuple[_storage.Tensors, dict[str, Any]]:
        """Return what was learned, without the interactions."""
        tensors = {
            "users": self._users, "items": self._items, "loss": np.array(self.loss_history_),
            "residual": np.array(self.residual_history_), "validation": np.array(self.validation_history_),
        }  # fmt: skip
        optional = {
            "spectrum": self._spectrum, "user_prior": self._user_prior,
            "user_weights": self.user_feature_weights_, "item_weights": self.item_feature_weights_,
        }  # fmt: skip
        tensors.update({name: array for name, array in optional.items() if array is not None})
        metadata = {
            "settings": self._settings(), "mean": self.mean_, "best_epoch": self.best_epoch_,
            "weights": [self.alpha, self.unobserved_weight],
        }  # fmt: skip
        return tensors, metadata

    @classmethod
    def _unpacked(cls, tensors: _storage.Tensors, metadata: dict[str, Any], seen: Interactions) -> Self:
        """Undo :meth:`_packed`."""
        model = cls(**metadata["settings"])
        model._seen, model.user_map, model.item_map = seen, seen.user_map, seen.item_map
        model.mean_, model.best_epoch_ = metadata["mean"], metadata["best_epoch"]
        model.alpha, model.unobserved_weight = metadata["weights"]
        model.loss_history_, model.residual_history_, model.validation_history_ = (
            tensors[name].tolist() for name in ("loss", "residual", "validation")
        )
        model._users, model._items = copy_padded(tensors["users"]), copy_padded(tensors["items"])
        model._spectrum, model._user_prior = tensors.get("spectrum"), tensors.get("user_prior")
        model.user_feature_weights_, model.item_feature_weights_ = (
            tensors.get(name) for name in ("user_weights", "item_weights")
        )
        model._present()
        return model


__all__ = ["ALS", "Explanation"]
