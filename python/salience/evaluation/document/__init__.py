"""One self-contained HTML document about an evaluation: figures, tables, example users, definitions."""

from salience.evaluation.document.page import write_html

__all__ = ["write_html"]
