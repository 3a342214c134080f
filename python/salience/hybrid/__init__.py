"""Scores that mix what the crowd, the content and the history say, weighted by attention."""

from salience.hybrid.attention import Attention
from salience.hybrid.components import Collaborative, Component, Content, History, Prior
from salience.hybrid.events import EventLog, Events
from salience.hybrid.explanation import HybridExplanation
from salience.hybrid.exploration import Exploration, explore
from salience.hybrid.feedback import Feedback, Observed
from salience.hybrid.scorer import HybridScorer

__all__ = [
    "Attention",
    "Collaborative",
    "Component",
    "Content",
    "EventLog",
    "Events",
    "Exploration",
    "Feedback",
    "History",
    "HybridExplanation",
    "HybridScorer",
    "Observed",
    "Prior",
    "explore",
]
