"""Salience decides what deserves a person's attention."""

from salience._backends import show_config
from salience._core import __version__
from salience.als import ALS, Explanation
from salience.hybrid import Collaborative, Content, History, HybridScorer, Prior
from salience.interactions import Interactions
from salience.models import Popularity, Recommendations, Recommender, VectorModel
from salience.neighbors import EASE, ItemKNN
from salience.similarity import Index, select, similarity, topk

__all__ = [
    "ALS",
    "EASE",
    "Collaborative",
    "Content",
    "Explanation",
    "History",
    "HybridScorer",
    "Index",
    "Interactions",
    "ItemKNN",
    "Popularity",
    "Prior",
    "Recommendations",
    "Recommender",
    "VectorModel",
    "__version__",
    "select",
    "show_config",
    "similarity",
    "topk",
]
