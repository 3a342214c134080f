"""A hybrid scorer as one file."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from salience import _storage
from salience.als import ALS
from salience.hybrid._features import FeatureMap, Regressor
from salience.hybrid.attention import Attention, Scaling
from salience.hybrid.components import Collaborative, Component, Content, History, Prior
from salience.hybrid.feedback import Feedback, Live, Past
from salience.interactions import IdMap, Interactions, clean_ids
from salience.models import Popularity
from salience.neighbors import EASE, ItemKNN

_MODELS: dict[str, Any] = {"ALS": ALS, "ItemKNN": ItemKNN, "EASE": EASE, "Popularity": Popularity}
_SCALINGS = ("mean", "deviation", "low", "high")


def save(scorer: Any, path: Any) -> None:
    """Write a fitted scorer."""
    scorer._require_fitted()
    tensors = _storage.pack_interactions("seen", scorer._seen)
    components = []
    for number, component in enumerate(scorer._parts.components):
        parts, metadata = _pack_component(component)
        tensors.update({f"{number}.{name}": tensor for name, tensor in parts.items()})
        components.append(metadata)
    attention = scorer.attention_
    tensors.update({"theta": attention.theta, "phi": attention.phi})
    for side in ("users", "items"):
        scaling = getattr(attention, side)
        tensors.update({f"{side}.{name}": getattr(scaling, name) for name in _SCALINGS})
    names = (
        "standardize", "objective", "held_out", "held_out_by", "rounds", "most_users", "strength", "cutoff", "seed",
    )  # fmt: skip
    settings = {name: getattr(scorer, name) for name in names}
    settings["attention"], settings["feedback"] = scorer.attention_kind, dataclasses.asdict(scorer.feedback)
    settings["weights"] = None if scorer.weights is None else scorer.weights.tolist()
    metadata = {"settings": settings, "components": components, "kind": attention.kind, "scale": attention.scale}
    tensors.update(_pack_live(scorer._live))
    _storage.save_tensors(path, tensors, kind="HybridScorer", metadata=metadata)


def load(cls: Any, path: Any) -> Any:
    """Read what :func:`save` wrote."""
    from salience.hybrid.scorer import _Fitted

    tensors, metadata = _storage.load_tensors(path, kind="HybridScorer")
    data = _storage.unpack_interactions("seen", tensors)
    components = []
    for number, held in enumerate(metadata["components"]):
        prefix = f"{number}."
        parts = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        components.append(_unpack_component(parts, held, data))
    settings = {**metadata["settings"], "feedback": Feedback(**metadata["settings"]["feedback"])}
    scorer = cls(components, **settings)
    scalings = [Scaling(*(tensors[f"{side}.{name}"] for name in _SCALINGS)) for side in ("users", "items")]
    attention = Attention(metadata["kind"], tensors["theta"], tensors["phi"], metadata["scale"], *scalings)
    fitted = _Fitted(components, data, scorer.standardize, scorer.objective).describe()
    scorer._adopt(data, fitted, attention)
    scorer._live = _unpack_live(tensors, len(data.user_map))
    return scorer


def _pack_live(live: Live) -> _storage.Tensors:
    """Turn what was observed since the components were fitted into arrays."""
    tensors: _storage.Tensors = {"live.numbers": np.array([live.observed, live.pending, live.digest])}
    if live.newcomers:
        tensors.update(_storage.pack_ids("live.newcomers", IdMap(clean_ids(list(live.newcomers), argument="users"))))
    if live.histories:
        pasts = list(live.histories.values())
        tensors["live.rows"] = np.array(list(live.histories))
        tensors["live.lengths"] = np.array([len(past.items) for past in pasts])
        for part, name in enumerate(Past._fields):
            tensors[f"live.{name}"] = np.concatenate([past[part] for past in pasts])
    if live.offsets:
        tensors["live.users"], tensors["live.offsets"] = (
            np.array(list(live.offsets)),
            np.stack([*live.offsets.values()]),
        )
    return tensors


def _unpack_live(tensors: _storage.Tensors, users: int) -> Live:
    observed, pending, digest = tensors["live.numbers"].tolist()
    live = Live(observed=observed, pending=pending, digest=digest)
    if any(name.startswith("live.newcomers.") for name in tensors):
        ids = _storage.unpack_ids("live.newcomers", tensors).ids.tolist()
        live.newcomers = {name: users + place for place, name in enumerate(ids)}
    if "live.rows" in tensors:
        ends = np.cumsum(tensors["live.lengths"])[:-1]
        parts = [np.split(tensors[f"live.{name}"], ends) for name in Past._fields]
        live.histories = dict(zip(tensors["live.rows"].tolist(), map(Past, *parts), strict=True))
    if "live.users" in tensors:
        live.offsets = dict(zip(tensors["live.users"].tolist(), tensors["live.offsets"], strict=True))
    return live


def _pack_component(component: Component) -> tuple[_storage.Tensors, dict[str, Any]]:
    tensors: _storage.Tensors = {}
    metadata: dict[str, Any] = {"component": type(component).__name__, "name": component.name}
    for name in ("item_features", "user_features", "features", "item_vectors", "item_available", "_past", "_solve"):
        held = getattr(component, name, None)
        if held is not None:
            tensors.update(_storage.pack_matrix(name, held))
    model = getattr(component, "model", None)
    if model is not None:
        kind = type(model).__name__
        if kind not in _MODELS:
            raise TypeError(
                f"components: {component.name} holds a {kind}; expected one of {', '.join(_MODELS)} to save"
            )
        parts, packed = ({}, {}) if kind == "Popularity" else model._packed()
        tensors.update({f"model.{name}": tensor for name, tensor in parts.items()})
        metadata["model"] = {"kind": kind, **packed}
    if isinstance(component, Content):
        names = ("user_map", "temperature", "ridge", "hidden", "rank", "seed", "feature_names")
        metadata["settings"] = {name: getattr(component, name) for name in names}
        tensors.update({f"reduced.{n}": array for n, array in enumerate([component._reduced[0], component._map.basis])
                        if array is not None})  # fmt: skip
        if component.ids is not None:
            tensors.update(_storage.pack_ids("ids", IdMap(component.ids)))
        if component._regressor is not None:
            for name in ("weights", "biases"):
                tensors.update({f"{name}.{n}": part for n, part in enumerate(getattr(component._regressor, name))})
    elif isinstance(component, History):
        metadata["settings"] = {"rank": component.rank, "power": component.power}
    elif isinstance(component, Prior):
        metadata["settings"] = {"half_life": component.half_life}
    elif not isinstance(component, Collaborative):
        raise TypeError(f"components: {type(component).__name__}; expected components of this package to save")
    return tensors, metadata


def _unpack_component(tensors: _storage.Tensors, metadata: dict[str, Any], data: Interactions) -> Component:
    def matrix(name: str) -> Any:
        return _storage.unpack_matrix(name, tensors)

    kind, settings = metadata["component"], metadata.get("settings", {})
    component: Any = None
    if kind == "Content":
        ids = _storage.unpack_ids("ids", tensors).ids if any(name.startswith("ids.") for name in tensors) else None
        component = Content(matrix("features"), items=ids, name=metadata["name"], **settings)
        component._map = FeatureMap(tensors.get("reduced.1"))
        component._reduced = tensors["reduced.0"], component._map
        component._solve, component._regressor = matrix("_solve"), None
        component._place_rows(data)
        if "weights.0" in tensors:
            weights, biases = ((tensors[f"{name}.0"], tensors[f"{name}.1"]) for name in ("weights", "biases"))
            component._regressor = Regressor(weights, biases)
    elif kind == "Prior":
        component = Prior(name=metadata["name"], **settings)
    elif kind in ("Collaborative", "History"):
        held = metadata["model"]
        parts = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        model = _MODELS[held["kind"]]
        fitted = model().fit(data) if held["kind"] == "Popularity" else model._unpacked(parts, held, data)
        features = matrix("item_features")
        if kind == "History":
            component = History(fitted, item_features=features, name=metadata["name"], **settings)
            component._past = matrix("_past")
        else:
            component = Collaborative(
                fitted, item_features=features, user_features=matrix("user_features"), name=metadata["name"]
            )
    if component is None:
        raise ValueError(f"path: a component of kind {kind!r}; expected one of this package")
    component.item_vectors, component.item_available = tensors["item_vectors"], tensors["item_available"].astype(bool)
    found: Component = component
    return found


__all__ = ["load", "save"]
