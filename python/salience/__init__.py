"""Salience decides what deserves a person's attention."""

from salience._backends import show_config
from salience._core import __version__
from salience.similarity import Index, select, similarity, topk

__all__ = ["Index", "__version__", "select", "show_config", "similarity", "topk"]
