"""The attention-weighted hybrid scorer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from salience import _arrays, _backends
from salience.hybrid._features import unit
from salience.hybrid.attention import (
    Attention,
    item_state,
    train_linear,
    train_softmax,
    user_state,
)
from salience.hybrid.components import Collaborative, Component, Content, Prior, as_component
from salience.hybrid.events import EventLog, Events, as_events
from salience.hybrid.explanation import HybridExplanation, explain
from salience.hybrid.feedback import Absorption, Feedback, Live, Observed, lesson
from salience.hybrid.losses import Lists
from salience.interactions import IdMap, Interactions, as_interactions, clean_ids
from salience.models import Float32, RankingModel, Recommendations, by_user
from salience.similarity import Index

if TYPE_CHECKING:
    from typing_extensions import Self

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

_BATCH_SCORES = 1 << 25  # of all components for all items that are held at once, in training
_SERVED = 4096  # users whose sparse scores are held at once
_TOP, _UNIFORM = 100, 400  # competitors of held-out items: the best of each component, and others
_HELD_OUT = 500  # of a user's held-out items, drawn at random: training compares each with the whole list
_SMALLEST_DEVIATION = 1e-6  # relative to the scores: below, it is rounding
_DAMPING = 5.0  # of the biases that ratings are relative to, in ratings


@dataclass
class Moments:
    """Mean and covariance of a component's item vectors over the items that it scores.

    With them the mean and deviation of a user's scores over the catalogue follow in closed form.
    """

    mean: Float64
    covariance: Float64
    items: int

    @classmethod
    def of(cls, component: Component) -> Moments:
        """Compute them."""
        vectors = component.item_vectors[component.item_available].astype(np.float64)
        if len(vectors) == 0:
            width = component.item_vectors.shape[1]
            return cls(np.zeros(width), np.zeros((width, width)), 0)
        mean = vectors.mean(axis=0)
        centred = vectors - mean
        return cls(mean, centred.T @ centred / len(vectors), len(vectors))


@dataclass
class Voices:
    """What one component says for n users, ready to be weighted.

    Attributes
    ----------
    vectors : shape (n, width)
    additions : CSR matrix of shape (n, items), or None
    mean, deviation : shape (n,)
        Of the scores over the items that the component scores; 0 and 1 where scores are not standardized.
    available : shape (n,)
    """

    vectors: Float32
    additions: Any
    mean: Float64
    deviation: Float64
    available: BoolArray


@dataclass
class Audience:
    """Users as they are served: what components say for them, and how much each of these counts.

    Attributes
    ----------
    voices : list of Voices
        One a component.
    state : shape (n, user state)
    weights : shape (n, components)
        Softmax: numerators.
    """

    voices: list[Voices]
    state: Float64
    weights: Float64

    @property
    def available(self) -> BoolArray:
        """Which components have something to say, shape (n, components)."""
        return _availability(self.voices)


def _availability(voices: list[Voices]) -> BoolArray:
    return np.column_stack([voice.available for voice in voices])


class HybridScorer(RankingModel):
    """Scores that mix components by attention: what the crowd, the content and the history say, weighted per user.

    Components are fitted, their scores standardized over the catalogue, and weighted by an attention that is learned
    on interactions that were held out from the components. All of it folds into one inner product (and sparse
    additions), so that recommending costs about what a factor model of the same width costs, and is exact.

    Parameters
    ----------
    components : sequence of Component or models
        :class:`Collaborative`, :class:`Content`, :class:`History`, :class:`Prior`; several of a kind make an ensemble.
        Bare models stand for the component that fits: ALS, ItemKNN or EASE, Popularity.
    attention : {"softmax", "linear", "fixed"}
        "softmax": a gate on the states of user and item, over the components that are available; where none of them is
        a Prior, one is added. "linear": weights are linear in the user's state (feature-weighted stacking). "fixed":
        ``weights`` for everybody.
    weights : sequence of float, optional
        For "fixed": one for each component. Without, they are learned, the same for everybody.
    standardize : bool
        Whether scores are brought to mean 0 and deviation 1 for each user before they are weighted. False with fixed
        weights is the classic formula a1 r1 + a2 r2 + a3 r3; always False for ratings.
    objective : {"ranking", "rating"}
        What attention is trained for. With "rating", which needs an explicit ALS among the components, scores predict
        ratings; other components then see ratings relative to biases of user and item, and attention is linear.
    held_out : float
        Share of the interactions that each round of training holds out.
    held_out_by : {"chance", "time"}
        Which: any, or the latest, where interactions have times. Then a round is fitted on what came before, and the
        next round holds out the latest of that. Attention learned by time suits users and items as they will be.
    rounds : int
        Rounds, each with components fitted anew on the rest; at most ``1 / held_out``, by time below that.
    most_users : int
        Users a round that attention is trained on.
    strength : float
        Ridge on what departs from weights that are the same for everybody.
    cutoff : int
        Length of the lists whose recall attention is trained for; not used for ratings.
    feedback : Feedback, optional
        How :meth:`observe` learns.
    seed : int
    threads : int, optional
    device : {"auto", "cpu", "cuda"}
        Where recommending searches, as for :class:`salience.Index`; the answers are the same. Components have theirs.

    Attributes
    ----------
    component_names : list of str
    attention_ : Attention
        The learned weights.
    user_map, item_map : IdMap
        Items that only a component's features know come after those of the interactions.

    Notes
    -----
    No interaction trains attention through a component that has seen it. Users without history are scored by what is
    left: their features in a Collaborative component, and the Prior; items without interactions by content. That needs
    no special call: components take no part where they are not available.

    Cost of fit: ``rounds + 1`` fits of the components. Cost of recommending: a top-k search as wide as the components
    together, plus one canonical score for each sparse addition.
    """

    def __init__(
        self,
        components: Sequence[Any],
        *,
        attention: Literal["softmax", "linear", "fixed"] = "softmax",
        weights: Sequence[float] | None = None,
        standardize: bool = True,
        objective: Literal["ranking", "rating"] = "ranking",
        held_out: float = 0.2,
        held_out_by: Literal["chance", "time"] = "chance",
        rounds: int = 2,
        most_users: int = 1000,
        strength: float = 3e-4,
        cutoff: int = 20,
        feedback: Feedback | None = None,
        seed: int = 0,
        threads: int | None = None,
        device: _backends.Device = "auto",
    ) -> None:
        for argument, value, known in (
            ("attention", attention, ("linear", "softmax", "fixed")),
            ("objective", objective, ("ranking", "rating")),
            ("held_out_by", held_out_by, ("chance", "time")),
        ):
            if value not in known:
                raise ValueError(f"{argument}: {value!r}; expected {' or '.join(map(repr, known))}")
        if isinstance(components, (str, bytes, dict)) or not hasattr(components, "__len__") or len(components) == 0:
            raise ValueError(f"components: {_arrays.describe(components)}; expected at least one component")
        self.components = [as_component(component) for component in components]
        if (
            attention == "softmax"
            and objective == "ranking"
            and not any(isinstance(component, Prior) for component in self.components)
        ):
            self.components.append(Prior())  # there has to be something that is always available
        _name_apart(self.components)
        self.attention_kind = attention
        if weights is not None and attention != "fixed":
            raise ValueError(f"weights: given with attention {attention!r}; expected attention='fixed'")
        self.weights = None if weights is None else _as_weights(weights, len(self.components))
        self.objective = objective
        if objective == "rating" and not any(_is_explicit(component) for component in self.components):
            raise ValueError(
                "objective: 'rating' without an explicit ALS; expected Collaborative(ALS(feedback='explicit'))"
            )
        if objective == "rating" and attention == "softmax":
            attention = self.attention_kind = "linear"  # what is added to a rating has no place in a mixture
        self.standardize = bool(standardize) and objective == "ranking"
        self.held_out = _arrays.real(held_out, argument="held_out", positive=True)
        if self.held_out >= 1:
            raise ValueError(f"held_out: {held_out}; expected a share below 1")
        self.held_out_by = held_out_by
        # By time, something has to be left that comes before all rounds.
        parts = math.ceil(1 / self.held_out) - 1 if held_out_by == "time" else int(1 / self.held_out)
        self.rounds = _arrays.whole(rounds, argument="rounds", least=1, most=max(1, parts))
        self.most_users = _arrays.whole(most_users, argument="most_users", least=1)
        self.strength = _arrays.real(strength, argument="strength")
        self.cutoff = _arrays.whole(cutoff, argument="cutoff", least=1)
        if feedback is not None and not isinstance(feedback, Feedback):
            raise TypeError(f"feedback: {_arrays.describe(feedback)}; expected Feedback")
        self.feedback = Feedback() if feedback is None else feedback
        self.seed = _arrays.whole(seed, argument="seed", most=2**63 - 1)
        _arrays.thread_count(threads)
        self.threads = threads
        self.device = _backends.check_device(device)

    @property
    def component_names(self) -> list[str]:
        """Names of the components, in the order of every array over them."""
        return [component.name for component in self.components]

    # Fitting

    def fit(self, interactions: Any, *, progress: Callable[[int, int], None] | None = None) -> Self:
        """Fit the components and learn attention.

        Parameters
        ----------
        interactions : Interactions or scipy.sparse matrix of users by items
        progress : callable, optional
            Called as ``progress(done, total)`` after each fit of the components.

        Raises
        ------
        TypeError, ValueError
            Naming the argument of the component or scorer.
        """
        data = as_interactions(interactions)
        if len(data) == 0:
            raise ValueError(f"interactions: {data!r}; expected at least one entry")
        data = self._with_known_ids(data)
        if self.held_out_by == "time" and data.times is None:
            raise ValueError("interactions: no times; expected times, as held_out_by='time' goes by them")
        total = 1 + (self.rounds if self.weights is None else 0)

        def report(done: int) -> None:
            if progress is not None:
                progress(done, total)

        attention = self._train(data, report) if self.weights is None else Attention.fixed(self.weights)
        self._adopt(data, self._fitted(data), attention)
        report(total)
        return self

    def __copy__(self) -> Self:
        """Return a scorer with the same components that observes by itself."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        if hasattr(self, "_live"):
            twin._live = self._live.copy()
        return twin

    def with_weights(self, weights: Sequence[float]) -> Self:
        """Return a scorer with the same fitted components and fixed weights, one for each component."""
        self._require_fitted()
        twin = copy.copy(self)
        twin.attention_kind, twin.weights = "fixed", _as_weights(weights, len(self.components))
        live = twin._live
        twin._adopt(self._seen, self._parts, Attention.fixed(twin.weights))
        twin._live, live.offsets = live, {}
        return twin

    def _with_known_ids(self, data: Interactions) -> Interactions:
        """Add the items that components know beside those of the interactions."""
        items = data.item_map
        for component in self.components:
            extra = component.item_ids()
            if extra is not None:
                items = items.joined(IdMap(extra, argument="items"), argument=f"{component.name}: items")
        if len(items) == len(data.item_map):
            return data
        parts = data.matrix.data, data.matrix.indices, data.matrix.indptr
        matrix = sp.csr_matrix(parts, shape=(data.shape[0], len(items)))
        return Interactions(matrix, data.user_map, items, data.times)

    def _fitted(self, data: Interactions) -> _Fitted:
        components = [component.fresh() for component in self.components]
        return _Fitted(components, data, self.standardize, self.objective).fit()

    def _train(self, data: Interactions, report: Callable[[int], None]) -> Attention:
        """Learn attention on interactions that the components have not seen."""
        parts = []
        for number, (kept, held_out) in enumerate(self._divisions(data)):
            if not kept.any() or not held_out.any():
                raise ValueError(f"interactions: {len(data)} entries; expected enough to hold some out in each round")
            fitted = self._fitted(data.select(kept))
            parts.append(held_out_lists(fitted, data.select(held_out), self.most_users, self.seed + number))
            report(number + 1)
        lists = Lists.joined(parts)
        if self.attention_kind == "softmax":
            return train_softmax(lists, strength=self.strength, cutoff=self.cutoff, threads=self.threads)
        stateful = self.attention_kind == "linear"
        attention = train_linear(
            lists, strength=self.strength, cutoff=self.cutoff, state=stateful, threads=self.threads
        )
        attention.kind = self.attention_kind
        return attention

    def _divisions(self, data: Interactions) -> Iterator[tuple[BoolArray, BoolArray]]:
        """Yield for each round, as masks, what components are fitted on and what attention learns from."""
        order = np.random.default_rng([self.seed, 1]).permutation(len(data))
        size, times = max(1, int(self.held_out * len(data))), data.times if self.held_out_by == "time" else None
        if times is not None:
            order = order[np.argsort(times[order], kind="stable")][::-1]
        for begin in range(0, self.rounds * size, size):
            held_out = np.zeros(len(data), bool)
            held_out[order[begin : begin + size]] = True
            kept = ~held_out
            if times is not None:
                kept[order[:begin]] = False  # what came later
            yield kept, held_out

    def _adopt(self, data: Interactions, fitted: _Fitted, attention: Attention) -> None:
        self._seen, self.user_map, self.item_map = data, data.user_map, data.item_map
        self._parts, self.attention_ = fitted, attention
        self._serving = _Serving(fitted, attention, self.threads, self.device)
        self._live = Live()

    # Learning from feedback

    @property
    def interactions_(self) -> Interactions:
        """All that the scorer knows, what it observed included: what the next :meth:`fit` takes."""
        self._require_fitted()
        return self._live.merged(self._seen)

    @property
    def observed_(self) -> int:
        """Events observed since the fit."""
        self._require_fitted()
        return self._live.observed

    def observe(
        self, events: Any, *, log: EventLog | None = None, unknown: Literal["error", "skip"] = "error"
    ) -> Observed:
        """Learn from events at once: the next recommendations follow them.

        Histories change, and with them the users' vectors, which are folded in; users who were not known join. Chosen
        items (value above 0), disliked ones (below 0) and those that were shown and passed over (0) move the attention
        of all, and each user's own, weighted against the position and the chance they were shown with. How:
        :class:`Feedback`, the scorer's ``feedback``.

        Parameters
        ----------
        events : Events, or a frame with columns user, item and optionally value, time, position, propensity
            Learned from one after the other, in the order of their times: the same events give the same scorer to the
            bit, however they are divided among calls.
        log : EventLog, optional
            Where the events are written too: :meth:`replay` brings a scorer that was saved earlier to this state.
        unknown : {"error", "skip"}
            What becomes of events of items that the scorer does not know: new items come with the next :meth:`fit`, or
            beforehand with a Content component's ``items``.

        Returns
        -------
        Observed

        Raises
        ------
        TypeError, ValueError
            Naming the argument. The scorer, and the log, are as they were before the call.

        Notes
        -----
        Events that contradict one another: the later one counts, by time; late ones do not undo later ones. Events
        that are delivered again change no history (where duplicates are "sum": only those that hold the pair's value
        and time); an item that was passed over teaches attention each time. A scorer with given weights, or an item
        that is in the user's history, teaches attention nothing. Cost: that of scoring ``feedback.negatives`` items,
        whatever the catalogue; and :meth:`refresh`, each time that a share of the interactions has changed. Where a
        Collaborative component has ``user_features``, a user with events is folded in without them until the next
        refresh. Not to be called while another thread uses the scorer.
        """
        return self._observe(as_events(events), log, unknown)

    def _observe(self, found: Events, log: EventLog | None, unknown: str, *, arrived: bool = False) -> Observed:
        """Learn from events in the order of their times; those that ``arrived`` before, as they did."""
        self._require_fitted()
        if unknown not in ("error", "skip"):
            raise ValueError(f"unknown: {unknown!r}; expected 'error' or 'skip'")
        if log is not None and not isinstance(log, EventLog):
            raise TypeError(f"log: {_arrays.describe(log)}; expected EventLog")
        if self.user_map.identity:
            self.user_map.rows(found.users, argument="events")  # there is no telling the row of a new one
        for component in self._parts.components:
            component.expect_newcomers()
        ordered = self._dated(found if arrived else found.in_order())
        look_up = self.item_map.rows if unknown == "error" else self.item_map.find
        items = look_up(ordered.items, argument="events")
        absorption = Absorption(self, self.feedback)
        return absorption.run(ordered, items, None if log is None else log.append)

    def replay(self, log: EventLog) -> Observed:
        """Learn from the events in a log that came after those that the scorer has observed.

        The log has to hold all that was observed since the fit, from the first event on. It does not hold calls of
        :meth:`refresh`: only what :attr:`Feedback.refresh` does by itself is done again.
        """
        if not isinstance(log, EventLog):
            raise TypeError(f"log: {_arrays.describe(log)}; expected EventLog")
        held = log.read()
        if len(held) < self.observed_:
            raise ValueError(f"log: {len(held)} events; expected the {self.observed_} that the scorer has observed")
        if held.select(slice(self.observed_)).digest() != self._live.digest:
            raise ValueError(f"log: other events than the first {self.observed_} that the scorer has observed")
        # What came late is late again: sorting the whole log would learn in another order than the calls did.
        return self._observe(held.select(slice(self.observed_, None)), None, "skip", arrived=True)

    def refresh(self, *, anew: bool = False) -> Self:
        """Fit the item side of the components on all interactions, those observed included; attention stays.

        Parameters
        ----------
        anew : bool
            From the start, as :meth:`fit` would, rather than from where it is (two epochs of ALS, item neighbourhoods,
            popularity). Content, EASE and models without a warm start stay as they are otherwise.
        """
        self._require_fitted()
        data, live = self.interactions_, self._live
        if anew:
            components = [component.fresh().for_users(data.shape[0]) for component in self.components]
            fitted = _Fitted(components, data, self.standardize, self.objective).fit()
        else:
            fitted = self._parts.refreshed(data)
        self._adopt(data, fitted, self.attention_)
        self._live = Live(offsets=live.offsets, observed=live.observed, digest=live.digest)
        return self

    def _dated(self, events: Events) -> Events:
        """Bring times to the type of those of the interactions; without those they only order the events of a call."""
        mine = self._seen.times
        if mine is None:
            return replace(events, times=None)
        if len(events) == 0:
            return events
        if events.times is None:
            raise ValueError("events: no times; expected times, as the interactions have them")
        if mine.dtype == np.int64 and events.times.dtype != np.int64:
            raise ValueError(f"events: times of {events.times.dtype}; expected whole numbers, as the interactions have")
        return replace(events, times=events.times.astype(mine.dtype))

    def _lesson(self, row: int, item: int, others: Rows, value: float) -> tuple[Float64, Float64]:
        """Return an event's gradient with respect to the weights of a user, and the user's scaled state."""
        rows = np.array([row])
        histories = self._histories(rows, None)
        audience = self._audience(rows, histories, given=False)
        items = np.concatenate([[item], others])
        had = np.isin(others, histories.indices)
        rest = max(len(self.item_map) - histories.nnz - 1, 1)
        competing = np.full(len(items), np.log(rest / max(np.count_nonzero(~had), 1)))
        competing[0] = 0.0
        competing[1:][had] = -np.inf
        step = lesson(
            self.attention_, audience.weights[0], self._parts.standardized_items(audience.voices, items),
            self._serving.factor[items].astype(np.float64), competing, value,
            focus=self.feedback.focus, rating=self.objective == "rating",
        )  # fmt: skip
        return step, self.attention_.users.apply(audience.state)[0]

    # Serving

    def recommend(
        self,
        users: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Any = None,
        deny: Any = None,
        interactions: Any = None,
    ) -> Recommendations:
        """Rank items for users, exactly; parameters as in :meth:`RankingModel.recommend`, and more.

        Parameters
        ----------
        users : array, shape (n,)
            Ids that the model does not know are users of whom nothing is known, but for ``interactions``.
        interactions : scipy.sparse matrix or Interactions, shape (n, items), optional
            Histories to recommend from in place of those of training, one row for each of ``users``.
        """
        self._require_fitted()
        rows = self._live.rows(self.user_map, users)
        histories = self._histories(rows, interactions)
        filters = self._item_filter(allow, "allow"), self._item_filter(deny, "deny")
        mask = self._serving.mask(_arrays.item_mask(*filters, len(self.item_map)))

        def prepare(start: int) -> _Request:
            part = slice(start, start + _SERVED)
            audience = self._audience(rows[part], histories[part], given=interactions is not None)
            exclude = _arrays.csr_pattern(histories[part], argument="interactions") if exclude_seen else None
            return self._serving.request(audience, exclude)

        starts = range(0, max(len(rows), 1), _SERVED)
        ready = map(prepare, starts) if self.threads == 1 else _ahead(prepare, starts)
        parts = [self._serving.search(request, k, mask) for request in ready]
        found, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Recommendations(self.item_map.ids_of(found), found, scores, clean_ids(users, argument="users"))

    def score(self, users: Any, items: Any, *, interactions: Any = None) -> Float32:
        """Score pairs: ``users[n]`` with ``items[n]``; float32, shape (n,). Users as in :meth:`recommend`."""
        self._require_fitted()
        rows = self._live.rows(self.user_map, users)
        wanted = self.item_map.rows(items, argument="items")
        if len(rows) != len(wanted):
            raise ValueError(f"items: {len(wanted)} of them; expected one for each of the {len(rows)} users")
        out = np.empty(len(rows), np.float32)
        histories = self._histories(rows, interactions)
        given = interactions is not None
        # Every history that is given is its own, whoever it belongs to.
        for chosen, pairs, where in by_user(np.arange(len(rows)) if given else rows, _SERVED):
            audience = self._audience(rows[chosen], histories[chosen], given=given)
            out[pairs] = self._serving.pairs(audience, where, wanted[pairs])
        return out

    def _histories(self, rows: Rows, interactions: Any) -> Any:
        """Return the histories to score from, one for each user; empty for users who are not known."""
        if interactions is not None:
            given = as_interactions(interactions)
            matrix = given.matrix
            if not given.item_map.identity and not np.array_equal(given.items, self.item_map.ids):
                raise ValueError("interactions: other items than the model's; expected its items, in its order")
            if matrix.shape != (len(rows), len(self.item_map)):
                raise ValueError(
                    f"interactions: shape {matrix.shape}; expected {(len(rows), len(self.item_map))}, a row a user"
                )
            return matrix
        stored = self._stored(rows)
        if stored.all():
            return self._seen.matrix[rows]
        kept, pasts = (
            self._seen.matrix[rows[stored]],
            [self._live.past(row, self._seen) for row in rows[~stored].tolist()],
        )
        lengths = np.zeros(len(rows), np.int64)
        lengths[stored], lengths[~stored] = np.diff(kept.indptr), [len(past.items) for past in pasts]
        fresh = np.repeat(~stored, lengths)
        indices, values = np.empty(len(fresh), np.int32), np.empty(len(fresh), np.float32)
        indices[~fresh], values[~fresh] = kept.indices, kept.data
        indices[fresh] = np.concatenate([past.items for past in pasts])
        values[fresh] = np.concatenate([past.values for past in pasts])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        return sp.csr_matrix((values, indices, indptr), shape=(len(rows), len(self.item_map)))

    def _stored(self, rows: Rows) -> BoolArray:
        """Tell which users are as they were when the components were fitted."""
        stored = (rows >= 0) & (rows < len(self.user_map))
        if self._live.histories:
            stored &= np.fromiter((int(row) not in self._live.histories for row in rows), bool, len(rows))
        return stored

    def _audience(self, rows: Rows, histories: Any, *, given: bool) -> Audience:
        stored = np.zeros(len(rows), bool) if given else self._stored(rows)
        if stored.all() or not stored.any():
            voices, state = self._parts.voices(histories, rows if len(rows) and stored.all() else None)
        else:
            voices, state = _merged(stored, [self._parts.voices(histories[part], rows[part] if kept else None)
                                             for kept, part in ((True, stored), (False, ~stored))])  # fmt: skip
        offsets = self._live.offsets_of(rows, len(self.components))
        return Audience(voices, state, self.attention_.user_weights(state, _availability(voices), offsets))

    def attention(self, users: Any, *, interactions: Any = None) -> Float64:
        """Return how much each component counts for users, shape (n, components); rows sum to 1 in magnitude.

        Softmax: at an item of average state for which all components are available.
        """
        self._require_fitted()
        rows = self._live.rows(self.user_map, users)
        histories = self._histories(rows, interactions)
        weights = self._audience(rows, histories, given=interactions is not None).weights
        return np.asarray(weights / np.maximum(np.abs(weights).sum(axis=1, keepdims=True), 1e-300))

    def explain(self, user: Any, item: Any, *, interactions: Any = None) -> HybridExplanation:
        """Split a score into what components, past items and features add to it, exactly.

        Parameters
        ----------
        user, item : ids
        interactions : scipy.sparse matrix or Interactions, shape (1, items), optional
            The history to explain from in place of the user's.
        """
        self._require_fitted()
        rows = self._live.rows(self.user_map, np.asarray([user]), argument="user")
        wanted = int(self.item_map.rows(np.asarray([item]), argument="item")[0])
        history = self._histories(rows, interactions)
        audience = self._audience(rows, history, given=interactions is not None)
        known = int(rows[0]) if interactions is None and self._stored(rows)[0] else None
        return explain(self, user, item, wanted, history, known, audience)

    def save(self, path: Any) -> None:
        """Write the scorer with its components; see :meth:`load`."""
        from salience.hybrid import _files

        _files.save(self, path)

    @classmethod
    def load(cls, path: Any) -> Self:
        """Read what :meth:`save` wrote; ValueError where the file is damaged or another model's."""
        from salience.hybrid import _files

        found: Self = _files.load(cls, path)
        return found


def _as_weights(weights: Sequence[float], count: int) -> Float64:
    found = np.array([float(weight) for weight in weights])
    if not np.isfinite(found).all():
        raise ValueError(f"weights: {found[~np.isfinite(found)][0]}; expected finite numbers")
    if len(found) != count:
        raise ValueError(f"weights: {len(found)} of them; expected {count}")
    return found


def _is_explicit(component: Component) -> bool:
    return isinstance(component, Collaborative) and component.predicts_ratings


def _name_apart(components: list[Component]) -> None:
    """Give numbers to names that come twice."""
    taken: set[str] = set()
    for place, component in enumerate(components):
        name, number = component.name, 1
        while name in taken:
            number += 1
            name = f"{component.name}_{number}"
        taken.add(name)
        if name != component.name:
            components[place] = twin = component.fresh()
            twin.name = name


def _merged(stored: BoolArray, halves: list[tuple[list[Voices], Float64]]) -> tuple[list[Voices], Float64]:
    """Put together what was said for users who are as they were fitted, and for others."""
    order = np.argsort(np.concatenate([np.flatnonzero(stored), np.flatnonzero(~stored)]), kind="stable")

    def join(parts: list[Any]) -> Any:
        return np.concatenate(parts)[order]

    voices = []
    for known, other in zip(halves[0][0], halves[1][0], strict=True):
        additions = None
        if known.additions is not None:
            additions = sp.csr_matrix(sp.vstack([known.additions, other.additions], format="csr")[order])
        vectors, *rest = (
            join([getattr(known, name), getattr(other, name)]) for name in ("vectors", "mean", "deviation", "available")
        )
        voices.append(Voices(vectors, additions, *rest))
    return voices, join([half[1] for half in halves])


class _Fitted:
    """Components fitted on one set of interactions, with what standardizes their scores."""

    def __init__(self, components: list[Component], data: Interactions, standardize: bool, objective: str) -> None:
        self.components, self.data, self.standardize = components, data, standardize
        self.biases = Biases.of(data) if objective == "rating" else None
        self._directions: Float32 | None = None

    def fit(self) -> Self:
        """Fit the components."""
        relative = self.data if self.biases is None else self.biases.relative(self.data)
        for component in self.components:
            component.fit(self.data if self._takes_values(component) else relative)
        return self.describe()

    def refreshed(self, data: Interactions) -> _Fitted:
        """Return components fitted on data that has grown, from where they are."""
        new = _Fitted([], data, self.standardize, "ranking" if self.biases is None else "rating")
        relative = data if new.biases is None else new.biases.relative(data)
        new.components = [
            component.refreshed(data if self._takes_values(component) else relative) for component in self.components
        ]
        return new.describe()

    def describe(self) -> Self:
        """Derive what scores are standardized with from the fitted components."""
        self.moments = [Moments.of(component) for component in self.components]
        self.item_counts = np.bincount(self.data.matrix.indices, minlength=self.data.shape[1])
        self.log_popularity = np.log1p(self.item_counts)
        self.item_available = np.column_stack([component.item_available for component in self.components])
        places = [n for n, component in enumerate(self.components) if component.item_vectors.shape[1] > 1]
        content = [n for n in places if isinstance(self.components[n], Content)]
        self.describing = (content or places or [-1])[0]  # whose vectors tell how coherent a history is
        return self

    def _takes_values(self, component: Component) -> bool:
        return self.biases is None or isinstance(component, (Collaborative, Prior))

    def voices(self, histories: Any, rows: Rows | None) -> tuple[list[Voices], Float64]:
        """Return what every component says for users, and the users' state."""
        relative = histories if self.biases is None else self.biases.relative_histories(histories, rows)
        voices = []
        for component, moments in zip(self.components, self.moments, strict=True):
            mine = histories if self._takes_values(component) else relative
            voices.append(self._voice(component, moments, mine, rows))
        return voices, user_state(histories, self.log_popularity, self._coherence(histories))

    def _voice(self, component: Component, moments: Moments, histories: Any, rows: Rows | None) -> Voices:
        vectors, additions = component.user_vectors(histories, rows), component.additions(histories)
        available = component.user_available(histories, rows)
        mean, deviation = np.zeros(len(vectors)), np.ones(len(vectors))
        if self.standardize:
            wide = vectors.astype(np.float64)
            mean = wide @ moments.mean
            variance = np.einsum("nd,nd->n", wide @ moments.covariance, wide)
            if additions is not None:
                sums = np.asarray(additions.sum(axis=1, dtype=np.float64)).ravel() / max(moments.items, 1)
                squares = additions.astype(np.float64).power(2).sum(axis=1)
                mean, variance = mean + sums, variance + np.asarray(squares).ravel() / max(moments.items, 1) - sums**2
            deviation = np.sqrt(np.maximum(variance, 0.0))
            varied = deviation > _SMALLEST_DEVIATION * np.sqrt(mean**2 + np.maximum(variance, 0.0))
            if not isinstance(component, Prior):  # which stays available: there has to be something that always is
                available = available & varied
                mean = np.where(available, mean, 0.0)
            deviation = np.where(varied, deviation, 1.0)
        return Voices(vectors, additions, mean, deviation, available)

    def _coherence(self, histories: Any) -> Float64:
        """Return the length of the mean of a history's vectors, which are brought to length 1."""
        if self.describing < 0:
            return np.zeros(histories.shape[0])
        if self._directions is None:
            self._directions = unit(self.components[self.describing].item_vectors)
        binary = sp.csr_matrix(
            (np.ones(histories.nnz, np.float32), histories.indices, histories.indptr), histories.shape
        )
        lengths = np.maximum(np.diff(histories.indptr), 1)
        return np.asarray(np.linalg.norm(binary @ self._directions, axis=1) / lengths, np.float64)

    def standardized_items(self, voices: list[Voices], items: Rows) -> Float64:
        """Return the standardized scores of some items for one user, shape (len(items), components)."""
        found = np.zeros((len(items), len(voices)))
        for n, (component, voice) in enumerate(zip(self.components, voices, strict=True)):
            if not voice.available[0]:
                continue
            scores = (component.item_vectors[items] @ voice.vectors[0]).astype(np.float64)
            if voice.additions is not None:
                scores += _entries(voice.additions, items)
            found[:, n] = np.where(self.item_available[items, n], (scores - voice.mean[0]) / voice.deviation[0], 0.0)
        return found

    def standardized(self, voices: list[Voices], chosen: slice) -> Float32:
        """Return all items' standardized scores for some of the users, shape (n, items, components)."""
        parts = []
        for component, voice, available in zip(self.components, voices, self.item_available.T, strict=True):
            scores = voice.vectors[chosen] @ component.item_vectors.T
            if voice.additions is not None:
                scores = scores + voice.additions[chosen].toarray()
            scores = (scores - voice.mean[chosen, None]) / voice.deviation[chosen, None]
            here = available & voice.available[chosen, None]
            parts.append(np.where(here, scores, 0.0).astype(np.float32))
        return np.stack(parts, axis=2)


def _entries(row: Any, columns: Rows) -> Float64:
    """Return entries of a CSR matrix of one row."""
    if row.nnz == 0:
        return np.zeros(len(columns))
    order = np.argsort(row.indices)
    place = order[np.minimum(np.searchsorted(row.indices, columns, sorter=order), row.nnz - 1)]
    return np.where(row.indices[place] == columns, row.data[place], 0.0)


@dataclass
class Biases:
    """What ratings are relative to: mean, item bias and user bias, damped."""

    mean: float
    users: Float64
    items: Float64

    @classmethod
    def of(cls, data: Interactions) -> Biases:
        """Compute them in closed form, items first."""
        values, columns = data.matrix.data.astype(np.float64), data.matrix.indices
        mean = float(values.mean())
        counts = np.bincount(columns, minlength=data.shape[1])
        items = np.bincount(columns, values - mean, data.shape[1]) / (counts + _DAMPING)
        biases = cls(mean, np.zeros(data.shape[0]), items)
        biases.users = biases._of_users(data.matrix)
        return biases

    def _of_users(self, matrix: Any) -> Float64:
        counts = np.diff(matrix.indptr)
        rows = np.repeat(np.arange(len(counts)), counts)
        rest = matrix.data - self.mean - self.items[matrix.indices]
        return np.asarray(np.bincount(rows, rest, len(counts)) / (counts + _DAMPING))

    def relative_histories(self, histories: Any, rows: Rows | None) -> Any:
        """Subtract them from the values of histories."""
        users = self._of_users(histories) if rows is None else self.users[rows]
        values = histories.data - self.mean - self.items[histories.indices]
        values -= np.repeat(users, np.diff(histories.indptr))
        return sp.csr_matrix((values.astype(np.float32), histories.indices, histories.indptr), histories.shape)

    def relative(self, data: Interactions) -> Interactions:
        """Subtract them from all values."""
        matrix = self.relative_histories(data.matrix, np.arange(data.shape[0]))
        return Interactions(matrix, data.user_map, data.item_map, data.times)


def held_out_lists(fitted: _Fitted, held_out: Interactions, most_users: int, seed: int) -> Lists:
    """Make lists of held-out items and their competitors, with the scores of components that have not seen them."""
    random = np.random.default_rng([seed, 2])
    users = np.flatnonzero(np.diff(held_out.matrix.indptr))
    if len(users) > most_users:
        users = np.sort(random.choice(users, most_users, replace=False))
    histories = fitted.data.matrix[users]
    voices, state = fitted.voices(histories, users)
    user_available = np.column_stack([voice.available for voice in voices])
    states = item_state(fitted.item_counts)
    draw = _rated if fitted.biases is not None else _competing
    parts = []
    batch = max(1, _BATCH_SCORES // (held_out.shape[1] * len(fitted.components)))
    for start in range(0, len(users), batch):
        chosen = slice(start, start + batch)
        scores = fitted.standardized(voices, chosen)
        for n, user in enumerate(users[chosen]):
            items, targets, log_weights, count = draw(
                held_out.matrix[[user]], histories[[start + n]], scores[n], random
            )
            available = fitted.item_available[items] & user_available[start + n]
            parts.append((scores[n, items], available, states[items], targets, log_weights, len(items), count))
    columns = list(zip(*parts, strict=True))
    return Lists(
        np.concatenate(columns[0]), np.concatenate(columns[1]), state, np.concatenate(columns[2]),
        np.concatenate([[0], np.cumsum(columns[5])]), np.array(columns[6]), np.concatenate(columns[4]),
        np.concatenate(columns[3]) if fitted.biases is not None else None,
    )  # fmt: skip


def _rated(held_out: Any, history: Any, scores: Float32, random: Any) -> tuple[Any, Any, Float32, int]:
    """Take the held-out ratings themselves."""
    del history, scores, random
    return held_out.indices, held_out.data, np.zeros(held_out.nnz, np.float32), held_out.nnz


def _competing(
    held_out: Any, history: Any, scores: Float32, random: np.random.Generator
) -> tuple[Any, Any, Float32, int]:
    """Take held-out items, the best other items of each component, and a weighted sample of the rest."""
    items, wanted = len(scores), held_out.indices
    if len(wanted) > _HELD_OUT:
        wanted = random.choice(wanted, _HELD_OUT, replace=False)
    taken = np.zeros(items, bool)
    taken[history.indices] = taken[held_out.indices] = True
    reach = min(_TOP, items)
    best = np.unique(np.argpartition(-scores, reach - 1, axis=0)[:reach])
    best = best[~taken[best]]
    taken[best] = True
    sample = np.unique(random.integers(0, items, _UNIFORM))
    sample = sample[~taken[sample]]
    rest = items - np.count_nonzero(taken)
    log_weights = np.zeros(len(wanted) + len(best) + len(sample), np.float32)
    if len(sample):
        log_weights[-len(sample) :] = np.log(rest / len(sample))
    return np.concatenate([wanted, best, sample]), None, log_weights, len(wanted)


class _Request(NamedTuple):
    """What a search takes, in the order of the index."""

    queries: Float32
    exclude: _arrays.Pattern | None
    blend: Any


def _ahead(prepare: Callable[[int], _Request], starts: range) -> Iterator[_Request]:
    """Yield what is prepared for each start; the next is made ready while one is in use."""
    if len(starts) == 1:
        yield prepare(starts[0])
        return
    with ThreadPoolExecutor(1) as worker:
        following = worker.submit(prepare, starts[0])
        for start in starts[1:]:
            ready, following = following.result(), worker.submit(prepare, start)
            yield ready
        yield following.result()


class _Serving:
    """Components and attention folded into one search."""

    def __init__(self, fitted: _Fitted, attention: Attention, threads: int | None, device: _backends.Device) -> None:
        self.scale = attention.scale
        available = fitted.item_available
        logits = attention.item_logits(item_state(fitted.item_counts), available)
        self.gated = attention.kind == "softmax"
        self.factor = np.exp(logits).astype(np.float32) if self.gated else available.astype(np.float32)
        blocks = [component.item_vectors * self.factor[:, n, None] for n, component in enumerate(fitted.components)]
        items = np.ascontiguousarray(np.hstack([*blocks, self.factor]), np.float32)
        # Items with alike gates lie together, so that the scan can rule out whole blocks of them.
        self.order = np.lexsort(logits.T[::-1]) if self.gated else None
        self.place = None if self.order is None else np.argsort(self.order).astype(np.int32)
        priors = [n for n, component in enumerate(fitted.components) if isinstance(component, Prior)]
        self.items = items if self.order is None else np.ascontiguousarray(items[self.order])
        # Gates in the order of the index's rows, one that is always available first.
        self.columns = np.roll(np.arange(self.factor.shape[1]), -(priors[0] if priors else 0))
        self.item_gates = np.ascontiguousarray(self.factor[self.order][:, self.columns]) if self.gated else None
        self.index = Index.borrow(self.items, threads=threads, device=device)

    def queries(self, audience: Audience) -> tuple[Float32, Any, Float32 | None]:
        """Return query vectors, additions (columns are items) and the gates of users."""
        voices, weights = audience.voices, audience.weights
        scaled = self.scale * weights / np.column_stack([voice.deviation for voice in voices])
        offsets = -scaled * np.column_stack([voice.mean for voice in voices])
        blocks = [voice.vectors * scaled[:, n, None] for n, voice in enumerate(voices)]
        additions = None
        for n, voice in enumerate(voices):
            if voice.additions is None:
                continue
            mine = voice.additions.copy()
            mine.data = mine.data * np.repeat(scaled[:, n], np.diff(mine.indptr)) * self.factor[mine.indices, n]
            additions = mine if additions is None else additions + mine
        gates = np.ascontiguousarray(weights, np.float32) if self.gated else None
        return np.ascontiguousarray(np.hstack([*blocks, offsets]), np.float32), additions, gates

    def mask(self, mask: BoolArray | None) -> BoolArray | None:
        """Put a mask over items in the order of the index."""
        return mask if mask is None or self.order is None else np.ascontiguousarray(mask[self.order])

    def request(self, audience: Audience, exclude: _arrays.Pattern | None) -> _Request:
        """Lay out what a search of some users takes."""
        queries, additions, gates = self.queries(audience)
        if self.place is not None and exclude is not None:
            exclude = exclude[0], self.place[exclude[1]]
        entries = None
        if additions is not None:
            columns = additions.indices if self.place is None else self.place[additions.indices]
            placed = sp.csr_matrix((additions.data.astype(np.float32), columns, additions.indptr), additions.shape)
            placed = placed.tocsc().tocsr()  # sorts the rows, in less time than sorting them
            entries = (placed.indptr.astype(np.int64), placed.indices.astype(np.int32, copy=False)), placed.data
        both = None if gates is None else (np.ascontiguousarray(gates[:, self.columns]), self.item_gates)
        return _Request(queries, exclude, (entries, both, self.order))

    def search(self, request: _Request, k: int, mask: BoolArray | None) -> tuple[Rows, Float32]:
        """Return item rows and scores of the k best, padded."""
        return self.index.search_padded(request.queries, k, request.exclude, mask, None, blend=request.blend)

    def pairs(self, audience: Audience, users: Rows, items: Rows) -> Float32:
        """Score pairs of positions among the users and item rows."""
        queries, additions, gates = self.queries(audience)
        rows = items if self.place is None else self.place[items]
        out = np.empty(len(users), np.float32)
        for start in range(0, len(users), 65536):
            part = slice(start, start + 65536)
            scores = np.einsum(
                "nd,nd->n", queries[users[part]].astype(np.float64), self.items[rows[part]].astype(np.float64)
            )
            if additions is not None:
                scores = scores + np.asarray(additions[users[part], items[part]]).ravel()
            if gates is not None:
                scores = scores / np.einsum("nc,nc->n", gates[users[part]].astype(np.float64), self.factor[items[part]])
            out[part] = scores
        return out


__all__ = ["HybridScorer"]
