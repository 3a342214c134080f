"""Exact additive explanations of hybrid scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from salience.interactions import make_frame

if TYPE_CHECKING:
    from salience.hybrid.scorer import Audience, HybridScorer

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HybridExplanation:
    """Why a user got an item: the score as a sum over components, and those as sums over past items.

    Attributes
    ----------
    score : float
        The sum of ``contributions``; what ``score`` returns, up to rounding.
    components : list of str
    weights : array of float64, shape (components,)
        Attention: how much each component's score counts. 0 where it is not available for this user and item.
    scores : array of float64, shape (components,)
        The components' scores, standardized over the catalogue (as they are where the model does not standardize).
    contributions : array of float64, shape (components,)
        Weight times score.
    items : array, shape (n,)
        Ids of the user's past items, the largest contribution first.
    item_contributions : array of float64, shape (n, components)
        What each past item adds through each component.
    base : array of float64, shape (components,)
        What is left of each contribution: its level in the catalogue, and what does not depend on the history.
    features : dict of str to dict
        Of content components, by name: what each feature of the item adds, the largest magnitude first. They sum to
        the contribution up to the level in the catalogue.
    """

    user: Any
    item: Any
    score: float
    components: list[str]
    weights: Float64
    scores: Float64
    contributions: Float64
    items: npt.NDArray[Any]
    item_contributions: Float64
    base: Float64
    features: dict[str, dict[Any, float]]

    def to_frame(self, backend: str | None = None) -> Any:
        """Return a frame with columns item, contribution and one for each component."""
        columns = {"item": self.items, "contribution": self.item_contributions.sum(axis=1)}
        columns.update({name: self.item_contributions[:, n] for n, name in enumerate(self.components)})
        return make_frame(columns, backend)

    def __str__(self) -> str:
        lines = [f"item {self.item} for user {self.user}: {self.score:.4f}"]
        for n, name in enumerate(self.components):
            lines.append(f"  {name}: {self.weights[n]:+.3f} x {self.scores[n]:+.3f} = {self.contributions[n]:+.4f}")
        for item, value in list(zip(self.items, self.item_contributions.sum(axis=1), strict=True))[:5]:
            lines.append(f"  because of {item}: {value:+.4f}")
        return "\n".join(lines)


def explain(
    scorer: HybridScorer, user: Any, item: Any, row: int, history: Any, known: int | None, audience: Audience
) -> HybridExplanation:
    """Explain the score of item ``row`` for one history."""
    fitted, serving = scorer._parts, scorer._serving
    weights = serving.scale * audience.weights[0] * serving.factor[row]
    if serving.gated:
        gates = audience.weights[0].astype(np.float32).astype(np.float64)
        weights = weights / (gates @ serving.factor[row].astype(np.float64))
    relative = history if fitted.biases is None else fitted.biases.relative_histories(history, None)
    count = len(fitted.components)
    scores, base = np.zeros(count), np.zeros(count)
    parts, features = np.zeros((history.nnz, count)), {}
    for n, (component, voice) in enumerate(zip(fitted.components, audience.voices, strict=True)):
        if weights[n] == 0:
            continue
        mine = history if fitted._takes_values(component) else relative
        raw = float(voice.vectors[0].astype(np.float64) @ component.item_vectors[row].astype(np.float64))
        if voice.additions is not None:
            raw += float(voice.additions[0, row])
        scores[n] = (raw - voice.mean[0]) / voice.deviation[0]
        unit = weights[n] / voice.deviation[0]
        found = component.parts(mine, np.array([row]), known)
        if found is not None:
            parts[:, n] = unit * found[0]
        base[n] = weights[n] * scores[n] - parts[:, n].sum()
        shares = component.feature_parts(mine, row, known)
        if shares:
            ordered = sorted(shares.items(), key=lambda share: -abs(share[1]))
            features[component.name] = {name: float(unit * value) for name, value in ordered}
    contributions = weights * scores
    order = np.argsort(-parts.sum(axis=1), kind="stable")
    return HybridExplanation(
        user, item, float(contributions.sum()), scorer.component_names, weights, scores, contributions,
        scorer.item_map.ids[history.indices[order]], parts[order], base, features,
    )  # fmt: skip


__all__ = ["HybridExplanation"]
