"""Scores that mix what the crowd, the content and the history say, weighted by attention."""

from salience.hybrid.attention import Attention
from salience.hybrid.components import Collaborative, Component, Content, History, Prior
from salience.hybrid.explanation import HybridExplanation
from salience.hybrid.scorer import HybridScorer

__all__ = [
    "Attention",
    "Collaborative",
    "Component",
    "Content",
    "History",
    "HybridExplanation",
    "HybridScorer",
    "Prior",
]
